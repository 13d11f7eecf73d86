"""Storage `sqlite`: the log in one file that any SQLite shell can read.

apsw brings its own SQLite: the one of Python 3.11 can damage a write-ahead log (sqlite.org/wal.html#walresetbug).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import apsw

from share.kernel.buffer.quiet import Quiet
from share.kernel.buffer.sqlite_pages import SqlitePages
from share.kernel.buffer.table import BATCH_BYTES, Bounds, TableLog, table_findings
from share.kernel.config import ConfigModel
from share.kernel.contracts.experience import Finding
from share.kernel.errors import BufferCorrupt, BufferFull, BufferProblem, BufferUnavailable
from share.kernel.experience.disk import Disk

BUSY_MS = 5000
"""How long a transaction waits for another connection, which is there only while somebody looks at the file."""


class SqliteStorageConfig(ConfigModel):
    """The log in SQLite; nothing to set."""


class SqliteStorage:
    """Frames in SQLite by sequence, in WAL mode with full syncs; see `TableLog`."""

    def __init__(self, config: SqliteStorageConfig) -> None:
        self._config = config

    def open(
        self, directory: Path, disk: Disk, mode: Literal["write", "read"], /, *, salvage: bool = False
    ) -> TableLog:
        """See `Storage.open`."""
        wreck = SqlitePages if salvage else None
        return TableLog(directory / "log", disk, SqliteTable, to_write=mode == "write", salvage=wreck)

    def verify(self, directory: Path, disk: Disk, /, *, progress: Callable[[int, int], None]) -> Iterator[Finding]:
        """See `Storage.verify`."""
        return table_findings(directory / "log", disk, SqliteTable, progress)


class SqliteTable:
    """See `Table`. One connection to write, another to read beside it."""

    def __init__(self, directory: Path, to_write: bool) -> None:
        self._path = directory / "log.sqlite"
        self._lock = threading.Lock()  # for the connection to read
        self._writer: apsw.Connection | None = None
        with self._asking():
            if to_write:
                self._writer = self._connect(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
                if not self._writer.pragma("user_version"):
                    self._make(self._writer)
                self._writer.pragma("synchronous", "FULL")
            self._quiet: Quiet | None = None
            self._reader = self._connect(apsw.SQLITE_OPEN_READONLY)
            if not to_write:
                self._read_at_all()

    def bounds(self) -> Bounds:
        with self._reading():
            ((first, following, epoch),) = self._reader.execute("SELECT first, next, epoch FROM log")
            return Bounds(first, following - 1, epoch)

    def append(self, frames: Sequence[tuple[int, bytes]], *, seen: int, epoch: int) -> bool:
        with self._transaction() as writer:
            ((current,),) = writer.execute("SELECT epoch FROM log")
            if current != seen:
                return False
            writer.executemany("INSERT INTO records VALUES (?, ?)", frames)
            if frames:
                writer.execute("UPDATE log SET next = ?, epoch = ?", (frames[-1][0] + 1, epoch))
            else:
                writer.execute("UPDATE log SET epoch = ?", (epoch,))
        return True

    def get(self, sequence: int) -> bytes | None:
        with self._reading():
            rows = list(self._reader.execute("SELECT frame FROM records WHERE sequence = ?", (sequence,)))
            return rows[0][0] if rows else None

    def range(self, after: int, until: int) -> list[tuple[int, bytes]]:
        found, size = [], 0
        query = "SELECT sequence, frame FROM records WHERE sequence > ? AND sequence <= ? ORDER BY sequence"
        with self._reading():
            cursor = self._reader.execute(query, (after, until))
            for sequence, content in cursor:
                found.append((sequence, content))
                size += len(content)
                if size >= BATCH_BYTES:
                    break
            cursor.close(True)
        return found

    def drop(self, before: int) -> None:
        with self._transaction() as writer:
            writer.execute("DELETE FROM records WHERE sequence < ?", (before,))
            writer.execute("UPDATE log SET first = ?, next = max(next, ?)", (before, before))

    def problems(self) -> Iterator[str]:
        with self._reading():
            lines = [line for (line,) in self._reader.execute("PRAGMA integrity_check")]
        return iter(lines if lines != ["ok"] else [])

    @property
    def size_bytes(self) -> int:
        paths = (self._path, Path(f"{os.fspath(self._path)}-wal"))
        return sum(path.stat().st_size for path in paths if path.exists())

    def close(self) -> None:
        with self._asking(), self._lock:
            self._reader.close()
            if self._writer is not None:
                self._writer.close()

    def _read_at_all(self) -> None:
        """Where no wal-index can be made, without permission or room, read the file as one that does not change."""
        try:
            self._reader.execute("SELECT first FROM log").fetchall()
        except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.IOError, apsw.FullError):
            wal = Path(f"{os.fspath(self._path)}-wal")
            if wal.exists() and wal.stat().st_size:
                raise
            self._reader.close()
            self._quiet = Quiet(self._path)
            self._reader = self._connect(apsw.SQLITE_OPEN_READONLY, is_immutable=True)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        with self._asking(), self._lock, self._quiet.reading() if self._quiet else contextlib.nullcontext():
            yield

    def _connect(self, flags: int, *, is_immutable: bool = False) -> apsw.Connection:
        name = os.fspath(self._path)
        if is_immutable:
            name, flags = f"{self._path.resolve().as_uri()}?immutable=1", flags | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(name, flags=flags)
        connection.set_busy_timeout(BUSY_MS)
        return connection

    def _make(self, writer: apsw.Connection) -> None:
        writer.pragma("journal_mode", "WAL")
        writer.pragma("synchronous", "FULL")
        with writer:
            writer.execute(
                "CREATE TABLE records (sequence INTEGER PRIMARY KEY, frame BLOB NOT NULL);"
                "CREATE TABLE log (first INTEGER NOT NULL, next INTEGER NOT NULL, epoch INTEGER NOT NULL);"
                "INSERT INTO log VALUES (1, 1, 0);"
                "PRAGMA user_version = 1;"
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[apsw.Connection]:
        assert self._writer is not None
        with self._asking():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except apsw.Error as error:
            raise self._problem(error) from error

    def _problem(self, error: apsw.Error) -> BufferProblem:
        reason = " ".join(str(error).split())
        if isinstance(error, apsw.FullError):
            return BufferFull(f"{self._path}: {reason}; nothing was accepted: free space and try again")
        if isinstance(error, apsw.CorruptError | apsw.NotADBError):
            return BufferCorrupt(f"{self._path}: {reason}")
        return BufferUnavailable(f"{self._path}: {reason}; nothing was accepted")


__all__ = ["SqliteStorage", "SqliteStorageConfig", "SqliteTable"]
