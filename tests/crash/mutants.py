"""Mistakes that a protocol can make, each made on purpose: a dropped sync, a swapped step, a check left out.

Most stand between the log and its disk, so that the code under test is the real one in all else. Those that no disk can
make replace one function of it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from share.kernel.buffer import chain, file, segment
from share.kernel.buffer.ahead import Blank
from share.kernel.buffer.chain import Chain, Segment
from share.kernel.buffer.file import FileLog
from share.kernel.buffer.segment import Placed
from share.kernel.contracts.experience import Record, RecordType
from share.kernel.errors import BufferUnavailable
from share.kernel.experience import erasures, opening, requests, state
from share.kernel.experience.disk import Disk, File, opened
from share.kernel.experience.frame import HEADER, HEADER_BYTES, Frame, frame_bytes, last_of_hole, pack_frame
from share.kernel.experience.table import Table
from share.kernel.experience.vectors import Vectors
from tests.crash.disk import Call, SimulatedFile
from tests.crash.interposed import Interposed

Perform = Callable[[], object]


@dataclass
class Names:
    """Which file a call is of: one opened under a temporary name and then linked or renamed goes by its new name."""

    names: dict[str, str] = field(default_factory=dict)

    def follow(self, call: Call) -> None:
        if call.name in {"link", "rename"}:
            self.names[call.source] = call.path
        elif call.name == "create":
            self.names.pop(call.path, None)

    def path(self, path: str) -> str:
        return self.names.get(path, path)

    def of(self, call: Call) -> str:
        return Path(self.path(call.path)).name

    def is_linked(self, call: Call) -> bool:
        """Whether the file of the call has its final name."""
        return not self.of(call).endswith(".tmp")


Pick = Callable[[Call, Names], bool]
"""Says which calls a mutant is about."""


def dropping(pick: Pick, *, every: int = 1) -> Callable[[Disk], Disk]:
    """Every so many of the picked calls does not happen, and says that it did."""

    def mutate(disk: Disk) -> Disk:
        names = Names()
        count = 0

        def between(call: Call, perform: Perform, each: File | None) -> object:
            nonlocal count
            names.follow(call)
            if pick(call, names):
                count += 1
                if count % every == 0:
                    return None
            return perform()

        return Interposed(disk, between)

    return mutate


def delaying(pick: Pick, until: Pick) -> Callable[[Disk], Disk]:
    """The picked syncs say that they happened, and happen right after the next call that is `until`."""

    def mutate(disk: Disk) -> Disk:
        names = Names()
        delayed: list[str] = []

        def between(call: Call, perform: Perform, each: File | None) -> object:
            if pick(call, names):
                delayed.append(call.path)
                return None
            result = perform()
            names.follow(call)
            if until(call, names):
                for path in delayed:
                    with contextlib.suppress(FileNotFoundError), opened(disk, Path(names.path(path))) as late:
                        late.sync()
                delayed.clear()
            return result

        return Interposed(disk, between)

    return mutate


def swallowing(pick: Pick) -> Callable[[Disk], Disk]:
    """An error of a picked call is not told to anybody; the call is tried once more."""

    def mutate(disk: Disk) -> Disk:
        names = Names()

        def between(call: Call, perform: Perform, each: File | None) -> object:
            names.follow(call)
            try:
                return perform()
            except OSError:
                if not pick(call, names):
                    raise
            try:
                return perform()
            except OSError:
                return None

        return Interposed(disk, between)

    return mutate


def renaming_instead_of_linking(disk: Disk) -> Disk:
    """A name that is taken is taken over."""

    def between(call: Call, perform: Perform, each: File | None) -> object:
        if call.name == "link":
            disk.rename(Path(call.source), Path(call.path))
            return None
        if call.name == "unlink" and call.path.endswith(".tmp"):
            try:
                return perform()
            except FileNotFoundError:
                return None
        return perform()

    return Interposed(disk, between)


def is_append_sync(call: Call, names: Names) -> bool:
    """Of records: of a segment that has its name."""
    return call.name == "sync" and names.of(call).endswith(".segment")


def is_header_sync(call: Call, names: Names) -> bool:
    """Of a new segment's header and zeros."""
    return call.name == "sync" and names.of(call).startswith("next-")


def is_rewrite_sync(call: Call, names: Names) -> bool:
    """Of a segment that compaction has written anew."""
    return call.name == "sync" and ".segment." in names.of(call)


def is_directory_sync(call: Call, names: Names) -> bool:
    return call.name == "sync_directory"


def is_write(call: Call, names: Names) -> bool:
    return call.name == "write"


def is_link(call: Call, names: Names) -> bool:
    return call.name == "link"


def is_rename(call: Call, names: Names) -> bool:
    return call.name == "rename"


class SyncAfter:
    """Picks a sync of a directory that follows a call to a file, unless that one followed the call `but`."""

    def __init__(self, name: str, prefix: str, but: str) -> None:
        self.name = name
        self.prefix = prefix
        self.but = but
        self.last = ("", "", "")

    def __call__(self, call: Call, names: Names) -> bool:
        if call.name in {"names", "open", "open to write", "read", "map"}:
            return False
        before, name, path = self.last
        self.last = (name, call.name, call.path)
        is_after = name == self.name and Path(path).name.startswith(self.prefix) and before != self.but
        return call.name == "sync_directory" and is_after


def any_of(*picks: Pick) -> Pick:
    """Picks what one of them does; each is told of every call."""

    def pick_any(call: Call, names: Names) -> bool:
        picked = [pick(call, names) for pick in picks]
        return any(picked)

    return pick_any


@dataclass(frozen=True)
class Mutant:
    """A mistake: `mutate` is between the code and its disk, `patch` replaces a function of the code."""

    name: str
    mutate: Callable[[Disk], Disk] = lambda disk: disk
    patch: Callable[[pytest.MonkeyPatch], None] = lambda monkeypatch: None
    seed: int = 0
    """Of the first workload of the short form: soon after it comes one in which the mistake matters."""


def _header_with(**other: Callable[[dict[str, int]], int]) -> Callable[[pytest.MonkeyPatch], None]:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        make = segment.SegmentHeader
        monkeypatch.setattr(
            file,
            "SegmentHeader",
            lambda **fields: make(**{**fields, **{name: value(fields) for name, value in other.items()}}),
        )

    return patch


def _ends_of_segments_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    walk = segment.walk

    def to_the_end(each: File, seed: int, offset: int, sequence: int, end: int, **options: bool) -> Iterator[Placed]:
        return walk(each, seed, offset, sequence, each.size, **options)

    monkeypatch.setattr(chain, "walk", to_the_end)


def _going_on_in_the_last_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recovery opens the last segment to append to it, as most logs do."""
    recover = file.FileLog._recover

    def and_go_on(log: FileLog) -> None:
        recover(log)
        if log._chain.segments:
            last = log._chain.segments[-1]
            path = chain.segment_path(log._directory, last.ordinal)
            opened = log._disk.open(path, write=True)
            log._active = file._Active(last, opened, Blank(path, opened.size))
            log._active.end = last.end or 0

    monkeypatch.setattr(file.FileLog, "_recover", and_go_on)


def _going_on_after_a_failed_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file.FileLog, "_abandon", lambda log: None)


def _no_payload_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame counts when its header is sound."""
    real = segment.frame_at

    def header_only(each: File, seed: int, offset: int, end: int) -> Frame | None:
        content = each.pread(min(1 << 16, end - offset), offset)
        if len(content) < HEADER_BYTES:
            return None
        checksum, _, length, epoch, sequence, durable, number = HEADER.unpack_from(content)
        if crc32(content[4:HEADER_BYTES], seed) != checksum or number == RecordType.HOLE:
            return real(each, seed, offset, end)
        payload = memoryview(content)[HEADER_BYTES : HEADER_BYTES + length]
        return Frame(RecordType(number), sequence, payload, durable, epoch, frame_bytes(length))

    def walk(
        each: File, seed: int, offset: int, sequence: int, end: int, *, with_payloads: bool = True
    ) -> Iterator[Placed]:
        while (frame := header_only(each, seed, offset, end)) is not None and frame.sequence == sequence:
            last = last_of_hole(frame.payload) if frame.type is RecordType.HOLE else sequence
            yield Placed(offset, frame.size, frame.type, sequence, last, frame.durable, frame.payload)
            offset, sequence = offset + frame.size, last + 1

    monkeypatch.setattr(segment, "frame_at", header_only)
    monkeypatch.setattr(chain, "frame_at", header_only)
    monkeypatch.setattr(chain, "walk", walk)
    monkeypatch.setattr(segment, "walk", walk)


def _torn_tail_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames say that those before them in their batch are durable, so what a torn batch left looks acknowledged."""
    pack = pack_frame

    def boast(*args: Any, durable: int, **options: Any) -> Any:
        return pack(*args, durable=options["sequence"] - 1, **options)

    monkeypatch.setattr(file, "pack_frame", boast)


def _tail_is_not_synced_by_its_finder(disk: Disk) -> Disk:
    """Who opens the log believes what may be in memory only."""
    written: set[str] = set()

    def between(call: Call, perform: Perform, each: File | None) -> object:
        if call.name == "write":
            written.add(call.path)
        if call.name == "sync" and call.path.endswith(".segment") and call.path not in written:
            return None
        return perform()

    return Interposed(disk, between)


def _unlinking_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Truncation gives segments back before a new one says which is the oldest that counts."""
    truncate = file.FileLog.truncate

    def hasty(log: FileLog, before: int) -> int:
        segments = log._chain.segments
        for each, following in itertools.pairwise(segments):
            if following.header.first_sequence <= before:
                log._disk.unlink(chain.segment_path(log._directory, each.ordinal))
        with contextlib.suppress(FileNotFoundError, BufferUnavailable):
            return truncate(log, before)
        return 0

    monkeypatch.setattr(file.FileLog, "truncate", hasty)


def _recovery_removes_what_a_name_replaces_that_is_not_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Truncated segments go as soon as a later one is seen, which its writer may have had no time to sync."""
    remove_leftovers = file.FileLog._remove_leftovers

    def hasty(log: FileLog) -> None:
        oldest = log._chain.segments[0].ordinal if log._chain.segments else 0
        for ordinal in chain.ordinals_in(log._disk, log._directory):
            if ordinal < oldest:
                with contextlib.suppress(OSError):
                    log._disk.unlink(chain.segment_path(log._directory, ordinal))
        remove_leftovers(log)

    monkeypatch.setattr(file.FileLog, "_remove_leftovers", hasty)


def _believing_what_a_failed_sync_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recovery takes for the end of the log what memory shows of it."""
    monkeypatch.setattr(SimulatedFile, "reread", lambda file, offset: None)


def _erasing_in_place_without_a_new_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction overwrites dead payloads with zeros and leaves their frames."""

    def in_place(each: Chain, part: Segment, is_dead: Callable[[Record], bool]) -> int:
        path = chain.segment_path(each.directory, part.ordinal)
        erased = 0
        with opened(each.disk, path, write=True) as target:
            for placed in list(each.walk(part, segment.START, part.header.first_sequence)):
                record = Record(placed.sequence, placed.type, placed.payload, part.ordinal << 40 | placed.offset)
                if placed.type is not RecordType.HOLE and is_dead(record):
                    target.pwrite([bytes(len(placed.payload))], placed.offset + HEADER_BYTES)
                    erased += len(placed.payload)
            target.sync()
        return erased

    monkeypatch.setattr(file, "erase", in_place)


LOG_MUTANTS = (
    Mutant("an append is not synced", dropping(is_append_sync)),
    Mutant("every third append is not synced", dropping(is_append_sync, every=3)),
    Mutant("an append is acknowledged before its sync", delaying(is_append_sync, is_write)),
    Mutant("a failed sync is tried again and believed", swallowing(is_append_sync), seed=9),
    Mutant("a new segment is not synced", dropping(is_header_sync)),
    Mutant("a new segment is linked before it is synced", delaying(is_header_sync, is_link)),
    Mutant("no directory is synced", dropping(is_directory_sync)),
    Mutant("every second sync of a directory is forgotten", dropping(is_directory_sync, every=2)),
    Mutant("a name that is taken is taken over", renaming_instead_of_linking),
    Mutant("a rewritten segment is not synced", dropping(is_rewrite_sync)),
    Mutant("a rewritten segment is renamed before it is synced", delaying(is_rewrite_sync, is_rename)),
    Mutant("all segments have one seed", patch=_header_with(seed=lambda fields: 7)),
    Mutant("a header forgets where the segment before ends", patch=_header_with(previous_end=lambda fields: 1 << 30)),
    Mutant("a header says that the first segment counts", patch=_header_with(oldest=lambda fields: 1), seed=14),
    Mutant("the end of a sealed segment is ignored", patch=_ends_of_segments_ignored),
    Mutant("a writer goes on in a segment of another", patch=_going_on_in_the_last_segment),
    Mutant("a writer goes on in a segment in which a sync failed", patch=_going_on_after_a_failed_sync, seed=27),
    Mutant("a payload is not checked", patch=_no_payload_checksum),
    Mutant("a torn tail is taken for damage", patch=_torn_tail_is_damage, seed=68),
    Mutant("a tail that was found is not synced", _tail_is_not_synced_by_its_finder),
    Mutant("segments go before it is said that they do not count", patch=_unlinking_before_the_commit),
    Mutant(
        "recovery removes what a name replaces that is not durable",
        patch=_recovery_removes_what_a_name_replaces_that_is_not_durable,
        seed=208,
    ),
    Mutant("what memory shows of a failed sync is believed", patch=_believing_what_a_failed_sync_left, seed=164),
    Mutant("compaction zeroes payloads in place", patch=_erasing_in_place_without_a_new_file),
    Mutant(
        "compaction does not make it durable that the spare is gone",
        dropping(SyncAfter("unlink", "next-", "link")),
        seed=264,
    ),
)


def is_vectors_sync(call: Call, names: Names) -> bool:
    return call.name == "sync" and names.of(call).startswith("vectors-")


def _removal_in_memory_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal is acknowledged and applied, and its record names nothing."""
    change = requests.Batch._change

    def forgetful(batch: requests.Batch, type_: RecordType, rows: Sequence[int], *values: Any) -> None:
        change(batch, type_, [] if type_ is RecordType.REMOVE else rows, *values)

    monkeypatch.setattr(requests.Batch, "_change", forgetful)


def _replaying_from(shift: int) -> Callable[[pytest.MonkeyPatch], None]:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        load = state.load_state

        def shifted(*args: Any, **options: Any) -> state.State:
            loaded = load(*args, **options)
            return replace(loaded, covers=loaded.covers + shift) if loaded.covers else loaded

        monkeypatch.setattr(opening, "load_state", shifted)

    return patch


def _truncating_what_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is cut where the snapshot ends, as if that held the experiences."""
    monkeypatch.setattr(Table, "oldest_sequence", lambda self, otherwise: otherwise)


def _no_eviction_at_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recovery brings back what had been evicted."""
    real = state.catch_up

    def greedy(loaded: state.State, *args: Any, **options: Any) -> int:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Table, "_evict", lambda table: np.empty(0, np.int64))
            return real(loaded, *args, **options)

    monkeypatch.setattr(opening, "catch_up", greedy)


BUFFER_MUTANTS = (
    Mutant("an add is not synced", dropping(is_append_sync)),
    Mutant("no directory is synced at all", dropping(is_directory_sync)),
    Mutant("vectors are not synced before the manifest names them", dropping(is_vectors_sync)),
    Mutant("a removal is not in the log", patch=_removal_in_memory_only),
    Mutant("replay begins one record too late", patch=_replaying_from(1)),
    Mutant("replay begins one record too early", patch=_replaying_from(-1)),
    Mutant("the log is truncated before the oldest that lives", patch=_truncating_what_lives),
    Mutant("replay does not evict", patch=_no_eviction_at_replay),
    Mutant(
        "compaction leaves the rows of the dead",
        patch=lambda m: m.setattr(Vectors, "zero", lambda self, rows: None),
        seed=23,
    ),
    Mutant(
        "compaction does not make deletions durable",
        dropping(any_of(SyncAfter("sync", "vectors-", ""), SyncAfter("rename", erasures.NAME, ""))),
        seed=7,
    ),
)


__all__ = ["BUFFER_MUTANTS", "LOG_MUTANTS", "Mutant"]
