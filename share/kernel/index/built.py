"""What all indexes of FAISS share: loading the library, calibration, and the bytes that are kept.

A built index is kept as `u32 length`, JSON of that length (what it is, how it is searched, whether its rows are a
range), the rows if they are not, and FAISS's own bytes. The caller puts an envelope around it: FAISS has no checksum.
"""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from share.kernel.errors import IndexUnavailable

RECALL_WANTED = 0.998
"""Recall@10 that calibration asks for on rows of the data: a margin over the 0.99 that is promised."""

CALIBRATION_QUERIES = 200

_LENGTH = struct.Struct("<I")


def load_faiss() -> ModuleType:
    """FAISS. Raises IndexUnavailable with the remedy."""
    try:
        import faiss
    except ImportError as error:
        raise IndexUnavailable(
            f"this index needs FAISS: pip install 'pixelis[cpu]' or 'pixelis[gpu]' ({error})"
        ) from error
    return faiss


def to_gpu(faiss: ModuleType, index: Any) -> Any:
    """An index moved to the first GPU. Raises IndexUnavailable naming device and remedy."""
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        raise IndexUnavailable(
            "device: 'gpu' asks for a CUDA device and faiss-gpu, and there is none: install 'pixelis[gpu]' in place of "
            "'pixelis[cpu]' on a machine with a GPU, or set device=cpu"
        )
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of an index a search for up to ten looks at, and how many candidates it returns for exact ranking."""

    probes: int
    candidates: int


@dataclass
class FaissIndex:
    """A built index of FAISS. `kind` names the backend, `effort_limit` the greatest effort there is.

    `recall` is the recall@10 with exact ranking that was measured when it was built, None where there is nothing to
    measure. One thread of FAISS per search: two OpenMP threads on a busy machine are slower than one.
    """

    kind: str
    index: Any
    rows: NDArray[np.int64]
    is_exact: bool = False
    effort: Effort = Effort(1, 10)
    effort_limit: int = 1
    recall: float | None = None
    stored: NDArray[np.uint8] | None = None
    """The bytes that an index which was loaded looks at in place: they live as long as it does."""
    _parameters: dict[int, Any] = field(default_factory=dict)
    _of_thread: threading.local = field(default_factory=threading.local)

    def __post_init__(self) -> None:
        first = int(self.rows[0]) if len(self.rows) else 0
        is_range = bool(len(self.rows)) and int(self.rows[-1]) - first + 1 == len(self.rows)
        self._first = first if is_range and bool((np.diff(self.rows) == 1).all()) else None

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    def search(self, query_D: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The best k as it sees them, best first, and more candidates behind them if it is not exact."""
        faiss = load_faiss()
        if not getattr(self._of_thread, "is_set", False):
            faiss.omp_set_num_threads(1)  # counts for the calling thread
            self._of_thread.is_set = True
        tens = -(-k // 10)
        num = k if self.is_exact else max(k, self.effort.candidates * tens)
        similarities, found = self.index.search(
            query_D[None], min(num, self.num_rows), params=self._search_parameters(tens)
        )
        at, scores = found[0], similarities[0]
        if len(at) and at[-1] < 0:
            scores, at = scores[at >= 0], at[at >= 0]
        return (at + self._first if self._first is not None else self.rows[at]), scores

    def save(self) -> bytes:
        faiss = load_faiss()
        on_cpu = faiss.index_gpu_to_cpu(self.index) if self._is_on_gpu() else self.index
        about = {
            "kind": self.kind,
            "is_exact": self.is_exact,
            "probes": self.effort.probes,
            "candidates": self.effort.candidates,
            "effort_limit": self.effort_limit,
            "recall": self.recall,
            "rows": len(self.rows),
            "first": self._first,
        }
        head = json.dumps(about).encode()
        rows = b"" if self._first is not None else self.rows.astype("<i8").tobytes()
        return b"".join([_LENGTH.pack(len(head)), head, rows, memoryview(faiss.serialize_index(on_cpu))])

    def set_effort(self, effort: Effort) -> None:
        self.effort = effort
        self._parameters = {}

    def _is_on_gpu(self) -> bool:
        return type(self.index).__name__.startswith("Gpu")

    def _search_parameters(self, tens: int) -> Any:
        """Ten times as many neighbors are looked for with ten times the effort. Made once: SWIG objects are slow."""
        made = self._parameters.get(tens)
        if made is None and self.kind != "flat":
            faiss = load_faiss()
            effort = min(self.effort.probes * tens, self.effort_limit)
            if self.kind == "hnsw":
                made = faiss.SearchParametersHNSW(efSearch=effort)
            elif isinstance(self.index, faiss.IndexIVFRaBitQ):
                # Without the query in 4 bits each list is compared number by number, hundreds of times slower.
                made = faiss.IVFRaBitQSearchParameters(nprobe=effort, qb=4)
            else:
                made = faiss.SearchParametersIVF(nprobe=effort)
            self._parameters[tens] = made
        return made


def load(content: memoryview, kinds: Sequence[str]) -> FaissIndex:
    """What `FaissIndex.save` gave. Raises IndexUnavailable."""
    faiss = load_faiss()
    try:
        (length,) = _LENGTH.unpack_from(content)
        about: Mapping[str, Any] = json.loads(bytes(content[_LENGTH.size : _LENGTH.size + length]))
        if about["kind"] not in kinds:
            raise IndexUnavailable(f"the index is of kind {about['kind']!r}, not {' or '.join(kinds)}")
        offset = _LENGTH.size + length
        count, first = about["rows"], about["first"]
        if first is None:
            rows_N = np.frombuffer(content, "<i8", count, offset).astype(np.int64)
            offset += 8 * count
        else:
            rows_N = np.arange(first, first + count)
        stored = np.frombuffer(content, np.uint8, offset=offset)
        reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(stored), stored.nbytes)
        index = faiss.read_index(reader)
    except (struct.error, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise IndexUnavailable(f"not an index that was saved here: {error}") from error
    effort = Effort(about["probes"], about["candidates"])
    return FaissIndex(
        about["kind"], index, rows_N, about["is_exact"], effort, about["effort_limit"], about["recall"], stored
    )


def check_vectors(vectors_ND: NDArray[np.generic], rows_N: NDArray[np.int64], needed: int = 1) -> None:
    """Raises IndexUnavailable for what cannot be indexed."""
    if vectors_ND.ndim != 2 or len(vectors_ND) != len(rows_N):
        raise IndexUnavailable(f"vectors of shape {vectors_ND.shape} cannot have {len(rows_N)} row numbers")
    if len(rows_N) < needed:
        raise IndexUnavailable(
            f"{len(rows_N)} rows are too few, this index needs {needed}: use flat or auto until then"
        )


def blocks(vectors_ND: NDArray[np.generic], size: int = 16384) -> Any:
    """(start, float32 block) over the vectors: a matrix in a file never becomes float32 as a whole."""
    for start in range(0, len(vectors_ND), size):
        yield start, np.ascontiguousarray(vectors_ND[start : start + size], np.float32)


def sample_of(vectors_ND: NDArray[np.generic], num: int, seed: int) -> NDArray[np.float32]:
    """`num` random vectors, or all, as float32."""
    at = np.random.default_rng(seed).permutation(len(vectors_ND))[:num]
    return np.ascontiguousarray(vectors_ND[np.sort(at)], np.float32)


def calibrate(
    built: FaissIndex, vectors_ND: NDArray[np.generic], probes: Sequence[int], candidates: Sequence[int], seed: int
) -> None:
    """Set the least effort with which an index finds the ten nearest other rows of rows of its own.

    Effort is raised along `probes` until the recall is met with the most `candidates`, then the candidates are
    lowered while it stays. Without success it is left at the most; `recall` says what that gives.
    """
    count = len(vectors_ND)
    chosen = np.sort(np.random.default_rng([seed, 1]).permutation(count)[:CALIBRATION_QUERIES])
    queries_QD = np.ascontiguousarray(vectors_ND[chosen], np.float32)
    k = min(10, count - 1)
    if k < 1:
        return
    truth = _nearest_others(vectors_ND, queries_QD, chosen, k)
    position = {int(row): number for number, row in enumerate(built.rows)} if built._first is None else None

    def recall(effort: Effort) -> float:
        built.set_effort(effort)
        found = 0
        for query_D, own, exact in zip(queries_QD, chosen, truth, strict=True):
            rows = built.search(query_D, k)[0]
            if position is None:
                at = rows - int(built.rows[0])
            else:
                at = np.array([position[int(row)] for row in rows], np.int64)
            at = at[at != own]
            here = np.asarray(vectors_ND[at], np.float32) @ query_D
            found += min(int((here >= exact[-1] - 1e-6).sum()), k)
        return found / (k * len(chosen))

    best = Effort(probes[-1], candidates[-1])
    measured = 0.0
    for effort in probes:
        best = Effort(effort, candidates[-1])
        measured = recall(best)
        if measured >= RECALL_WANTED:
            break
    for fewer in reversed(candidates[:-1]):
        less = recall(Effort(best.probes, fewer))
        if less < min(RECALL_WANTED, measured):
            break
        best, measured = Effort(best.probes, fewer), less
    built.set_effort(best)
    built.recall = measured


def _nearest_others(
    vectors_ND: NDArray[np.generic], queries_QD: NDArray[np.float32], own_Q: NDArray[np.int64], k: int
) -> NDArray[np.float32]:
    """The k greatest similarities of each query to other rows, descending, shape (Q, k)."""
    best_QK = np.full((len(queries_QD), k), -2, np.float32)
    for start, block in blocks(vectors_ND):
        similarities = queries_QD @ block.T
        inside = (own_Q >= start) & (own_Q < start + len(block))
        similarities[np.nonzero(inside)[0], own_Q[inside] - start] = -2
        both = np.concatenate([best_QK, similarities], axis=1)
        best_QK = -np.sort(-np.partition(both, -k, axis=1)[:, -k:], axis=1)
    return best_QK


__all__ = [
    "CALIBRATION_QUERIES",
    "RECALL_WANTED",
    "Effort",
    "FaissIndex",
    "blocks",
    "calibrate",
    "check_vectors",
    "load",
    "load_faiss",
    "sample_of",
    "to_gpu",
]
