"""What callers want of the writer, and the batch that one sync makes durable for all who wait.

A request is put into a batch under the writer's lock: ids become sequences there, and counts become what they will be,
so that a record says what is and never what is added. What a batch already holds counts as done for those behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from share.kernel.contracts.experience import Experience, RecordType, Status
from share.kernel.errors import BufferProblem, ExperienceRefused
from share.kernel.experience.codec import Head, encode_changes, encode_experience, subject_hash
from share.kernel.experience.table import Table

RECORDS_MAX = 4096
"""Most records that are made durable at once; more wait for the next sync."""

BYTES_MAX = 32 << 20
"""Most bytes of payload that are made durable at once, unless a single request has more."""

CHANGES_MAX = 65536
"""Most experiences that one record changes."""

Payload = Sequence[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class Addition:
    """An experience as it will be stored; the counts are those that it brings along."""

    head: Head
    payload: Payload
    retrieval_count: int = 0
    success_count: int = 0


def encode_addition(experience: Experience, priority: float) -> Addition:
    """Of an experience that was checked. Raises ExperienceRefused for what cannot be encoded."""
    head = Head(
        experience.id.encode(),
        subject_hash(experience.subject),
        experience.created_at,
        priority,
        experience.status,
        experience.embedding.astype(np.float32, copy=False),
    )
    payload = encode_experience(experience, priority)
    return Addition(head, payload, experience.retrieval_count, experience.success_count)


class Batch:
    """Records to be appended together. `heads` are those of its ADDs, in order."""

    def __init__(self, table: Table, next_sequence: int) -> None:
        self.table = table
        self.next_sequence = next_sequence
        self.records: list[tuple[RecordType, Payload]] = []
        self.heads: list[Head] = []
        self.bytes = 0
        self._keys: set[bytes] = set()
        self._removed: set[int] = set()
        self._counts: dict[int, tuple[int, int]] = {}

    @property
    def is_full(self) -> bool:
        return len(self.records) >= RECORDS_MAX or self.bytes >= BYTES_MAX

    def has(self, key: bytes) -> bool:
        """Whether the id is taken."""
        return key in self._keys or self.table.find(key) >= 0

    def add(self, addition: Addition) -> int:
        """Returns the sequence that it will have."""
        sequence = self.next_sequence + len(self.records)
        self._keys.add(addition.head.id)
        self.heads.append(addition.head)
        self.records.append((RecordType.ADD, addition.payload))
        self.bytes += sum(len(part) for part in addition.payload)
        if addition.retrieval_count:  # it was in another buffer before
            counts = addition.retrieval_count, addition.success_count
            self.records.append((RecordType.RETRIEVAL, [encode_changes(RecordType.RETRIEVAL, sequence, *counts)]))
        return sequence

    def living(self, key: bytes) -> int:
        """The row with that id, -1 if it is not there, or on its way in or out."""
        row = self.table.find(key)
        return -1 if row in self._removed else row

    def remove(self, rows: Sequence[int]) -> None:
        self._removed.update(rows)
        self._change(RecordType.REMOVE, rows)

    def remove_sequences(self, sequences: NDArray[np.uint64]) -> None:
        """Whether they live in the table or not."""
        for start in range(0, len(sequences), CHANGES_MAX):
            payload = encode_changes(RecordType.REMOVE, sequences[start : start + CHANGES_MAX])
            self.records.append((RecordType.REMOVE, [payload]))

    def set_priorities(self, rows: Sequence[int], priorities: Sequence[float]) -> None:
        self._change(RecordType.PRIORITY, rows, np.array(priorities, np.float32))

    def set_status(self, rows: Sequence[int], status: Status) -> None:
        self._change(RecordType.STATUS, rows, np.full(len(rows), status, np.uint8))

    def count_retrievals(self, rows: Sequence[int], succeeded: Sequence[bool]) -> None:
        columns = self.table.columns
        for row, success in zip(rows, succeeded, strict=True):
            at = row - columns.row_base
            before = self._counts.get(row) or (int(columns.retrieval[at]), int(columns.success[at]))
            self._counts[row] = before[0] + 1, before[1] + bool(success)
        changed = list(dict.fromkeys(rows))
        counts = np.array([self._counts[row] for row in changed], np.uint32).reshape(-1, 2)
        self._change(RecordType.RETRIEVAL, changed, counts[:, 0], counts[:, 1])

    def set_capacity(self, capacity: int) -> None:
        self.records.append((RecordType.CAPACITY, [encode_changes(RecordType.CAPACITY, capacity)]))

    def end(self) -> None:
        self.records.append((RecordType.CLOSE, []))

    def _change(self, type_: RecordType, rows: Sequence[int], *values: NDArray[Any]) -> None:
        columns = self.table.columns
        sequences = columns.sequence[np.asarray(rows, np.int64) - columns.row_base]
        for start in range(0, len(rows), CHANGES_MAX):
            part = slice(start, start + CHANGES_MAX)
            payload = encode_changes(type_, sequences[part], *(value[part] for value in values))
            self.records.append((type_, [payload]))
            self.bytes += len(payload)


@dataclass(slots=True, eq=False)
class Request:
    """What one call asks for. When it returns either `error` is set or the request is durable."""

    error: BufferProblem | None = field(default=None, init=False)

    def put(self, batch: Batch) -> None:
        """Into the batch, whole or not at all. Raises ExperienceRefused."""
        raise NotImplementedError


@dataclass(slots=True, eq=False)
class AddRequest(Request):
    """Add experiences, all or none."""

    additions: Sequence[Addition]
    sequences: list[int] = field(default_factory=list, init=False)

    def put(self, batch: Batch) -> None:
        seen: set[bytes] = set()
        for addition in self.additions:
            key = addition.head.id
            if key in seen or batch.has(key):
                raise ExperienceRefused(f"id: {key.decode()!r} is already taken; an id is of one experience")
            seen.add(key)
        self.sequences = [batch.add(addition) for addition in self.additions]


@dataclass(slots=True, eq=False)
class ChangeRequest(Request):
    """Change the experiences with these ids; ids that are not there are passed over. `count` is how many were."""

    ids: Sequence[bytes]
    count: int = field(default=0, init=False)

    def put(self, batch: Batch) -> None:
        found = [(at, row) for at, row in enumerate(map(batch.living, self.ids)) if row >= 0]
        self.count = len({row for _, row in found})
        if found:
            self.change(batch, [at for at, _ in found], [row for _, row in found])

    def change(self, batch: Batch, at: Sequence[int], rows: Sequence[int]) -> None:
        """`ids[at[i]]` is the id of row `rows[i]`."""
        raise NotImplementedError


@dataclass(slots=True, eq=False)
class RemoveRequest(ChangeRequest):
    """Remove experiences."""

    def change(self, batch: Batch, at: Sequence[int], rows: Sequence[int]) -> None:
        batch.remove(list(dict.fromkeys(rows)))


@dataclass(slots=True, eq=False)
class PriorityRequest(ChangeRequest):
    """Set priorities, given beside the ids."""

    priorities: Sequence[float]

    def change(self, batch: Batch, at: Sequence[int], rows: Sequence[int]) -> None:
        latest = dict(zip(rows, (self.priorities[index] for index in at), strict=True))
        batch.set_priorities(list(latest), list(latest.values()))


@dataclass(slots=True, eq=False)
class RetrievalRequest(ChangeRequest):
    """Count that they were retrieved, and whether each took part in a success."""

    succeeded: Sequence[bool]

    def change(self, batch: Batch, at: Sequence[int], rows: Sequence[int]) -> None:
        batch.count_retrievals(rows, [self.succeeded[index] for index in at])


@dataclass(slots=True, eq=False)
class StatusRequest(ChangeRequest):
    """Set the status."""

    status: Status

    def change(self, batch: Batch, at: Sequence[int], rows: Sequence[int]) -> None:
        batch.set_status(list(dict.fromkeys(rows)), self.status)


@dataclass(slots=True, eq=False)
class CapacityRequest(Request):
    """Evict the oldest beyond so many from now on."""

    capacity: int

    def put(self, batch: Batch) -> None:
        batch.set_capacity(self.capacity)


@dataclass(slots=True, eq=False)
class ForgetRequest(Request):
    """Remove by sequence, also what only a log without its snapshot takes for alive."""

    sequences: NDArray[np.uint64]

    def put(self, batch: Batch) -> None:
        batch.remove_sequences(self.sequences)


@dataclass(slots=True, eq=False)
class CloseRequest(Request):
    """Say in the log that the writer ended in order."""

    def put(self, batch: Batch) -> None:
        batch.end()


__all__ = [
    "BYTES_MAX",
    "CHANGES_MAX",
    "RECORDS_MAX",
    "AddRequest",
    "Addition",
    "Batch",
    "CapacityRequest",
    "ChangeRequest",
    "CloseRequest",
    "ForgetRequest",
    "PriorityRequest",
    "RemoveRequest",
    "Request",
    "RetrievalRequest",
    "StatusRequest",
    "encode_addition",
]
