"""k-NN search over all rows of a buffer, the newest as well, while rows are appended and indexes swapped.

Three tiers, each row in one of them: the built index over rows below some number (the base); 1-bit sketches of the
rows that came later, ranked by Hamming distance; and the newest rows, compared exactly. Candidates of the first two
are ranked again by exact inner products from the vectors file, so every similarity that is returned is exact up to
the file's number format. Dead rows are masked out, and the base is asked for more until enough of its answers live.
The sketches come last: what the others found says how near a sketch must be to be looked at.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from share.kernel.contracts.kinds import BuiltIndex
from share.kernel.experience.sketch import CHUNK_ROWS, Sketch, nearest, within
from share.kernel.experience.vectors import to_float32

TAIL_ROWS = 32
"""Rows that leave the exact tier at once, so that no append takes long; it holds at most twice as many …"""

FIRST_ROWS = 512
"""… but until there are so many none leaves it: the mean of those is the center of the sketches."""

SKETCH_CANDIDATES = 200
"""Sketched rows that are compared exactly in a search for up to ten."""

SCAN_ROWS = 8192

Rows = NDArray[np.int64]
Similarities = NDArray[np.float32]


class Matrix(Protocol):
    """The vectors of all rows; `Vectors` and `FollowedVectors` are."""

    dimension: int

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def gather(self, rows_N: NDArray[np.integer[Any]]) -> NDArray[np.float32]: ...

    def block(self, start: int, stop: int) -> NDArray[np.float32]: ...


class _State(NamedTuple):
    """All that a search looks at; replaced as a whole. Arrays are only ever written beyond what a state counts."""

    base: BuiltIndex | None = None
    base_stop: int = 0  # rows below are in the base, if there is one
    sketch: Sketch | None = None
    chunks: tuple[NDArray[np.uint64], ...] = ()  # (words, CHUNK_ROWS) each, all but the last one full
    sketch_start: int = 0
    tail: NDArray[np.float32] | None = None  # (FIRST_ROWS, D), rows from tail_base on
    tail_base: int = 0
    tail_start: int = 0  # rows from sketch_start to tail_start are sketched
    stop: int = 0


class _Prepared(NamedTuple):
    """An append that has not been asked for yet."""

    before: _State
    vectors: NDArray[Any]
    after: _State


class Retriever:
    """Searches the rows of a matrix. One thread appends and swaps, any number search; nobody waits for anybody."""

    def __init__(self, vectors: Matrix) -> None:
        self.dimension = vectors.dimension
        self._vectors = vectors
        self._dtype: DTypeLike = vectors.dtype
        self._state = _State()
        self._prepared: _Prepared | None = None
        self._changing = threading.Lock()

    @property
    def stop(self) -> int:
        """One behind the last row that is searched."""
        return max(self._state.stop, self._state.base_stop)

    @property
    def num_unindexed(self) -> int:
        """Rows that are searched beside the base."""
        state = self._state
        return max(0, state.stop - max(state.base_stop, state.sketch_start))

    def append(self, first_row: int, vectors_ND: NDArray[Any]) -> None:
        """Search rows first_row, first_row + 1, … from now on. Their vectors, shape (N, D), are in the matrix already.

        They may be given as the matrix keeps them or as float32. The first call says where the rows begin; later ones
        go on without a gap.
        """
        with self._changing:
            prepared, self._prepared = self._prepared, None
            if prepared is not None and prepared.before is self._state and prepared.vectors is vectors_ND:
                self._state = prepared.after
            else:
                self._state = self._with_rows(self._state, first_row, vectors_ND)

    def prepare(self, first_row: int, vectors_ND: NDArray[Any]) -> None:
        """Do the work of the `append` of the same array that may come next; no search sees anything of it before."""
        before = self._state
        self._prepared = _Prepared(before, vectors_ND, self._with_rows(before, first_row, vectors_ND))

    def set_base(self, built: BuiltIndex, rows_below: int) -> None:
        """Answer for all rows below `rows_below` from this index from now on; searches that run go on with the old."""
        with self._changing:
            state = self._state
            covered = max(0, min(rows_below, state.tail_start) - state.sketch_start) // CHUNK_ROWS
            self._state = state._replace(
                base=built,
                base_stop=rows_below,
                chunks=state.chunks[covered:],
                sketch_start=state.sketch_start + covered * CHUNK_ROWS,
            )

    def search(
        self, query_D: NDArray[np.float32], k: int, alive: NDArray[Any], row_base: int
    ) -> tuple[Rows, Similarities]:
        """The k most similar living rows, best first, with their inner products; fewer only if fewer live.

        `query_D` is of unit length, float32. `alive` tells at `row - row_base` whether a row lives; rows that it does
        not reach are not looked at.
        """
        state = self._state
        stop = min(state.stop, row_base + len(alive))
        rows_N, similarities_N = np.empty(0, np.int64), np.empty(0, np.float32)
        if state.base is not None:
            rows_N, similarities_N = self._search_base(state.base, query_D, k, alive, row_base)
        tail_start = max(state.tail_start, row_base, state.base_stop if state.base is not None else 0)
        if state.tail is not None and tail_start < stop:
            here = state.tail[tail_start - state.tail_base : stop - state.tail_base] @ query_D
            (at,) = np.nonzero(alive[tail_start - row_base : stop - row_base])
            rows_N = np.concatenate([rows_N, at + tail_start])
            similarities_N = np.concatenate([similarities_N, here[at]])
        rows_K, similarities_K = _best(rows_N, similarities_N, k)
        enough = float(similarities_K[-1]) if 0 < k == len(rows_K) else -1.0
        middle = self._sketch_candidates(state, query_D, k, enough, alive, row_base, min(state.tail_start, stop))
        if len(middle) == 0:
            return rows_K, similarities_K
        similarities_N = np.concatenate([similarities_K, self._vectors.gather(middle) @ query_D])
        return _best(np.concatenate([rows_K, middle]), similarities_N, k)

    def search_exact(
        self, query_D: NDArray[np.float32], k: int, alive: NDArray[Any], row_base: int
    ) -> tuple[Rows, Similarities]:
        """The same answer by comparing every row of the matrix: what recall is measured against."""
        stop = min(self.stop, row_base + len(alive))
        rows, similarities = np.empty(0, np.int64), np.empty(0, np.float32)
        for start in range(row_base, stop, SCAN_ROWS):
            end = min(start + SCAN_ROWS, stop)
            (at,) = np.nonzero(alive[start - row_base : end - row_base])
            here = (self._vectors.block(start, end) @ query_D)[at]
            rows, similarities = _best(np.concatenate([rows, at + start]), np.concatenate([similarities, here]), k)
        return rows, similarities

    def _with_rows(self, state: _State, first_row: int, vectors_ND: NDArray[Any]) -> _State:
        """The state with these rows behind its own, written where it does not count."""
        rounded_ND = to_float32(np.asarray(vectors_ND).astype(self._dtype, copy=False))
        if state.tail is None:
            state = state._replace(sketch_start=first_row, tail_start=first_row, stop=first_row)
            state = self._with_room(state)
        assert first_row == state.stop, f"row {state.stop} comes next, not {first_row}"
        done = 0
        while done < len(rounded_ND):
            assert state.tail is not None
            used = state.stop - state.tail_base
            take = min(len(rounded_ND) - done, FIRST_ROWS - used)
            state.tail[used : used + take] = rounded_ND[done : done + take]
            state = state._replace(stop=state.stop + take)
            done += take
            if used + take == FIRST_ROWS:
                state = self._with_room(self._sketched(state))
            elif state.sketch is not None and state.stop - state.tail_start >= 2 * TAIL_ROWS:
                state = self._sketched(state)
        return state

    def _search_base(
        self, base: BuiltIndex, query_D: NDArray[np.float32], k: int, alive: NDArray[Any], row_base: int
    ) -> tuple[Rows, Similarities]:
        fetch = min(k, base.num_rows)
        while True:
            rows_N, similarities_N = base.search(query_D, fetch)
            local = rows_N - row_base
            living = alive.take(local, mode="clip") != 0
            if len(local) and (local.min() < 0 or local.max() >= len(alive)):
                living &= (local >= 0) & (local < len(alive))
            if not living.all():
                rows_N, similarities_N = rows_N[living], similarities_N[living]
            if len(rows_N) >= k or fetch >= base.num_rows:
                break
            fetch = min(4 * fetch, base.num_rows)
        if not base.is_exact and len(rows_N):
            similarities_N = self._vectors.gather(rows_N) @ query_D
        return rows_N, similarities_N

    def _sketch_candidates(
        self,
        state: _State,
        query_D: NDArray[np.float32],
        k: int,
        similarity: float,
        alive: NDArray[Any],
        row_base: int,
        stop: int,
    ) -> Rows:
        """Living sketched rows that may be more similar than `similarity`, the likeliest if there are many."""
        start = max(state.sketch_start, row_base, state.base_stop if state.base is not None else 0)
        if start >= stop or state.sketch is None:
            return np.empty(0, np.int64)
        query_W = state.sketch.encode(query_D[None])[:, 0]
        reach = state.sketch.reach(query_D, similarity)
        rows, counts = [], []
        for number, chunk in enumerate(state.chunks):
            chunk_start = state.sketch_start + number * CHUNK_ROWS
            first, last = max(start, chunk_start), min(stop, chunk_start + CHUNK_ROWS)
            if first < last:
                at, counts_N = within(chunk[:, first - chunk_start : last - chunk_start], query_W, reach)
                if len(at):  # seldom, where what is found already is near
                    living = np.flatnonzero(alive[first - row_base : last - row_base].take(at))
                    rows.append(at.take(living) + first)
                    counts.append(counts_N.take(living))
        if not rows:
            return np.empty(0, np.int64)
        rows_N = np.concatenate(rows)
        num = max(SKETCH_CANDIDATES, SKETCH_CANDIDATES * k // 10)
        return rows_N if len(rows_N) <= num else rows_N[nearest(np.concatenate(counts), num)]

    def _sketched(self, state: _State) -> _State:
        """Move all but the newest TAIL_ROWS of the tail among the sketches."""
        assert state.tail is not None
        start, stop = state.tail_start, state.stop - TAIL_ROWS
        leaving_ND = state.tail[start - state.tail_base : stop - state.tail_base]
        sketch = state.sketch or Sketch(self.dimension, leaving_ND.mean(axis=0))
        bits_WN = sketch.encode(leaving_ND)
        chunks = state.chunks
        done = 0
        while done < stop - start:
            used = (start + done - state.sketch_start) % CHUNK_ROWS
            if used == 0:
                chunks = (*chunks, np.empty((sketch.words, CHUNK_ROWS), np.uint64))
            take = min(stop - start - done, CHUNK_ROWS - used)
            chunks[-1][:, used : used + take] = bits_WN[:, done : done + take]
            done += take
        return state._replace(sketch=sketch, chunks=chunks, tail_start=stop)

    def _with_room(self, state: _State) -> _State:
        """The tail in a new matrix, with room behind it: searches may still look at the old one."""
        tail_ND = np.empty((FIRST_ROWS, self.dimension), np.float32)
        if state.tail is not None:
            kept_ND = state.tail[state.tail_start - state.tail_base : state.stop - state.tail_base]
            tail_ND[: len(kept_ND)] = kept_ND
        return state._replace(tail=tail_ND, tail_base=state.tail_start)


class Recall(NamedTuple):
    """A measured share of the true neighbors, with the bounds of its 95 % interval and the number of searches."""

    value: float
    low: float
    high: float
    num_searches: int


class RecallMonitor:
    """Answers one search of `every` again exactly, in a thread of its own, and counts what was missed.

    Searches that come while four wait are not counted. The interval is Wilson's, over neighbors as if they were
    independent: read it as a lower bound of the uncertainty.
    """

    def __init__(self, retriever: Retriever, every: int = 1000) -> None:
        self._retriever = retriever
        self._every = every
        self._seen = 0
        self._found = self._asked = self._searches = 0
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=4)
        self._thread = threading.Thread(target=self._work, name="recall-monitor", daemon=True)
        self._thread.start()

    def observe(
        self, query_D: NDArray[np.float32], similarities_K: Similarities, k: int, alive: NDArray[Any], row_base: int
    ) -> None:
        """Tell of a search and its answer. Returns at once."""
        self._seen += 1
        if self._seen % self._every:
            return

        def check() -> None:
            _, exact_K = self._retriever.search_exact(query_D, k, alive, row_base)
            if len(exact_K):
                # By similarity, not by row: of rows that are equally near any may be returned.
                self._found += min(int((similarities_K >= exact_K[-1] - 1e-6).sum()), len(exact_K))
                self._asked += len(exact_K)
                self._searches += 1

        try:
            self._waiting.put_nowait(check)
        except queue.Full:
            return

    def recall(self) -> Recall | None:
        """What was measured so far; None before the first."""
        asked = self._asked
        if not asked:
            return None
        share, z2 = self._found / asked, 1.96**2
        middle = (share + z2 / (2 * asked)) / (1 + z2 / asked)
        half = 1.96 * np.sqrt(share * (1 - share) / asked + z2 / (4 * asked**2)) / (1 + z2 / asked)
        return Recall(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)), self._searches)

    def close(self) -> None:
        """Ends the thread when it has done what waits."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (check := self._waiting.get()) is not None:
            check()


def _best(rows_N: Rows, similarities_N: Similarities, k: int) -> tuple[Rows, Similarities]:
    if len(rows_N) > k:
        at = np.argpartition(similarities_N, -k)[-k:]
        rows_N, similarities_N = rows_N[at], similarities_N[at]
    order = np.argsort(-similarities_N, kind="stable")
    return rows_N[order], similarities_N[order]


__all__ = [
    "FIRST_ROWS",
    "SKETCH_CANDIDATES",
    "TAIL_ROWS",
    "Matrix",
    "Recall",
    "RecallMonitor",
    "Retriever",
]
