"""Inverted lists of product-quantized residuals; the caller ranks the candidates exactly.

Without that ranking a third of the neighbors it returns are wrong. Polysemous training is off: it takes minutes at
any size, for a filter that is not used here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from share.kernel.config import ConfigModel
from share.kernel.index.built import FaissIndex, calibrate, check_vectors, load, load_faiss
from share.kernel.index.ivf import CANDIDATES, num_lists, probes_up_to, train_and_add

ROWS_NEEDED = 1024


class IvfpqConfig(ConfigModel):
    """Inverted lists with product quantization."""


class Ivfpq:
    """Builds `ivfpq` indexes: a byte for every eight dimensions, or the next divisor of the dimension below."""

    def __init__(self, config: IvfpqConfig) -> None:
        self.config = config

    def build(self, vectors_ND: NDArray[np.generic], rows_N: NDArray[np.int64], /, *, seed: int = 0) -> FaissIndex:
        check_vectors(vectors_ND, rows_N, ROWS_NEEDED)
        faiss = load_faiss()
        lists, dimension = num_lists(len(rows_N)), vectors_ND.shape[1]
        parts = max(part for part in range(1, max(1, dimension // 8) + 1) if dimension % part == 0)
        quantizer = faiss.IndexFlatIP(dimension)
        index = faiss.IndexIVFPQ(quantizer, dimension, lists, parts, 8, faiss.METRIC_INNER_PRODUCT)
        index.do_polysemous_training = False
        index.pq.cp.seed = seed % (1 << 31)
        index.pq.cp.niter = 8
        index.pq.cp.min_points_per_centroid = 1
        index.pq.cp.max_points_per_centroid = 40
        train_and_add(index, vectors_ND, lists, seed)
        built = FaissIndex("ivfpq", index, rows_N, effort_limit=lists)
        calibrate(built, vectors_ND, probes_up_to(lists), CANDIDATES, seed)
        return built

    def load(self, content: memoryview, /) -> FaissIndex:
        return load(content, ["ivfpq"])


__all__ = ["Ivfpq", "IvfpqConfig"]
