"""What waits for a person: a random share of all requests, and those that the engine was unsure of.

The random share is drawn by a hash of the request's id, whatever the gate or the policy thought of it: only so is the
accuracy among them that of the stream. The unsure ones carry a flag and must be weighed on their own.

Stored in SQLite, in one file. Its write-ahead log is not used: the SQLite that Python 3.11 brings can damage it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from pydantic import Field

from share.kernel.config import ConfigModel
from share.kernel.errors import ReviewConflict, ReviewProblem, UnknownReview

Cause = Literal["audit", "unsure"]

DAY_S = 86400.0
NOTES_CHARACTERS_MAX = 2_000

LOOK_S = 0.1
"""Seconds for which counting waits while another process has the file for itself."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    task_id TEXT PRIMARY KEY,
    cause TEXT NOT NULL,
    subject TEXT,
    created_at REAL NOT NULL,
    holder TEXT,
    leased_until REAL NOT NULL DEFAULT 0,
    approved INTEGER,
    reviewer TEXT,
    notes TEXT,
    decided_at REAL,
    is_settled INTEGER NOT NULL DEFAULT 0,
    answer TEXT
);
CREATE INDEX IF NOT EXISTS waiting ON tasks (approved, cause, created_at);
CREATE INDEX IF NOT EXISTS subjects ON tasks (subject);
"""


class ReviewConfig(ConfigModel):
    """The review queue: what gets into it and how long it stays."""

    audit_share: float = Field(default=0.02, ge=0.0, le=1.0)
    """Part of all requests that is audited, drawn at random."""
    waiting_max: int = Field(default=10_000, ge=1)
    """Tasks that wait at most, audits and unsure ones each: a flood of the one never keeps the other out."""
    lease_s: float = Field(default=900.0, gt=0.0)
    """Seconds for which a task is kept for the reviewer who took it."""
    waiting_days: float = Field(default=14.0, gt=0.0)
    """Days after which a task that nobody reviewed is dropped."""
    kept_days: float = Field(default=90.0, gt=0.0)
    """Days for which a decision is remembered."""


@dataclass(frozen=True, slots=True)
class ReviewTask:
    """Something to be reviewed: the experience of that id, and why. Times are in seconds since 1970."""

    task_id: str
    cause: Cause
    created_at: float
    leased_until: float


@dataclass(frozen=True, slots=True)
class ReviewDecision:
    """What a reviewer said of a task. `answer` is the right one instead of a rejected one, where they gave it; None
    again when the decision is settled."""

    task_id: str
    cause: Cause
    approved: bool
    reviewer: str
    notes: str
    answer: str | None
    decided_at: float


class ReviewQueue:
    """A durable queue below `path`. Thread-safe; other processes may have theirs. One connection changes it, another
    counts, which waits for no change.

    What a method returned is on disk. `seed` draws the audited share; `clock` gives seconds since 1970. Raises
    ReviewProblem when the file cannot be used.
    """

    def __init__(self, path: Path, config: ReviewConfig, *, seed: int, clock: Callable[[], float] = time.time) -> None:
        self.config = config
        self._path = path
        self._seed = seed
        self._clock = clock
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._pid = os.getpid()
        with self._named():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
            self._looker = sqlite3.connect(path, timeout=LOOK_S, isolation_level=None, check_same_thread=False)
        try:
            with self._named():
                self._connection.execute("PRAGMA journal_mode=DELETE")
                self._connection.execute("PRAGMA synchronous=EXTRA")  # FULL, and the journal's removal synced as well
                self._connection.execute("PRAGMA secure_delete=ON")  # what is erased is overwritten
                self._connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
                if all(name != "answer" for _, name, *_ in self._connection.execute("PRAGMA table_info(tasks)")):
                    self._connection.execute("ALTER TABLE tasks ADD COLUMN answer TEXT")  # a file from before it
                self._counts = self._count(self._connection)
        except BaseException:
            self._connection.close()
            self._looker.close()
            raise

    def is_audited(self, request_id: str) -> bool:
        """Whether a request is of the random share: by its id and the seed alone."""
        digest = hashlib.blake2b(f"{self._seed}:{request_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.config.audit_share * 2**64

    def offer(self, request_id: str, *, subject: str | None = None, is_unsure: bool = False) -> Cause | None:
        """Queue a request for review if it is of the random share, or unsure; says why, None if it is not queued.

        It is not where as many wait already as may. The task has the request's id; offered again, nothing changes.
        Only a hash of `subject` is kept.
        """
        cause: Cause | None = "audit" if self.is_audited(request_id) else "unsure" if is_unsure else None
        if cause is None:
            return None
        now = self._clock()
        with self._transaction() as connection:
            row = connection.execute("SELECT cause FROM tasks WHERE task_id = ?", (request_id,)).fetchone()
            if row is not None:
                return cast(Cause, row[0])
            self._drop(connection, now)
            waiting = "SELECT count(*) FROM tasks WHERE approved IS NULL AND cause = ?"
            if connection.execute(waiting, (cause,)).fetchone()[0] >= self.config.waiting_max:
                return None
            connection.execute(
                "INSERT INTO tasks (task_id, cause, subject, created_at) VALUES (?, ?, ?, ?)",
                (request_id, cause, _subject_key(subject), now),
            )
        return cause

    def lease(self, reviewer: str, num_tasks: int = 1) -> list[ReviewTask]:
        """Tasks for a reviewer, kept from others for `lease_s`: audits first, the oldest first, their own again."""
        now = self._clock()
        until = now + self.config.lease_s
        with self._transaction() as connection:
            self._drop(connection, now)
            rows = connection.execute(
                "SELECT task_id, cause, created_at FROM tasks"
                " WHERE approved IS NULL AND (leased_until <= ? OR holder = ?)"
                " ORDER BY cause = 'unsure', created_at, task_id LIMIT ?",
                (now, reviewer, num_tasks),
            ).fetchall()
            connection.executemany(
                "UPDATE tasks SET holder = ?, leased_until = ? WHERE task_id = ?",
                [(reviewer, until, task_id) for task_id, _, _ in rows],
            )
        return [ReviewTask(task_id, cause, created_at, until) for task_id, cause, created_at in rows]

    def decide(
        self, task_id: str, approved: bool, reviewer: str, notes: str = "", answer: str | None = None
    ) -> ReviewDecision:
        """Keep a decision, and with it the right answer of whoever made it. The first one stands: the same again, by
        whomever and with whatever answer, returns it, a contrary one is refused.

        Raises UnknownReview for a task that was never queued, has expired or was erased; ReviewConflict for a contrary
        decision, or while another reviewer holds the task; ReviewProblem for notes of more than 2,000 characters.
        """
        if len(notes) > NOTES_CHARACTERS_MAX:
            raise ReviewProblem(f"notes: {len(notes)} characters are more than {NOTES_CHARACTERS_MAX}")
        now = self._clock()
        with self._transaction() as connection:
            self._drop(connection, now)
            stands = _decision(connection, task_id)
            if stands is not None:
                if stands.approved != approved:
                    was = "approved" if stands.approved else "rejected"
                    raise ReviewConflict(f"review {task_id}: {stands.reviewer} has {was} it, and that decision stands")
                return stands
            row = connection.execute("SELECT holder, leased_until FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
            if row is None:
                raise UnknownReview(f"review {task_id}: no such task; it was never queued, has expired or was erased")
            holder, leased_until = row
            if holder not in (None, reviewer) and leased_until > now:
                raise ReviewConflict(f"review {task_id}: {holder} holds it for {leased_until - now:.0f} s more")
            connection.execute(
                "UPDATE tasks SET approved = ?, reviewer = ?, notes = ?, answer = ?, decided_at = ? WHERE task_id = ?",
                (int(approved), reviewer, notes, answer, now, task_id),
            )
            decision = _decision(connection, task_id)
            assert decision is not None, "it was decided just now"
        return decision

    def waiting(self) -> list[str]:
        """The tasks that nobody has decided."""
        with self._transaction() as connection:
            rows = connection.execute("SELECT task_id FROM tasks WHERE approved IS NULL").fetchall()
        return [task_id for (task_id,) in rows]

    def drop(self, task_ids: Collection[str]) -> None:
        """Of these, those that nobody has decided need no review any more."""
        with self._transaction() as connection:
            connection.executemany(
                "DELETE FROM tasks WHERE task_id = ? AND approved IS NULL", [(task_id,) for task_id in task_ids]
            )

    def find(self, task_id: str) -> ReviewTask:
        """A task, decided or not. Raises UnknownReview."""
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT cause, created_at, leased_until FROM tasks WHERE task_id = ?", (task_id,)
            ).fetchone()
        if row is None:
            raise UnknownReview(f"review {task_id}: no such task; it was never queued, has expired or was erased")
        return ReviewTask(task_id, *row)

    def decision(self, task_id: str) -> ReviewDecision | None:
        """What was decided of a task; None for one that waits, or is unknown."""
        with self._transaction() as connection:
            return _decision(connection, task_id)

    def unsettled(self) -> list[ReviewDecision]:
        """Decisions whose effect nobody has confirmed with `settle`, the oldest first: to be done again after a crash.

        Give the update the task's id, so that it is done once.
        """
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT task_id FROM tasks WHERE approved IS NOT NULL AND NOT is_settled ORDER BY decided_at, task_id"
            ).fetchall()
            return [decision for (task_id,) in rows if (decision := _decision(connection, task_id)) is not None]

    def settle(self, task_id: str) -> None:
        """The decision's effect is durable, and its answer forgotten here. Raises UnknownReview when there is no
        decision on it."""
        with self._transaction() as connection:
            done = connection.execute(
                "UPDATE tasks SET is_settled = 1, answer = NULL WHERE task_id = ? AND approved IS NOT NULL", (task_id,)
            )
            if not done.rowcount:
                raise UnknownReview(f"review {task_id}: there is no decision to settle")

    def counts(self) -> dict[str, int]:
        """How many are `audit` and `unsure` (waiting), `approved`, `rejected` and `unsettled`.

        As they were counted last while another process has the file for itself: whoever asks how the service does must
        not hang with it.
        """
        self._check_process()
        with self._looking, self._named():
            try:
                self._counts = self._count(self._looker)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise
            return dict(self._counts)

    def expire(self) -> int:
        """Drop what nobody reviewed in time and decisions that need not be remembered; says how many went."""
        with self._transaction() as connection:
            return self._drop(connection, self._clock())

    def erase(self, subject: str) -> int:
        """Remove everything about a subject, decided or not, from the file; says how many tasks went."""
        with self._transaction() as connection:
            return connection.execute("DELETE FROM tasks WHERE subject = ?", (_subject_key(subject),)).rowcount

    def close(self) -> None:
        with self._lock, self._looking:
            self._connection.close()
            self._looker.close()

    @staticmethod
    def _count(connection: sqlite3.Connection) -> dict[str, int]:
        row = connection.execute(
            "SELECT count(*) FILTER (WHERE approved IS NULL AND cause = 'audit'),"
            " count(*) FILTER (WHERE approved IS NULL AND cause = 'unsure'), count(*) FILTER (WHERE approved = 1),"
            " count(*) FILTER (WHERE approved = 0), count(*) FILTER (WHERE approved IS NOT NULL AND NOT is_settled)"
            " FROM tasks"
        ).fetchone()
        return dict(zip(("audit", "unsure", "approved", "rejected", "unsettled"), row, strict=True))

    def _drop(self, connection: sqlite3.Connection, now: float) -> int:
        """A task that a reviewer holds is not dropped."""
        waited = connection.execute(
            "DELETE FROM tasks WHERE approved IS NULL AND created_at <= ? AND leased_until <= ?",
            (now - self.config.waiting_days * DAY_S, now),
        )
        kept = connection.execute("DELETE FROM tasks WHERE decided_at <= ?", (now - self.config.kept_days * DAY_S,))
        return waited.rowcount + kept.rowcount

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._check_process()
        with self._lock, self._named():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ReviewProblem(f"{self._path}: this is a fork; open a ReviewQueue of its own here")

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ReviewProblem(f"{self._path}: the review queue cannot be used: {error}") from error


def _decision(connection: sqlite3.Connection, task_id: str) -> ReviewDecision | None:
    row = connection.execute(
        "SELECT cause, approved, reviewer, notes, answer, decided_at FROM tasks"
        " WHERE task_id = ? AND approved IS NOT NULL",
        (task_id,),
    ).fetchone()
    if row is None:
        return None
    cause, approved, *rest = row
    return ReviewDecision(task_id, cause, bool(approved), *rest)


def _subject_key(subject: str | None) -> str | None:
    return None if subject is None else hashlib.blake2b(subject.encode(), digest_size=16).hexdigest()


__all__ = [
    "DAY_S",
    "LOOK_S",
    "NOTES_CHARACTERS_MAX",
    "Cause",
    "ReviewConfig",
    "ReviewDecision",
    "ReviewQueue",
    "ReviewTask",
]
