"""A navigable graph over float16 vectors (HNSW, arXiv:1603.09320): fast to search, slow to build, large."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from share.kernel.config import ConfigModel
from share.kernel.index.built import FaissIndex, blocks, calibrate, check_vectors, load, load_faiss

NUM_LINKS = 16
EFFORTS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
EFFORT_LIMIT = 1 << 16


class HnswConfig(ConfigModel):
    """A navigable graph."""


class Hnsw:
    """Builds `hnsw` indexes. The effort is `efSearch`, calibrated when it is built."""

    def __init__(self, config: HnswConfig) -> None:
        self.config = config

    def build(self, vectors_ND: NDArray[np.generic], rows_N: NDArray[np.int64], /, *, seed: int = 0) -> FaissIndex:
        check_vectors(vectors_ND, rows_N)
        faiss = load_faiss()
        faiss.omp_set_num_threads(1)
        half, metric = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexHNSWSQ(vectors_ND.shape[1], half, NUM_LINKS, metric)
        index.hnsw.efConstruction = 80
        index.train(np.ascontiguousarray(vectors_ND[:1], np.float32))  # float16 learns nothing, FAISS insists
        for _, block in blocks(vectors_ND):
            index.add(block)
        built = FaissIndex("hnsw", index, rows_N, effort_limit=EFFORT_LIMIT)
        calibrate(built, vectors_ND, EFFORTS, [12], seed)
        return built

    def load(self, content: memoryview, /) -> FaissIndex:
        return load(content, ["hnsw"])


__all__ = ["Hnsw", "HnswConfig"]
