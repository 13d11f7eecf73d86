"""What a process keeps in memory of a buffer, and all that can be asked of it without writing.

The writer has one, and so has every reader. One thread at a time applies records; any number ask beside it, and wait
for nobody: they look at the table's columns as they were when they came, and at what has been appended since.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from share.kernel.contracts.experience import Experience, Neighbor, Status
from share.kernel.contracts.kinds import RecordLog
from share.kernel.contracts.run import Metric
from share.kernel.errors import ExperienceRefused
from share.kernel.experience.codec import decode_experience
from share.kernel.experience.config import PriorityConfig
from share.kernel.experience.retrieval import RecallMonitor, Retriever
from share.kernel.experience.sampling import PrioritySampler, importance_weights
from share.kernel.experience.table import Columns, Rows, Table


@dataclass(frozen=True, slots=True)
class Sample:
    """A sampled experience. `weight` is its importance weight: what undoes the uneven sampling, at most 1."""

    experience: Experience
    probability: float
    weight: float


class Memory:
    """Table, retriever and sampler over one log."""

    def __init__(
        self,
        log: RecordLog,
        table: Table,
        retriever: Retriever,
        priority: PriorityConfig,
        random: np.random.Generator,
        monitor: RecallMonitor | None = None,
    ) -> None:
        self.monitor = monitor
        self.log = log
        self.table = table
        self.retriever = retriever
        self._priority = priority
        self._random = random
        self._sampler: PrioritySampler | None = None  # made when somebody samples
        self._sampling = threading.Lock()

    def added(self, first_row: int, vectors_ND: NDArray[np.float32]) -> None:
        """See `Follower`; the vectors are written already."""
        self.retriever.append(first_row, vectors_ND)
        if self._sampler is not None:
            self.weighed(np.arange(first_row, first_row + len(vectors_ND)))

    def removed(self, rows: Rows) -> None:
        """See `Follower`."""
        if self._sampler is not None:
            with self._sampling:
                self._sampler.set(rows, np.zeros(len(rows)))

    def weighed(self, rows: Rows) -> None:
        """See `Follower`."""
        if self._sampler is not None:
            with self._sampling:
                self._sampler.set(rows, self._weights(self.table.columns, rows))

    def get(self, id: str) -> Experience | None:  # noqa: A002 - the word of the contract
        """The experience as it is now, None without one."""
        row = self.table.find(id.encode(errors="replace"))
        return None if row < 0 else self.experience(self.table.columns, row)

    def experience(self, columns: Columns, row: int) -> Experience | None:
        """What the log holds of a row, with what has changed since; None if it has been erased meanwhile."""
        at = row - columns.row_base
        try:
            record = self.log.read(int(columns.location[at]), int(columns.sequence[at]))
        except KeyError:
            return None
        return replace(
            decode_experience(record.payload),
            priority=float(columns.priority[at]),
            retrieval_count=int(columns.retrieval[at]),
            success_count=int(columns.success[at]),
            status=Status(int(columns.status[at])),
        )

    def __iter__(self) -> Iterator[Experience]:
        """All experiences, oldest first, without those that die meanwhile."""
        for row in self.table.living().tolist():
            columns = self.table.columns
            if row >= columns.row_base and columns.alive[row - columns.row_base]:
                experience = self.experience(columns, row)
                if experience is not None:
                    yield experience

    def search(self, embedding_D: NDArray[np.floating], k: int, exclude: Collection[str] = ()) -> list[Neighbor]:
        """The k most similar experiences that are not excluded, best first. Raises ExperienceRefused."""
        if k < 0:
            raise ExperienceRefused(f"k: {k} is below 0")
        if isinstance(exclude, str):
            raise ExperienceRefused(f"exclude: is the one text {exclude!r:.80}; give a collection of ids")
        query_D = self._query(embedding_D)
        columns = self.table.columns
        excluded = frozenset(exclude)
        wanted = k + len(excluded)
        rows_K, similarities_K = self.retriever.search(query_D, wanted, columns.alive, columns.row_base)
        if self.monitor is not None:
            self.monitor.observe(query_D, similarities_K, wanted, columns.alive, columns.row_base)
        found = []
        for row, similarity in zip(rows_K.tolist(), similarities_K.tolist(), strict=True):
            id_ = columns.id_of(row)
            if id_ not in excluded:
                found.append(Neighbor(id_, int(columns.sequence[row - columns.row_base]), similarity))
        return found[:k]

    def sample(self, n: int) -> list[Sample]:
        """n draws with replacement, in proportion to priority and success. Empty only if the buffer is."""
        samples: list[Sample] = []
        while len(samples) < n and self.table.num_alive:
            with self._sampling:
                if self._sampler is None:
                    columns, rows = self.table.columns, self.table.living()
                    sampler = PrioritySampler(self.table.stop - self.table.row_base)
                    sampler.set(rows, self._weights(columns, rows))
                    self._sampler = sampler
                rows_N, probabilities_N = self._sampler.sample(n - len(samples), self._random)
            weights_N = importance_weights(probabilities_N, self.table.num_alive, self._priority.importance_exponent)
            columns = self.table.columns
            for row, probability, weight in zip(
                rows_N.tolist(), probabilities_N.tolist(), weights_N.tolist(), strict=True
            ):
                if row >= columns.row_base and columns.alive[row - columns.row_base]:
                    experience = self.experience(columns, row)
                    if experience is not None:
                        samples.append(Sample(experience, probability, weight))
        return samples

    def summary(self) -> dict[str, Metric]:
        """How many there are, of which status, of how many subjects, how old (seconds since 1970)."""
        columns, rows = self.table.columns, self.table.living()
        at = rows - columns.row_base
        created, subjects = columns.created[at], np.unique(columns.subject[at])
        by_status = np.bincount(columns.status[at], minlength=len(Status))
        return {
            "experiences": len(rows),
            "capacity": self.table.capacity,
            "created_first": float(created.min()) if len(rows) else None,
            "created_last": float(created.max()) if len(rows) else None,
            "subjects": int((subjects != 0).sum()),
            "status": {status.name.lower(): int(by_status[status]) for status in Status},
            "log_bytes": self.log.size_bytes,
        }

    def _query(self, embedding_D: NDArray[np.floating]) -> NDArray[np.float32]:
        query_D = np.ascontiguousarray(embedding_D, np.float32)
        dimension = self.retriever.dimension
        if query_D.shape != (dimension,):
            raise ExperienceRefused(f"embedding: has shape {query_D.shape}, this buffer keeps ({dimension},)")
        length = float(np.sqrt(query_D @ query_D))
        if not 0 < length < np.inf:
            raise ExperienceRefused(f"embedding: has length {length:g}, so nothing is similar to it")
        return query_D / np.float32(length)

    def _weights(self, columns: Columns, rows: Rows) -> NDArray[np.float64]:
        """priority ** exponent * smoothed success rate; 0 for the dead."""
        config = self._priority
        at = rows - columns.row_base
        succeeded = columns.success[at] + config.prior_successes
        retrieved = columns.retrieval[at] + (config.prior_successes + config.prior_failures)
        weights: NDArray[np.float64] = columns.priority[at].astype(np.float64) ** config.exponent
        weights *= succeeded / retrieved * columns.alive[at]
        return weights


__all__ = ["Memory", "Sample"]
