"""Storage `lmdb`: the log in a memory-mapped B-tree, which needs no recovery. It syncs twice a transaction."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from struct import Struct
from typing import ClassVar, Literal

import lmdb
from pydantic import Field

from share.kernel.buffer.table import BATCH_BYTES, Bounds, TableLog, table_findings
from share.kernel.config import ConfigModel
from share.kernel.contracts.experience import Finding
from share.kernel.errors import BufferCorrupt, BufferFull, BufferProblem, BufferUnavailable
from share.kernel.experience.disk import Disk

_KEY = Struct(">Q")
_META = Struct("<QQQ")  # first, next and epoch, under the key of sequence 0


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
        return TableLog(directory / "log", disk, open_table, to_write=mode == "write", salvage=salvage)

    def verify(self, directory: Path, disk: Disk, /, *, progress: Callable[[int, int], None]) -> Iterator[Finding]:
        """See `Storage.verify`."""
        open_table = partial(LmdbTable, bytes_max=self._config.bytes_max)
        return table_findings(directory / "log", disk, open_table, progress)


class LmdbTable:
    """See `Table`."""

    def __init__(self, directory: Path, to_write: bool, *, bytes_max: int) -> None:
        self._directory = directory
        self._bytes_max = bytes_max
        with self._asking():
            self._shared = _Shared.of(directory, to_write, bytes_max)
        self._environment = self._shared.environment

    def bounds(self) -> Bounds:
        with self._asking(), self._environment.begin() as transaction:
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
        with self._asking(), self._environment.begin() as transaction:
            content: bytes | None = transaction.get(_KEY.pack(sequence))
            return content

    def range(self, after: int, until: int) -> list[tuple[int, bytes]]:
        found, size = [], 0
        with self._asking(), self._environment.begin() as transaction, transaction.cursor() as cursor:
            if cursor.set_range(_KEY.pack(after + 1)):
                for key, content in cursor:
                    (sequence,) = _KEY.unpack(key)
                    if sequence > until or size >= BATCH_BYTES:
                        break
                    found.append((sequence, content))
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

    def __init__(self, key: tuple[int, str], environment: lmdb.Environment) -> None:
        self.environment = environment
        self._key = key
        self._users = 0

    @classmethod
    def of(cls, directory: Path, to_write: bool, bytes_max: int) -> _Shared:
        key = os.getpid(), os.path.realpath(directory)
        with cls._lock:
            shared = cls._open.get(key)
            if shared is None:
                is_writable = os.access(directory, os.W_OK)
                environment = lmdb.open(
                    key[1], map_size=bytes_max, readonly=not is_writable, create=to_write, max_spare_txns=8
                )
                shared = cls._open[key] = cls(key, environment)
            shared._users += 1
            return shared

    def give_back(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                del self._open[self._key]
                self.environment.close()


__all__ = ["LmdbStorage", "LmdbStorageConfig", "LmdbTable"]
