"""1-bit sketches as an index: no training and no FAISS, built in seconds, searched by a scan of 64 bytes a vector."""

from __future__ import annotations

import json
import struct

import numpy as np
from numpy.typing import NDArray

from share.kernel.config import ConfigModel
from share.kernel.errors import IndexUnavailable
from share.kernel.experience.sketch import Sketch, distances, nearest
from share.kernel.index.built import blocks, check_vectors

CANDIDATES = 200
_LENGTH = struct.Struct("<I")


class SketchConfig(ConfigModel):
    """1-bit sketches with exact ranking of the candidates."""


class SketchIndex:
    """A built index of sketches; `bits_WN` may be a view of a mapped file."""

    is_exact = False

    def __init__(self, sketch: Sketch, bits_WN: NDArray[np.uint64], rows_N: NDArray[np.int64]) -> None:
        self.sketch = sketch
        self._bits_WN = bits_WN
        self._rows_N = rows_N

    @property
    def num_rows(self) -> int:
        return len(self._rows_N)

    def search(self, query_D: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Candidates by Hamming distance; the similarity is the cosine of the angle that it estimates."""
        counts_N = distances(self._bits_WN, self.sketch.encode(query_D[None])[:, 0])
        at = nearest(counts_N, max(k, CANDIDATES * -(-k // 10)))
        at = at[np.argsort(counts_N[at], kind="stable")]
        return self._rows_N[at], np.cos(np.pi / (64 * self.sketch.words) * counts_N[at]).astype(np.float32)

    def save(self) -> bytes:
        head = json.dumps({"kind": "sketch", "dimension": self.sketch.dimension, "rows": len(self._rows_N)}).encode()
        head += b" " * (-(len(head) + _LENGTH.size) % 8)
        arrays = [self._rows_N.astype("<i8"), self._bits_WN, self.sketch.center_D]
        return b"".join([_LENGTH.pack(len(head)), head, *(array.tobytes() for array in arrays)])


class SketchBuilder:
    """Builds `sketch` indexes."""

    def __init__(self, config: SketchConfig) -> None:
        self.config = config

    def build(self, vectors_ND: NDArray[np.generic], rows_N: NDArray[np.int64], /, *, seed: int = 0) -> SketchIndex:
        check_vectors(vectors_ND, rows_N)
        total_D = np.zeros(vectors_ND.shape[1], np.float64)
        for _, block in blocks(vectors_ND):
            total_D += block.sum(axis=0)
        sketch = Sketch(vectors_ND.shape[1], (total_D / len(rows_N)).astype(np.float32))
        bits_WN = np.empty((sketch.words, len(rows_N)), np.uint64)
        for start, block in blocks(vectors_ND, 2048):
            bits_WN[:, start : start + len(block)] = sketch.encode(block)
        return SketchIndex(sketch, bits_WN, np.array(rows_N, np.int64))

    def load(self, content: memoryview, /) -> SketchIndex:
        try:
            (length,) = _LENGTH.unpack_from(content)
            about = json.loads(bytes(content[_LENGTH.size : _LENGTH.size + length]))
            if about["kind"] != "sketch":
                raise IndexUnavailable(f"the index is of kind {about['kind']!r}, not sketch")
            count, dimension = about["rows"], about["dimension"]
            words = Sketch(dimension).words
            offset = _LENGTH.size + length
            rows_N = np.frombuffer(content, "<i8", count, offset)
            bits = np.frombuffer(content, "<u8", words * count, offset + 8 * count)
            center_D = np.frombuffer(content, "<f4", dimension, offset + 8 * count * (1 + words))
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise IndexUnavailable(f"not an index that was saved here: {error}") from error
        return SketchIndex(Sketch(dimension, center_D), bits.reshape(words, count), rows_N)


__all__ = ["SketchBuilder", "SketchConfig", "SketchIndex"]
