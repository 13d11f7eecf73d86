"""Chooses an index by the number of rows and by what was measured while building it, and says what it chose."""

from __future__ import annotations

import importlib.util

import numpy as np
from numpy.typing import NDArray

from share.kernel.config import ConfigModel
from share.kernel.contracts.kinds import BuiltIndex
from share.kernel.errors import IndexUnavailable
from share.kernel.index.flat import Flat, FlatConfig
from share.kernel.index.ivf import Ivf, IvfConfig
from share.kernel.index.sketch import SketchBuilder, SketchConfig

FLAT_NUMBERS_MAX = 1_500_000
"""Rows by dimensions up to which an exact scan costs no more than lists, whose reading is spread over cold memory."""

RECALL_NEEDED = 0.95


class AutoConfig(ConfigModel):
    """Flat while small, inverted lists beyond, flat again if the data has no structure that lists could follow."""


class Auto:
    """Builds a `flat` or an `ivf` index, or a `sketch` where FAISS is not installed. `chosen` says which and why."""

    def __init__(self, config: AutoConfig) -> None:
        self.config = config
        self.chosen = ""

    def build(self, vectors_ND: NDArray[np.generic], rows_N: NDArray[np.int64], /, *, seed: int = 0) -> BuiltIndex:
        count = len(rows_N)
        if importlib.util.find_spec("faiss") is None:
            self.chosen = f"sketch: {count} rows, FAISS is not installed"
            return SketchBuilder(SketchConfig()).build(vectors_ND, rows_N, seed=seed)
        if vectors_ND.size <= FLAT_NUMBERS_MAX:
            self.chosen = f"flat: {count} rows"
            return Flat(FlatConfig()).build(vectors_ND, rows_N, seed=seed)
        ivf = Ivf(IvfConfig()).build(vectors_ND, rows_N, seed=seed)
        assert ivf.recall is not None
        self.chosen = f"ivf: {count} rows, recall@10 {ivf.recall:.3f}"
        if ivf.recall >= RECALL_NEEDED:
            return ivf
        self.chosen = f"flat: {count} rows, recall@10 of ivf only {ivf.recall:.3f}"
        return Flat(FlatConfig()).build(vectors_ND, rows_N, seed=seed)

    def load(self, content: memoryview, /) -> BuiltIndex:
        for backend in (Ivf(IvfConfig()), Flat(FlatConfig()), SketchBuilder(SketchConfig())):
            try:
                return backend.load(content)
            except IndexUnavailable as error:
                problem = error
        raise problem


__all__ = ["Auto", "AutoConfig"]
