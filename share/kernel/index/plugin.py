"""The k-NN indexes of the experience buffer that ship with Pixelis; names and targets only."""

from __future__ import annotations

from share.kernel import Register, hookimpl

HERE = "share.kernel.index"


@hookimpl
def register_indexes(register: Register) -> None:
    register("auto", f"{HERE}.auto:Auto", summary="Flat while small, ivf beyond; says what it chose.")
    register("flat", f"{HERE}.flat:Flat", summary="Exact: compares every vector; CPU or GPU.")
    register("hnsw", f"{HERE}.hnsw:Hnsw", summary="A navigable graph: fast to search, slow to build, large.")
    register("ivf", f"{HERE}.ivf:Ivf", summary="Inverted lists of 1-bit codes, exact ranking; CPU or GPU.")
    register("ivfpq", f"{HERE}.ivfpq:Ivfpq", summary="Inverted lists of product codes, exact ranking.")
    register("sketch", f"{HERE}.sketch:SketchBuilder", summary="1-bit sketches: no training, no FAISS.")
