"""The table: what is known of every experience without reading it, in columns by row.

A row is the running number of an ADD record since the beginning of the buffer, and never used again. What happens to
the table is a pure function of the records in their order, eviction included, so writer, readers, recovery and builder
agree. One thread changes it; any number read it beside, each through one `columns`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from share.kernel.experience.codec import ID_BYTES_MAX

Rows = NDArray[np.int64]
"""Numbers of rows, shape (N,)."""

_TYPES = {
    "sequence": "<u8",
    "location": "<u8",
    "subject": "<u8",
    "created": "<f8",
    "priority": "<f4",
    "retrieval": "<u4",
    "success": "<u4",
    "status": "u1",
    "alive": "u1",
    "id": f"S{ID_BYTES_MAX}",
}
_NONE = np.empty(0, np.int64)
_MULTIPLIER = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


@dataclass(slots=True, eq=False)
class Columns:
    """Columns of the rows from `row_base` on; `sequence[row - row_base]` is that of the row's ADD record.

    Longer than there are rows. `alive` is 0 for rows removed, evicted or not there yet.
    """

    row_base: int
    sequence: NDArray[np.uint64]
    location: NDArray[np.uint64]
    subject: NDArray[np.uint64]
    created: NDArray[np.float64]
    priority: NDArray[np.float32]
    retrieval: NDArray[np.uint32]
    success: NDArray[np.uint32]
    status: NDArray[np.uint8]
    alive: NDArray[np.uint8]
    id: NDArray[np.bytes_]

    def id_of(self, row: int) -> str:
        return bytes(self.id[row - self.row_base]).decode()


class Table:
    """`stop` is the row that the next ADD gets, `capacity` the most that may live (0 = any number)."""

    def __init__(self) -> None:
        self.columns = _columns(0, 1024)
        self.stop = 0
        self.capacity = 0
        self.capacity_changes: list[tuple[int, int]] = []
        self.num_alive = 0
        self._oldest = 0  # no row before it is alive
        self._newer: dict[bytes, int] = {}  # rows by id: since the last `rotate`, before it, of the adopted snapshot
        self._older: dict[bytes, int] = {}
        self._known: tuple[NDArray[np.uint64], Rows] = (np.empty(0, np.uint64), _NONE)  # hashes of ids, sorted; rows

    @property
    def row_base(self) -> int:
        return self.columns.row_base

    def add(
        self, sequence: int, location: int, key: bytes, subject: int, created: float, priority: float, status: int
    ) -> Rows:
        """Append a row. Returns the rows that were evicted by it."""
        row = self.stop
        if row - self.columns.row_base == len(self.columns.alive):
            self._make_room(1)
        columns = self.columns
        at = row - columns.row_base
        columns.sequence[at] = sequence
        columns.location[at] = location
        columns.subject[at] = subject
        columns.created[at] = created
        columns.priority[at] = priority
        columns.status[at] = status
        columns.id[at] = key
        columns.alive[at] = 1
        self._newer[key] = row
        self.stop = row + 1
        self.num_alive += 1
        return self._evict() if 0 < self.capacity < self.num_alive else _NONE

    def extend(
        self,
        sequences: Sequence[int],
        locations: Sequence[int],
        keys: Sequence[bytes],
        subjects: ArrayLike,
        created: ArrayLike,
        priorities: ArrayLike,
        status: ArrayLike,
    ) -> Rows:
        """As `add` for each in turn, and faster."""
        count = len(sequences)
        if self.stop - self.columns.row_base + count > len(self.columns.alive):
            self._make_room(count)
        columns = self.columns
        at = slice(self.stop - columns.row_base, self.stop - columns.row_base + count)
        columns.sequence[at] = sequences
        columns.location[at] = locations
        columns.subject[at] = subjects
        columns.created[at] = created
        columns.priority[at] = priorities
        columns.status[at] = status
        columns.id[at] = keys
        columns.alive[at] = 1
        self._newer.update(zip(keys, range(self.stop, self.stop + count), strict=True))
        self.stop += count
        self.num_alive += count
        return self._evict() if 0 < self.capacity < self.num_alive else _NONE

    def set_capacity(self, sequence: int, capacity: int) -> Rows:
        """From record `sequence` on. Returns the rows that were evicted by it."""
        self.capacity = capacity
        self.capacity_changes.append((sequence, capacity))
        return self._evict() if 0 < capacity < self.num_alive else _NONE

    def remove(self, rows: Rows) -> Rows:
        """The rows are dead from now on. Returns those that were alive."""
        columns = self.columns
        rows = rows[columns.alive[rows - columns.row_base] != 0]
        columns.alive[rows - columns.row_base] = 0
        self._forget(rows.tolist())
        self.num_alive -= len(rows)
        return rows

    def find(self, key: bytes) -> int:
        """The living row with that id, -1 without one."""
        row = self._newer.get(key)
        if row is None:
            row = self._older.get(key)
        if row is not None:
            return row
        known_keys, known_rows = self._known
        if not len(known_keys) or len(key) > ID_BYTES_MAX:
            return -1
        hashed = _hash(key)
        at = int(np.searchsorted(known_keys, np.uint64(hashed)))
        columns = self.columns
        while at < len(known_keys) and int(known_keys[at]) == hashed:
            row = int(known_rows[at])
            offset = row - columns.row_base
            if offset >= 0 and columns.alive[offset] and bytes(columns.id[offset]) == key:
                return row
            at += 1
        return -1

    def rows_of(self, sequences: NDArray[np.uint64]) -> tuple[Rows, NDArray[np.bool_]]:
        """Rows of ADD records by sequence, and which of them are alive; of others the row means nothing."""
        columns = self.columns
        count = self.stop - columns.row_base
        known = columns.sequence[:count]
        at = np.searchsorted(known, sequences)
        inside = at < count
        at[~inside] = 0
        if count:
            inside &= (known[at] == sequences) & (columns.alive[at] != 0)
        return at.astype(np.int64) + columns.row_base, inside

    def living(self) -> Rows:
        """All living rows, oldest first."""
        columns = self.columns
        return np.flatnonzero(columns.alive[: self.stop - columns.row_base]).astype(np.int64) + columns.row_base

    def oldest_sequence(self, otherwise: int) -> int:
        """Sequence of the oldest living experience, `otherwise` without one."""
        row = self.first_alive()
        return int(self.columns.sequence[row - self.columns.row_base]) if row < self.stop else otherwise

    def capacity_at(self, sequence: int) -> int:
        """The capacity that held just before a record."""
        return next((capacity for at, capacity in reversed(self.capacity_changes) if at < sequence), 0)

    def rotate(self) -> None:
        """A snapshot of the table as it is now is going to be made."""
        if not self._older:
            self._older, self._newer = self._newer, {}

    def adopt(self, snapshot: Table) -> None:
        """Find the ids of a snapshot in it from now on; it was made after the last `rotate`."""
        self._known = snapshot._known
        self._older = {}

    def content(self) -> list[bytes | memoryview]:
        """The table as bytes, for `from_content`. Of the dead only their sequence is kept."""
        first = self.first_alive()
        columns = self.columns
        cut = slice(first - columns.row_base, self.stop - columns.row_base)
        is_dead = columns.alive[cut] == 0
        arrays: dict[str, NDArray[Any]] = {name: getattr(columns, name)[cut].copy() for name in _TYPES}
        for name in ("location", "subject", "created", "priority", "retrieval", "success", "status", "id"):
            arrays[name][is_dead] = np.zeros((), arrays[name].dtype)
        living = np.flatnonzero(~is_dead)
        keys = _hashes(arrays["id"][living])
        order = np.argsort(keys, kind="stable")
        head = {
            "row_base": first,
            "stop": self.stop,
            "capacity": self.capacity,
            "capacity_changes": self.capacity_changes,
            "num_alive": self.num_alive,
        }
        text = json.dumps(head).encode()
        parts: list[bytes | memoryview] = [struct.pack("<I", len(text)), text, bytes(-(len(text) + 4) % 8)]
        for array in (*arrays.values(), keys[order], living[order].astype("<i8") + first):
            parts += [array.tobytes(), bytes(-array.nbytes % 8)]
        return parts

    @classmethod
    def from_content(cls, content: memoryview) -> Table:
        """What `content` gave. Raises ValueError, KeyError if it is not."""
        (length,) = struct.unpack_from("<I", content)
        head = json.loads(bytes(content[4 : 4 + length]))
        table = cls()
        table.stop, table.capacity, table.num_alive = head["stop"], head["capacity"], head["num_alive"]
        table.capacity_changes = [(sequence, capacity) for sequence, capacity in head["capacity_changes"]]
        table._oldest = head["row_base"]
        count = table.stop - table._oldest
        at = 4 + length + -(length + 4) % 8
        table.columns = _columns(table._oldest, count + max(1024, count // 8))
        for name, dtype in _TYPES.items():
            array = np.frombuffer(content, dtype, count, at)
            getattr(table.columns, name)[:count] = array
            at += array.nbytes + -array.nbytes % 8
        known_keys = np.frombuffer(content, "<u8", table.num_alive, at)
        table._known = (known_keys, np.frombuffer(content, "<i8", table.num_alive, at + known_keys.nbytes))
        return table

    def _evict(self) -> Rows:
        columns = self.columns
        evicted: list[int] = []
        excess = self.num_alive - self.capacity
        while len(evicted) < excess:
            row = self.first_alive()
            count = min(excess - len(evicted), 4096)
            at = row - columns.row_base
            found = np.flatnonzero(columns.alive[at : at + 4 * count]) if count > 1 else np.zeros(1, np.int64)
            for offset in found[:count].tolist():
                evicted.append(row + offset)
                columns.alive[at + offset] = 0
            self._oldest = evicted[-1] + 1
        self._forget(evicted)
        self.num_alive -= len(evicted)
        return np.array(evicted, np.int64)

    def _forget(self, rows: list[int]) -> None:
        columns = self.columns
        for row in rows:
            key = bytes(columns.id[row - columns.row_base])
            for found in (self._newer, self._older):
                if found.get(key) == row:
                    del found[key]

    def first_alive(self) -> int:
        """The oldest living row, `stop` without one."""
        columns = self.columns
        while self._oldest < self.stop:
            at = self._oldest - columns.row_base
            if columns.alive[at]:
                break
            block = columns.alive[at : min(at + 4096, self.stop - columns.row_base)]
            found = int(block.argmax())
            self._oldest += found if block[found] else len(block)
        return self._oldest

    def _make_room(self, count: int) -> None:
        """Longer columns, or the same without the dead rows at their beginning. Readers keep those that they have."""
        old = self.columns
        dead = self.first_alive() - old.row_base
        kept = slice(dead, self.stop - old.row_base)
        length = self.stop - old.row_base - dead
        new = _columns(old.row_base + dead, max(len(old.alive), 1024, length + count + length // 2))
        for name in _TYPES:
            getattr(new, name)[:length] = getattr(old, name)[kept]
        self.columns = new


def _columns(row_base: int, length: int) -> Columns:
    arrays: dict[str, Any] = {name: np.zeros(length, dtype) for name, dtype in _TYPES.items()}
    return Columns(row_base, **arrays)


def _hash(key: bytes) -> int:
    value = 0
    for word in struct.unpack("<5Q", key.ljust(ID_BYTES_MAX, b"\0")):
        value = ((value ^ word) * _MULTIPLIER) & _MASK
        value ^= value >> 29
    return value


def _hashes(ids: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """`_hash` of each."""
    words = np.ascontiguousarray(ids).view("<u8").reshape(len(ids), ID_BYTES_MAX // 8)
    value = np.zeros(len(ids), np.uint64)
    for column in range(ID_BYTES_MAX // 8):
        value = (value ^ words[:, column]) * np.uint64(_MULTIPLIER)
        value ^= value >> np.uint64(29)
    return value


__all__ = ["Columns", "Rows", "Table"]
