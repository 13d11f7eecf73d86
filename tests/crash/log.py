"""A record log under everything that can happen to it: the moves of a workload, and what is checked after a crash."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from share.kernel.buffer.file import FileStorage, FileStorageConfig
from share.kernel.contracts.experience import Record, RecordType
from share.kernel.contracts.kinds import RecordLog, Storage
from share.kernel.errors import BufferFenced, BufferFull, BufferProblem, BufferUnavailable
from share.kernel.experience.disk import Disk
from share.kernel.experience.frame import pack_frame
from tests.crash.disk import SimulatedDisk
from tests.crash.faults import FAULTS, FailsAt, Fault
from tests.crash.images import Image
from tests.crash.model import LogModel, Violation, Written
from tests.crash.workload import Killed, MakeStorage, Moves, Mutate, Recovery, Workload, Writer, unchanged

ROOT = Path("/simulated")
DIRECTORY = ROOT / "buffer"
FORGED_SEED = 7
MARK = b"erase-me-"
"""Begins the payloads that are looked for in the files after they were erased."""

TYPES = (RecordType.ADD, RecordType.ADD, RecordType.ADD, RecordType.REMOVE, RecordType.PRIORITY)

SEGMENT_BYTES = 4096
SYNC_FAULTS: tuple[Fault, ...] = ("sync lost", "sync forgotten", "short")


class Inline(Executor):
    """Does at once what is submitted, in the thread that submits it: a workload has one order of calls."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except OSError as error:
            future.set_exception(error)
        return future


def file_storage(random: Random) -> Storage:
    """The storage `file` with segments so small that a few records fill one, and seeds that can be had again."""
    return FileStorage(FileStorageConfig(segment_bytes=SEGMENT_BYTES), random=random, executor=Inline())


class Session(Writer):
    """A writer's life with a log."""

    def __init__(self, storage: Storage, disk: Disk, mutate: Mutate, fault: FailsAt | None = None) -> None:
        super().__init__(disk, fault)
        self.log: RecordLog = storage.open(DIRECTORY, mutate(self.disk), "write")


class LogWorld(Workload[Session, LogModel]):
    """Appends, truncates, compacts; is killed, cut off, taken over and refused meanwhile."""

    def __init__(self, storage: MakeStorage, seed: int, *, mutate: Mutate = unchanged) -> None:
        super().__init__(storage, seed, LogModel(), mutate)
        self.disk = SimulatedDisk(ROOT)
        self.disk.make_directory(DIRECTORY)  # the caller's care
        self.disk.sync_directory(ROOT)
        self.disk.observe = self.observe

    def what_may_be_done(self) -> Moves:
        return {
            self.append: 12,
            self.truncate: 2,
            self.compact: 2,
            self.close: 1,
            self.kill: 1,
            self.kill_while_appending: 2,
            self.cut_power: 1,
            self.usurp: 0.5,
            self.append_with_fault: 3,
            self.append_and_fail_meanwhile: 1,
            self.open_with_fault: 1,
            self.read_all: 1,
        }

    def open(self) -> Session:
        session = Session(self.storage(self.rng), self.disk, self.mutate)
        self.model.compare(list(session.log.scan()), is_new_writer=True)
        _check_log(session.log, self.model)
        return session

    @property
    def log(self) -> RecordLog:
        return self.writer.log

    def _batch(self) -> list[Written]:
        return random_batch(self.rng, self.log.next_sequence)

    def append(self) -> None:
        self._append(self._batch())

    def _append(self, batch: list[Written]) -> None:
        self.moves.append(f"append {[len(payload) for _, payload in batch]}")
        self.model.begin(batch)
        self.model.acknowledge(batch, self.log.append(parts_of(batch, self.rng)))

    def append_with_fault(self) -> None:
        log = self.log
        batch = self._batch()
        after, fault = self.rng.randint(1, 4), self.rng.choice([*FAULTS, *SYNC_FAULTS])
        first = self.writer.fail(fault, after, self.rng.choice([0, 1, 3, 8, 20]))
        self.moves.append(f"append {[len(payload) for _, payload in batch]} while {fault} at {first}")
        self.model.begin(batch)
        try:
            locations = log.append(parts_of(batch, self.rng))
        except (BufferFull, BufferUnavailable) as problem:
            self.moves.append(f"  {type(problem).__name__}: {problem}")
            batch = batch[: self.rng.randint(0, len(batch))]  # it is tried again, or the beginning of it
            self.writer.fault = None
            if batch:
                self._append(batch)
        else:
            self.model.acknowledge(batch, locations)
        self.writer.fault = None
        self.model.compare(list(log.scan()), is_new_writer=False)

    def append_and_fail_meanwhile(self) -> None:
        """The disk takes the records, and what is prepared beside them fails."""

        def fail() -> None:
            raise BufferUnavailable("it cannot be prepared")

        log, batch = self.log, self._batch()
        self.moves.append(f"append {[len(payload) for _, payload in batch]} and fail meanwhile")
        self.model.begin(batch)
        with contextlib.suppress(BufferUnavailable):
            log.append(parts_of(batch, self.rng), fail)
        self.model.compare(list(log.scan()), is_new_writer=False)

    def open_with_fault(self) -> None:
        """The disk fails while a writer opens; then it is in order again, and the writer goes on or another opens."""
        if self.session is not None:
            self.close()
        first = self.rng.randint(1, 6)
        fault = FailsAt(self.rng.choice(FAULTS), first, first + self.rng.choice([0, 1, 8]))
        self.moves.append(f"open while {fault.fault} at {first}")
        try:
            self.session = Session(self.storage(self.rng), self.disk, self.mutate, fault)
        except (BufferFull, BufferUnavailable) as problem:
            self.moves.append(f"  {type(problem).__name__}: {problem}")
            return
        self.session.fault = None
        self.model.compare(list(self.session.log.scan()), is_new_writer=True)

    def truncate(self) -> None:
        before = self.rng.randint(self.model.below, self.model.last + 1)
        self.moves.append(f"truncate before {before}")
        log = self.log
        self.model.begin_truncate(before)
        log.truncate(before)
        self.model.truncated()

    def compact(self) -> None:
        dead = {
            sequence
            for sequence, (_, payload) in self.model.records.items()
            if payload.startswith(MARK) and self.rng.random() < 0.5
        }
        log = self.log
        self.moves.append(f"compact {sorted(dead)}")
        self.model.begin_erase(dead)
        log.compact(lambda record: record.sequence in dead or record.sequence in self.model.erased)
        self.model.erase()
        self.model.compare(list(log.scan()), is_new_writer=False)

    def read_all(self) -> None:
        self.moves.append("read")
        _check_log(self.log, self.model)

    def close(self) -> None:
        self.moves.append("close")
        self.log.close()
        self.end()

    def kill_while_appending(self) -> None:
        """The next writer may find what was written and never synced."""
        log, batch = self.log, self._batch()
        dies_at = self.writer.die(self.rng.randint(1, 6))
        self.moves.append(f"append {[len(payload) for _, payload in batch]} and die in call {dies_at}")
        self.model.begin(batch)
        with contextlib.suppress(Killed):
            self.model.acknowledge(batch, log.append(parts_of(batch, self.rng)))
        self.end()

    def usurp(self) -> None:
        """Another writer takes over while this one sleeps; when it wakes up it goes on appending."""
        self.log  # noqa: B018  there is one to be taken over
        self.moves.append("another writer takes over")
        sleeping, self.session = self.session, None
        self.append()
        assert sleeping is not None
        with mock.patch.object(os, "getpid", return_value=os.getpid() + 1):  # or it took what the other makes ahead
            for _ in range(3):
                with contextlib.suppress(BufferFenced, BufferUnavailable):
                    sleeping.log.append([(RecordType.ADD, [self.rng.randbytes(1500)])])
        sleeping.end()

    def end(self) -> None:
        super().end()
        self.model.promised = min(self.model.promised, self.model.last)


def random_batch(rng: Random, sequence: int) -> list[Written]:
    """One to four records from `sequence` on: tiny, of a few sectors, of zeros, marked, or made to look like frames."""
    batch: list[Written] = []
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        size = rng.choice([0, 1, 7, 40, 200, 511, 700, 1500])
        shape = rng.random()
        payload = bytes(size) if shape < 0.1 else rng.randbytes(size)
        if shape > 0.5 and size >= 40:
            payload = MARK + rng.randbytes(size - len(MARK))
        elif shape > 0.35:
            payload = b"".join(_forged(sequence + each) for each in range(size // 48))
        batch.append((rng.choice(TYPES), payload))
    return batch


def _forged(sequence: int) -> bytes:
    """A frame of the records to come, right in all but the seed of its segment, which its maker cannot know."""
    frame, _ = pack_frame(
        RecordType.ADD, [b"forged"], sequence=sequence, epoch=1, durable=sequence - 1, seed=FORGED_SEED
    )
    return b"".join(frame)


def parts_of(batch: Sequence[Written], rng: Random) -> list[tuple[RecordType, list[bytes | memoryview]]]:
    """The payloads in two parts each, cut anywhere."""
    cut = [rng.randint(0, len(payload)) for _, payload in batch]
    return [(kind, [payload[:at], memoryview(payload)[at:]]) for (kind, payload), at in zip(batch, cut, strict=True)]


def _check_log(log: RecordLog, model: LogModel) -> None:
    """What is true of an open log at any time."""
    # Behind the last record that was found there may be a HOLE of records that were never acknowledged and then erased.
    if model.erased_soon.issuperset(range(model.last + 1, log.next_sequence)):
        model.last = max(model.last, log.next_sequence - 1)
    if log.next_sequence != model.last + 1:
        raise Violation("unstable", f"next sequence is {log.next_sequence} after {model.last}")
    for sequence, location in model.locations.items():
        kind, payload = model.records[sequence]
        try:
            record = log.read(location, sequence)
        except KeyError:
            if sequence < model.below_soon or sequence in model.erased_soon:
                continue
            raise Violation("lost", f"record {sequence} cannot be read") from None
        if sequence in model.erased:
            raise Violation("resurrected", f"record {sequence} was erased and can be read")
        if (record.sequence, record.type, bytes(record.payload)) != (sequence, kind, payload):
            raise Violation("changed", f"record {sequence} is read as {record.type.name}")


class LogCheck(Recovery[LogModel]):
    """Recovers a log from an image and holds it against the model, appends to it and recovers it again."""

    def check(self, image: Image) -> None:
        self._check_erased(image)
        self._check_reader()
        self._recover().end()
        self.is_recovered()
        session = self._recover()
        for payload in (b"appended", b"after recovery"):
            batch: list[Written] = [(RecordType.ADD, payload)]
            self.model.begin(batch)
            self.model.acknowledge(batch, session.log.append([(kind, [payload]) for kind, payload in batch]))
        session.log.close()
        session.end()
        self._recover().end()

    def _open(self) -> Session:
        epoch = self.model.epoch
        try:
            session = Session(self.storage(self.rng), self.disk, self.mutate)
        except BufferProblem as problem:
            raise Violation("refused", str(problem)) from problem
        if session.log.epoch < epoch:
            raise Violation("unstable", f"epoch {session.log.epoch} after {epoch}")
        self.model.epoch = session.log.epoch
        return session

    def _recover(self) -> Session:
        """After the first one the model knows what is there: another that finds anything else is a Violation."""
        session = self._open()
        self.model.compare([_kept(record) for record in _scan(session.log)], is_new_writer=True)
        _check_log(session.log, self.model)
        return session

    def _check_reader(self) -> None:
        """A reader that asks for what is promised gets it, whether or not a writer has recovered."""
        if not any(name.startswith("buffer/log/") for name in self._names()):
            return
        log = self.storage(self.rng).open(DIRECTORY, self.disk, "read")
        self.model.copy().compare(
            [_kept(record) for record in log.scan(until=self.model.promised)], is_new_writer=False
        )
        log.close()

    def _names(self) -> Iterator[str]:
        for name in self.disk.names(DIRECTORY / "log"):
            yield f"buffer/log/{name}"

    def _check_erased(self, image: Image) -> None:
        for sequence in self.model.erased:
            _, payload = self.model.records.get(sequence, (RecordType.HOLE, b""))
            if not payload.startswith(MARK):
                continue
            for name, number in image.files.items():
                if payload[:24] in image.contents[number]:
                    raise Violation("not erased", f"record {sequence} in {name}")


def _scan(log: RecordLog) -> Iterator[Record]:
    try:
        yield from log.scan()
    except BufferProblem as problem:
        raise Violation("refused", str(problem)) from problem


def _kept(record: Record) -> Record:
    return Record(record.sequence, record.type, bytes(record.payload), record.location)
