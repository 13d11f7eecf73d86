"""Storage `file`: a write-ahead log in segments, one sync an append; docs/formats/buffer.md has bytes and rules.

A writer goes on only in a segment that it made itself and in which nothing of its own failed: the header of the next
segment says where this one ends, and so cuts whatever a crash or a failed sync left behind, once and for all.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from random import Random, SystemRandom
from typing import Literal

from pydantic import Field

from share.kernel.buffer.ahead import Ahead, Blank
from share.kernel.buffer.chain import OFFSET_BITS, TEMPORARY, Chain, Segment, ordinals_in, reading, segment_path
from share.kernel.buffer.compaction import erase
from share.kernel.buffer.inspection import findings, repair
from share.kernel.buffer.segment import START, SegmentHeader, find_tail
from share.kernel.config import ConfigModel
from share.kernel.contracts.experience import Finding, Record, RecordType
from share.kernel.errors import BufferFenced, BufferFull, BufferProblem, BufferUnavailable
from share.kernel.experience.disk import Disk, File
from share.kernel.experience.frame import frame_bytes, pack_frame

LOG = "log"
SPARE_SHARE = 4
"""One evicted segment is kept, to be used again, for so many that are there; at least one is."""

TRUNCATE_AT_ONCE = 2
"""Truncation waits for the next segment unless it gives back more than so many of the size of this one."""

PUNCH_BYTES_MIN = 1 << 20
"""A rest of a segment that is smaller is not worth giving back before compaction."""


class FileStorageConfig(ConfigModel):
    """The write-ahead log as files of its own."""

    segment_bytes: int = Field(default=32 << 20, ge=4096, le=1 << 30)
    """Size of a segment, in bytes: space is given back in these units, and opening reads one. The first are smaller."""


class FileStorage:
    """Segmented log; length and checksums per record, one fdatasync per append, pre-zeroed and recycled segments.

    `random` gives the seeds of segments and `executor` prepares segments ahead (a thread of the log's own by default).
    """

    def __init__(
        self, config: FileStorageConfig, *, random: Random | None = None, executor: Executor | None = None
    ) -> None:
        self._config = config
        self._random = random or SystemRandom()
        self._executor = executor

    def open(self, directory: Path, disk: Disk, mode: Literal["write", "read"], /, *, salvage: bool = False) -> FileLog:
        """See `Storage.open`. Opening writes nothing, unless it salvages or removes what a dead writer left behind.

        To salvage is to put HOLEs in the place of what is damaged, so it needs to write.
        """
        log = directory / LOG
        if salvage:
            if mode != "write":
                raise BufferUnavailable(f"{log}: salvaging changes the log; open it to write")
            with reading(log):
                repair(log, disk, self._random)
        chain = Chain(log, disk, is_followed=mode == "read")
        if mode == "read":
            return FileLog(chain, None, self._random)
        ahead = Ahead(log, disk, self._config.segment_bytes, self._executor, secrets.token_hex(4))
        return FileLog(chain, ahead, self._random)

    def verify(self, directory: Path, disk: Disk, /, *, progress: Callable[[int, int], None]) -> Iterator[Finding]:
        """See `Storage.verify`."""
        return findings(directory / LOG, disk, progress)


class FileLog:
    """An open log; see `RecordLog`. Without `ahead` it is open to read."""

    def __init__(self, chain: Chain, ahead: Ahead | None, random: Random) -> None:
        self._chain = chain
        self._disk = chain.disk
        self._directory = chain.directory
        self._ahead = ahead
        self._random = random
        self._active: _Active | None = None
        self._fenced = ""
        self._truncated = 0  # records before it may go
        self._is_settled = False  # whether the names of all segments are known to be durable
        self._cut: Finding | None = None
        self._next_sequence = 1
        self._epoch = chain.segments[-1].header.epoch if chain.segments else 0
        if ahead is not None:
            try:
                self._recover()
            except BaseException:
                self._chain.files.forget()
                raise

    @property
    def next_sequence(self) -> int:
        return self._next_sequence if self._ahead is not None else self._chain.last_sequence() + 1

    @property
    def epoch(self) -> int:
        if self._ahead is None and self._chain.segments:
            return self._chain.segments[-1].header.epoch
        return self._epoch

    @property
    def cut(self) -> Finding | None:
        return self._cut

    @property
    def size_bytes(self) -> int:
        """Of the segments; what is made ahead comes on top."""
        segments = self._chain.segments
        if not segments:
            return 0
        with reading(self._directory), self._chain.files.borrowed(segments[-1].ordinal) as file:
            return sum(segment.end or 0 for segment in segments[:-1]) + file.size

    def append(
        self,
        records: Sequence[tuple[RecordType, Sequence[bytes | memoryview]]],
        /,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[int]:
        """See `RecordLog.append`."""
        if not records:
            return []
        active = self._active or self._begin(_segment_bytes(records))
        parts, locations, end = self._pack(records, active)
        if end > active.capacity:
            active = self._begin(START + end - active.end)
            parts, locations, end = self._pack(records, active)
        try:
            active.file.pwrite(parts, active.end)
            active.file.begin_sync(active.end, end - active.end)
            meanwhile()
            active.file.sync()
        except BaseException as error:
            # What reached the disk must not be read again, nor be followed by frames that make it look acknowledged.
            self._abandon()
            if isinstance(error, OSError):
                raise self._refusal(error) from error
            raise
        active.end = active.segment.end = end
        active.num_appends += 1
        self._next_sequence += len(records)
        if end >= active.prepare_at:
            active.prepare_at = active.capacity + 1
            self._writing().begin((end - START) / active.num_appends)
        return locations

    def scan(self, after: int = 0, /, *, until: int | None = None) -> Iterator[Record]:
        """See `RecordLog.scan`."""
        if until is None or self._ahead is not None:
            last = self.next_sequence - 1
            until = last if until is None else min(until, last)
        return self._chain.scan(after, until) if until > after else iter(())

    def read(self, location: int, sequence: int, /) -> Record:
        """See `RecordLog.read`."""
        return self._chain.read(location, sequence)

    def truncate(self, before: int, /) -> int:
        """See `RecordLog.truncate`. Whole segments go, once a new one says durably which is the oldest that counts.

        The next one that is begun does; only for much that is dead one is begun now, and the rest of the last wasted.
        """
        self._writing()
        self._truncated = max(self._truncated, before)
        num_bytes = sum(segment.end or 0 for segment in self._dead())
        if num_bytes <= (TRUNCATE_AT_ONCE * self._active.capacity if self._active is not None else 0):
            return 0
        self._begin()
        return num_bytes

    def compact(self, is_dead: Callable[[Record], bool], /) -> int:
        """See `RecordLog.compact`. Also gives back what segments have beyond their ends, and no file is reused."""
        ahead = self._writing()
        if not self._chain.segments:
            return 0
        with self._changing():
            if self._active is None or not self._active.is_clean or self._active.end > START:
                self._begin(must_be_clean=True)
            ahead.close()
            self._remove_leftovers()
            self._disk.sync_directory(self._directory)  # or a power cut brings back files that hold what is erased
            return sum(erase(self._chain, segment, is_dead) for segment in self._chain.segments[:-1])

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
        self._leave()
        self._chain.files.forget()

    def _recover(self) -> None:
        """Find the end of the log, which makes nothing and changes nothing but what is durable of it."""
        self._remove_leftovers()
        self._epoch += 1
        if not self._chain.segments:
            return
        last = self._chain.segments[-1]
        with reading(self._directory), self._chain.files.borrowed(last.ordinal) as file:
            # Its last records may be in memory only; and what a writer whose sync failed has left there may never be on
            # the disk, however often one syncs. The end of the log is what the disk itself holds, from where on nothing
            # tells that it does.
            file.sync()
            proven = find_tail(file, last.header).proven
            file.reread(proven[0])
            tail = find_tail(file, last.header, proven)
            if tail.damage is not None:
                raise self._chain.damage(last.ordinal, tail.damage, tail.next_sequence)
        if tail.torn:
            path = str(segment_path(self._directory, last.ordinal))
            self._cut = Finding(path, tail.end, f"{tail.torn} bytes that were never acknowledged", is_loss=False)
        last.end = tail.end
        self._next_sequence = tail.next_sequence
        offset, sequence = tail.proven
        self._chain.begin_at(sequence, last, offset)  # what a snapshot does not cover is often the last append alone

    def _remove_leftovers(self) -> None:
        """Of writers that died: files that never became segments, and segments before the oldest that counts.

        Their names go, never their content: the file may be a segment by another name.
        """
        with contextlib.suppress(OSError):
            oldest = self._chain.segments[0].ordinal if self._chain.segments else 0
            paths = [segment_path(self._directory, n) for n in ordinals_in(self._disk, self._directory) if n < oldest]
            if paths:  # their successor may have a name that the last writer was killed before it could sync
                self._disk.sync_directory(self._directory)
            names = self._disk.names(self._directory)
            paths += [self._directory / name for name in names if name.endswith(TEMPORARY)]
            for path in paths:
                self._disk.unlink(path)

    def _pack(
        self, records: Sequence[tuple[RecordType, Sequence[bytes | memoryview]]], active: _Active
    ) -> tuple[list[bytes | memoryview], list[int], int]:
        """The frames' parts, their locations, and the offset behind the last."""
        sequence, offset, header = self._next_sequence, active.end, active.segment.header
        base = header.ordinal << OFFSET_BITS
        durable = sequence - 1
        parts: list[bytes | memoryview] = []
        locations = []
        for type_, payload in records:
            frame, size = pack_frame(
                type_, payload, sequence=sequence, epoch=header.epoch, durable=durable, seed=header.seed
            )
            parts += frame
            locations.append(base | offset)
            offset += size
            sequence += 1
        return parts, locations, offset

    def _begin(self, size: int = 0, *, must_be_clean: bool = False) -> _Active:
        """Make the next segment, with room for `size` bytes, seal the one before by its header, and truncate."""
        ahead = self._writing()
        if self._fenced:
            raise BufferFenced(self._fenced)
        segments = self._chain.segments
        previous = segments[-1] if segments else None
        self._leave()
        ordinal = previous.ordinal + 1 if previous else 1
        dead = self._dead()
        header = SegmentHeader(
            seed=self._random.getrandbits(32),
            epoch=self._epoch,
            ordinal=ordinal,
            first_sequence=self._next_sequence,
            previous_end=previous.end or START if previous else 0,
            oldest=segments[len(dead)].ordinal if segments else ordinal,
        )
        with self._changing():
            self._settle()
            blank = ahead.take(size, must_be_clean=must_be_clean)
            file = self._link(blank, header)
        segment = Segment(header, START)
        self._chain.segments = (*self._chain.segments[len(dead) :], segment)
        try:
            with self._changing():
                with contextlib.suppress(FileNotFoundError):
                    self._disk.unlink(blank.path)
                self._disk.sync_directory(self._directory)
        except BaseException:
            self._is_settled = False
            file.close()
            raise
        self._active = _Active(segment, file, blank)
        self._give_back_rest(previous)
        self._give_back(dead)
        return self._active

    def _dead(self) -> Sequence[Segment]:
        """Segments of nothing but records that were truncated; never the last one."""
        segments = self._chain.segments
        num = sum(following.header.first_sequence <= self._truncated for following in segments[1:])
        return segments[:num]

    def _give_back(self, dead: Sequence[Segment]) -> None:
        """They do not count any more, so one that cannot be given back stays until the next writer removes it."""
        ahead, spares_max = self._writing(), max(len(self._chain.segments) // SPARE_SHARE, 1)
        for segment in dead:
            with contextlib.suppress(OSError):
                with self._chain.files.borrowed(segment.ordinal) as file:
                    size = file.size
                self._chain.files.forget(segment.ordinal)
                ahead.put(segment_path(self._directory, segment.ordinal), size, spares_max)

    def _link(self, blank: Blank, header: SegmentHeader) -> File:
        """Make the file a segment by giving it its name, if no other writer has."""
        file = self._disk.open(blank.path, write=True)
        try:
            file.pwrite([header.pack()], 0)
            file.sync()
            self._disk.link(blank.path, segment_path(self._directory, header.ordinal))
        except BaseException as error:
            file.close()
            with contextlib.suppress(OSError):
                self._disk.unlink(blank.path)
            if isinstance(error, FileExistsError):
                self._fenced = f"{self._directory}: another writer has taken over; this one may not write any more"
                raise BufferFenced(self._fenced) from error
            raise
        return file

    def _settle(self) -> None:
        """Make the names durable on which the next segment's header relies, if anybody may have failed to."""
        if not self._is_settled:
            self._disk.make_directory(self._directory)
            self._disk.sync_directory(self._directory.parent)
            self._disk.sync_directory(self._directory)
            self._is_settled = True

    def _give_back_rest(self, previous: Segment | None) -> None:
        """Of a segment that was left early. It keeps its size: a reader may have it open."""
        if previous is None or previous.end is None:
            return
        with contextlib.suppress(OSError):
            file = self._disk.open(segment_path(self._directory, previous.ordinal), write=True)
            with contextlib.closing(file):
                if file.size - previous.end >= PUNCH_BYTES_MIN:
                    file.punch(previous.end, file.size - previous.end)

    def _leave(self) -> None:
        if self._active is not None:
            with contextlib.suppress(OSError):  # all that counts in it is synced
                self._active.file.close()
            self._active = None

    def _abandon(self) -> None:
        """Write no more in a segment in which something failed, and cut it at once if that can be done."""
        self._leave()
        with contextlib.suppress(BufferProblem):
            self._begin()

    def _writing(self) -> Ahead:
        if self._ahead is None:
            raise BufferUnavailable(f"{self._directory}: is open to read only")
        return self._ahead

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> BufferFull | BufferUnavailable:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return BufferFull(f"{self._directory}: {reason}; nothing was accepted: free space and try again")
        return BufferUnavailable(f"{self._directory}: {reason}; nothing was accepted")


def _segment_bytes(records: Sequence[tuple[RecordType, Sequence[bytes | memoryview]]]) -> int:
    return START + sum(frame_bytes(sum(map(len, payload))) for _, payload in records)


class _Active:
    """The segment that is being appended to."""

    __slots__ = ("capacity", "end", "file", "is_clean", "num_appends", "prepare_at", "segment")

    def __init__(self, segment: Segment, file: File, blank: Blank) -> None:
        self.segment = segment
        self.file = file
        self.end = START
        self.capacity = blank.size
        self.is_clean = blank.is_clean
        self.num_appends = 0
        self.prepare_at = blank.size // 2


__all__ = ["FileLog", "FileStorage", "FileStorageConfig"]
