"""Opening a buffer to write: everything that recovery does, in its order.

Lock, log, snapshot, replay, index. Nothing that is done here twice gives another result, and nothing is deleted that a
crash in the middle would need.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from share.kernel.contracts.kinds import BuiltIndex, Index, RecordLog, Storage
from share.kernel.errors import BufferCorrupt, IndexUnavailable
from share.kernel.events import StructuredLogger
from share.kernel.experience.config import ExperienceBufferConfig
from share.kernel.experience.disk import Disk
from share.kernel.experience.envelope import Damaged
from share.kernel.experience.followed import FollowedVectors
from share.kernel.experience.index_file import load_index
from share.kernel.experience.layout import check_dimension, settle_identity
from share.kernel.experience.live import LivePage
from share.kernel.experience.lock import WriterLock
from share.kernel.experience.manifest import Manifest, clean, newest_manifest
from share.kernel.experience.memory import Memory
from share.kernel.experience.problem import problem
from share.kernel.experience.retrieval import RecallMonitor, Retriever
from share.kernel.experience.state import State, catch_up, load_state
from share.kernel.experience.table import Rows
from share.kernel.experience.vectors import BLOCK_ROWS, Vectors
from share.kernel.registry import Registry

VECTORS = "vectors"
BESIDE_ROWS = 100_000
"""Rows of an index from which on a thread is worth its start."""

Base = Callable[[Manifest], BuiltIndex | None]
"""Gives the index that a manifest names."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a writer works with. `manifest` is None when the state was replayed from the beginning.

    `astray` are sequences on which a snapshot and a salvaged log differ: lost by damage, or evicted because of what was
    lost. They are still to be removed, so that the log alone says the same again.
    """

    lock: WriterLock
    log: RecordLog
    memory: Memory
    vectors: Vectors
    live: LivePage
    storage: Storage
    index: Index
    manifest: Manifest | None
    astray: NDArray[np.uint64]


def recover(
    directory: Path,
    config: ExperienceBufferConfig,
    registry: Registry,
    disk: Disk,
    random: np.random.Generator,
    logger: StructuredLogger,
    *,
    take_over: bool,
    salvage: bool,
) -> Recovered:
    """Raises BufferLocked, BufferCorrupt, BufferFull, BufferUnavailable, ConfigError, PluginLoadError."""
    try:
        disk.make_directory(directory)
    except OSError as error:
        raise problem(error, f"{directory}: cannot be made") from error
    with contextlib.ExitStack() as undo:
        lock = WriterLock(directory, take_over=take_over)
        undo.callback(lock.release)
        settle_identity(disk, directory, config.dimension, config.storage.name)
        storage: Storage = registry.build(config.storage)
        index: Index = registry.build(config.index)
        # A writer that was taken over may wake up and write into the vectors that it knows: then new ones are made.
        newest = None if take_over else newest_manifest(disk, directory)
        with load_base(directory, disk, index, config.index.name, newest, logger) as base:
            log = storage.open(directory, disk, "write", salvage=salvage)
            undo.callback(log.close)
            state = load_state(
                disk, directory, dimension=config.dimension, dtype=config.vectors, from_beginning=take_over
            )
            if state.problem:
                logger.warn("buffer_snapshot_unusable", f"{directory}: replaying the whole log: {state.problem}")
            if state.covers >= log.next_sequence and salvage:
                state = load_state(disk, directory, dimension=config.dimension, from_beginning=True)
            elif state.covers >= log.next_sequence:
                raise BufferCorrupt(
                    f"{directory}: the log ends with record {log.next_sequence - 1}, but {state.covers} were durable "
                    "when the snapshot was made; --salvage keeps all that is sound"
                )
            try:
                vectors = _open_vectors(directory, disk, config, state)
                undo.callback(vectors.close)
                retriever = Retriever(vectors)
                feed = VectorFeed(vectors, retriever, state, base)
                catch_up(state, log, follower=feed)
            except OSError as error:
                raise problem(error, f"{directory}: its vectors cannot be written") from error
        astray = _astray(directory, disk, config, state, log) if salvage else np.empty(0, np.uint64)
        monitor = RecallMonitor(retriever, config.check_recall_every) if config.check_recall_every else None
        if monitor is not None:
            undo.callback(monitor.close)
        memory = Memory(log, state.table, retriever, config.priority, random, monitor)
        generation = state.manifest.generation if state.manifest is not None else 0
        live = LivePage(directory, epoch=log.epoch, generation=generation, sequence=log.next_sequence - 1)
        with contextlib.suppress(OSError):
            clean(disk, directory, state.manifest, {vectors.path.name})
        undo.pop_all()
        return Recovered(lock, log, memory, vectors, live, storage, index, state.manifest, astray)


def _astray(
    directory: Path, disk: Disk, config: ExperienceBufferConfig, state: State, log: RecordLog
) -> NDArray[np.uint64]:
    """Sequences that live according to the state or to the log alone, but not to both."""
    alone = load_state(disk, directory, dimension=config.dimension, from_beginning=True)
    catch_up(alone, log)
    ours, theirs = (each.table.columns.sequence[each.table.living() - each.table.row_base] for each in (state, alone))
    return np.setxor1d(ours, theirs)


class VectorFeed:
    """Takes the vectors of the rows that replaying adds into their matrix and into the search.

    Those of the state are in the matrix already: they are searched with its manifest's index, which `base` gives, or
    beside it. No thread of its own: one that works in small steps beside another that holds the interpreter waits
    milliseconds for each of them.
    """

    def __init__(
        self,
        vectors: Vectors | FollowedVectors,
        retriever: Retriever,
        state: State,
        base: Base,
    ) -> None:
        self._vectors = vectors
        self._retriever = retriever
        start, stop = state.table.row_base, state.table.stop
        if state.manifest is not None and (built := base(state.manifest)) is not None:
            retriever.set_base(built, state.manifest.index_rows)
            start = max(start, state.manifest.index_rows)
        for first in range(start, stop, BLOCK_ROWS):
            self._search(first, min(first + BLOCK_ROWS, stop))

    def added(self, first_row: int, vectors_ND: NDArray[np.float32]) -> None:
        """See `Follower`. Raises BufferCorrupt."""
        check_dimension(self._vectors.dimension, vectors_ND)
        self._vectors.append(first_row, vectors_ND)
        self._search(first_row, first_row + len(vectors_ND))

    def removed(self, rows: Rows) -> None:
        """A search is told which rows live."""

    def weighed(self, rows: Rows) -> None:
        """It does not change the vectors."""

    def _search(self, start: int, stop: int) -> None:
        self._retriever.append(start, self._vectors.stored(start, stop))


def _open_vectors(directory: Path, disk: Disk, config: ExperienceBufferConfig, state: State) -> Vectors:
    """The vectors that the snapshot's rows number, or new ones for rows that are numbered anew."""
    if state.manifest is not None:
        name = state.manifest.vectors
    else:
        numbers = [name.removeprefix(f"{VECTORS}-") for name in disk.names(directory) if name.startswith(VECTORS)]
        name = f"{VECTORS}-{max((int(number) for number in numbers if number.isdigit()), default=0) + 1}"
    return Vectors(disk, directory / name, config.dimension, config.vectors, write=True)


@contextlib.contextmanager
def load_base(
    directory: Path, disk: Disk, index: Index | None, backend: str, newest: Manifest | None, logger: StructuredLogger
) -> Iterator[Base]:
    """Gives the index that a manifest names; None if there is none, it is of another backend or damaged.

    That of the newest manifest, if it is large, is loaded in a thread of its own from now on.
    """

    def load(manifest: Manifest) -> BuiltIndex | None:
        if index is None or manifest.index is None or manifest.index_backend != backend:
            return None
        try:
            return load_index(disk, directory / manifest.index, index)
        except (Damaged, IndexUnavailable, OSError) as error:
            logger.warn("buffer_index_unusable", f"{directory}: searching exactly until the next one is built: {error}")
            return None

    if newest is None or newest.index_rows < BESIDE_ROWS:
        yield load
        return
    with ThreadPoolExecutor(1, "index") as executor:
        loading = executor.submit(load, newest)
        yield lambda manifest: loading.result() if manifest == newest else load(manifest)


__all__ = ["BESIDE_ROWS", "VECTORS", "Base", "Recovered", "VectorFeed", "load_base", "recover"]
