"""Inverted lists: the vectors near each of about sqrt(N) centroids, one bit per dimension (RaBitQ, arXiv:2405.12497).

A search looks into the lists of the nearest centroids, and the caller ranks the best candidates exactly. How many
lists and candidates is measured when the index is built. The codes take a 16th of float16 vectors. FAISS's fast-scan
form of the codes is avoided: its 16-bit sums overflow beyond 1,024 dimensions, and it is no faster for one query.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from share.kernel.config import ConfigModel
from share.kernel.index.built import (
    FaissIndex,
    blocks,
    calibrate,
    check_vectors,
    load,
    load_faiss,
    sample_of,
    to_gpu,
)

POINTS_PER_CENTROID = 50
CANDIDATES = (30, 60, 120, 240, 480)


class IvfConfig(ConfigModel):
    """Inverted lists with exact ranking of the candidates."""

    device: Literal["cpu", "gpu"] = "cpu"
    """Where it searches; gpu needs faiss-gpu and a CUDA device, and keeps float16 vectors instead of bits."""


class Ivf:
    """Builds `ivf` indexes. `seed` decides which vectors train it."""

    def __init__(self, config: IvfConfig) -> None:
        self.config = config

    def build(self, vectors_ND: NDArray[np.generic], rows_N: NDArray[np.int64], /, *, seed: int = 0) -> FaissIndex:
        check_vectors(vectors_ND, rows_N)
        faiss = load_faiss()
        lists, dimension = num_lists(len(rows_N)), vectors_ND.shape[1]
        quantizer = faiss.IndexFlatIP(dimension)
        if self.config.device == "cpu":
            index = faiss.IndexIVFRaBitQ(quantizer, dimension, lists, faiss.METRIC_INNER_PRODUCT)
        else:
            half = faiss.ScalarQuantizer.QT_fp16
            index = faiss.IndexIVFScalarQuantizer(quantizer, dimension, lists, half, faiss.METRIC_INNER_PRODUCT)
            index = to_gpu(faiss, index)
        train_and_add(index, vectors_ND, lists, seed)
        built = FaissIndex("ivf", index, rows_N, effort_limit=lists)
        calibrate(built, vectors_ND, probes_up_to(lists), CANDIDATES, seed)
        return built

    def load(self, content: memoryview, /) -> FaissIndex:
        built = load(content, ["ivf"])
        if self.config.device == "gpu":
            built.index = to_gpu(load_faiss(), built.index)
        return built


def num_lists(num_rows: int) -> int:
    """About sqrt(N): searching the centroids and searching a few lists then cost about the same."""
    return max(1, min(math.isqrt(num_rows), num_rows // 39))


def probes_up_to(lists: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, … up to a quarter of the lists: beyond it a plain scan is as good."""
    steps = [step for power in range(15) for step in (1 << power, 3 << power >> 1)]
    return sorted({step for step in steps if 1 <= step <= max(4, lists // 4)} & set(range(1, lists + 1)))


def train_and_add(index: Any, vectors_ND: NDArray[np.generic], lists: int, seed: int) -> None:
    """Train an index of inverted lists on a sample and add all vectors, one thread."""
    faiss = load_faiss()
    faiss.omp_set_num_threads(1)
    index.cp.seed = seed % (1 << 31)
    index.cp.niter = 8
    index.cp.min_points_per_centroid = 1  # a warning otherwise, for very small ones
    index.cp.max_points_per_centroid = POINTS_PER_CENTROID
    index.train(sample_of(vectors_ND, max(POINTS_PER_CENTROID * lists, 10_000), seed))
    for _, block in blocks(vectors_ND):
        index.add(block)


__all__ = ["CANDIDATES", "Ivf", "IvfConfig", "num_lists", "probes_up_to", "train_and_add"]
