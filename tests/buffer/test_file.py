"""Storage `file`: what it asks of the disk, what it does when the disk refuses, and who else may be at work."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random

import pytest

from share.kernel.buffer.ahead import FIRST_BYTES, LARGE_BYTES
from share.kernel.buffer.chain import OPEN_FILES_MAX
from share.kernel.buffer.file import FileLog, FileStorage, FileStorageConfig
from share.kernel.contracts.experience import Record, RecordType
from share.kernel.errors import BufferFenced, BufferFull, BufferProblem, BufferUnavailable, ExperienceRefused
from share.kernel.experience import frame
from share.kernel.experience.disk import RealDisk
from tests.buffer.faults import SYNCING, WRITING, FaultyDisk, small_storage

STORAGE = small_storage()


def add(log: FileLog, *contents: bytes) -> list[int]:
    return log.append([(RecordType.ADD, [content]) for content in contents])


def told(log: FileLog) -> list[bytes]:
    return [bytes(record.payload) for record in log.scan()]


def reopened(directory: Path, storage: FileStorage = STORAGE) -> list[bytes]:
    with closing(storage.open(directory, FaultyDisk(), "write")) as log:
        return told(log)


def content_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((directory / "log").iterdir())}


def test_an_append_writes_once_and_syncs_once(tmp_path: Path) -> None:
    disk = FaultyDisk()
    with closing(small_storage(1 << 16).open(tmp_path, disk, "write")) as log:
        add(log, b"the first makes a segment")
        disk.operations.clear()
        for number in range(10):
            add(log, b"x" * number, b"y")
        assert disk.operations == ["pwrite", "sync"] * 10
        disk.operations.clear()
        told(log)
        log.read(1 << 40 | 64, 1)
        assert not SYNCING & set(disk.operations), "reading never syncs"


def test_a_segment_is_whole_and_durable_before_it_has_its_name_and_the_name_before_a_record(tmp_path: Path) -> None:
    disk = FaultyDisk()
    with closing(STORAGE.open(tmp_path, disk, "write")) as log:
        add(log, b"x")
    writes = [operation for operation in disk.operations if operation in WRITING | SYNCING]
    assert writes[:3] == ["make_directory", "sync_directory", "sync_directory"]
    assert writes[3:] == [
        *("unlink", "create", "pwrite", "sync"),  # zeros, in a file that is surely a new one
        *("pwrite", "sync"),  # the header
        *("link", "unlink", "sync_directory"),
        *("pwrite", "sync"),  # the record
    ]


def test_opening_changes_nothing_however_often(tmp_path: Path) -> None:
    with closing(STORAGE.open(tmp_path, FaultyDisk(), "write")) as log:
        add(log, b"x" * 3000)
        add(log, b"y" * 3000, b"z")
    path = sorted((tmp_path / "log").iterdir())[-1]
    path.write_bytes(path.read_bytes().replace(b"y" * 3000, b"y" * 2999 + b"\0"))  # torn
    before = content_of(tmp_path)
    for mode in ("write", "write", "read"):
        disk = FaultyDisk()
        with closing(STORAGE.open(tmp_path, disk, mode)) as log:
            assert told(log) == [b"x" * 3000]
        assert not WRITING & set(disk.operations)
        assert content_of(tmp_path) == before


def test_what_a_dead_writer_left_behind_is_removed_by_name_only(tmp_path: Path) -> None:
    with closing(STORAGE.open(tmp_path, FaultyDisk(), "write")) as log:
        add(log, b"kept")
    segment = tmp_path / "log/0000000001.segment"
    os.link(segment, tmp_path / "log/next-1.99.tmp")  # it died between the link and the unlink
    assert reopened(tmp_path) == [b"kept"]
    assert list(content_of(tmp_path)) == [segment.name]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EMFILE])
def test_whichever_call_fails_nothing_acknowledged_is_lost_and_nothing_refused_is_read(
    tmp_path: Path, number: int
) -> None:
    """The same work with its first, second, … change or sync failing once, until none is left to fail."""
    for k in range(1000):
        directory = tmp_path / str(k)
        count = 0

        def fails(operation: str, path: Path, k: int = k) -> OSError | None:
            nonlocal count
            if operation not in WRITING | SYNCING | {"open_to_write"}:
                return None
            count += 1
            return OSError(number, os.strerror(number)) if count == k + 1 else None

        disk = FaultyDisk(fails)
        expected, refused = work(directory, disk)
        assert reopened(directory) == expected, f"call {k}"
        assert not any(finding.is_loss for finding in STORAGE.verify(directory, FaultyDisk(), progress=silent))
        if count <= k:
            assert k > 60, "the work has become too little to show anything"
            assert refused == 0
            return
        shutil.rmtree(directory)
    raise AssertionError("it never ends")


def work(directory: Path, disk: FaultyDisk) -> tuple[list[bytes], int]:
    """What must be in the log after it, and how many calls were refused. Everything refused is tried again."""
    expected: list[bytes] = []
    refused = 0
    num_may_go = 0  # what was truncated goes at once or with a segment that is begun later

    def check(log: FileLog, erasing: Collection[bytes] = ()) -> None:
        found, ours = ([each for each in contents if each not in erasing] for contents in (told(log), expected))
        assert len(ours) - len(found) <= num_may_go
        assert found == ours[len(ours) - len(found) :]

    def insist(call: Callable[[], object], erasing: Collection[bytes] = ()) -> None:
        nonlocal refused
        for _ in range(3):
            try:
                call()
            except (BufferFull, BufferUnavailable):
                refused += 1
                check(log, erasing)  # reading goes on
            else:
                return
        raise AssertionError("one failure must not be felt more often")

    with contextlib.ExitStack() as stack:
        log = stack.enter_context(closing(STORAGE.open(directory, disk, "write")))
        for number in range(12):
            batch = [bytes([number, part]) * 350 for part in range(1 + number % 3)]
            insist(partial(add, log, *batch))
            expected += batch
            if number == 6:
                dead: list[bytes] = [expected[2], expected[3], expected[6]]
                insist(partial(log.compact, partial(is_among, dead)), dead)
                expected = [content for content in expected if content not in dead]
            if number == 8:
                with contextlib.suppress(BufferProblem):
                    log.truncate(log.next_sequence - 4)
                num_may_go = len(expected) - 4
            check(log)
        return told(log), refused


def is_among(dead: Collection[bytes], record: Record) -> bool:
    return record.payload in dead


def silent(done: int, in_all: int) -> None:
    pass


def test_after_a_failed_sync_the_data_is_not_trusted_even_if_it_can_be_read(tmp_path: Path) -> None:
    is_broken = False

    def fails(operation: str, path: Path) -> OSError | None:
        return OSError(errno.EIO, "Input/output error") if is_broken and operation == "sync" else None

    with closing(STORAGE.open(tmp_path, FaultyDisk(fails), "write")) as log:
        add(log, b"before")
        is_broken = True
        for _ in range(3):
            with pytest.raises(BufferUnavailable, match=r"Input/output error; nothing was accepted"):
                add(log, b"refused")
            assert told(log) == [b"before"], "reading goes on"
        is_broken = False
        assert add(log, b"after") == [2 << 40 | 64], "in a new segment, whose header cuts the old one"
        assert told(log) == [b"before", b"after"]
    assert reopened(tmp_path) == [b"before", b"after"]
    assert len(list((tmp_path / "log").iterdir())) == 2, "a disk that stays broken is not filled with segments"


def test_an_interrupted_append_leaves_nothing_that_could_be_taken_for_the_next_one(tmp_path: Path) -> None:
    is_interrupted = False

    def fails(operation: str, path: Path) -> BaseException | None:
        return KeyboardInterrupt() if is_interrupted and operation == "sync" else None

    with closing(STORAGE.open(tmp_path, FaultyDisk(fails), "write")) as log:
        add(log, b"before")
        is_interrupted = True
        with pytest.raises(KeyboardInterrupt):
            add(log, b"first.", b"second")
        is_interrupted = False
        add(log, b"third.")  # as long as the first: the second would follow it in place
    assert reopened(tmp_path) == [b"before", b"third."]


def test_a_full_disk_refuses_to_append_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    is_full = False

    def fails(operation: str, path: Path) -> OSError | None:
        return OSError(errno.ENOSPC, "No space left on device") if is_full and operation == "create" else None

    with closing(STORAGE.open(tmp_path, FaultyDisk(fails), "write")) as log:
        add(log, b"x" * 1500)
        is_full = True
        add(log, b"y" * 1500)  # past the half: the next segment cannot be made ahead, and nobody minds yet
        for _ in range(2):
            with pytest.raises(BufferFull, match="No space left on device; nothing was accepted: free space"):
                add(log, b"z" * 1500)
        assert [content[:1] for content in told(log)] == [b"x", b"y"]
        assert not [name for name in content_of(tmp_path) if name.endswith(".tmp")], "what was made in part is gone"
        is_full = False
        add(log, b"z" * 1500)
    assert [content[:1] for content in reopened(tmp_path)] == [b"x", b"y", b"z"]


def test_a_read_only_disk_can_be_read_and_refuses_to_append(tmp_path: Path) -> None:
    with closing(STORAGE.open(tmp_path, FaultyDisk(), "write")) as log:
        add(log, b"one", b"two")
    (tmp_path / "log/left.tmp").touch()

    def fails(operation: str, path: Path) -> OSError | None:
        is_refused = operation in WRITING or operation == "open_to_write"
        return OSError(errno.EROFS, "Read-only file system") if is_refused else None

    with closing(STORAGE.open(tmp_path, FaultyDisk(fails), "write")) as log:
        assert told(log) == [b"one", b"two"]
        with pytest.raises(BufferUnavailable, match="Read-only file system"):
            add(log, b"three")
        assert told(log) == [b"one", b"two"]


def test_an_unreadable_sector_is_an_error_that_names_the_log(tmp_path: Path) -> None:
    is_broken = False

    def fails(operation: str, path: Path) -> OSError | None:
        return OSError(errno.EIO, "Input/output error") if is_broken and operation == "pread" else None

    with closing(STORAGE.open(tmp_path, FaultyDisk(fails), "write")) as log:
        (location,) = add(log, b"x")
        is_broken = True
        with pytest.raises(BufferUnavailable, match=f"{tmp_path}/log: cannot be read: Input/output error"):
            log.read(location, 1)
        with pytest.raises(BufferUnavailable, match="cannot be read"):
            told(log)
        is_broken = False
        assert log.read(location, 1).payload == b"x"


def test_a_writer_that_was_overtaken_is_fenced_at_the_next_segment(tmp_path: Path) -> None:
    with closing(STORAGE.open(tmp_path, FaultyDisk(), "write")) as old:
        add(old, b"old")
        with closing(STORAGE.open(tmp_path, FaultyDisk(), "write")) as new:
            add(new, b"new")
            assert new.epoch > old.epoch
            for _ in range(2):
                with pytest.raises(BufferFenced, match="another writer has taken over"):
                    add(old, b"x" * 4096)
            add(new, b"newer")
    assert reopened(tmp_path) == [b"old", b"new", b"newer"]


def test_the_file_of_an_evicted_segment_is_used_again_and_its_frames_never_count(tmp_path: Path) -> None:
    with closing(STORAGE.open(tmp_path, FaultyDisk(), "write")) as log:
        for number in range(8):
            add(log, b"%d" % number * 900)
        evicted = (tmp_path / "log/0000000001.segment").stat().st_ino
        reader = STORAGE.open(tmp_path, FaultyDisk(), "read")
        behind = reader.scan(until=8)
        assert next(behind).sequence == 1
        assert log.truncate(5) == 0, "it goes when the next segment is begun, which costs nothing"
        for number in range(8, 12):
            add(log, b"%d" % (number % 10) * 900)
        first = next(log.scan()).sequence
        assert 1 < first <= 5
        for number in range(12, 30):
            add(log, b"%d" % (number % 10) * 900)
        inodes = {path.stat().st_ino for path in (tmp_path / "log").glob("*.segment")}
        assert evicted in inodes
        numbers = [record.sequence for record in behind]
        assert numbers == sorted(numbers), "a reader that stayed behind reads no half record and nothing twice"
        assert numbers[-1] == 8
        with pytest.raises(KeyError):
            reader.read(1 << 40 | 64, 1)
        reader.close()
        expected = told(log)
        *_, (ordinal, offset) = [divmod(record.location, 1 << 40) for record in log.scan()]
    assert reopened(tmp_path) == expected
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("copy"))
    path = tmp_path / f"copy/log/{ordinal:010}.segment"
    kept = path.read_bytes()
    path.write_bytes(kept[:offset] + bytes(8) + kept[offset + 8 :])  # torn, with old frames behind it
    assert reopened(tmp_path / "copy") == expected[:-1]


def test_much_that_is_truncated_goes_at_once(tmp_path: Path) -> None:
    with closing(STORAGE.open(tmp_path, FaultyDisk(), "write")) as log:
        for number in range(40):
            add(log, bytes([number]) * 900)
        before = log.size_bytes
        num_bytes = log.truncate(35)
        assert num_bytes > 2 * 4096
        assert log.size_bytes < before
        assert 1 < next(log.scan()).sequence <= 35


def test_evicted_files_are_kept_for_the_segments_to_come_but_no_more_than_a_share(tmp_path: Path) -> None:
    def files() -> tuple[int, ...]:
        return tuple(len([*(tmp_path / "log").glob(pattern)]) for pattern in ("*.segment", "next-*"))

    with closing(STORAGE.open(tmp_path, FaultyDisk(), "write")) as log:
        for number in range(80):
            add(log, bytes([number]) * 900)
        segments, _ = files()
        log.truncate(61)
        kept, spares = files()
        assert kept < segments
        assert 1 <= spares <= 1 + kept // 4
        log.compact(lambda record: False)
        assert files()[1] == 0, "compaction gives back what may hold erased records"


def test_what_many_sweeps_leave_behind_goes_with_later_ones(tmp_path: Path) -> None:
    with closing(FileStorage(FileStorageConfig(), random=Random(1)).open(tmp_path, FaultyDisk(), "write")) as log:
        for _ in range(30):
            add(log, b"an experience")
            kept_from = log.next_sequence - 3
            log.truncate(kept_from)
            log.compact(lambda record, kept_from=kept_from: record.sequence < kept_from)  # type: ignore[misc]
        assert len([*(tmp_path / "log").glob("*.segment")]) <= 5
        assert [record.sequence for record in log.scan()] == [28, 29, 30]


def test_a_file_for_large_appends_is_not_written_twice(tmp_path: Path) -> None:
    def written(append_bytes: int) -> int:
        place = tmp_path / str(append_bytes)
        with closing(FileStorage(FileStorageConfig(), random=Random(1)).open(place, RealDisk(), "write")) as log:
            while (last := sum(1 for _ in (place / "log").glob("*.segment"))) < 3:
                add(log, bytes(append_bytes))
        segment = (place / f"log/{last:010}.segment").stat()
        assert segment.st_size == 16 << 20
        return 512 * segment.st_blocks

    assert written(LARGE_BYTES) < 1 << 20
    assert written(LARGE_BYTES // 4) >= 16 << 20


def test_two_writers_of_one_process_id_make_files_of_their_own_ahead(tmp_path: Path) -> None:
    with closing(STORAGE.open(tmp_path, FaultyDisk(), "write")) as old:
        add(old, b"x" * 2500)
        with closing(STORAGE.open(tmp_path, FaultyDisk(), "write")) as new:
            for _ in range(6):
                add(new, b"y" * 2500)
                with pytest.raises(BufferProblem):
                    add(old, b"z" * 2500)
    assert reopened(tmp_path) == [b"x" * 2500, *[b"y" * 2500] * 6]


def test_compaction_leaves_no_byte_of_what_was_evicted_or_erased(tmp_path: Path) -> None:
    with closing(STORAGE.open(tmp_path, FaultyDisk(), "write")) as log:
        for number in range(1, 41):
            add(log, b"<%d>" % number * 200)
            if number % 10 == 0:
                log.truncate(number - 5)  # so that files are used again
        dead = {35, 38, 40}
        log.compact(lambda record: record.sequence in dead)
        alive = {record.sequence for record in log.scan()}
        content = b"".join(content_of(tmp_path).values())
        for number in range(1, 41):
            assert (b"<%d>" % number in content) == (number in alive), number


def test_a_reader_sees_a_compaction_when_it_reads_from_the_beginning(tmp_path: Path) -> None:
    with closing(STORAGE.open(tmp_path, FaultyDisk(), "write")) as log:
        locations = add(log, b"one" * 9, b"two" * 9, b"three" * 9)
        with closing(STORAGE.open(tmp_path, FaultyDisk(), "read")) as reader:
            assert len(told(reader)) == 3
            log.compact(lambda record: record.sequence <= 2)
            assert told(reader) == [b"three" * 9]
            for number in (0, 1):
                with pytest.raises(KeyError):
                    reader.read(locations[number], number + 1)


def test_open_files_are_bounded(tmp_path: Path) -> None:
    with closing(STORAGE.open(tmp_path, FaultyDisk(), "write")) as log:
        locations = [add(log, bytes([number]) * 3900)[0] for number in range(100)]
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(2):
            for sequence, location in enumerate(locations, 1):
                assert log.read(location, sequence).payload[0] == sequence - 1
        assert len(told(log)) == 100
        assert len(os.listdir("/proc/self/fd")) <= before + OPEN_FILES_MAX + 2


def test_segments_begin_small_and_are_made_ahead(tmp_path: Path) -> None:
    storage = FileStorage(FileStorageConfig(), random=Random(1))
    with closing(storage.open(tmp_path, FaultyDisk(), "write")) as log:
        for _ in range(12):
            add(log, bytes(1 << 19))
        sizes = [path.stat().st_size for path in sorted((tmp_path / "log").glob("*.segment"))]
        assert sizes[:2] == [FIRST_BYTES, 4 * FIRST_BYTES]
    assert len(reopened(tmp_path)) == 12


def test_a_batch_may_be_longer_than_a_segment_and_stays_together(tmp_path: Path) -> None:
    with closing(STORAGE.open(tmp_path, FaultyDisk(), "write")) as log:
        add(log, b"x")
        locations = add(log, *[bytes(1000)] * 20)
        assert len({location >> 40 for location in locations}) == 1
    assert len(reopened(tmp_path)) == 21


def test_a_record_that_is_too_long_is_refused_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame, "PAYLOAD_BYTES_MAX", 1000)
    with closing(STORAGE.open(tmp_path, FaultyDisk(), "write")) as log:
        add(log, b"x")
        with pytest.raises(ExperienceRefused, match="a record of 1,001 bytes; at most 1,000"):
            add(log, b"y", bytes(1001))
        add(log, b"z")
    assert reopened(tmp_path) == [b"x", b"z"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, where this process may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=4m none {place} 2>/dev/null") != 0:
        pytest.skip("needs to mount a file system")
    yield place
    os.system(f"umount {place}")


def test_a_really_full_disk_refuses_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    storage = FileStorage(FileStorageConfig(segment_bytes=1 << 20))
    (small_disk / "ballast").write_bytes(bytes(1 << 20))
    accepted = 0
    with closing(storage.open(small_disk, RealDisk(), "write")) as log:
        with contextlib.suppress(BufferFull):
            while accepted < 100:
                add(log, bytes(100_000))
                accepted += 1
        assert 10 < accepted < 50
        assert len(told(log)) == accepted
        (small_disk / "ballast").unlink()
        add(log, bytes(100_000))
    with closing(storage.open(small_disk, RealDisk(), "write")) as log:
        assert len(told(log)) == accepted + 1
