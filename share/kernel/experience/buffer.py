"""The experience buffer: what was acknowledged is never lost, what is searched is never blocked.

`open_buffer` makes the one writer of a directory; other processes read with `ExperienceReader` and add with
`ExperienceProducer`. docs/formats/buffer.md has the files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from share.kernel.contracts.experience import Experience, Neighbor, Status
from share.kernel.contracts.run import Metric
from share.kernel.errors import BufferFull, BufferProblem, BufferUnavailable, ConfigError, ExperienceRefused
from share.kernel.events import StructuredLogger
from share.kernel.experience.builder import Builder, ProcessBuilder
from share.kernel.experience.codec import check_experience, subject_hash
from share.kernel.experience.committer import Committer
from share.kernel.experience.config import ExperienceBufferConfig
from share.kernel.experience.disk import Disk, RealDisk
from share.kernel.experience.embedding import hybrid_embedding
from share.kernel.experience.latency import Latencies
from share.kernel.experience.memory import Sample
from share.kernel.experience.opening import Recovered, recover
from share.kernel.experience.requests import (
    Addition,
    AddRequest,
    CapacityRequest,
    CloseRequest,
    ForgetRequest,
    PriorityRequest,
    RemoveRequest,
    RetrievalRequest,
    StatusRequest,
    encode_addition,
)
from share.kernel.experience.upkeep import Upkeep
from share.kernel.registry import Registry


def open_buffer(
    directory: Path | str,
    config: ExperienceBufferConfig,
    registry: Registry,
    *,
    take_over: bool = False,
    salvage: bool = False,
    disk: Disk | None = None,
    clock: Callable[[], float] = time.time,
    random: np.random.Generator | None = None,
    builder: Builder | None = None,
    logger: StructuredLogger | None = None,
) -> ExperienceBuffer:
    """Open a buffer to write, made if there is none: recovers whatever state its last writer left.

    `take_over` fences a writer that hangs. `salvage` keeps what is sound of a damaged log. Without a `builder` indexes
    are built in processes of their own. Raises BufferLocked naming the holder, BufferCorrupt naming file and offset,
    BufferFull, BufferUnavailable, ConfigError, PluginLoadError.
    """
    directory = Path(directory)
    disk = disk or RealDisk()
    logger = logger or StructuredLogger(None, run_id="", backend="experience_buffer")
    started = time.perf_counter()
    recovered = recover(
        directory,
        config,
        registry,
        disk,
        random or np.random.default_rng(),
        logger,
        take_over=take_over,
        salvage=salvage,
    )
    builder = builder or ProcessBuilder(directory, config.storage, config.index)
    buffer = ExperienceBuffer(directory, config, recovered, disk, builder, clock, logger)
    buffer.recovery_s = time.perf_counter() - started
    buffer.log_metrics()
    buffer.settle(take_over=take_over)
    return buffer


class ExperienceBuffer:
    """The writer of a buffer; `open_buffer` makes it. Safe for any number of threads.

    What changes the buffer is durable when it returns, and raises BufferFull, BufferUnavailable or BufferFenced when
    it is not: then it has not happened, reading goes on, and after the first two later calls may succeed.
    """

    def __init__(
        self,
        directory: Path,
        config: ExperienceBufferConfig,
        recovered: Recovered,
        disk: Disk,
        builder: Builder,
        clock: Callable[[], float],
        logger: StructuredLogger,
    ) -> None:
        self.directory = directory
        self.config = config
        self.recovery_s = 0.0
        self._recovered = recovered
        self._memory = recovered.memory
        self._clock = clock
        self._logger = logger
        self._committer = Committer(
            recovered.log, recovered.memory, recovered.vectors, recovered.lock, recovered.live, config.capacity
        )
        self._upkeep = Upkeep(
            directory,
            disk,
            config,
            self._committer,
            recovered.memory,
            recovered.vectors,
            recovered.lock,
            recovered.live,
            builder,
            recovered.index,
            recovered.manifest,
            logger,
            self.log_metrics,
        )
        self._adds = Latencies()
        self._searches = Latencies()
        self._is_closed = False

    def settle(self, *, take_over: bool) -> None:
        """The last step of opening: remove what salvaging has lost, shrink to a smaller capacity, begin the upkeep.

        A new capacity that evicts nothing yet goes with the first add, so that opening writes nothing. A writer that
        was taken over may have begun to write: a record of ours cuts its part of the log off for good.
        """
        if len(self._recovered.astray):
            before = len(self)
            self._committer.commit(ForgetRequest(self._recovered.astray))
            self._logger.error("buffer_lost", f"{self.directory}: {before - len(self)} were lost by damage")
        capacity = self.capacity
        if take_over or 0 < capacity < len(self):
            try:
                self._committer.commit(CapacityRequest(capacity))
            except (BufferFull, BufferUnavailable) as error:
                self._logger.warn("buffer_not_shrunk", f"{error}; the capacity holds from the next add on")
        self._upkeep.start()

    def __enter__(self) -> ExperienceBuffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._memory.table.num_alive

    @property
    def capacity(self) -> int:
        """Most experiences that are kept, 0 = any number."""
        return self._memory.table.capacity if self.config.capacity is None else self.config.capacity

    def __contains__(self, id_: str) -> bool:
        return self._memory.table.find(_key(id_)) >= 0

    def __iter__(self) -> Iterator[Experience]:
        """All experiences, oldest first, as they are when their turn comes."""
        self._check_open()
        return iter(self._memory)

    def add(self, experience: Experience) -> int:
        """Durable and searchable at return, in every process. Returns the sequence of its record.

        Raises ExperienceRefused naming the field, also for an id that is taken.
        """
        return self.add_many((experience,))[0]

    def add_many(self, experiences: Sequence[Experience]) -> list[int]:
        """All of them with one sync, or none. Raises as `add`."""
        started = time.perf_counter()
        additions = [self._addition(experience) for experience in experiences]
        sequences = self.commit_additions([additions])[0] if additions else []
        if isinstance(sequences, BufferProblem):
            raise sequences
        self._adds.record(time.perf_counter() - started)
        return sequences

    def commit_additions(self, groups: Sequence[Sequence[Addition]]) -> list[list[int] | BufferProblem]:
        """Commit what was encoded already, here or by producers: the sequences of each group, or why not."""
        self._check_open()
        requests = [AddRequest(additions) for additions in groups]
        self._committer.commit_all(requests)
        self._upkeep.look()
        return [request.error or request.sequences for request in requests]

    def remove(self, ids: Collection[str]) -> int:
        """Never found, sampled or returned again; `compact` erases what files hold. Returns how many there were."""
        return self._change(RemoveRequest(_keys(ids)))

    def update_priorities(self, ids: Sequence[str], priorities: ArrayLike) -> int:
        """Set priorities, clipped to the bounds of the configuration. Returns how many of the ids are there."""
        values = np.asarray(priorities, np.float64).reshape(-1)
        if len(values) != len(ids) or not np.isfinite(values).all():
            raise ExperienceRefused(f"priority: {len(ids)} finite numbers are needed, not {len(values)}")
        bounds = self.config.priority
        clipped = np.clip(values, bounds.priority_min, bounds.priority_max)
        return self._change(PriorityRequest(_keys(ids), clipped.tolist()))

    def record_retrieval(self, ids: Sequence[str], succeeded: bool | Sequence[bool]) -> int:
        """Count a retrieval of each, and a success where it took part in one. Returns how many are there."""
        each = [succeeded] * len(ids) if isinstance(succeeded, bool | np.bool_) else list(succeeded)
        if len(each) != len(ids):
            raise ExperienceRefused(f"succeeded: {len(each)} values for {len(ids)} ids")
        return self._change(RetrievalRequest(_keys(ids), each))

    def update_status(self, ids: Collection[str], status: Status) -> int:
        """Set what is known of the answers. Returns how many are there."""
        return self._change(StatusRequest(_keys(ids), Status(status)))

    def get(self, id_: str) -> Experience | None:
        """The experience with its priority, counts and status of now; None without one."""
        self._check_open()
        return self._memory.get(id_)

    def search_index(self, embedding: NDArray[np.floating], k: int, exclude: Collection[str] = ()) -> list[Neighbor]:
        """The k nearest by cosine, best first, with what was added a moment ago. Waits for no writing.

        Raises ExperienceRefused for an embedding of another shape, or without a direction.
        """
        self._check_open()
        started = time.perf_counter()
        neighbors = self._memory.search(embedding, k, exclude)
        self._searches.record(time.perf_counter() - started)
        return neighbors

    def sample(self, n: int) -> list[Sample]:
        """n draws with replacement, proportional to priority and success. Raises BufferUnavailable if it is empty."""
        self._check_open()
        samples = self._memory.sample(n)
        if len(samples) < n:
            raise BufferUnavailable(f"{self.directory}: is empty, nothing can be sampled")
        return samples

    def embedding(self, visual: ArrayLike, text: ArrayLike) -> NDArray[np.float32]:
        """The hybrid embedding in the configured shares; see `hybrid_embedding`."""
        return hybrid_embedding(visual, text, self.config.visual_weight)

    def erase(self, subject: str) -> int:
        """Remove all experiences about a person; `compact` then erases them from every file. Returns how many."""
        return self.remove(self.ids_of(subject))

    def ids_of(self, subject: str) -> list[str]:
        """The experiences about a person."""
        self._check_open()
        columns = self._memory.table.columns
        candidates = np.flatnonzero((columns.subject == subject_hash(subject)) & (columns.alive != 0))
        found = (self._memory.experience(columns, columns.row_base + at) for at in candidates.tolist())
        return [each.id for each in found if each is not None and each.subject == subject]

    def expire(self, older_than_days: float) -> int:
        """Remove all that were created longer ago. Returns how many. Raises ConfigError for an age below 0."""
        self._check_open()
        if not 0 <= older_than_days < math.inf:
            raise ConfigError(f"older_than_days: {older_than_days} is not a number of days, at least 0")
        columns = self._memory.table.columns
        is_old = columns.created < self._clock() - older_than_days * 86400
        rows = np.flatnonzero(is_old & (columns.alive != 0)) + columns.row_base
        return self.remove([columns.id_of(row) for row in rows.tolist()])

    def compact(self, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Erase all that is removed, evicted or erased from every file: log, snapshots, vectors, index.

        Returns the bytes that were erased from the log; `progress` is told of records. Raises as `rebuild`.
        """
        self._check_open()
        return self._upkeep.compact(progress, self._clock())

    def retain(self, days: float) -> int:
        """Remove all that were created longer ago, and have nothing as old in any file: what was evicted neither, nor
        what an earlier try has left that failed or died. Returns how many were removed now. Raises as `compact`."""
        count = self.expire(days)
        now = self._clock()
        if count or self._upkeep.is_compaction_due(now - days * 86400, now):
            self.compact()
        return count

    def rebuild(self, *, wait: bool = True) -> None:
        """Build the index anew from all that is durable now, with a snapshot. Adding and searching go on.

        Raises IndexUnavailable, BufferProblem if it waits; in the background it is tried again.
        """
        self._check_open()
        self._upkeep.rebuild(wait=wait)

    def save_snapshot(self) -> None:
        """A snapshot of all that is durable now, so that opening replays nothing older. The index stays as it is."""
        self._check_open()
        self._upkeep.rebuild(wait=True, with_index=False)

    def metrics(self) -> dict[str, Metric]:
        """Sizes, latencies in milliseconds, commits, rebuilds, recovery time."""
        table, manifest = self._memory.table, self._upkeep.manifest
        recall = self._memory.monitor.recall() if self._memory.monitor is not None else None
        syncs, records = self._committer.num_syncs, self._committer.num_records
        return {
            "experiences": table.num_alive,
            "capacity": self.capacity,
            "sequence": self._committer.durable,
            "log_bytes": self._recovered.log.size_bytes,
            "recovery_s": self.recovery_s,
            "adds": self._adds.count,
            "add_ms_p50": self._adds.percentile_ms(50),
            "add_ms_p99": self._adds.percentile_ms(99),
            "searches": self._searches.count,
            "search_ms_p50": self._searches.percentile_ms(50),
            "search_ms_p99": self._searches.percentile_ms(99),
            "recall": recall.value if recall is not None else None,
            "recall_low": recall.low if recall is not None else None,
            "recall_searches": recall.num_searches if recall is not None else 0,
            "syncs": syncs,
            "records_per_sync": records / syncs if syncs else None,
            "records_per_sync_max": self._committer.group_size_max,
            "rebuilds": self._upkeep.num_rebuilds,
            "rebuilds_failed": self._upkeep.num_failures,
            "rebuild_s": self._upkeep.last_rebuild_s,
            "generation": manifest.generation if manifest is not None else 0,
            "snapshot_covers": manifest.covers if manifest is not None else 0,
            "index": manifest.index_said if manifest is not None else "",
            "index_rows": manifest.index_rows if manifest is not None else 0,
        }

    def log_metrics(self) -> None:
        """An event with `metrics()`, as there is after opening, after every rebuild, and at the end."""
        self._logger.info("buffer_metrics", f"{len(self)} experiences", **self.metrics())

    def close(self) -> None:
        """End in order. What was acknowledged is durable without it."""
        if self._is_closed:
            return
        self._is_closed = True
        self._upkeep.stop()
        if self._memory.monitor is not None:
            self._memory.monitor.close()
        self.log_metrics()
        recovered = self._recovered
        with self._committer.writing:
            if self._committer.num_syncs:
                try:
                    self._committer.commit(CloseRequest())
                except BufferProblem as error:
                    self._logger.warn("buffer_not_closed", f"{error}; nothing acknowledged is lost by that")
            recovered.log.close()
            recovered.vectors.close()
            recovered.live.close()
            recovered.lock.release()

    def _change(self, request: RemoveRequest | PriorityRequest | RetrievalRequest | StatusRequest) -> int:
        self._check_open()
        if request.ids:
            self._committer.commit(request)
            self._upkeep.look()
        return request.count

    def _addition(self, experience: Experience) -> Addition:
        check_experience(experience, self.config.dimension)
        return encode_addition(experience, self.config.priority.first(experience, self._clock()))

    def _check_open(self) -> None:
        if self._is_closed:
            raise BufferUnavailable(f"{self.directory}: has been closed")


def _key(id_: str) -> bytes:
    return id_.encode(errors="replace")


def _keys(ids: Collection[str]) -> list[bytes]:
    if isinstance(ids, str):
        raise ExperienceRefused(f"ids: is the one text {ids!r}, a list of ids is needed")
    return [_key(id_) for id_ in ids]


__all__ = ["ExperienceBuffer", "open_buffer"]
