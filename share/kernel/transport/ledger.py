"""What was done, so that it is done once: task ids with the version that their effect produced, on disk.

A task is committed in the transaction that names its version; what names no version has not happened. The file is an
SQLite database that is synced at every commit, with a rollback journal: two processes write to it, and the SQLite that
Python 3.11 brings can damage a write-ahead log that has several connections. Tasks in quarantine are kept there too.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from share.kernel.errors import TransportError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS committed (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL UNIQUE, version TEXT NOT NULL,
    result TEXT NOT NULL, committed_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS quarantined (task_id TEXT PRIMARY KEY, reason TEXT NOT NULL, quarantined_at REAL NOT NULL);
"""
_BUSY_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A task that was done: the version that its effect is part of, and what the handler had to say about it."""

    task_id: str
    version: str
    result: JsonValue


class Ledger:
    """The database below `directory`. Any number may read it; only the worker commits, only the engine quarantines.

    Raises TransportError when the file cannot be used.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "ledger.sqlite"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._database.execute("PRAGMA journal_mode=DELETE")  # also of a file from before
            self._database.execute("PRAGMA synchronous=EXTRA")  # FULL, and the journal's removal synced as well
            if not self._database.execute("SELECT 1 FROM sqlite_master WHERE name = 'quarantined'").fetchone():
                self._database.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise TransportError(f"{self.path}: cannot be used as a ledger: {error}") from error

    def version(self) -> str | None:
        """The version of the last commit."""
        row = self._database.execute("SELECT version FROM committed ORDER BY sequence DESC LIMIT 1").fetchone()
        return row[0] if row else None

    def find(self, task_id: str) -> Entry | None:
        query = "SELECT task_id, version, result FROM committed WHERE task_id = ?"
        row = self._database.execute(query, (task_id,)).fetchone()
        return _entry(row) if row else None

    def entries(self) -> list[Entry]:
        """All of them, in the order in which they were committed."""
        rows = self._database.execute("SELECT task_id, version, result FROM committed ORDER BY sequence")
        return [_entry(row) for row in rows]

    def commit(self, entries: Iterable[Entry]) -> None:
        """Commit tasks that are not there yet, together: after a crash all of them are there, or none."""
        now = time.time()
        rows = [(entry.task_id, entry.version, json.dumps(entry.result), now) for entry in entries]
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(
                "INSERT INTO committed (task_id, version, result, committed_at) VALUES (?, ?, ?, ?)", rows
            )

    def forget(self, before: float) -> None:
        """Remove what was committed before that second since 1970, but never the last commit."""
        self._database.execute(
            "DELETE FROM committed WHERE committed_at < ? AND sequence < (SELECT max(sequence) FROM committed)",
            (before,),
        )

    def quarantine(self, task_id: str, reason: str) -> None:
        row = (task_id, reason, time.time())
        self._database.execute("INSERT OR REPLACE INTO quarantined VALUES (?, ?, ?)", row)

    def release(self, task_id: str) -> None:
        self._database.execute("DELETE FROM quarantined WHERE task_id = ?", (task_id,))

    def release_older(self, before: float) -> list[str]:
        """Release what is in quarantine since before that second since 1970; says which tasks."""
        query = "SELECT task_id FROM quarantined WHERE quarantined_at < ?"
        released = [task_id for (task_id,) in self._database.execute(query, (before,)).fetchall()]
        for task_id in released:
            self.release(task_id)
        return released

    def quarantined(self) -> Mapping[str, str]:
        """The reason of each task in quarantine."""
        return dict(self._database.execute("SELECT task_id, reason FROM quarantined"))

    def close(self) -> None:
        self._database.close()


def _entry(row: tuple[str, str, str]) -> Entry:
    return Entry(row[0], row[1], json.loads(row[2]))


__all__ = ["Entry", "Ledger"]
