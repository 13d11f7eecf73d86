"""One bit per direction: a sketch of unit vectors that needs no training, and ranks candidates by Hamming distance.

A vector is centred, turned at random, and only the signs are kept; the share of bits in which two sketches differ is
their angle over pi (Charikar 2002). Turned means twice a random sign flip and a Hadamard transform: it spreads what a
few directions hold over all bits, and costs small matrix products instead of a dense rotation.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CHUNK_ROWS = 8192
"""Rows of which the scan keeps the counts in the processor's cache."""

FIRST_WORDS = 2
"""Words that are compared first where few sketches can be near enough; they decide over nearly all rows."""

MARGIN = 6.0
"""Standard deviations that a sketch may be farther off than its vector before the vector is passed over."""


class Reach(NamedTuple):
    """The most bits in which a sketch may differ: in its first words, and in all."""

    first: int
    all: int


class Sketch:
    """How vectors of one dimension become bits. `center_D` is taken off first: embeddings tend to share a direction.

    There are as many bits as the next power of two, at least 512; of more than 1,024 a random 1,024 are kept.
    """

    def __init__(self, dimension: int, center_D: NDArray[np.float32] | None = None) -> None:
        self.dimension = dimension
        self.center_D = np.zeros(dimension, np.float32) if center_D is None else center_D.astype(np.float32)
        exponent = max(9, (dimension - 1).bit_length())
        self._padded = 1 << exponent
        self._left, self._right = _hadamard(exponent // 2), _hadamard(exponent - exponent // 2)
        random = np.random.default_rng(dimension)
        self._flips = random.choice(np.array([-1, 1], np.float32), (2, self._padded))
        self._kept = np.sort(random.permutation(self._padded)[:1024]) if self._padded > 1024 else None
        self.words = min(self._padded, 1024) // 64

    def encode(self, vectors_ND: NDArray[np.float32]) -> NDArray[np.uint64]:
        """The sketches of vectors, shape (words, N): word by word, as the scan reads them."""
        count = len(vectors_ND)
        turned = np.zeros((count, self._padded), np.float32)
        turned[:, : self.dimension] = vectors_ND - self.center_D
        shape: tuple[int, ...] = (len(self._left), len(self._right))
        if count > 1:  # for one, as a query is, matrices are multiplied sooner than a stack of one
            shape = (count, *shape)
        for flips in self._flips:
            turned *= flips
            grid = turned.reshape(shape)
            turned = (self._left @ grid @ self._right).reshape(count, self._padded)
        if self._kept is not None:
            turned = turned.take(self._kept, axis=1)
        return np.ascontiguousarray(np.packbits(turned > 0, axis=1).view(np.uint64).T)

    def reach(self, query_D: NDArray[np.float32], similarity: float) -> Reach:
        """In how many bits the sketch of a unit vector of at least this similarity may differ from a unit query's.

        The distance of the two is at most sqrt(2 - 2 * similarity), which the center does not change; so their angle,
        as it is sketched, is at most arcsin(distance / length of what is left of the query). Each bit differs with the
        angle over pi as its probability.
        """
        bits = 64 * self.words
        centred_D = query_D - self.center_D
        distance_2 = max(0.0, 2 - 2 * similarity) + 0.002  # float16 has lengths up to 1.0005
        length_2 = float(centred_D @ centred_D)
        if distance_2 >= length_2:
            return Reach(64 * FIRST_WORDS, bits)
        share = math.asin(math.sqrt(distance_2 / length_2)) / math.pi
        return Reach(_most(64 * FIRST_WORDS, share), _most(bits, share))


def distances(bits_WN: NDArray[np.uint64], query_W: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Bits in which each of N sketches differs from that of the query, shape (N,)."""
    counts = np.empty(bits_WN.shape[1], np.uint16)
    for start in range(0, len(counts), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        ones_WN = np.bitwise_count(bits_WN[:, rows] ^ query_W[:, None])
        np.add.reduce(ones_WN, axis=0, dtype=np.uint16, out=counts[rows])
    return counts


def within(
    bits_WN: NDArray[np.uint64], query_W: NDArray[np.uint64], reach: Reach
) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """The positions of the sketches within reach, rising, and in how many bits each differs."""
    if reach.all >= 64 * len(query_W):
        return np.arange(bits_WN.shape[1]), distances(bits_WN, query_W)
    if reach.first < _FIRST_USEFUL:
        at = np.flatnonzero(distances(bits_WN[:FIRST_WORDS], query_W[:FIRST_WORDS]) <= reach.first)
        if len(at) == 0:
            return at, np.empty(0, np.uint16)
        if 8 * len(at) < bits_WN.shape[1]:
            counts = distances(bits_WN.take(at, axis=1), query_W)
            near = np.flatnonzero(counts <= reach.all)
            return at[near], counts[near]
    counts = distances(bits_WN, query_W)
    at = np.flatnonzero(counts <= reach.all)
    return at, counts[at]


def nearest(counts_N: NDArray[np.uint16], num: int) -> NDArray[np.int64]:
    """The positions of the `num` smallest counts, in no order."""
    if num >= len(counts_N):
        return np.arange(len(counts_N))
    greatest = np.partition(counts_N, num - 1)[num - 1]  # many times as fast as argpartition
    below = np.flatnonzero(counts_N < greatest)
    return np.concatenate([below, np.flatnonzero(counts_N == greatest)[: num - len(below)]])


_FIRST_USEFUL = 52
"""Of 128 bits: of unrelated vectors one in fifty differs in fewer."""


def _most(bits: int, share: float) -> int:
    return min(bits, math.ceil(bits * share + MARGIN * math.sqrt(bits * share * (1 - share)) + 2))


def _hadamard(exponent: int) -> NDArray[Any]:
    matrix = np.ones((1, 1), np.float32)
    for _ in range(exponent):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


__all__ = ["CHUNK_ROWS", "FIRST_WORDS", "MARGIN", "Reach", "Sketch", "distances", "nearest", "within"]
