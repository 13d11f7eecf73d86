"""What must be found after anything: plain models of a record log and of a whole buffer, and each way to break them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from share.kernel.contracts.experience import Record, RecordType, Status

Written = tuple[RecordType, bytes]
"""A record as it was given to `append`."""


class Violation(AssertionError):
    """The promise is broken. `kind` is one of lost, changed, resurrected, half there, not erased, refused, unstable."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


@dataclass
class LogModel:
    """The acknowledged records, and what a crash may have made of the rest."""

    records: dict[int, Written] = field(default_factory=dict)
    locations: dict[int, int] = field(default_factory=dict)
    last: int = 0
    """The last sequence that is known: acknowledged, or found at an opening."""

    promised: int = 0
    """The last sequence that must be there. Smaller than `last` after a writer was killed: the next one found what was
    never acknowledged, perhaps in memory only, until something behind it is acknowledged."""

    below: int = 0
    """Records with a smaller sequence have been truncated, as far as that was cheap."""

    below_soon: int = 0
    """The same, of a truncation that was begun."""

    erased: set[int] = field(default_factory=set)
    erased_soon: set[int] = field(default_factory=set)
    attempts: list[list[Written]] = field(default_factory=list)
    """Batches from `last + 1` on that were begun since the last acknowledgement. Another writer may find one of them,
    or its beginning; this one none."""

    epoch: int = 0

    def copy(self) -> LogModel:
        """As it is now, for a crash at this instant."""
        return LogModel(
            dict(self.records),
            dict(self.locations),
            self.last,
            self.promised,
            self.below,
            self.below_soon,
            set(self.erased),
            set(self.erased_soon),
            [*self.attempts],
            self.epoch,
        )

    def key(self) -> bytes:
        """Equal for equal promises."""
        return _digest(
            [*self.records.items()],
            (self.last, self.promised, self.below, self.below_soon),
            sorted(self.erased),
            sorted(self.erased_soon),
            self.attempts,
        )

    def begin(self, batch: Sequence[Written]) -> None:
        self.attempts.append([*batch])

    def acknowledge(self, batch: Sequence[Written], locations: Sequence[int]) -> None:
        for written, location in zip(batch, locations, strict=True):
            self.last += 1
            self.records[self.last] = written
            self.locations[self.last] = location
        self.promised = self.last
        self.attempts = []

    def begin_truncate(self, before: int) -> None:
        self.below_soon = max(self.below_soon, before)

    def truncated(self) -> None:
        self.below = max(self.below, self.below_soon)

    def begin_erase(self, sequences: Iterable[int]) -> None:
        self.erased_soon |= set(sequences)

    def erase(self) -> None:
        self.erased |= self.erased_soon

    def compare(self, found: Sequence[Record], *, is_new_writer: bool) -> None:
        """Check what a scan found, and take it for the truth from here on if it was a new writer's.

        Raises Violation.
        """
        before = 0
        by_sequence: dict[int, Record] = {}
        for record in found:
            if record.sequence <= before:
                raise Violation("unstable", f"record {record.sequence} after record {before}")
            before = record.sequence
            by_sequence[record.sequence] = record
        self._check_known(by_sequence)
        for sequence in by_sequence:
            if self.below_soon <= sequence <= self.last and sequence not in self.records:
                raise Violation("resurrected", f"record {sequence} was not there before")
        new = [by_sequence[sequence] for sequence in by_sequence if sequence > self.last]
        if new and not (is_new_writer and any(self._begins(batch, new) for batch in self.attempts)):
            what = [(record.sequence, record.type.name, len(record.payload)) for record in new]
            raise Violation("resurrected", f"{what} after {self.last}, {len(self.attempts)} batches were begun")
        if is_new_writer:
            self._adopt(by_sequence)

    def _check_known(self, found: dict[int, Record]) -> None:
        last_found = max(found, default=0)
        kept = [sequence for sequence in found if sequence not in self.erased]
        first_kept = min(kept, default=self.last + 1)
        for sequence, (kind, payload) in self.records.items():
            record = found.get(sequence)
            if record is None:
                is_truncated = sequence < self.below_soon and sequence < first_kept
                is_forgotten = self.promised < sequence and sequence > last_found
                if not (is_truncated or is_forgotten or sequence in self.erased_soon):
                    raise Violation("lost", f"record {sequence}; found {_ranges(found)}, last was {self.last}")
            elif sequence in self.erased:
                raise Violation("resurrected", f"record {sequence} was erased")
            elif (record.type, bytes(record.payload)) != (kind, payload):
                raise Violation("changed", f"record {sequence}: {record.type.name} of {len(record.payload)} bytes")
            elif self.locations.get(sequence, record.location) != record.location:
                raise Violation("changed", f"record {sequence} has moved to {record.location:#x}")

    def _begins(self, batch: Sequence[Written], new: Sequence[Record]) -> bool:
        return len(new) <= len(batch) and all(
            (record.sequence, record.type, bytes(record.payload)) == (self.last + 1 + number, kind, payload)
            for number, (record, (kind, payload)) in enumerate(zip(new, batch, strict=False))
        )

    def _adopt(self, found: dict[int, Record]) -> None:
        for sequence, record in found.items():
            self.records[sequence] = (record.type, bytes(record.payload))
            self.locations[sequence] = record.location
        if self.promised < self.last:
            self.last = max(self.promised, max(found, default=0))
            for sequence in [sequence for sequence in self.records if sequence > self.last]:
                del self.records[sequence], self.locations[sequence]
        self.last = max(self.last, max(found, default=0))
        self.attempts = []

    def is_quiescent(self) -> None:
        """The power was cut: what has been found is on the disk."""
        self.promised = self.last


def _digest(*said: object) -> bytes:
    return blake2b(repr(said).encode(), digest_size=16).digest()


def _ranges(sequences: Iterable[int]) -> str:
    spans: list[list[int]] = []
    for sequence in sorted(sequences):
        if spans and sequence == spans[-1][1] + 1:
            spans[-1][1] = sequence
        else:
            spans.append([sequence, sequence])
    return ", ".join(f"{first}-{last}" for first, last in spans) or "nothing"


@dataclass(frozen=True, slots=True)
class Item:
    """What is known of an experience apart from its content."""

    number: int
    """Its content is `experience(number)`."""

    sequence: int | None
    """None while it is not acknowledged: the model does not foresee numbers."""

    priority: float
    retrieval_count: int = 0
    success_count: int = 0
    status: Status = Status.UNVERIFIED


@dataclass(frozen=True)
class BufferState:
    """A whole buffer as it is between two records: a deque of items, oldest first."""

    items: tuple[Item, ...] = ()
    capacity: int = 0

    def with_items(self, items: Iterable[Item]) -> BufferState:
        kept = tuple(items)
        return BufferState(kept[max(0, len(kept) - self.capacity) :] if self.capacity else kept, self.capacity)

    def add(self, item: Item) -> BufferState:
        return self.with_items((*self.items, item))

    def remove(self, numbers: Collection[int]) -> BufferState:
        return self.with_items(item for item in self.items if item.number not in numbers)

    def change(self, numbers: Collection[int], change: Callable[[Item], Item]) -> BufferState:
        return self.with_items(change(item) if item.number in numbers else item for item in self.items)

    def with_capacity(self, capacity: int) -> BufferState:
        return BufferState((), capacity).with_items(self.items)


class BufferModel:
    """The states that a buffer may be found in: the first is what was promised, the last what comes next.

    A request goes through one state per record. After it was acknowledged only its last state is left.
    """

    def __init__(self) -> None:
        self.states: list[BufferState] = [BufferState()]
        self.now = BufferState()
        """What the living writer knows."""

        self.capacity = 0
        """That every writer opens the buffer with from now on."""

        self.added: set[int] = set()
        """Numbers that were ever to be added."""

        self.gone: set[int] = set()
        """Numbers whose bytes have been erased from every file."""

    def copy(self) -> BufferModel:
        copy = BufferModel()
        copy.states, copy.now, copy.capacity = [*self.states], self.now, self.capacity
        copy.added, copy.gone = set(self.added), set(self.gone)
        return copy

    def key(self) -> bytes:
        """Equal for equal promises."""
        return _digest(self.states, self.now, self.capacity, sorted(self.gone))

    def begin(self, states: Sequence[BufferState], added: Collection[int] = ()) -> None:
        self.states += states
        self.added |= set(added)

    def acknowledge(self, state: BufferState) -> None:
        self.states = [state]
        self.now = state

    def compacted(self) -> None:
        """Everything that is not alive has been erased, if it is known not to be: not what was never acknowledged."""
        maybe = {item.number for state in self.states for item in state.items}
        self.gone = self.added - maybe

    def set_capacity(self, capacity: int) -> None:
        """A writer that opens the buffer with it evicts at once."""
        self.capacity = capacity

    def adopt(self, found: BufferState) -> None:
        """Another writer has found this, perhaps in memory only. Raises Violation."""
        for number, state in enumerate(self.states):
            if _is_like(state.with_capacity(self.capacity), found):
                self.states = [*self.states[:number], found]
                self.now = found
                return
        promised, last = self.states[0].with_capacity(self.capacity), self.states[-1]
        kind = "lost" if {i.number for i in promised.items} - {i.number for i in found.items} else "resurrected"
        raise Violation(
            kind,
            f"found {_words(found)}\n  promised {_words(promised)}\n  last of {len(self.states)}: {_words(last)}",
        )

    def is_quiescent(self) -> None:
        """The power was cut: what has been found is on the disk."""
        self.states = [self.now]


def _is_like(state: BufferState, found: BufferState) -> bool:
    return (
        state.capacity == found.capacity
        and len(state.items) == len(found.items)
        and all(
            item == other or (item.sequence is None and replace(item, sequence=other.sequence) == other)
            for item, other in zip(state.items, found.items, strict=True)
        )
    )


def _words(state: BufferState) -> str:
    items = [
        f"{item.number}@{item.sequence}:{item.priority:g}/{item.retrieval_count}/{item.success_count}/{item.status:d}"
        for item in state.items
    ]
    return f"{len(items)} of at most {state.capacity}: {' '.join(items)}"
