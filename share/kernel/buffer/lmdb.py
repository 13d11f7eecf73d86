"""Storage `lmdb`: the log in a memory-mapped B-tree, which needs no recovery. It syncs twice a transaction."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from struct import Struct
from typing import ClassVar, Literal

import lmdb
from pydantic import Field

from share.kernel.buffer.lmdb_pages import LmdbPages
from share.kernel.buffer.quiet import Quiet
from share.kernel.buffer.table import BATCH_BYTES, Bounds, TableLog, table_findings
from share.kernel.config import ConfigModel
from share.kernel.contracts.experience import Finding
from share.kernel.errors import BufferCorrupt, BufferFull, BufferProblem, BufferUnavailable
from share.kernel.experience.disk import Disk

_KEY = Struct(">Q")
_META = Struct("<QQQ")  # first, next and epoch, under the key of sequence 0


_READ = """
import lmdb, os, sys
with lmdb.open(sys.argv[1], map_size=1 << 46, readonly=True, lock=os.access(sys.argv[1] + "/lock.mdb", os.W_OK)) as log:
    with log.begin() as transaction:
        last = b""
        for key, _ in transaction.cursor():
            if key <= last:
                sys.exit(3)
            last = key
"""
"""Reads all of a database, in a process of its own. That ends, however the tree is broken: keys that only grow are no
more than the file has room for, and where they do not, the tree leads back to where it was."""
_ROUND_AND_ROUND = 3


class LmdbStorageConfig(ConfigModel):
    """The log in LMDB."""

    bytes_max: int = Field(default=1 << 38, ge=1 << 20, le=1 << 46)
    """Most bytes the log may have: as much address space is reserved, but no space on the disk."""


class LmdbStorage:
    """Frames in LMDB by sequence; see `TableLog`."""

    def __init__(self, config: LmdbStorageConfig) -> None:
        self._config = config

    def open(
        self, directory: Path, disk: Disk, mode: Literal["write", "read"], /, *, salvage: bool = False
    ) -> TableLog:
        """See `Storage.open`."""
        open_table = partial(LmdbTable, bytes_max=self._config.bytes_max)
        wreck = LmdbPages if salvage else None
        return TableLog(directory / "log", disk, open_table, to_write=mode == "write", salvage=wreck)

    def verify(self, directory: Path, disk: Disk, /, *, progress: Callable[[int, int], None]) -> Iterator[Finding]:
        """See `Storage.verify`. A child looks first: a number that leads out of the file ends the process by SIGBUS,
        one to a page of another kind by SIGABRT, and pages that many numbers lead to are gone through as often."""
        for path in sorted((directory / "log").glob("*/data.mdb"))[-1:]:
            read = None
            with contextlib.suppress(OSError):  # where no process can be started this one looks, at its own risk
                read = subprocess.run([sys.executable, "-c", _READ, path.parent], capture_output=True, check=False)
            if read is not None and read.returncode < 0:
                name = signal.Signals(-read.returncode).name
                yield Finding(str(path), 0, f"its tree cannot be followed: it ends its reader by {name}", True)
                return
            if read is not None and read.returncode == _ROUND_AND_ROUND:
                yield Finding(str(path), 0, "its tree leads back to where it was: its keys are not in order", True)
                return
        open_table = partial(LmdbTable, bytes_max=self._config.bytes_max)
        yield from table_findings(directory / "log", disk, open_table, progress)


class LmdbTable:
    """See `Table`."""

    def __init__(self, directory: Path, to_write: bool, *, bytes_max: int) -> None:
        self._directory = directory
        self._bytes_max = bytes_max
        with self._asking():
            self._shared = _Shared.of(directory, to_write, bytes_max)
        self._environment = self._shared.environment

    def bounds(self) -> Bounds:
        with self._reading() as transaction:
            first, following, epoch = self._meta(transaction)
            return Bounds(first, following - 1, epoch)

    def append(self, frames: Sequence[tuple[int, bytes]], *, seen: int, epoch: int) -> bool:
        with self._asking(), self._environment.begin(write=True) as transaction:
            first, following, current = self._meta(transaction)
            if current != seen:
                transaction.abort()
                return False
            for sequence, content in frames:
                transaction.put(_KEY.pack(sequence), content, append=True)
                following = sequence + 1
            transaction.put(_KEY.pack(0), _META.pack(first, following, epoch))
        return True

    def get(self, sequence: int) -> bytes | None:
        with self._reading() as transaction:
            content = transaction.get(_KEY.pack(sequence))
            return None if content is None else bytes(content)

    def range(self, after: int, until: int) -> list[tuple[int, bytes]]:
        found, size = [], 0
        with self._reading() as transaction, transaction.cursor() as cursor:
            if cursor.set_range(_KEY.pack(after + 1)):
                for key, content in cursor:
                    (sequence,) = _KEY.unpack(key)
                    if sequence > until or size >= BATCH_BYTES:
                        break
                    found.append((sequence, bytes(content)))
                    size += len(content)
        return found

    def drop(self, before: int) -> None:
        with self._asking(), self._environment.begin(write=True) as transaction:
            first, following, epoch = self._meta(transaction)
            for sequence in range(first, min(before, following)):
                transaction.delete(_KEY.pack(sequence))
            transaction.put(_KEY.pack(0), _META.pack(before, max(following, before), epoch))

    def problems(self) -> Iterator[str]:
        return iter(())  # LMDB keeps no checksums: those of the frames tell

    @property
    def size_bytes(self) -> int:
        return (self._directory / "data.mdb").stat().st_size

    def close(self) -> None:
        self._shared.give_back()

    def _meta(self, transaction: lmdb.Transaction) -> tuple[int, int, int]:
        content = transaction.get(_KEY.pack(0))
        if content is None:
            return 1, 1, 0
        first, following, epoch = _META.unpack(content)
        return first, following, epoch

    @contextlib.contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction]:
        quiet = self._shared.quiet
        unlocked = quiet.reading() if quiet else contextlib.nullcontext()
        with self._asking(), unlocked, self._environment.begin() as transaction:
            yield transaction

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except lmdb.Error as error:
            raise self._problem(error) from error

    def _problem(self, error: lmdb.Error) -> BufferProblem:
        reason = str(error)
        if isinstance(error, lmdb.MapFullError):
            return BufferFull(f"{self._directory}: {self._bytes_max:,} bytes are full; set bytes_max higher")
        if any(os.strerror(number) in reason for number in (errno.ENOSPC, errno.EDQUOT)):
            return BufferFull(f"{self._directory}: {reason}; nothing was accepted: free space and try again")
        if isinstance(error, lmdb.CorruptedError | lmdb.InvalidError | lmdb.PageNotFoundError):
            return BufferCorrupt(f"{self._directory}: {reason}")
        return BufferUnavailable(f"{self._directory}: {reason}; open the buffer again when the cause is gone")


class _Shared:
    """An open environment and how many use it: a process may open one only once, to write and to read together."""

    _lock = threading.Lock()
    _open: ClassVar[dict[tuple[int, str], _Shared]] = {}  # by process, for a fork must not use its parent's, and path

    def __init__(self, key: tuple[int, str], environment: lmdb.Environment, quiet: Quiet | None) -> None:
        self.environment = environment
        self.quiet = quiet
        self._key = key
        self._users = 0

    @classmethod
    def of(cls, directory: Path, to_write: bool, bytes_max: int) -> _Shared:
        key = os.getpid(), os.path.realpath(directory)
        with cls._lock:
            shared = cls._open.get(key)
            if shared is None:
                is_writable, is_lockable = (_may_write(directory, name) for name in ("data.mdb", "lock.mdb"))
                environment = lmdb.open(
                    key[1],
                    map_size=bytes_max,
                    readonly=not (is_writable and is_lockable),
                    lock=is_lockable,
                    create=to_write,
                    max_spare_txns=8,
                )
                try:
                    quiet = None if is_lockable else Quiet(directory / "data.mdb")
                except BaseException:
                    environment.close()
                    raise
                shared = cls._open[key] = cls(key, environment, quiet)
            shared._users += 1
            return shared

    def give_back(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                del self._open[self._key]
                self.environment.close()


def _may_write(directory: Path, name: str) -> bool:
    path = directory / name
    return os.access(path if path.exists() else directory, os.W_OK)


__all__ = ["LmdbStorage", "LmdbStorageConfig", "LmdbTable"]
