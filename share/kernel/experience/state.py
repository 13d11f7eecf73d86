"""The state on disk: the newest snapshot that is sound, and the log behind it."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from share.kernel.contracts.experience import Record
from share.kernel.contracts.kinds import RecordLog
from share.kernel.experience.disk import Disk, opened
from share.kernel.experience.envelope import Damaged, read_envelope
from share.kernel.experience.manifest import Manifest, manifests
from share.kernel.experience.replay import Follower, replay
from share.kernel.experience.table import Table

SNAPSHOT = "snapshot"


@dataclass(frozen=True, slots=True)
class State:
    """A table as it was after record `covers`. Without a manifest it is empty and `covers` is 0.

    `capacity_changes` are what is known of the capacity of old, also from a manifest that is not used; `problem` says
    why one is not.
    """

    table: Table
    covers: int
    manifest: Manifest | None
    capacity_changes: tuple[tuple[int, int], ...] = ()
    problem: str = ""


def load_state(
    disk: Disk,
    directory: Path,
    *,
    dimension: int,
    dtype: str | None = None,
    vectors: str | None = None,
    from_beginning: bool = False,
) -> State:
    """The state that the newest manifest names, or an empty one if any of it cannot be used.

    With `vectors`, a manifest of other vectors is not used: its rows are numbered otherwise. With `dtype`, one of
    vectors of another type is not used. With `from_beginning` none is, but for what is known of the capacity.
    """
    sound = manifests(disk, directory)
    if not sound:
        return State(Table(), 0, None)
    newest = sound[0]
    if from_beginning:
        return State(Table(), 0, None, newest.capacity_changes)
    try:
        if newest.vectors != (vectors or newest.vectors) or newest.dtype != (dtype or newest.dtype):
            raise ValueError(f"it is of {newest.vectors} in {newest.dtype}")
        table = read_snapshot(disk, directory, newest)
        row_bytes = dimension * np.dtype(newest.dtype).itemsize
        with opened(disk, directory / newest.vectors) as file:
            if newest.dimension != dimension or file.size < table.stop * row_bytes:
                raise ValueError(f"{newest.vectors} has {file.size} bytes, too few for {table.stop} rows")
    except (Damaged, OSError, ValueError, KeyError, TypeError, struct.error) as error:
        return State(Table(), 0, None, newest.capacity_changes, f"generation {newest.generation}: {error}")
    return State(table, newest.covers, newest, newest.capacity_changes)


def read_snapshot(disk: Disk, directory: Path, manifest: Manifest) -> Table:
    """The table of a manifest. Raises Damaged, OSError, ValueError, KeyError."""
    envelope = read_envelope(disk, directory / manifest.snapshot, SNAPSHOT)
    if envelope.covers != manifest.covers:
        raise ValueError(f"{manifest.snapshot} covers {envelope.covers}, not {manifest.covers}")
    return Table.from_content(envelope.content)


def catch_up(state: State, log: RecordLog, *, until: int | None = None, follower: Follower | None = None) -> int:
    """Replay the log behind the state. Returns the last sequence that is known now. Raises BufferCorrupt."""
    records: Iterable[Record] = log.scan(state.covers, until=until)
    if state.manifest is None:
        records = _with_capacity_of_old(state, iter(records))
    return max(state.covers, replay(state.table, records, follower))


def _with_capacity_of_old(state: State, records: Iterator[Record]) -> Iterator[Record]:
    """A log that was truncated may have lost the record that said its capacity; the manifests know it."""
    first = next(records, None)
    if first is None:
        return iter(())
    state.table.capacity_changes = [change for change in state.capacity_changes if change[0] < first.sequence]
    state.table.capacity = state.table.capacity_at(first.sequence)
    return itertools.chain([first], records)


__all__ = ["SNAPSHOT", "State", "catch_up", "load_state", "read_snapshot"]
