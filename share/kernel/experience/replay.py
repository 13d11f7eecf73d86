"""Records into the table, in their order: the one way in which a log becomes a state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from share.kernel.contracts.experience import Record, RecordType
from share.kernel.experience.codec import Head, decode_changes, read_head, read_heads
from share.kernel.experience.table import Rows, Table

RUN_MAX = 256
"""Most ADD records that are taken together; with more objects alive than that Python would look for garbage."""

RUN_BYTES_MAX = 16 << 20
"""Bytes of payload from which on no more are taken together."""

FEW = 8
"""ADD records that are read one by one sooner than together; a reader beside a writer seldom meets more at once."""

_CHANGES = (RecordType.REMOVE, RecordType.PRIORITY, RecordType.RETRIEVAL, RecordType.STATUS)


class Follower(Protocol):
    """What wants to know how the table changes."""

    def added(self, first_row: int, vectors_ND: NDArray[np.float32]) -> None:
        """Rows from `first_row` on are new, with these embeddings; some of them may be dead again already."""

    def removed(self, rows: Rows) -> None:
        """Rows died, by removal or eviction."""

    def weighed(self, rows: Rows) -> None:
        """Priorities or counts changed."""


def replay(
    table: Table, records: Iterable[Record], follower: Follower | None = None, seen: Callable[[int], None] | None = None
) -> int:
    """Apply all records. Returns the last sequence, 0 without one; `seen` is told of it now and then."""
    last, run = 0, _Run()
    for record in records:
        if record.type is RecordType.ADD and not run.take(record):
            continue
        if run.sequences:
            last = run.sequences[-1]
            run.apply(table, follower)
            run = _Run()
            if seen is not None:
                seen(last)
        if record.type is not RecordType.ADD:
            change(table, record.sequence, record.type, record.payload, follower)
            last = record.sequence
    if run.sequences:
        last = run.sequences[-1]
        run.apply(table, follower)
    return last


def stacked(heads: Sequence[Head]) -> NDArray[np.float32]:
    """Their embeddings, shape (N, D)."""
    if len(heads) == 1:
        return heads[0].embedding[None]
    if not heads:
        return np.empty((0, 0), np.float32)
    return np.concatenate([head.embedding for head in heads]).reshape(len(heads), -1)


def add(
    table: Table,
    sequences: Sequence[int],
    locations: Sequence[int],
    heads: Sequence[Head],
    vectors_ND: NDArray[np.float32],
    follower: Follower | None,
) -> None:
    """Apply ADD records that follow each other; `vectors_ND` are their embeddings."""
    first = table.stop
    if len(heads) == 1:
        (head,) = heads
        evicted = table.add(
            sequences[0], locations[0], head.id, head.subject_hash, head.created_at, head.priority, head.status
        )
    else:
        evicted = table.extend(
            sequences,
            locations,
            [head.id for head in heads],
            [head.subject_hash for head in heads],
            [head.created_at for head in heads],
            [head.priority for head in heads],
            [head.status for head in heads],
        )
    if follower is not None:
        follower.added(first, vectors_ND)
        if len(evicted):
            follower.removed(evicted)


def change(
    table: Table, sequence: int, type_: RecordType, payload: bytes | memoryview, follower: Follower | None = None
) -> None:
    """Apply a record that is not an ADD. What it says of experiences that are gone is passed over."""
    if type_ is RecordType.CAPACITY:
        evicted = table.set_capacity(sequence, int(decode_changes(type_, payload)[0][0]))
        if follower is not None and len(evicted):
            follower.removed(evicted)
    if type_ not in _CHANGES:
        return
    sequences, *values = decode_changes(type_, payload)
    rows, is_known = table.rows_of(sequences)
    rows, values = rows[is_known], [value[is_known] for value in values]
    columns = table.columns
    at = rows - columns.row_base
    if type_ is RecordType.REMOVE:
        removed = table.remove(rows)
        if follower is not None:
            follower.removed(removed)
        return
    if type_ is RecordType.PRIORITY:
        (columns.priority[at],) = values
    elif type_ is RecordType.RETRIEVAL:
        columns.retrieval[at], columns.success[at] = values
    else:
        (columns.status[at],) = values
    if follower is not None and type_ is not RecordType.STATUS:
        follower.weighed(rows)


class _Run:
    """ADD records that follow each other, in columns."""

    __slots__ = ("locations", "num_bytes", "payloads", "sequences")

    def __init__(self) -> None:
        self.sequences: list[int] = []
        self.locations: list[int] = []
        self.payloads: list[bytes | memoryview] = []
        self.num_bytes = 0

    def take(self, record: Record) -> bool:
        """Returns whether it is full by that."""
        self.sequences.append(record.sequence)
        self.locations.append(record.location)
        self.payloads.append(record.payload)
        self.num_bytes += len(record.payload)
        return len(self.sequences) >= RUN_MAX or self.num_bytes >= RUN_BYTES_MAX

    def apply(self, table: Table, follower: Follower | None) -> None:
        if len(self.payloads) <= FEW:
            each = [read_head(payload) for payload in self.payloads]
            add(table, self.sequences, self.locations, each, stacked(each), follower)
            return
        first, heads = table.stop, read_heads(self.payloads)
        evicted = table.extend(
            self.sequences,
            self.locations,
            heads.ids,
            heads.subject_hash,
            heads.created_at,
            heads.priority,
            heads.status,
        )
        if follower is not None:
            follower.added(first, heads.embeddings)
            if len(evicted):
                follower.removed(evicted)


__all__ = ["FEW", "RUN_BYTES_MAX", "RUN_MAX", "Follower", "add", "change", "replay", "stacked"]
