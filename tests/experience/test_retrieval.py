"""The living rows that are nearest are found, in whichever tier they are, while everything moves."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from share.kernel.contracts.kinds import Index
from share.kernel.experience.disk import RealDisk
from share.kernel.experience.retrieval import FIRST_ROWS, TAIL_ROWS, RecallMonitor, Retriever
from share.kernel.experience.sketch import CHUNK_ROWS, Reach, Sketch, distances, nearest, within
from share.kernel.experience.vectors import Vectors
from share.kernel.registry import Registry
from share.kernel.testing import build

Matrix = NDArray[np.float32]


def blobs(num: int, dimension: int = 64, seed: int = 0) -> Matrix:
    """Clusters in a space of 12 dimensions, with a little noise in all, and a direction that all share."""
    random, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    centers, spread = fixed.normal(size=(30, 12)), fixed.normal(size=(12, dimension))
    vectors = (centers[random.integers(0, 30, num)] + 0.5 * random.normal(size=(num, 12))) @ spread
    vectors += 1.0 + 0.1 * random.normal(size=(num, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def retriever_of(tmp_path: Path, rows: Matrix, row_base: int = 0) -> tuple[Retriever, Vectors]:
    vectors = Vectors(RealDisk(), tmp_path / "vectors-1", rows.shape[1], row_base=row_base, write=True)
    vectors.append(row_base, rows)
    return Retriever(vectors), vectors


def recall(retriever: Retriever, queries: Matrix, alive: NDArray[np.uint8], row_base: int = 0, k: int = 10) -> float:
    found = 0
    for query in queries:
        rows, similarities = retriever.search(query, k, alive, row_base)
        _, exact = retriever.search_exact(query, k, alive, row_base)
        assert len(rows) == len(exact)
        assert len(np.unique(rows)) == len(rows)
        assert (np.diff(similarities) <= 0).all()
        assert alive[rows - row_base].all()
        found += int((similarities >= exact[-1] - 1e-6).sum())
    return found / (len(exact) * len(queries))


@pytest.mark.parametrize("step", [9, 4000])
@pytest.mark.parametrize(
    "num", [1, FIRST_ROWS - 1, FIRST_ROWS, FIRST_ROWS + 2 * TAIL_ROWS + 1, CHUNK_ROWS + 7 * TAIL_ROWS, 3 * CHUNK_ROWS]
)
def test_a_row_is_found_as_soon_as_it_is_appended(tmp_path: Path, num: int, step: int) -> None:
    rows = blobs(num)
    retriever, _ = retriever_of(tmp_path, rows)
    for start in range(0, num, step):
        retriever.append(start, rows[start : start + step])
        last = min(start + step, num) - 1
        alive = np.ones(last + 1, np.uint8)
        found, similarities = retriever.search(rows[last], 3, alive, 0)
        assert found[0] == last
        assert similarities[0] == pytest.approx(1, abs=1e-3)
    assert retriever.stop == num
    assert recall(retriever, blobs(30, seed=1), alive) >= 0.99


def test_no_row_at_all_is_no_neighbor(tmp_path: Path) -> None:
    retriever, _ = retriever_of(tmp_path, blobs(5))
    assert len(retriever.search(blobs(1)[0], 5, np.empty(0, np.uint8), 0)[0]) == 0


@pytest.mark.parametrize("name", ["flat", "ivf", "sketch"])
def test_all_tiers_together_find_what_an_exact_search_finds(tmp_path: Path, registry: Registry, name: str) -> None:
    rows = blobs(14_000)
    retriever, vectors = retriever_of(tmp_path, rows, row_base=500)
    index: Index = build(registry, "index", name)
    retriever.append(500, rows[:12_000])
    retriever.set_base(index.build(vectors.stored(500, 9500), np.arange(500, 9500)), 9500)
    retriever.append(12_500, rows[12_000:])
    assert 5000 <= retriever.num_unindexed <= 5500
    alive = (np.random.default_rng(5).random(14_000) < 0.7).astype(np.uint8)
    queries = blobs(40, seed=2)
    assert recall(retriever, queries, alive, 500) >= 0.97
    assert recall(retriever, queries[:5], alive, 500, k=100) >= 0.95


@pytest.mark.parametrize("name", ["flat", "ivf", "sketch", "hnsw"])
def test_dead_rows_are_never_returned_however_many_there_are(tmp_path: Path, registry: Registry, name: str) -> None:
    rows = blobs(4000)
    retriever, vectors = retriever_of(tmp_path, rows)
    retriever.append(0, rows)
    retriever.set_base(build(registry, "index", name).build(vectors.stored(0, 4000), np.arange(4000)), 4000)
    alive = np.zeros(4000, np.uint8)
    assert len(retriever.search(rows[0], 10, alive, 0)[0]) == 0
    alive[[5, 1234, 3999]] = 1
    for query in rows[:5]:
        found, similarities = retriever.search(query, 10, alive, 0)
        assert sorted(found.tolist()) == [5, 1234, 3999]
        assert similarities == pytest.approx(retriever.search_exact(query, 10, alive, 0)[1], abs=1e-6)


def test_rows_before_and_behind_what_is_known_to_live_are_left_out(tmp_path: Path, registry: Registry) -> None:
    rows = blobs(3000)
    retriever, vectors = retriever_of(tmp_path, rows)
    retriever.append(0, rows)
    retriever.set_base(build(registry, "index", "flat").build(vectors.stored(0, 1000), np.arange(1000)), 1000)
    found, _ = retriever.search(rows[0], 3000, np.ones(1500, np.uint8), 700)
    assert sorted(found.tolist()) == list(range(700, 2200))


def test_what_a_base_finds_hides_nothing_nearer_among_the_sketches(tmp_path: Path, registry: Registry) -> None:
    rows = blobs(12_000)
    retriever, vectors = retriever_of(tmp_path, rows)
    base = build(registry, "index", "flat").build(vectors.stored(0, 6000), np.arange(6000))
    retriever.append(0, rows[:6000])
    retriever.set_base(base, 6000)
    for start in range(6000, 12_000, 7):
        retriever.append(start, rows[start : min(start + 7, 12_000)])
    alive = np.ones(12_000, np.uint8)
    assert recall(retriever, blobs(100, seed=1), alive) >= 0.999
    assert recall(retriever, rows[6000:12_000:60], alive, k=1) == 1  # each is there, and nothing is nearer
    assert recall(retriever, rows[:6000:60], alive, k=3) >= 0.99


def test_rows_may_begin_behind_a_base(tmp_path: Path, registry: Registry) -> None:
    rows = blobs(3000)
    retriever, vectors = retriever_of(tmp_path, rows)
    retriever.set_base(build(registry, "index", "flat").build(vectors.stored(0, 2000), np.arange(2000)), 2000)
    assert retriever.stop == 2000
    retriever.append(2000, rows[2000:])
    assert recall(retriever, blobs(20, seed=1), np.ones(3000, np.uint8)) == 1


def test_searches_go_on_while_rows_are_appended_and_bases_swapped(tmp_path: Path, registry: Registry) -> None:
    rows = blobs(12_000, 32)
    retriever, vectors = retriever_of(tmp_path, rows)
    retriever.append(0, rows[:100])
    alive = np.ones(12_000, np.uint8)
    alive[::3] = 0
    problems: list[object] = []
    is_over = threading.Event()

    def search(seed: int) -> None:
        random = np.random.default_rng(seed)
        while not is_over.is_set():
            known = retriever.stop
            row = int(random.integers(0, known))
            try:
                found, similarities = retriever.search(rows[row], 5, alive, 0)
                # Any row that is appended is found as its own nearest neighbor, at once and for ever.
                if alive[row] and similarities[0] < 0.999:
                    problems.append((row, known, found, similarities))
                if not alive[found].all():
                    problems.append(found)
            except Exception as error:
                problems.append(error)
                raise

    threads = [threading.Thread(target=search, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    index: Index = build(registry, "index", "flat")
    for start in range(100, 12_000, 130):
        retriever.append(start, rows[start : start + 130])
        if start % 2600 < 130:
            retriever.set_base(index.build(vectors.stored(0, start), np.arange(start)), start)
    is_over.set()
    for thread in threads:
        thread.join()
    assert not problems


def test_recall_is_measured_on_some_searches(tmp_path: Path) -> None:
    rows = blobs(3000)
    retriever, _ = retriever_of(tmp_path, rows)
    retriever.append(0, rows)
    alive = np.ones(3000, np.uint8)
    monitor = RecallMonitor(retriever, every=3)
    assert monitor.recall() is None
    for number in range(12):
        exact = retriever.search_exact(rows[number], 10, alive, 0)[1]
        exact[5:] = -1  # half of what is there is not found
        monitor.observe(rows[number], exact, 10, alive, 0)
    monitor.close()
    measured = monitor.recall()
    assert measured is not None
    assert (measured.value, measured.num_searches) == (0.5, 4)
    assert 0.3 < measured.low < 0.5 < measured.high < 0.7


@pytest.mark.parametrize("dimension", [5, 64, 100, 3584])
def test_sketches_differ_by_the_angle(dimension: int) -> None:
    rows = blobs(400, dimension)
    sketch = Sketch(dimension)
    bits = sketch.encode(rows)
    assert bits.shape == (sketch.words, 400)
    shares = distances(bits, bits[:, 0].copy()) / (64 * sketch.words)
    angles = np.arccos(np.clip(rows @ rows[0], -1, 1)) / np.pi
    assert np.abs(shares - angles).max() < 2.5 * (64 * sketch.words) ** -0.5
    assert shares[0] == 0
    plain = [sum(bin(int(a ^ b)).count("1") for a, b in zip(bits[:, 3], bits[:, n], strict=True)) for n in range(400)]
    assert distances(bits, bits[:, 3].copy()).tolist() == plain


@pytest.mark.parametrize("dimension", [16, 64, 512, 1500])
@pytest.mark.parametrize("shape", ["blobs", "isotropic", "sparse"])
def test_what_is_near_enough_is_within_reach(dimension: int, shape: str) -> None:
    random = np.random.default_rng(3)
    rows = blobs(2000, dimension)
    if shape != "blobs":
        rows = random.standard_normal((2000, dimension)).astype(np.float32)
        rows = rows if shape == "isotropic" else np.where(random.random(rows.shape) < 3 / dimension, rows, 1e-3)
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    sketch = Sketch(dimension, rows[:500].mean(axis=0))
    bits = sketch.encode(rows)
    looked_at = 0
    for query in range(0, 2000, 50):
        similarities = rows @ rows[query]
        for least in np.sort(similarities)[[-2, -10, -100]]:
            reach = sketch.reach(rows[query], float(least))
            at, counts = within(bits, bits[:, query].copy(), reach)
            assert set(np.flatnonzero(similarities >= least)) <= set(at.tolist())
            assert (counts == distances(bits[:, at], bits[:, query].copy())).all()
            assert (counts <= reach.all).all()
            looked_at += len(at)
    assert shape != "blobs" or looked_at < 0.6 * 3 * 40 * 2000


def test_all_within_reach_are_returned_whichever_way_is_taken() -> None:
    random = np.random.default_rng(0)
    query = random.integers(0, 1 << 63, 8).astype(np.uint64)
    flips = random.random((3000, 512)) < random.uniform(0.02, 0.5, 3000)[:, None]
    bits = np.packbits(flips, axis=1).view(np.uint64).T ^ query[:, None]
    counts = distances(bits, query)
    for reach in [Reach(128, 512), Reach(128, 200), Reach(60, 90), Reach(51, 150), Reach(20, 60), Reach(0, 0)]:
        at, found = within(bits, query, reach)
        first = distances(bits[:2], query[:2])
        assert set(at.tolist()) <= set(np.flatnonzero(counts <= reach.all))
        assert set(np.flatnonzero((counts <= reach.all) & (first <= reach.first))) <= set(at.tolist())
        assert (np.diff(at) > 0).all()
        assert (found == counts[at]).all()


@pytest.mark.parametrize("num", [1, 7, 200, 999, 1000, 2000])
def test_the_nearest_are_so_many_and_none_is_nearer(num: int) -> None:
    counts = np.random.default_rng(0).integers(0, 40, 1000).astype(np.uint16)  # most are equal to some other
    at = nearest(counts, num)
    assert len(np.unique(at)) == len(at) == min(num, 1000)
    assert sorted(counts[at]) == sorted(counts)[: len(at)]
