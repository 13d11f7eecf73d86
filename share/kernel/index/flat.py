"""Exact search: every vector is compared. FAISS's scan runs at the memory's bandwidth, so half the bytes are half
the time: vectors that come as float16 stay float16."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from share.kernel.config import ConfigModel
from share.kernel.index.built import FaissIndex, blocks, check_vectors, load, load_faiss, to_gpu


class FlatConfig(ConfigModel):
    """Exact search."""

    device: Literal["cpu", "gpu"] = "cpu"
    """Where it searches; gpu needs faiss-gpu and a CUDA device."""


class Flat:
    """Builds `flat` indexes. The similarities are exact for the vectors as they were given."""

    def __init__(self, config: FlatConfig) -> None:
        self.config = config

    def build(self, vectors_ND: NDArray[np.generic], rows_N: NDArray[np.int64], /, *, seed: int = 0) -> FaissIndex:
        check_vectors(vectors_ND, rows_N)
        faiss = load_faiss()
        dimension = vectors_ND.shape[1]
        if vectors_ND.dtype == np.float16 and self.config.device == "cpu":
            index = faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        else:
            index = faiss.IndexFlatIP(dimension)
        if self.config.device == "gpu":
            index = to_gpu(faiss, index)
        for _, block in blocks(vectors_ND):
            index.add(block)
        return FaissIndex("flat", index, rows_N, is_exact=True)

    def load(self, content: memoryview, /) -> FaissIndex:
        built = load(content, ["flat"])
        if self.config.device == "gpu":
            built.index = to_gpu(load_faiss(), built.index)
        return built


__all__ = ["Flat", "FlatConfig"]
