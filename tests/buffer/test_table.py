"""Storages `lmdb` and `sqlite`: transactions, generations, and a full database."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest

from share.kernel.buffer.lmdb import LmdbStorage, LmdbStorageConfig
from share.kernel.buffer.sqlite import SqliteStorage, SqliteStorageConfig
from share.kernel.buffer.table import TableLog
from share.kernel.contracts.experience import RecordType
from share.kernel.contracts.kinds import Storage
from share.kernel.errors import BufferFenced, BufferFull, BufferUnavailable
from share.kernel.experience.disk import RealDisk
from tests.buffer.faults import FaultyDisk

STORAGES = {"lmdb": LmdbStorage(LmdbStorageConfig()), "sqlite": SqliteStorage(SqliteStorageConfig())}
each_storage = pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES)


def add(log: TableLog, *contents: bytes) -> list[int]:
    return log.append([(RecordType.ADD, [content]) for content in contents])


def told(log: TableLog) -> list[bytes]:
    return [bytes(record.payload) for record in log.scan()]


def generations(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "log").iterdir())


@each_storage
def test_opening_makes_nothing(tmp_path: Path, storage: Storage) -> None:
    for mode in ("write", "read"):
        with closing(storage.open(tmp_path, RealDisk(), mode)) as log:
            assert told(log) == []
    assert list(tmp_path.iterdir()) == []


@each_storage
@pytest.mark.parametrize("operation", ["rename", "sync_directory"])
def test_a_compaction_that_fails_at_any_step_loses_nothing_and_can_be_repeated(
    tmp_path: Path, storage: Storage, operation: str
) -> None:
    for k in range(10):
        directory = tmp_path / str(k)
        calls: list[str] = []
        is_broken = False

        def fails(asked: str, path: Path, k: int = k, operation: str = operation) -> OSError | None:
            if is_broken and asked == operation:  # noqa: B023
                calls.append(asked)  # noqa: B023
                return OSError(errno.EIO, "Input/output error") if len(calls) == k + 1 else None  # noqa: B023
            return None

        with closing(storage.open(directory, FaultyDisk(fails), "write")) as log:
            add(log, b"one" * 9, b"two" * 9)
            is_broken = True
            try:
                log.compact(lambda record: record.sequence == 1)
            except BufferUnavailable:
                assert told(log)[-1] == b"two" * 9
            is_broken = False
            add(log, b"three")
            log.compact(lambda record: record.sequence == 1)
            assert told(log) == [b"two" * 9, b"three"]
        with closing(storage.open(directory, RealDisk(), "write")) as log:
            assert told(log) == [b"two" * 9, b"three"]
        assert len(generations(directory)) == 1, "only the newest is kept"
        if len(calls) <= k:
            assert k >= 1
            return
    raise AssertionError("it never ends")


def test_a_log_that_says_it_has_more_than_it_has_room_for_is_told_at_once(tmp_path: Path) -> None:
    storage = STORAGES["sqlite"]
    with closing(storage.open(tmp_path, RealDisk(), "write")) as log:
        add(log, b"one", b"two")
    with closing(sqlite3.connect(next((tmp_path / "log").glob("*/log.sqlite")))) as database, database:
        database.execute("UPDATE log SET next = ?", (1 << 60,))
    (finding,) = storage.verify(tmp_path, RealDisk(), progress=lambda done, total: None)
    assert finding.is_loss
    assert f"records 1 to {(1 << 60) - 1}, for which it has no room" in finding.problem


@each_storage
def test_what_a_dead_compaction_left_behind_is_never_read(tmp_path: Path, storage: Storage) -> None:
    with closing(storage.open(tmp_path, RealDisk(), "write")) as log:
        add(log, b"kept")
    shutil.copytree(tmp_path / "log/0000000001", tmp_path / "log/0000000002.tmp")
    with closing(storage.open(tmp_path, RealDisk(), "write")) as log:
        assert told(log) == [b"kept"]
        add(log, b"more")
        assert generations(tmp_path) == ["0000000001"]


@each_storage
def test_an_old_writer_is_fenced_by_a_compaction(tmp_path: Path, storage: Storage) -> None:
    with closing(storage.open(tmp_path, RealDisk(), "write")) as old:
        add(old, b"old")
        with closing(storage.open(tmp_path, RealDisk(), "write")) as new:
            new.compact(lambda record: False)
            for _ in range(2):
                with pytest.raises(BufferFenced, match="another writer has taken over"):
                    add(old, b"too late")
            add(new, b"new")
    with closing(storage.open(tmp_path, RealDisk(), "read")) as log:
        assert told(log) == [b"old", b"new"]


@each_storage
def test_readers_go_on_through_compactions(tmp_path: Path, storage: Storage) -> None:
    with closing(storage.open(tmp_path, RealDisk(), "write")) as log:
        add(log, *[bytes([number]) * 100 for number in range(20)])
        with closing(storage.open(tmp_path, RealDisk(), "read")) as reader:
            assert len(told(reader)) == 20
            problems: list[BaseException] = []
            is_done = False

            def read(own: TableLog) -> None:
                try:
                    while not is_done:
                        assert own.read(20, 20).payload[0] == 19
                        assert len(list(own.scan(10))) >= 10
                except BaseException as problem:
                    problems.append(problem)

            threads = [Thread(target=read, args=(each,)) for each in (log, reader)]
            for thread in threads:
                thread.start()
            for dead in range(1, 6):
                log.compact(lambda record, dead=dead: record.sequence == dead)
                add(log, b"more")
            is_done = True
            for thread in threads:
                thread.join()
            assert problems == []
            assert [record.sequence for record in reader.scan(until=25)] == list(range(6, 26))


def test_a_full_lmdb_refuses_and_says_what_to_set(tmp_path: Path) -> None:
    storage = LmdbStorage(LmdbStorageConfig(bytes_max=1 << 20))
    with closing(storage.open(tmp_path, RealDisk(), "write")) as log:
        accepted = fill(log, lambda: add(log, bytes(10_000)))
        assert 50 < accepted < 105
        assert len(told(log)) == accepted
    with closing(STORAGES["lmdb"].open(tmp_path, RealDisk(), "write")) as log:
        add(log, b"more")
        assert len(told(log)) == accepted + 1


def fill(log: TableLog, call: Callable[[], object]) -> int:
    for accepted in range(1000):
        try:
            call()
        except BufferFull as error:
            assert "set bytes_max higher" in str(error)  # noqa: PT017
            return accepted
    raise AssertionError("it is never full")
