"""What is done while the disk works is seen by nobody before the disk has done its work, and by nobody if it fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from share.kernel.config import Choice
from share.kernel.contracts.experience import RecordType
from share.kernel.contracts.kinds import RecordLog, Storage
from share.kernel.errors import BufferUnavailable
from share.kernel.experience.disk import RealDisk, RealFile
from share.kernel.experience.reader import ExperienceReader
from share.kernel.registry import Registry
from tests.experience.making import experience, opened

STORAGES = ["file", "lmdb", "sqlite"]


class WatchedDisk(RealDisk):
    """Calls `watch` before each sync of a segment."""

    def __init__(self) -> None:
        self.watch: Callable[[], None] = lambda: None

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> RealFile:
        flags = os.O_RDWR if write or create else os.O_RDONLY
        descriptor = os.open(path, flags | (os.O_CREAT | os.O_TRUNC if create else 0) | os.O_CLOEXEC, 0o644)
        is_segment = path.parent.name == "log" and write and not create
        return WatchedFile(descriptor, self) if is_segment else RealFile(descriptor)


class WatchedFile(RealFile):
    def __init__(self, descriptor: int, disk: WatchedDisk) -> None:
        super().__init__(descriptor)
        self._disk = disk

    def sync(self) -> None:
        self._disk.watch()
        super().sync()


@pytest.mark.parametrize("num_before", [1, 63, 511, 575])
def test_an_add_is_seen_by_nobody_before_it_is_durable(tmp_path: Path, registry: Registry, num_before: int) -> None:
    """Also where the add moves rows of the tail among the sketches, or makes a new tail."""
    disk = WatchedDisk()
    with opened(tmp_path, registry, disk=disk) as buffer, ExperienceReader(tmp_path, registry) as reader:
        buffer.add_many([experience(number) for number in range(num_before)])
        new = experience("new")
        seen = []

        def look() -> None:
            for each in (buffer, reader):
                seen.append([neighbor.id for neighbor in each.search_index(new.embedding, 10)])
                assert len(each) == num_before
                assert each.get("enew") is None

        disk.watch = look
        buffer.add(new)
        disk.watch = lambda: None
        assert seen
        assert not any("enew" in ids for ids in seen)
        for each in (buffer, reader):
            assert each.search_index(new.embedding, 1)[0].id == "enew"
            assert len(each) == num_before + 1


@pytest.mark.parametrize("num_before", [1, 63, 511, 575])
def test_what_was_prepared_of_a_refused_add_leaves_no_trace(
    tmp_path: Path, registry: Registry, num_before: int
) -> None:
    disk = WatchedDisk()

    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with opened(tmp_path, registry, disk=disk) as buffer:
        buffer.add_many([experience(number) for number in range(num_before)])
        disk.watch = fail
        with pytest.raises(BufferUnavailable):
            buffer.add(experience("refused"))
        disk.watch = lambda: None
        buffer.add_many([experience("other"), experience("one more")])
        similar = buffer.search_index(experience("refused").embedding, num_before + 2)
        assert len(similar) == num_before + 2
        assert max(neighbor.similarity for neighbor in similar) < 0.99
        for name in ("other", "one more", 0):
            nearest = buffer.search_index(experience(name).embedding, 1)[0]
            assert nearest.id == f"e{name}"
            assert nearest.similarity == pytest.approx(1, abs=2e-3)


def test_an_index_that_comes_between_preparing_and_adding_is_kept(tmp_path: Path, registry: Registry) -> None:
    disk = WatchedDisk()
    with opened(tmp_path, registry, disk=disk) as buffer:
        buffer.add_many([experience(number) for number in range(100)])
        buffer.rebuild()
        retriever = buffer._memory.retriever
        built = retriever._state.base
        assert built is not None
        disk.watch = lambda: retriever.set_base(built, 50)
        buffer.add(experience("new"))
        disk.watch = lambda: None
        assert retriever._state.base_stop == 50
        assert buffer.search_index(experience("new").embedding, 1)[0].id == "enew"


@contextmanager
def log_of(storage: str, directory: Path, registry: Registry) -> Iterator[RecordLog]:
    made: Storage = registry.build(Choice("buffer", storage))
    log = made.open(directory, RealDisk(), "write")
    try:
        yield log
    finally:
        log.close()


@pytest.mark.parametrize("storage", STORAGES)
def test_what_fails_meanwhile_refuses_the_append(tmp_path: Path, registry: Registry, storage: str) -> None:
    calls = []

    def fail() -> None:
        calls.append("fail")
        raise BufferUnavailable("no room")

    with log_of(storage, tmp_path, registry) as log:
        log.append([(RecordType.ADD, [b"one"])], lambda: calls.append("one"))
        with pytest.raises(BufferUnavailable, match="no room"):
            log.append([(RecordType.ADD, [b"two"])], fail)
        assert [bytes(record.payload) for record in log.scan()] == [b"one"]
        log.append([(RecordType.ADD, [b"three"])])
        assert calls == ["one", "fail"]
    with log_of(storage, tmp_path, registry) as log:
        found = [(record.sequence, bytes(record.payload)) for record in log.scan()]
    assert found == [(1, b"one"), (2, b"three")]


def test_beginning_to_write_changes_nothing_that_is_read(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(10_000)
    file = RealDisk().open(tmp_path / "a", create=True)
    file.pwrite([content], 100)
    file.begin_sync(100, len(content))
    file.sync()
    assert file.pread(20_000, 100) == content
    file.close()


def test_beginning_to_write_tells_what_the_disk_says(tmp_path: Path) -> None:
    file = RealDisk().open(tmp_path / "a", create=True)
    file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.begin_sync(0, 10)
