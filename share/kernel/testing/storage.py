"""The contract of a storage: it keeps its records, their places and their order."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path
from threading import Thread
from typing import Literal

from share.kernel.contracts.experience import Finding, Record, RecordType
from share.kernel.contracts.kinds import Storage
from share.kernel.errors import BufferCorrupt, BufferFenced, BufferProblem
from share.kernel.experience.disk import RealDisk
from share.kernel.testing.refusal import refused


def check_storage(storage: Storage, directory: Path) -> None:
    """A storage keeps its records, their places and their order, whoever else reads, writes or damages them.

    `directory` must be empty. A log is checked new, reopened, read beside a writer, taken over, erased from, cut off
    at its beginning, and damaged. What only a power cut shows is not checked here.
    """
    assert isinstance(storage, Storage), "a storage has `open` and `verify`"
    _check_log(storage, directory / "kept")
    _check_takeover(storage, directory / "taken")
    _check_erasure(storage, directory / "erased")
    _check_truncation(storage, directory / "truncated")
    _check_damage(storage, directory / "damaged")


def _check_log(storage: Storage, directory: Path) -> None:
    disk = RealDisk()
    with closing(storage.open(directory, disk, "write")) as log:
        assert log.next_sequence == 1, "the first record of a log has the sequence 1"
        assert list(log.scan()) == [], "a new log is empty"
        assert log.append([]) == [], "no record has no location"
        reader = storage.open(directory, disk, "read")
        locations = log.append([(RecordType.ADD, [b"one"])])
        parts: list[bytes | memoryview] = [memoryview(b"two"), b"", b"parts"]
        locations += log.append([(RecordType.ADD, parts), (RecordType.STATUS, [])])
        expected = [
            (1, RecordType.ADD, b"one", locations[0]),
            (2, RecordType.ADD, b"twoparts", locations[1]),
            (3, RecordType.STATUS, b"", locations[2]),
        ]
        assert len(set(locations)) == 3, "every record has a location of its own"
        assert log.next_sequence == 4, "sequences have no gaps"
        for each in (log, reader):
            assert [_told(record) for record in each.scan(until=3)] == expected, "what was appended is read, in order"
            assert [record.sequence for record in each.scan(1, until=2)] == [2], "a scan has after < sequence <= until"
            assert [_told(each.read(record[3], record[0])) for record in expected] == expected, "locations find records"
        with refused(BufferProblem, "a log that is open to read refuses to append"):
            reader.append([(RecordType.ADD, [b""])])
        epoch = log.epoch
        appender = Thread(target=lambda: [log.append([(RecordType.ADD, [b"x" * 3000])]) for _ in range(50)])
        appender.start()
        seen = 3
        while appender.is_alive() or seen < log.next_sequence - 1:
            last = log.next_sequence - 1
            records = list(reader.scan(seen, until=last))
            assert [record.sequence for record in records] == list(range(seen + 1, last + 1)), "readers follow a writer"
            seen = last
        reader.close()
        appender.join()
        assert log.size_bytes > 50 * 3000
    with closing(storage.open(directory, disk, "write")) as log:
        assert log.next_sequence == 54, "sequences go on where they were"
        assert log.cut is None, "a log that was closed ends cleanly"
        assert log.epoch > epoch, "every writer has a greater epoch"
        assert [_told(record) for record in log.scan(until=3)] == expected, "records and locations stay"
    assert _verified(storage, directory) == [], "nothing is wrong with a sound log"


def _check_takeover(storage: Storage, directory: Path) -> None:
    disk = RealDisk()
    with (
        closing(storage.open(directory, disk, "write")) as first,
        closing(storage.open(directory, disk, "write")) as second,
    ):
        second.append([(RecordType.ADD, [b"of the second"])])
        for _ in range(2):
            with refused(BufferFenced, "a writer that was overtaken is fenced for good"):
                first.append([(RecordType.ADD, [b"of the first"])])
        with closing(storage.open(directory, disk, "write")) as third:
            third.append([(RecordType.ADD, [b"of the third"])])
            with suppress(BufferFenced):  # or it goes where nobody reads: the lock of the buffer then tells
                second.append([(RecordType.ADD, [b"too late"])])
            third.append([(RecordType.ADD, [b"of the third"])])
    with closing(storage.open(directory, disk, "read")) as log:
        told = [bytes(record.payload) for record in log.scan()]
        assert told == [b"of the second", b"of the third", b"of the third"], "only the newest writer's records count"


def _check_erasure(storage: Storage, directory: Path) -> None:
    disk = RealDisk()
    with closing(storage.open(directory, disk, "write")) as log:
        payloads = [f"secret {number} ".encode() * 200 for number in range(1, 31)]
        locations = [log.append([(RecordType.ADD, [payload])])[0] for payload in payloads]
        dead = {3, 4, 5, 17, 30}
        num_bytes = log.compact(lambda record: record.sequence in dead)
        assert num_bytes == sum(len(payloads[sequence - 1]) for sequence in dead), "the bytes erased are told"
        assert log.compact(lambda record: record.sequence in dead) == 0, "what is erased is not asked for again"
        log.append([(RecordType.ADD, [b"after"])])
    modes: tuple[Literal["write", "read"], ...] = ("write", "read")
    for mode in modes:
        with closing(storage.open(directory, disk, mode)) as log:
            assert log.next_sequence == 32, "an erased record keeps its sequence"
            told = [record.sequence for record in log.scan()]
            assert told == [sequence for sequence in range(1, 32) if sequence not in dead], "erased ones are left out"
            for sequence, (location, payload) in enumerate(zip(locations, payloads, strict=True), 1):
                if sequence in dead:
                    with refused(KeyError, "an erased record is not found"):
                        log.read(location, sequence)
                else:
                    assert log.read(location, sequence).payload == payload, "what is not erased stays where it is"
    content = b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())
    for sequence, payload in enumerate(payloads, 1):
        part = payload[: len(payload) // 200]
        assert (part in content) == (sequence not in dead), f"record {sequence}: erased from every file, or kept"
    assert _verified(storage, directory) == [], "nothing is wrong with a compacted log"


def _check_truncation(storage: Storage, directory: Path) -> None:
    disk = RealDisk()
    with closing(storage.open(directory, disk, "write")) as log:
        for _ in range(20):
            locations = log.append([(RecordType.ADD, [b"y" * 5000])] * 20)
        assert log.truncate(1) == 0, "nothing is before the first"
        assert log.truncate(301) >= 0
        told = [record.sequence for record in log.scan()]
        assert told == list(range(told[0], 401)), "records go from the beginning only"
        assert told[0] <= 301, "no more than was asked for goes"
        assert log.read(locations[-1], 400).sequence == 400
        log.append([(RecordType.ADD, [b"after"])])
        log.truncate(402)
    with closing(storage.open(directory, disk, "write")) as log:
        assert log.next_sequence == 402, "sequences go on, whatever was truncated"
        log.append([(RecordType.ADD, [b"and on"])])
        assert [record.sequence for record in log.scan(401)] == [402]
    assert _verified(storage, directory) == [], "nothing is wrong with a truncated log"


def _check_damage(storage: Storage, directory: Path) -> None:
    disk = RealDisk()
    with closing(storage.open(directory, disk, "write")) as log:
        payloads = [f"<{number}>".encode() * 100 for number in range(1, 21)]
        locations = [log.append([(RecordType.ADD, [payload])])[0] for payload in payloads]
    for path in sorted(directory.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if payloads[9] in content:  # perhaps more than once: a database leaves copies behind when it splits a page
            damaged = payloads[9].replace(b"<10>", b"<14>", 1)
            path.write_bytes(content.replace(payloads[9], damaged))
    assert any("10" in finding.problem and finding.is_loss for finding in _verified(storage, directory)), (
        "verify names the damaged record as lost"
    )
    with (
        refused(BufferCorrupt, "damage to an acknowledged record is refused, not passed over"),
        closing(storage.open(directory, disk, "write")) as log,
    ):
        list(log.scan())
    with closing(storage.open(directory, disk, "write", salvage=True)) as log:
        told = [(record.sequence, record.location) for record in log.scan()]
    kept = [(sequence, location) for sequence, location in enumerate(locations, 1) if sequence != 10]
    assert told == kept, "salvage keeps all that is sound"
    with closing(storage.open(directory, disk, "write")) as log:
        assert [record.sequence for record in log.scan()] == [sequence for sequence, _ in kept], "and opens afterwards"
    assert not any(finding.is_loss for finding in _verified(storage, directory)), "nothing is left to salvage"


def _told(record: Record) -> tuple[int, RecordType, bytes, int]:
    return record.sequence, record.type, bytes(record.payload), record.location


def _verified(storage: Storage, directory: Path) -> list[Finding]:
    steps: list[tuple[int, int]] = []
    found = list(storage.verify(directory, RealDisk(), progress=lambda done, in_all: steps.append((done, in_all))))
    assert steps == sorted(steps), "progress goes forward"
    assert all(done <= in_all for done, in_all in steps), "and not beyond its end"
    return found


__all__ = ["check_storage"]
