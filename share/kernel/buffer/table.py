"""A log whose frames lie in a table of a database, by sequence. What the storages `lmdb` and `sqlite` have in common.

The database is a directory of its own, `log/<generation>`; erasing and salvaging write the next generation from what is
to be kept and drop the old one, so that nothing erased is left in free pages. A record's location is its sequence.
"""

from __future__ import annotations

import contextlib
import mmap
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from share.kernel.buffer.chain import SALVAGE, TEMPORARY, reading
from share.kernel.contracts.experience import Finding, Record, RecordType
from share.kernel.errors import BufferCorrupt, BufferFenced, BufferProblem, BufferUnavailable
from share.kernel.experience.disk import Disk
from share.kernel.experience.frame import HEADER_BYTES, HOLE_BYTES, Frame, pack_frame, pack_hole, unpack_frame

DIGITS = 10
BATCH_BYTES = 1 << 22
"""About how much is read, or written anew, in one transaction."""


class Bounds(NamedTuple):
    """`first` is the oldest sequence that should be there, `last` the newest that is, or was (0 in a new table)."""

    first: int
    last: int
    epoch: int


class Table(Protocol):
    """An open database of frames. One thread writes, any number read.

    Errors: BufferFull, BufferUnavailable, BufferCorrupt.
    """

    def bounds(self) -> Bounds: ...

    def append(self, frames: Sequence[tuple[int, bytes]], *, seen: int, epoch: int) -> bool:
        """Add frames and set the writer's epoch, durably and all at once; false if the epoch there is not `seen`."""
        ...

    def get(self, sequence: int) -> bytes | None: ...

    def range(self, after: int, until: int) -> list[tuple[int, bytes]]:
        """Frames with after < sequence <= until in order, as many as BATCH_BYTES hold but at least one, if any."""
        ...

    def drop(self, before: int) -> None:
        """Remove frames with sequence < before, which become the first, durably."""
        ...

    def problems(self) -> Iterator[str]:
        """What the database itself finds wrong with its file."""
        ...

    @property
    def size_bytes(self) -> int: ...

    def close(self) -> None: ...


class Wreck(Protocol):
    """What the pages of a database still hold, read without the database, which a damaged file may defeat."""

    def bounds(self) -> Bounds:
        """As far as it is still to be known."""
        ...

    def get(self, sequence: int) -> bytes | None:
        """The frame, which is sound, if it is still to be found."""
        ...


OpenTable = Callable[[Path, bool], Table]
"""Opens the database in a directory: to write, where it is made if there is none, or to read."""

OpenWreck = Callable[[Path], Wreck]
"""Looks through the pages of the database in a directory. Raises OSError."""


class TableLog:
    """An open log in a table; see `RecordLog`."""

    def __init__(
        self, directory: Path, disk: Disk, open_table: OpenTable, *, to_write: bool, salvage: OpenWreck | None = None
    ) -> None:
        self._directory = directory
        self._disk = disk
        self._open_table = open_table
        self._to_write = to_write
        self._table: Table | None = None
        self._generation = 0
        self._scanned = 0  # where the last scan stopped
        self._users = 0
        self._is_changing = False
        self._unused = threading.Condition()
        self._fenced = ""
        self._is_settled = False
        if salvage is not None:
            self._require_write()
            self._salvage(salvage)
        self._open_newest()
        bounds = self._bounds()
        self._first, self._next_sequence = bounds.first, bounds.last + 1
        self._seen = bounds.epoch
        self._epoch = bounds.epoch + 1 if to_write else bounds.epoch

    @property
    def next_sequence(self) -> int:
        return self._next_sequence if self._to_write else self._bounds().last + 1

    @property
    def epoch(self) -> int:
        return self._epoch if self._to_write else self._bounds().epoch

    @property
    def size_bytes(self) -> int:
        with self._used() as table:
            return table.size_bytes if table is not None else 0

    @property
    def cut(self) -> Finding | None:
        return None  # a transaction is there whole or not at all

    def append(
        self,
        records: Sequence[tuple[RecordType, Sequence[bytes | memoryview]]],
        /,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[int]:
        """See `RecordLog.append`."""
        self._require_write()
        if not records:
            return []
        sequence = self._next_sequence
        frames = []
        for type_, payload in records:
            parts, _ = pack_frame(type_, payload, sequence=sequence, epoch=self._epoch, durable=self._next_sequence - 1)
            frames.append((sequence, b"".join(parts)))
            sequence += 1
        meanwhile()
        self._commit(frames)
        locations = list(range(self._next_sequence, sequence))
        self._next_sequence = sequence
        return locations

    def scan(self, after: int = 0, /, *, until: int | None = None) -> Iterator[Record]:
        """See `RecordLog.scan`."""
        last = self.next_sequence - 1 if until is None or self._to_write else until
        until = last if until is None else min(until, last)
        if not self._to_write and after != self._scanned:  # a compaction may have made the next generation
            self._open_newest()
            self._first = self._bounds().first
        position, is_second = max(after, self._first - 1), False
        while position < until:
            with self._used() as table:
                rows = table.range(position, until) if table is not None else []
            if not rows or rows[0][0] != position + 1:
                if is_second:
                    raise self._damage(position + 1)
                is_second = True
                if not self._to_write:
                    self._open_newest()
                self._first = self._bounds().first
                position = max(position, self._first - 1)
                continue
            is_second = False
            for sequence, content in rows:
                frame = _frame(content, sequence)
                if frame is None or sequence != position + 1:
                    raise self._damage(position + 1)
                position = sequence
                if frame.type is not RecordType.HOLE:
                    yield Record(sequence, frame.type, frame.payload, sequence)
        self._scanned = position

    def read(self, location: int, sequence: int, /) -> Record:
        """See `RecordLog.read`."""
        for _ in range(2):
            with self._used() as table:
                content = table.get(location) if table is not None else None
            if content is not None:
                break
            if not self._to_write:
                self._open_newest()
        if content is None:
            if self._bounds().first <= location <= self._bounds().last:
                raise self._damage(location)
            raise KeyError(sequence)
        frame = _frame(content, location)
        if frame is None:
            raise self._damage(location)
        if frame.type is RecordType.HOLE or location != sequence:
            raise KeyError(sequence)
        return Record(sequence, frame.type, frame.payload, location)

    def truncate(self, before: int, /) -> int:
        """See `RecordLog.truncate`. The file does not shrink: its pages are used again."""
        self._require_write()
        before = min(before, self._next_sequence)
        if self._table is None or before <= self._first:
            return 0
        self._commit([])
        with self._used() as table:
            assert table is not None
            num_bytes, position = 0, self._first - 1
            while position < before - 1 and (rows := table.range(position, before - 1)):
                num_bytes += sum(len(content) for _, content in rows)
                position = rows[-1][0]
            table.drop(before)
        self._first = before
        return num_bytes

    def compact(self, is_dead: Callable[[Record], bool], /) -> int:
        """See `RecordLog.compact`."""
        self._require_write()
        if self._table is None:
            return 0
        num_bytes = 0

        def kept() -> Iterator[tuple[int, bytes]]:
            nonlocal num_bytes
            position = self._first - 1
            while position < self._next_sequence - 1:
                with self._used() as table:
                    assert table is not None
                    rows = table.range(position, self._next_sequence - 1)
                if not rows:
                    raise self._damage(position + 1)
                for sequence, content in rows:
                    frame = _frame(content, sequence)
                    if frame is None or sequence != position + 1:
                        raise self._damage(position + 1)
                    position = sequence
                    if frame.type is not RecordType.HOLE and is_dead(
                        Record(sequence, frame.type, frame.payload, sequence)
                    ):
                        num_bytes += len(frame.payload)
                        content = _hole(sequence, self._epoch)
                    yield sequence, content

        self._commit([])  # if another writer has taken over, it is noticed before anything is replaced
        self._write_anew(kept())
        return num_bytes

    def close(self) -> None:
        with self._unused:
            self._unused.wait_for(lambda: not self._users)
            if self._table is not None:
                self._table.close()
                self._table = None

    def _commit(self, frames: Sequence[tuple[int, bytes]]) -> None:
        if self._fenced:
            raise BufferFenced(self._fenced)
        self._settle()
        if self._table is None:
            self._write_anew(iter(()))
        with self._used() as table:
            assert table is not None
            is_ours = table.append(frames, seen=self._seen, epoch=self._epoch)
        if not is_ours:
            self._fenced = f"{self._directory}: another writer has taken over; this one may not write any more"
            raise BufferFenced(self._fenced)
        self._seen = self._epoch

    def _write_anew(self, frames: Iterator[tuple[int, bytes]]) -> None:
        """Make the next generation of these frames, and drop this one when it is durable."""
        generation = self._generation + 1
        path = self._directory / f"{generation:0{DIGITS}}"
        temporary = path.with_name(f"{path.name}{TEMPORARY}")
        try:
            self._disk.make_directory(self._directory)
            self._disk.sync_directory(self._directory.parent)
            shutil.rmtree(temporary, ignore_errors=True)
            self._disk.make_directory(temporary)
            table = self._open_table(temporary, True)
            try:
                if self._first > 1:
                    table.drop(self._first)
                for batch in _batches(frames):
                    table.append(batch, seen=table.bounds().epoch, epoch=self._seen)
                table.append([], seen=table.bounds().epoch, epoch=self._seen)
            finally:
                table.close()
            self._disk.sync_directory(temporary)
            self._disk.rename(temporary, path)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError):
                raise BufferUnavailable(f"{self._directory}: {error.strerror or error}; nothing was changed") from error
            raise
        finally:
            self._is_settled = False  # whatever the newest generation is by now, appending goes on in that one
        self._settle()

    def _settle(self) -> None:
        """Go over to the newest generation, make its name durable, and drop the others."""
        if self._is_settled:
            return
        self._open_newest()
        with _writing(self._directory):
            if self._generation:
                self._disk.sync_directory(self._directory)
            for name in self._disk.names(self._directory):
                if name != self._path().name:
                    shutil.rmtree(self._directory / name, ignore_errors=True)
        self._is_settled = True

    def _salvage(self, open_wreck: OpenWreck) -> None:
        """Make the next generation of all sound frames of the newest, a HOLE in the place of each that is lost."""
        self._generation = self._newest()
        if not self._generation:
            return
        with reading(self._directory):
            wreck = open_wreck(self._path())
        bounds = wreck.bounds()
        self._first, self._seen = bounds.first, bounds.epoch
        sequences = range(bounds.first, bounds.last + 1)
        self._write_anew((each, wreck.get(each) or _hole(each, bounds.epoch)) for each in sequences)

    def _newest(self) -> int:
        """The newest generation, 0 if there is none."""
        with reading(self._directory):
            names = self._disk.names(self._directory)
        return max((int(name) for name in names if len(name) == DIGITS and name.isdecimal()), default=0)

    def _open_newest(self) -> None:
        """Go over to the newest generation, if this is not it."""
        while (newest := self._newest()) > self._generation:
            with self._unused:
                self._unused.wait_for(lambda: not self._is_changing)
                if newest <= self._generation:  # another thread was faster
                    return
                self._is_changing = True  # readers that come without end would keep it waiting for ever
                try:
                    self._unused.wait_for(lambda: not self._users)
                    if self._table is not None:
                        self._table.close()
                        self._table = None
                    self._generation = newest
                    self._table = self._open_table(self._path(), self._to_write)
                except BufferProblem:
                    if self._newest() == newest:  # else the next compaction has removed it since it was looked for
                        raise
                finally:
                    self._is_changing = False
                    self._unused.notify_all()

    def _path(self) -> Path:
        return self._directory / f"{self._generation:0{DIGITS}}"

    def _bounds(self) -> Bounds:
        with self._used() as table:
            return table.bounds() if table is not None else Bounds(1, 0, 0)

    @contextlib.contextmanager
    def _used(self) -> Iterator[Table | None]:
        with self._unused:
            self._unused.wait_for(lambda: not self._is_changing)
            self._users += 1
            table = self._table
        try:
            yield table
        finally:
            with self._unused:
                self._users -= 1
                self._unused.notify_all()

    def _require_write(self) -> None:
        if not self._to_write:
            raise BufferUnavailable(f"{self._directory}: is open to read only")

    def _damage(self, sequence: int) -> BufferCorrupt:
        return BufferCorrupt(f"{self._path()}: record {sequence} is damaged or missing; {SALVAGE}")


def table_findings(
    directory: Path, disk: Disk, open_table: OpenTable, progress: Callable[[int, int], None]
) -> Iterator[Finding]:
    """What is wrong with a log in a table; a finding's offset is the sequence of the record."""
    try:
        log = TableLog(directory, disk, open_table, to_write=False)
    except BufferCorrupt as error:
        yield Finding(str(directory), 0, str(error), is_loss=True)
        return
    with contextlib.closing(log), log._used() as table:
        if table is None:
            return
        path = str(log._path())
        try:
            for problem in table.problems():
                yield Finding(path, 0, problem, is_loss=True)
            bounds = table.bounds()
            if (bounds.last - bounds.first + 1) * HEADER_BYTES > table.size_bytes:
                told = f"records {bounds.first} to {bounds.last}, for which it has no room"
                yield Finding(path, 0, f"what it says of itself is damaged: {told}", is_loss=True)
                return
            for sequence in range(bounds.first, bounds.last + 1):
                content = table.get(sequence)
                if content is None or _frame(content, sequence) is None:
                    yield Finding(path, sequence, f"record {sequence} is damaged or missing", is_loss=True)
                progress(sequence - bounds.first + 1, bounds.last - bounds.first + 1)
        except BufferCorrupt as error:
            yield Finding(path, 0, str(error), is_loss=True)


def mapped(path: Path) -> memoryview:
    """A file's bytes, to be looked through without reading all of them into memory. Raises OSError."""
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if file.seek(0, 2) else b"")


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BufferUnavailable(f"{directory}: {error.strerror or error}; nothing was accepted") from error


def _frame(content: bytes, sequence: int) -> Frame | None:
    frame = unpack_frame(content)
    return frame if frame is not None and frame.sequence == sequence and frame.size == len(content) else None


def _hole(sequence: int, epoch: int) -> bytes:
    return pack_hole(sequence, sequence, HEADER_BYTES + HOLE_BYTES, epoch=epoch, seed=0)


def _batches(frames: Iterator[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    batch: list[tuple[int, bytes]] = []
    size = 0
    for frame in frames:
        batch.append(frame)
        size += len(frame[1])
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


__all__ = ["BATCH_BYTES", "Bounds", "OpenTable", "OpenWreck", "Table", "TableLog", "Wreck", "mapped", "table_findings"]
