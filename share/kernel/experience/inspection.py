"""Looking for damage: every byte of the log, and whether what was derived from it agrees with it.

Damage to derived files loses nothing, they are made again; so it is told apart from damage to the log. A writer may be
at work meanwhile: what it replaces while it is looked at is looked at again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from share.kernel.contracts.experience import Finding
from share.kernel.contracts.kinds import Storage
from share.kernel.errors import BufferCorrupt, BufferProblem
from share.kernel.experience.disk import Disk
from share.kernel.experience.envelope import Damaged, read_envelope
from share.kernel.experience.index_file import INDEX
from share.kernel.experience.layout import LOG, check_dimension
from share.kernel.experience.manifest import Manifest, file_name, generations, newest_manifest, read_manifest
from share.kernel.experience.state import State, catch_up, load_state, read_snapshot
from share.kernel.experience.table import Rows, Table
from share.kernel.experience.vectors import Vectors

Progress = Callable[[int, int], None]
TRIES_MAX = 5
COMPARED = ("id", "subject", "created", "priority", "retrieval", "success", "status")


def inspect(directory: Path, disk: Disk, storage: Storage, dimension: int, progress: Progress) -> Iterator[Finding]:
    """Everything that is wrong with a buffer. `progress(bytes done, bytes in all)` is called while the log is read."""
    is_log_sound = True
    for finding in storage.verify(directory, disk, progress=progress):
        is_log_sound = is_log_sound and not finding.is_loss
        yield finding
    for _ in range(TRIES_MAX):
        before = generations(disk, directory)
        found = list(_derived(directory, disk, storage, dimension, is_log_sound=is_log_sound))
        if generations(disk, directory) == before:
            break
    yield from found


def _derived(directory: Path, disk: Disk, storage: Storage, dimension: int, *, is_log_sound: bool) -> Iterator[Finding]:
    for generation in generations(disk, directory):
        try:
            read_manifest(disk, directory, generation)
        except (Damaged, OSError) as error:
            yield _finding(directory / file_name(generation), error)
    manifest = newest_manifest(disk, directory)
    if manifest is None:
        return
    try:
        snapshot = read_snapshot(disk, directory, manifest)
    except (Damaged, OSError, ValueError, KeyError, TypeError, struct.error) as error:
        yield _finding(directory / manifest.snapshot, error)
        return
    if manifest.index is not None:
        try:
            read_envelope(disk, directory / manifest.index, INDEX)
        except (Damaged, OSError) as error:
            yield _finding(directory / manifest.index, error)
    if is_log_sound:
        yield from _compared(directory, disk, storage, dimension, manifest, snapshot)


def _compared(
    directory: Path, disk: Disk, storage: Storage, dimension: int, manifest: Manifest, snapshot: Table
) -> Iterator[Finding]:
    """Replay the log from its beginning, and compare."""
    try:
        vectors = Vectors(disk, directory / manifest.vectors, dimension, manifest.dtype)
    except OSError as error:
        yield _finding(directory / manifest.vectors, error)
        return
    if vectors.stop < snapshot.stop:
        yield Finding(str(vectors.path), 0, f"has {vectors.stop} rows, should have {snapshot.stop}", False)
        return
    state = load_state(disk, directory, dimension=dimension, from_beginning=True)
    comparison = _Comparison(state, snapshot, vectors)
    log = storage.open(directory, disk, "read")
    try:
        catch_up(state, log, until=manifest.covers, follower=comparison)
    except BufferCorrupt as error:  # every byte that is there is sound, but not all that was durable is there
        yield Finding(str(directory / LOG), 0, str(error), True)
        return
    except BufferProblem as error:
        yield _finding(directory, error)
        return
    finally:
        log.close()
        vectors.close()
    for row in comparison.differing:
        offset = row * dimension * np.dtype(manifest.dtype).itemsize
        yield Finding(str(directory / manifest.vectors), offset, f"row {row} is not the embedding in the log", False)
    replayed, ours = state.table.living(), snapshot.living()
    path = str(directory / manifest.snapshot)
    if not _are_alike("sequence", state.table, replayed, snapshot, ours):
        yield Finding(path, 0, f"knows {len(ours)} experiences, the log {len(replayed)}, and not the same", False)
        return
    for name in COMPARED:
        if not _are_alike(name, state.table, replayed, snapshot, ours):
            yield Finding(path, 0, f"its column {name!r} is not what the log says", False)


def _are_alike(column: str, one: Table, rows_of_one: Rows, other: Table, rows_of_other: Rows) -> bool:
    of_one = getattr(one.columns, column)[rows_of_one - one.row_base]
    of_other = getattr(other.columns, column)[rows_of_other - other.row_base]
    return bool(np.array_equal(of_one, of_other))


class _Comparison:
    """Compares the vectors of living experiences with the log as it is replayed."""

    def __init__(self, state: State, snapshot: Table, vectors: Vectors) -> None:
        self.differing: list[int] = []
        self._table = state.table
        self._snapshot = snapshot
        self._vectors = vectors

    def added(self, first_row: int, vectors_ND: NDArray[np.float32]) -> None:
        check_dimension(self._vectors.dimension, vectors_ND)
        columns = self._table.columns
        at = np.arange(first_row, first_row + len(vectors_ND)) - columns.row_base
        rows, is_alive = self._snapshot.rows_of(columns.sequence[at])
        if is_alive.any():
            stored_ND = self._vectors.gather(rows[is_alive])
            differs = (vectors_ND[is_alive].astype(self._vectors.dtype).astype(np.float32) != stored_ND).any(axis=1)
            self.differing += rows[is_alive][differs].tolist()

    def removed(self, rows: Rows) -> None:
        """The snapshot says who lives."""

    def weighed(self, rows: Rows) -> None:
        """Columns are compared at the end."""


def _finding(path: Path, error: Exception) -> Finding:
    text = " ".join(str(error).split()).removeprefix(f"{path}: ")
    return Finding(str(path), 0, f"{text}; nothing is lost, it is made again", False)


__all__ = ["COMPARED", "TRIES_MAX", "Progress", "inspect"]
