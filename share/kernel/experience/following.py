"""What a reader holds at a time: the memory that follows one numbering of rows, and how it goes from index to index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from share.kernel.contracts.kinds import BuiltIndex, Index, RecordLog
from share.kernel.events import StructuredLogger
from share.kernel.experience.config import PriorityConfig
from share.kernel.experience.disk import Disk
from share.kernel.experience.followed import FollowedVectors
from share.kernel.experience.manifest import Manifest, newest_manifest
from share.kernel.experience.memory import Memory
from share.kernel.experience.opening import VectorFeed, load_base
from share.kernel.experience.replay import replay
from share.kernel.experience.retrieval import Retriever
from share.kernel.experience.state import catch_up, load_state
from share.kernel.experience.table import Rows, Table
from share.kernel.experience.vectors import Vectors


class Following:
    """Memory up to record `sequence`. `manifest` is the one whose vectors and index are used, None without one."""

    def __init__(self, memory: Memory, vectors: FollowedVectors, sequence: int, manifest: Manifest | None) -> None:
        self.memory = memory
        self.sequence = sequence
        self.manifest = manifest
        self._vectors = vectors

    def catch_up(self, log: RecordLog, until: int) -> None:
        """Apply the records up to `until`; stopped by an error, it has applied some of them. Raises BufferProblem."""
        replay(self.memory.table, log.scan(self.sequence, until=until), self, self._reached)
        self.sequence = max(self.sequence, until)

    def added(self, first_row: int, vectors_ND: NDArray[np.float32]) -> None:
        """See `Follower`."""
        stored_ND = vectors_ND.astype(self._vectors.dtype, copy=False)  # once, for both
        self._vectors.append(first_row, stored_ND)
        self.memory.added(first_row, stored_ND)

    def removed(self, rows: Rows) -> None:
        """See `Follower`."""
        self.memory.removed(rows)

    def weighed(self, rows: Rows) -> None:
        """See `Follower`."""
        self.memory.weighed(rows)

    def can_use(self, manifest: Manifest, snapshot: Table | None) -> bool:
        """Whether a manifest's rows are numbered as ours are; without a `snapshot` only its lineage can tell."""
        if self.manifest is not None and self.manifest.vectors == manifest.vectors:
            return True
        if snapshot is None:
            return False
        ours, theirs = self.memory.table.columns, snapshot.columns
        rows = snapshot.living()
        if len(rows) == 0 or rows[0] < ours.row_base or rows[-1] >= self.memory.table.stop:
            return False
        return bool((ours.sequence[rows - ours.row_base] == theirs.sequence[rows - theirs.row_base]).all())

    def use(self, manifest: Manifest, shared: Vectors, built: BuiltIndex | None, stop: int) -> None:
        """Search with a manifest's index from now on, and take rows below `stop` from the writer's file."""
        self._vectors.share(shared, stop)
        if built is not None:
            self.memory.retriever.set_base(built, manifest.index_rows)
        self.manifest = manifest

    def _reached(self, sequence: int) -> None:
        self.sequence = sequence


def load(
    directory: Path,
    disk: Disk,
    log: RecordLog,
    index_of: Callable[[str], Index],
    priority: PriorityConfig,
    random: np.random.Generator,
    logger: StructuredLogger,
    *,
    dimension: int,
    until: int | None,
) -> Following:
    """Begin anew from the newest manifest. Raises BufferProblem, OSError, PluginLoadError."""
    newest = newest_manifest(disk, directory)
    backend = newest.index_backend if newest is not None else ""
    index = index_of(backend) if backend else None
    with load_base(directory, disk, index, backend, newest, logger) as base:
        state = load_state(disk, directory, dimension=dimension)
        manifest = state.manifest
        vectors = FollowedVectors(dimension, "float32")
        if manifest is not None:
            shared = Vectors(disk, directory / manifest.vectors, dimension, manifest.dtype)
            vectors = FollowedVectors(dimension, manifest.dtype, shared, state.table.stop)
        retriever = Retriever(vectors)
        feed = VectorFeed(vectors, retriever, state, base)
        sequence = catch_up(state, log, until=until, follower=feed)
    memory = Memory(log, state.table, retriever, priority, random)
    return Following(memory, vectors, max(sequence, until or 0), manifest)


__all__ = ["Following", "load"]
