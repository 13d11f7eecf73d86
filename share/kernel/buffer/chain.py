"""The chain of segments in a log's directory, and reading from it beside a writer in this or another process."""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from share.kernel.buffer.segment import START, Placed, SegmentHeader, find_tail, frame_at, read_header, walk
from share.kernel.contracts.experience import Record, RecordType
from share.kernel.errors import BufferCorrupt, BufferUnavailable
from share.kernel.experience.disk import Disk, File

OFFSET_BITS = 40
OPEN_FILES_MAX = 64
SUFFIX = ".segment"
TEMPORARY = ".tmp"
TRIES_MAX = 10
"""How often a listing or a reading begins anew because the writer gave segments back meanwhile."""

SALVAGE = "--salvage keeps all that is sound"


class Segment:
    """One segment of the chain. `end` is None while a writer in another process may append to it."""

    __slots__ = ("end", "header", "ordinal")

    def __init__(self, header: SegmentHeader, end: int | None) -> None:
        self.header = header
        self.ordinal = header.ordinal
        self.end = end


class Chain:
    """Reads the records of a log. Safe for many threads beside one that appends: `segments` is replaced, not changed.

    With `is_followed` a writer in another process changes the chain, which is looked at again when reading must go on.
    """

    def __init__(self, directory: Path, disk: Disk, *, is_followed: bool) -> None:
        self.directory = directory
        self.disk = disk
        self.segments: tuple[Segment, ...] = ()
        self.files = OpenFiles(directory, disk)
        self._is_followed = is_followed
        self._position = (0, 0, 0)  # sequence, ordinal and offset where the last scan stopped
        self._awaited = (0, directory)  # ordinal and path of the segment that comes next
        try:
            self.refresh()
        except BaseException:
            self.files.forget()
            raise

    def refresh(self) -> None:
        """Look what segments there are. Raises BufferCorrupt, BufferUnavailable."""
        missing = ""
        with reading(self.directory):
            for _ in range(TRIES_MAX):
                ordinals = ordinals_in(self.disk, self.directory)
                if not ordinals:
                    self.segments = ()
                    return
                known = {segment.ordinal: segment for segment in self.segments}
                try:
                    last = self._header(ordinals[-1], known)
                    absent = sorted(set(range(last.oldest, last.ordinal)) - set(ordinals))
                    if absent:
                        missing = segment_path(self.directory, absent[0]).name
                        continue
                    headers = [self._header(ordinal, known) for ordinal in range(last.oldest, last.ordinal + 1)]
                except FileNotFoundError:  # given back between the listing and the opening
                    continue
                ends = [*(header.previous_end for header in headers[1:]), None]
                self.segments = tuple(map(Segment, headers, ends))
                return
        raise BufferCorrupt(f"{self.directory}: {missing or 'a segment'} is missing; {SALVAGE}")

    def _header(self, ordinal: int, known: dict[int, Segment]) -> SegmentHeader:
        if ordinal in known:
            return known[ordinal].header
        with self.files.borrowed(ordinal) as file:
            header = read_header(file)
        if header is None or header.ordinal != ordinal:
            raise BufferCorrupt(f"{segment_path(self.directory, ordinal)}: offset 0: no segment's header; {SALVAGE}")
        return header

    def last_sequence(self) -> int:
        """The last sequence of a log that a writer in another process may append to; 0 if it is empty."""
        while self.segments:
            last = self.segments[-1]
            with reading(self.directory), self.files.borrowed(last.ordinal) as file:
                tail = find_tail(file, last.header)
                if tail.damage is not None:  # or appended to while we looked
                    tail = find_tail(file, last.header)
            self.refresh()
            if self.segments[-1].ordinal == last.ordinal:
                if tail.damage is not None:
                    raise self.damage(last.ordinal, tail.damage, tail.next_sequence)
                return tail.next_sequence - 1
        return 0

    def begin_at(self, sequence: int, segment: Segment, offset: int) -> None:
        """Where a record lies, for a scan that begins with it."""
        self._position = (sequence, segment.ordinal, offset)

    def scan(self, after: int, until: int) -> Iterator[Record]:
        """Records with after < sequence <= until. Raises BufferCorrupt, BufferUnavailable."""
        if until <= after:
            return
        with reading(self.directory):
            if self._is_followed and self._has_grown():
                self.refresh()  # where the next one begins, this one may end before frames that were never acknowledged
            segment, offset, sequence = self._locate(after + 1)
            tries = 0
            while sequence <= until:
                base = segment.ordinal << OFFSET_BITS
                for at, size, type_, found, last, _, payload in self.walk(segment, offset, sequence):
                    if found > until:
                        break
                    offset, sequence, tries = at + size, last + 1, 0
                    if found > after and type_ is not RecordType.HOLE:
                        yield Record(found, type_, payload, base | at)
                    if sequence > until:
                        break
                if sequence > until:
                    break
                following = self._following(segment, offset, sequence)
                if following is not None:
                    segment, offset, sequence = following, START, following.header.first_sequence
                    continue
                tries += 1
                if tries > 2:
                    raise self.damage(segment.ordinal, offset, sequence)
                self.files.forget(segment.ordinal)
                if self._is_followed:
                    self.refresh()
                segment = self._segment(segment.ordinal) or segment
            self._position = (sequence, segment.ordinal, offset)

    def read(self, location: int, sequence: int) -> Record:
        """One record. Raises KeyError when it was erased or truncated away, BufferCorrupt, BufferUnavailable."""
        ordinal, offset = location >> OFFSET_BITS, location & ((1 << OFFSET_BITS) - 1)
        with reading(self.directory):
            for _ in range(2):
                segment = self._segment(ordinal)
                if segment is None and self._is_followed:
                    self.refresh()
                    segment = self._segment(ordinal)
                if segment is None:
                    raise KeyError(sequence)
                with contextlib.suppress(FileNotFoundError), self.files.borrowed(ordinal) as file:
                    frame = frame_at(file, segment.header.seed, offset, segment.end or file.size)
                    if frame is not None:
                        if frame.sequence != sequence or frame.type is RecordType.HOLE:
                            raise KeyError(sequence)
                        return Record(sequence, frame.type, frame.payload, location)
                    if self._is_in_hole(file, segment, offset):
                        raise KeyError(sequence)
                self.files.forget(ordinal)  # another file has that name by now, or none
                if self._is_followed:
                    self.refresh()
        raise self.damage(ordinal, offset, sequence)

    def damage(self, ordinal: int, offset: int, sequence: int) -> BufferCorrupt:
        path = segment_path(self.directory, ordinal)
        return BufferCorrupt(f"{path}: offset {offset}: record {sequence} is damaged or missing; {SALVAGE}")

    def _segment(self, ordinal: int) -> Segment | None:
        segments = self.segments
        index = ordinal - segments[0].ordinal if segments else -1
        return segments[index] if 0 <= index < len(segments) else None

    def _has_grown(self) -> bool:
        """Whether a segment follows the last one; asked for by its name, which takes a tenth of listing them all."""
        if not self.segments:
            return True
        ordinal = self.segments[-1].ordinal + 1
        if self._awaited[0] != ordinal:
            self._awaited = (ordinal, segment_path(self.directory, ordinal))
        try:
            self.disk.open(self._awaited[1]).close()
        except FileNotFoundError:
            return False
        return True

    def _locate(self, sequence: int) -> tuple[Segment, int, int]:
        """Where reading from `sequence` on begins: segment, offset and sequence of the frame there."""
        known, ordinal, offset = self._position
        segment = self._segment(ordinal)
        if known == sequence and segment is not None:
            return segment, offset, sequence
        if self._is_followed:  # segments may have been replaced by compacted ones, or given back
            self.files.forget()
            self.refresh()
        segments = self.segments
        if not segments:
            raise BufferCorrupt(f"{self.directory}: there is no segment, where record {sequence} should be")
        index = bisect_right(segments, sequence, key=lambda segment: segment.header.first_sequence)
        segment = segments[max(index - 1, 0)]
        offset, found = START, segment.header.first_sequence
        if found < sequence:
            for placed in self.walk(segment, offset, found, with_payloads=False):
                if placed.last >= sequence:
                    break
                offset, found = placed.offset + placed.size, placed.last + 1
        return segment, offset, found

    def walk(self, segment: Segment, offset: int, sequence: int, *, with_payloads: bool = True) -> Iterator[Placed]:
        with contextlib.suppress(FileNotFoundError), self.files.borrowed(segment.ordinal) as file:
            end = file.size if segment.end is None else segment.end
            yield from walk(file, segment.header.seed, offset, sequence, end, with_payloads=with_payloads)

    def _following(self, segment: Segment, offset: int, sequence: int) -> Segment | None:
        """Where reading goes on after `segment` ended at `offset`; None if it should not have ended there."""
        current = self._segment(segment.ordinal)
        if current is None:  # given back: what it held is dead
            return self.segments[0]
        following = self._segment(segment.ordinal + 1)
        if current.end != offset or following is None:
            return None
        if following.header.first_sequence != sequence:
            raise self.damage(segment.ordinal, offset, sequence)
        return following

    def _is_in_hole(self, file: File, segment: Segment, offset: int) -> bool:
        first, end = segment.header.first_sequence, segment.end or file.size
        for placed in walk(file, segment.header.seed, START, first, end, with_payloads=False):
            if placed.offset + placed.size > offset:
                return placed.type is RecordType.HOLE
        return False


class OpenFiles:
    """Open segments to read from, at most so many beyond those in use at the moment. Safe for many threads."""

    def __init__(self, directory: Path, disk: Disk, limit: int = OPEN_FILES_MAX) -> None:
        self._directory = directory
        self._disk = disk
        self._limit = limit
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _OpenFile] = OrderedDict()

    @contextlib.contextmanager
    def borrowed(self, ordinal: int) -> Iterator[File]:
        """Raises OSError, among them FileNotFoundError."""
        entry = self._borrow(ordinal)
        try:
            yield entry.file
        finally:
            self._give_back(entry)

    def forget(self, ordinal: int | None = None) -> None:
        """Another file may have the name from now on. Without an ordinal: forget all."""
        with self._lock:
            for each in [*self._open] if ordinal is None else [ordinal]:
                entry = self._open.pop(each, None)
                if entry is not None:
                    entry.is_forgotten = True
                    if not entry.users:
                        entry.file.close()

    def _borrow(self, ordinal: int) -> _OpenFile:
        with self._lock:
            entry = self._open.get(ordinal)
            if entry is None:
                entry = self._open[ordinal] = _OpenFile(self._disk.open(segment_path(self._directory, ordinal)))
                idle = [old for old, other in self._open.items() if not other.users and other is not entry]
                for old in idle[: max(len(self._open) - self._limit, 0)]:
                    self._open.pop(old).file.close()
            self._open.move_to_end(ordinal)
            entry.users += 1
            return entry

    def _give_back(self, entry: _OpenFile) -> None:
        with self._lock:
            entry.users -= 1
            if entry.is_forgotten and not entry.users:
                entry.file.close()


class _OpenFile:
    __slots__ = ("file", "is_forgotten", "users")

    def __init__(self, file: File) -> None:
        self.file = file
        self.users = 0
        self.is_forgotten = False


@contextlib.contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Says what failed when the disk refuses to read."""
    try:
        yield
    except OSError as error:
        raise BufferUnavailable(f"{directory}: cannot be read: {error.strerror or error}") from error


def segment_path(directory: Path, ordinal: int) -> Path:
    return directory / f"{ordinal:010}{SUFFIX}"


def ordinals_in(disk: Disk, directory: Path) -> list[int]:
    """Ordinals of the segments in a directory, rising. Raises OSError."""
    names = (name.removesuffix(SUFFIX) for name in disk.names(directory) if name.endswith(SUFFIX))
    return sorted(int(name) for name in names if len(name) == 10 and name.isdecimal())


__all__ = [
    "OFFSET_BITS",
    "OPEN_FILES_MAX",
    "SALVAGE",
    "TEMPORARY",
    "Chain",
    "OpenFiles",
    "Segment",
    "ordinals_in",
    "reading",
    "segment_path",
]
