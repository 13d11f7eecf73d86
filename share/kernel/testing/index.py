"""The contract of an index: it finds the neighbors of structured data, also after being kept as bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from share.kernel.contracts.kinds import BuiltIndex, Index
from share.kernel.errors import IndexUnavailable
from share.kernel.testing.refusal import refused


def check_index(index: Index) -> None:
    """An index finds the neighbors of structured data, under any row numbers, and again after being kept as bytes.

    Candidates of an index that is not exact are ranked exactly here, as the buffer does it.
    """
    assert isinstance(index, Index), "an index has `build` and `load`"
    for num_rows, dimension, dtype in ((3, 8, np.float32), (40, 24, np.float16), (3000, 48, np.float16)):
        vectors_ND = _blobs(num_rows, dimension).astype(dtype)
        rows_N = 1_000_000_000_000 + np.arange(num_rows) * (3 if num_rows == 40 else 1)
        try:
            built = index.build(vectors_ND, rows_N, seed=1)
        except IndexUnavailable:
            if num_rows < 3000:  # an index may need more rows than that, but not more than 3,000
                continue
            raise
        assert built.num_rows == num_rows, "an index knows how many rows it is over"
        _check_neighbors(built, vectors_ND, rows_N)
        content = built.save()
        loaded = index.load(memoryview(content))
        assert (loaded.num_rows, loaded.is_exact) == (built.num_rows, built.is_exact), "loaded it is what it was"
        for query_D in vectors_ND[:5].astype(np.float32):
            assert np.array_equal(loaded.search(query_D, 7)[0], built.search(query_D, 7)[0]), "loaded it finds the same"
        assert set(loaded.search(query_D, num_rows)[0]) == set(rows_N.tolist()), "asked for all rows it returns all"
    for nonsense in (b"", b"\x05", b"\x02\0\0\0{}", content[: len(content) // 3], bytes(200)):
        with refused(IndexUnavailable, "what is not an index must be refused with IndexUnavailable"):
            index.load(memoryview(nonsense))


def _blobs(num_rows: int, dimension: int) -> NDArray[np.float32]:
    """Unit vectors in 20 clusters."""
    random = np.random.default_rng(0)
    centers = random.normal(size=(20, dimension))
    vectors_ND = centers[random.integers(0, 20, num_rows)] + 0.3 * random.normal(size=(num_rows, dimension))
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return np.asarray(vectors_ND, np.float32)


def _check_neighbors(built: BuiltIndex, vectors_ND: NDArray[Any], rows_N: NDArray[np.int64]) -> None:
    single_ND, k = vectors_ND.astype(np.float32), min(10, len(rows_N))
    found = 0
    queries = single_ND[:: max(1, len(rows_N) // 100)]
    for query_D in queries:
        rows, similarities = built.search(query_D, k)
        assert len(rows) == len(similarities) >= k, "there are k rows, so k are returned"
        assert len(np.unique(rows)) == len(rows), "no row is returned twice"
        assert (np.diff(similarities) <= 1e-6).all(), "best first"
        assert np.isin(rows, rows_N).all(), "only the numbers that it was given"
        exact = single_ND[np.searchsorted(rows_N, rows)] @ query_D
        if built.is_exact:
            assert len(rows) == k, "an exact index returns no candidates"
            assert np.allclose(similarities, exact, atol=1e-4), "it says that its similarities are exact"
        wanted = np.sort(single_ND @ query_D)[-k]
        found += min(int((exact >= wanted - 1e-4).sum()), k)
    assert found >= 0.95 * k * len(queries), f"recall@{k} of {found / k / len(queries):.3f} on structured data"


__all__ = ["check_index"]
