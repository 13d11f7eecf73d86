"""Upkeep of a buffer while it works: new index and snapshot, truncation, compaction.

Adds wait for none of it longer than for another batch, and searches not at all. The order makes it safe: new files are
whole and synced before the manifest names them; the manifest's link is the commit; what only older manifests need is
deleted, truncated or erased after it.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from share.kernel.contracts.experience import Record, RecordType
from share.kernel.contracts.kinds import BuiltIndex, Index
from share.kernel.errors import BufferFenced, BufferProblem, IndexUnavailable
from share.kernel.events import StructuredLogger
from share.kernel.experience.builder import Builder, Built, Order
from share.kernel.experience.codec import decode_changes
from share.kernel.experience.committer import Committer
from share.kernel.experience.config import ExperienceBufferConfig
from share.kernel.experience.disk import Disk
from share.kernel.experience.erasures import Erasures
from share.kernel.experience.index_file import load_index
from share.kernel.experience.live import LivePage
from share.kernel.experience.lock import WriterLock
from share.kernel.experience.manifest import Manifest, clean, commit_manifest, generations
from share.kernel.experience.memory import Memory
from share.kernel.experience.problem import problem
from share.kernel.experience.state import read_snapshot
from share.kernel.experience.vectors import Vectors

BACK_OFF_MAX_S = 60.0


class Upkeep:
    """Rebuilds when it is due, in a thread of its own, or when asked to, and calls `rebuilt` then.

    One piece of work at a time.
    """

    def __init__(
        self,
        directory: Path,
        disk: Disk,
        config: ExperienceBufferConfig,
        committer: Committer,
        memory: Memory,
        vectors: Vectors,
        lock: WriterLock,
        live: LivePage,
        builder: Builder,
        index: Index,
        manifest: Manifest | None,
        logger: StructuredLogger,
        rebuilt: Callable[[], None],
    ) -> None:
        self.num_rebuilds = 0
        self.num_failures = 0
        self.last_rebuild_s: float | None = None
        self._directory = directory
        self._disk = disk
        self._config = config
        self._committer = committer
        self._memory = memory
        self._vectors = vectors
        self._lock = lock
        self._live = live
        self._builder = builder
        self._index = index
        self._manifest = manifest
        self._logger = logger
        self._rebuilt = rebuilt
        self._erasures = Erasures(disk, directory, memory.table)
        self._are_vectors_doubtful = False
        self._at_work = threading.Lock()
        self._is_due = threading.Event()
        self._is_stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def manifest(self) -> Manifest | None:
        """What counts now."""
        return self._manifest

    def start(self) -> None:
        """Rebuild in the background from now on, whenever it is due."""
        self._thread = threading.Thread(target=self._run, name="experience-buffer-upkeep", daemon=True)
        self._thread.start()
        self.look()

    def look(self) -> None:
        """See whether a rebuild is due."""
        covers = self._manifest.covers if self._manifest is not None else 0
        growth = int(self._config.rebuild_growth * self._memory.table.num_alive)
        if self._committer.durable - covers >= max(self._config.rebuild_after, growth) and not self._is_due.is_set():
            self._is_due.set()

    def rebuild(self, *, wait: bool, with_index: bool = True) -> None:
        """A new index and snapshot of all that is durable now, or only a snapshot. Waits for them if asked to.

        Raises IndexUnavailable, BufferProblem if it waits; else it is tried again until it succeeds.
        """
        if not wait:
            self._is_due.set()
            return
        self._builder.hurry()
        with self._at_work:
            self._rebuild(with_index=with_index, is_urgent=True)

    def is_compaction_due(self, before: float, now: float) -> bool:
        """Whether a file may hold what is dead and was created before that second since 1970. Raises BufferProblem."""
        with self._at_work, self._erasing(self._directory):
            return self._erasures.are_due(before, now)

    def compact(self, progress: Callable[[int, int], None], now: float) -> int:
        """Erase from every file what has been removed, evicted or erased. Returns the bytes erased from the log."""
        self._builder.hurry()
        with self._at_work:
            manifest = self._rebuild(with_index=True, is_urgent=True)
            table = self._memory.table
            with self._committer.writing, self._erasing(self._vectors.path):
                self._vectors.drop_from(table.stop)  # adds that were refused, or begun by a writer that died
                columns, first_alive = table.columns, table.first_alive()
                alive = columns.alive[: table.stop - columns.row_base].copy()
                living = columns.sequence[: len(alive)][alive != 0]
                is_kept = (alive != 0) | (columns.sequence[: len(alive)] > manifest.covers)
                oldest, stop = float(columns.created[: len(alive)][is_kept].min(initial=now)), table.stop
            dead_rows = np.flatnonzero(alive == 0) + columns.row_base
            with self._erasing(self._vectors.path):
                self._vectors.drop_before(first_alive)
                self._vectors.zero(dead_rows[dead_rows >= first_alive])
                self._sync_vectors()
                self._disk.sync_directory(self._directory)  # or a power cut brings back what older manifests named
            with self._committer.writing:
                self._lock.check()
                erased = self._memory.log.compact(self._asked(_is_dead(living, manifest.covers), manifest, progress))
            with self._erasing(self._directory):
                self._erasures.done(oldest, stop)
            self._logger.info("buffer_compacted", f"{erased} bytes were erased", bytes=erased, rows=len(dead_rows))
            return erased

    @contextlib.contextmanager
    def _erasing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise problem(error, f"{path}: cannot be erased from") from error

    def stop(self) -> None:
        """Give up what is being built, and wait for the end of what is being written."""
        self._is_stopped.set()
        self._is_due.set()
        self._builder.stop()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        failures = 0
        while True:
            self._is_due.wait()
            if self._is_stopped.is_set():
                return
            try:
                with self._at_work:
                    self._rebuild(with_index=True, is_urgent=False)
                self._is_due.clear()
                failures = 0
                self.look()
            except BufferFenced as error:
                self._logger.error("buffer_fenced", str(error))
                return
            except (BufferProblem, IndexUnavailable) as error:
                if self._is_stopped.is_set():
                    return
                self.num_failures += 1
                failures += 1
                pause_s = min(2.0 ** (failures - 1), BACK_OFF_MAX_S)
                self._logger.warn(
                    "buffer_rebuild_failed", f"{error}; searching goes on without, next try in {pause_s:.0f} s"
                )
                self._is_stopped.wait(pause_s)

    def _asked(
        self, is_dead: Callable[[Record], bool], manifest: Manifest, progress: Callable[[int, int], None]
    ) -> Callable[[Record], bool]:
        """Tells how far it is, and lets those in who wait to add, which the log allows while it asks."""

        def ask(record: Record) -> bool:
            if self._committer.is_awaited:
                self._committer.let_in()
            progress(min(record.sequence, manifest.covers), manifest.covers)
            return is_dead(record)

        return ask

    def _rebuild(self, *, with_index: bool, is_urgent: bool) -> Manifest:
        started = time.monotonic()
        table = self._memory.table
        with self._committer.writing:
            order = Order(
                covers=self._committer.durable,
                stop=table.stop,
                num_alive=table.num_alive,
                vectors=self._vectors.path.name,
                dimension=self._config.dimension,
                dtype=self._config.vectors,
                with_index=with_index,
            )
            capacity_changes = tuple(table.capacity_changes)
            table.rotate()
        try:
            self._mend_vectors()
            built = self._builder.build(order, is_urgent=is_urgent)
            self._sync_vectors()
            manifest = self._commit(order, built, capacity_changes)
        except OSError as error:
            raise problem(error, f"{self._directory}: a snapshot cannot be made") from error
        self.num_rebuilds += with_index
        self.last_rebuild_s = time.monotonic() - started
        self._logger.info(
            "buffer_rebuilt",
            f"generation {manifest.generation} covers {manifest.covers}",
            generation=manifest.generation,
            covers=manifest.covers,
            rows=order.num_alive,
            index=manifest.index_said,
            seconds=self.last_rebuild_s,
        )
        self._rebuilt()
        return manifest

    def _mend_vectors(self) -> None:
        """After a sync of them has failed: write all that live again, from the log. Raises OSError.

        Their pages count as written, are not on the disk, and may read as they were before: another sync would succeed
        for nothing, and an index be built of what is not there.
        """
        if self._are_vectors_doubtful:
            for row in self._memory.table.living().tolist():
                columns = self._memory.table.columns
                experience = self._memory.experience(columns, row) if row >= columns.row_base else None
                if experience is not None:
                    self._vectors.append(row, experience.embedding[None])

    def _sync_vectors(self) -> None:
        self._are_vectors_doubtful = True
        self._vectors.sync()
        self._are_vectors_doubtful = False

    def _commit(self, order: Order, built: Built, capacity_changes: tuple[tuple[int, int], ...]) -> Manifest:
        """Load what was built, let the manifest name it, use it, and give back what only older manifests need."""
        previous = self._manifest
        made = Manifest(
            generation=max(generations(self._disk, self._directory), default=0) + 1,
            covers=order.covers,
            snapshot=built.snapshot,
            vectors=order.vectors,
            dimension=order.dimension,
            dtype=order.dtype,
            index=built.index,
            index_backend=self._config.index.name if built.index else "",
            index_rows=order.stop if built.index else 0,
            index_chosen=built.chosen if built.index else "",
            capacity_changes=capacity_changes,
        )
        if not order.with_index and previous is not None:
            made = replace(
                made,
                index=previous.index,
                index_backend=previous.index_backend,
                index_rows=previous.index_rows,
                index_chosen=previous.index_chosen,
            )
        try:
            snapshot = read_snapshot(self._disk, self._directory, made)
        except (ValueError, KeyError, struct.error) as error:
            raise IndexUnavailable(f"{built.snapshot}: the builder made it wrong: {error}") from error
        base: BuiltIndex | None = None
        if order.with_index and built.index is not None:
            base = load_index(self._disk, self._directory / built.index, self._index)
        self._lock.check()
        commit_manifest(self._disk, self._directory, made)
        self._manifest = made
        if base is not None:
            self._memory.retriever.set_base(base, order.stop)
        table = self._memory.table
        with self._committer.writing:
            table.adopt(snapshot)
            self._live.announce(made.generation)
            first_alive, oldest = table.first_alive(), table.oldest_sequence(order.covers + 1)
        clean(self._disk, self._directory, made, set())
        if previous is not None:  # both must know the capacity that held where the log begins
            with self._committer.writing:
                self._memory.log.truncate(min(oldest, previous.covers + 1))
        self._vectors.drop_before(first_alive)
        return made


def _is_dead(living: np.typing.NDArray[np.uint64], covers: int) -> Callable[[Record], bool]:
    """Whether a record up to `covers` says something of dead experiences only; `living` are sequences, rising."""

    def are_dead(sequences: np.typing.NDArray[np.uint64]) -> bool:
        at = np.searchsorted(living, sequences)
        inside = at < len(living)
        return not bool((living[at[inside]] == sequences[inside]).any())

    def is_dead(record: Record) -> bool:
        if record.sequence > covers:
            return False
        if record.type is RecordType.ADD:
            return are_dead(np.array([record.sequence], np.uint64))
        if record.type in (RecordType.CAPACITY, RecordType.CLOSE):
            return False
        return are_dead(decode_changes(record.type, record.payload)[0])

    return is_dead


__all__ = ["BACK_OFF_MAX_S", "Upkeep"]
