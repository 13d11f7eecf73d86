"""Who changed what, when and why: an append-only log whose entries are chained by hashes.

An entry is on disk before what it tells of is done. Each holds the hash of the one before, so that none can be changed,
left out or moved; a head file beside the log names the last one, so that none can be cut off. Who can rewrite both
files can forge both: note `head` elsewhere from time to time, and give it to `verify`.

No text of a user can get in: every field is a number or an identifier.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from share.kernel.contracts.experience import Finding
from share.kernel.errors import AuditBroken, AuditUnavailable
from share.kernel.files import write_atomically

Action = Literal[
    "configure",
    "erase",
    "key",
    "publish",
    "reset",
    "resume",
    "review",
    "rollback",
    "start",
    "stop",
    "suspend",
    "update",
]
ACTIONS: tuple[str, ...] = get_args(Action)
GENESIS = "0" * 64
"""What the first entry has in place of the hash of an entry before it."""

LINE_BYTES_MAX = 4096
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.:-]{0,80}")


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the log. `at` is in seconds since 1970; `actor` the id of a key or a part of the engine; `version`
    the policy version that it is about; `reason` a code; `task_id` of a review or update, empty without one.
    `hash` is the SHA-256 of `previous` and all other fields."""

    sequence: int
    at: float
    actor: str
    action: Action
    version: str
    reason: str
    task_id: str
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The last entry of a log: its number (0 in an empty log), its hash, and where it ends in the file."""

    sequence: int
    hash: str
    size_bytes: int


class AuditLog:
    """The one writer of a log. Thread-safe.

    Making it checks the whole log, and cuts what a crash left of an entry that was never acknowledged. Raises
    AuditBroken when the log is not what was written, AuditUnavailable when another process writes to it or the disk
    refuses.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise AuditUnavailable(f"{path}: cannot be opened: {error.strerror}") from error
        try:
            self._head = self._recovered()
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def head(self) -> AuditHead:
        """The last entry that was acknowledged."""
        return self._head

    def append(
        self, actor: str, action: Action, *, version: str = "", reason: str = "", task_id: str = ""
    ) -> AuditEntry:
        """Write an entry; at return it is on disk, and what it tells of may be done.

        Raises ValueError for a field that is no identifier (letters, digits, `_.:-`, at most 80), AuditUnavailable
        when it is not on disk for sure: the log then takes nothing more until it is opened anew.
        """
        if action not in ACTIONS:
            raise ValueError(f"action: no {action!r}; there are {', '.join(ACTIONS)}")
        for name, value in (("actor", actor), ("version", version), ("reason", reason), ("task_id", task_id)):
            if not _IDENTIFIER.fullmatch(value):
                raise ValueError(f"{name}: must be an identifier, letters, digits and _.:- only, 80 at most")
        if not actor:
            raise ValueError("actor: somebody must have done it")
        with self._lock:
            if self._descriptor < 0:
                raise AuditUnavailable(f"{self._path}: is closed, or could not be written; open it anew")
            at = round(self._clock(), 3)
            entry = _chained(self._head.sequence + 1, at, actor, action, version, reason, task_id, self._head.hash)
            line = _line(entry)
            try:
                written = os.write(self._descriptor, line)
                if written < len(line):
                    raise OSError(None, f"only {written} of {len(line)} bytes were written")
                os.fsync(self._descriptor)
                self._advance(AuditHead(entry.sequence, entry.hash, self._head.size_bytes + len(line)))
            except OSError as error:
                self._close()
                raise AuditUnavailable(f"{self._path}: cannot be written: {error.strerror}") from error
            return entry

    def close(self) -> None:
        with self._lock:
            self._close()

    def _recovered(self) -> AuditHead:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AuditUnavailable(f"{self._path}: another process writes to it") from error
        if os.fstat(self._descriptor).st_size == 0 and not head_path(self._path).exists():
            self._advance(AuditHead(0, GENESIS, 0))
        for found in verify(self._path):
            if found.is_loss:
                raise AuditBroken(f"{found.path}, byte {found.offset}: {found.problem}")
        head = read_head(head_path(self._path))
        assert head is not None, "verify has read it"
        for entry, end in _entries(self._path, head.size_bytes):
            if isinstance(entry, str) or entry != _rechained(entry, head):
                break
            head = AuditHead(entry.sequence, entry.hash, end)  # on disk, and only its head was not: it may be done
        os.ftruncate(self._descriptor, head.size_bytes)
        os.fsync(self._descriptor)
        self._advance(head)
        return head

    def _advance(self, head: AuditHead) -> None:
        write_atomically(head_path(self._path), json.dumps(asdict(head)).encode() + b"\n")
        self._head = head

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def entries(path: Path) -> Iterator[AuditEntry]:
    """The entries of a log in order. Raises AuditBroken at the first line that is none."""
    for entry, end in _entries(path, 0):
        if isinstance(entry, str):
            raise AuditBroken(f"{path}, before byte {end}: {entry}")
        yield entry


def verify(path: Path, known: AuditHead | None = None) -> list[Finding]:
    """What is wrong with a log: changed, cut, reordered, or not the one whose head is `known`. Empty if nothing is.

    One entry after the head, or a torn one, is what a crash leaves: told, and no loss. A writer may be at work.
    """
    head = read_head(head_path(path))
    if head is None:
        if not path.exists():
            return [Finding(str(path), 0, "there is no log", True)]
        return [Finding(str(head_path(path)), 0, "the head is lost or damaged, so the log may have been cut", True)]
    at = AuditHead(0, GENESIS, 0)
    after: dict[int, AuditHead] = {}
    wrong = None
    for entry, end in _entries(path, 0):
        if isinstance(entry, str) or entry != _rechained(entry, at):
            misplaced = f"what comes after entry {at.sequence} is not what was written after it"
            wrong = entry if isinstance(entry, str) else misplaced
            break
        at = AuditHead(entry.sequence, entry.hash, end)
        if at.sequence == head.sequence and at != head:
            return [Finding(str(path), at.size_bytes, f"entry {at.sequence} is not the one that the head names", True)]
        if known is not None and at.sequence == known.sequence and at != known:
            return [Finding(str(path), end, f"entry {at.sequence} is not the one that was noted elsewhere", True)]
        if at.sequence > head.sequence:
            after[at.sequence] = at
    if at.sequence < head.sequence:
        problem = wrong or f"ends after entry {at.sequence} of {head.sequence}"
        return [Finding(str(path), at.size_bytes, problem, True)]
    if known is not None and at.sequence < known.sequence:
        return [Finding(str(path), at.size_bytes, f"ends before entry {known.sequence}, noted elsewhere", True)]
    return _after_the_head(path, head, at, after, wrong)


def _after_the_head(
    path: Path, head: AuditHead, at: AuditHead, after: dict[int, AuditHead], wrong: str | None
) -> list[Finding]:
    """What is wrong after the entry that the head named when the reading began: nothing if a writer has gone on since.

    The entries `after` it are chained and end with `at`; what follows them, if anything does, is `wrong`.
    """
    now = read_head(head_path(path)) or head
    if now.sequence > at.sequence:
        return []
    if now.sequence > head.sequence and after[now.sequence] != now:
        return [Finding(str(path), at.size_bytes, f"entry {now.sequence} is not the one that the head names", True)]
    if at.sequence > now.sequence + 1:
        return [Finding(str(path), now.size_bytes, "entries were added that no writer acknowledged", True)]
    if wrong is not None:
        return [Finding(str(path), at.size_bytes, wrong, False)]
    if at.sequence == now.sequence + 1:
        return [Finding(str(path), now.size_bytes, "the last entry was written, but not acknowledged", False)]
    return []


def _entries(path: Path, start: int) -> Iterator[tuple[AuditEntry | str, int]]:
    """Each entry, or what is wrong with its line, and where it ends; ends at the first that is wrong."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        end = file.seek(start)
        while line := file.readline(LINE_BYTES_MAX):
            end += len(line)
            entry = _parsed(line)
            if entry is None:
                yield "is no entry, or only a part of one", end
                return
            yield entry, end


def _parsed(line: bytes) -> AuditEntry | None:
    try:
        told = json.loads(line)
        if not isinstance(told, dict) or list(told) != [each.name for each in fields(AuditEntry)]:
            return None
        entry = AuditEntry(**told)
    except ValueError:
        return None
    texts = (entry.actor, entry.action, entry.version, entry.reason, entry.task_id, entry.previous, entry.hash)
    if type(entry.sequence) is not int or not isinstance(entry.at, int | float):
        return None
    if not all(isinstance(text, str) and _IDENTIFIER.fullmatch(text) for text in texts):
        return None
    return entry if _line(entry) == line else None  # one spelling: not a byte can be changed


def _line(entry: AuditEntry) -> bytes:
    return json.dumps(asdict(entry), separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def _chained(
    sequence: int, at: float, actor: str, action: Action, version: str, reason: str, task_id: str, previous: str
) -> AuditEntry:
    content = json.dumps([previous, sequence, at, actor, action, version, reason, task_id], separators=(",", ":"))
    digest = hashlib.sha256(content.encode()).hexdigest()
    return AuditEntry(sequence, at, actor, action, version, reason, task_id, previous, digest)


def _rechained(entry: AuditEntry, before: AuditHead) -> AuditEntry:
    """What this entry must be if it comes after `before`."""
    told = (entry.at, entry.actor, entry.action, entry.version, entry.reason, entry.task_id)
    return _chained(before.sequence + 1, *told, before.hash)


def head_path(path: Path) -> Path:
    """Where the head of a log is: beside it."""
    return path.with_name(path.name + ".head")


def read_head(path: Path) -> AuditHead | None:
    """What a head file says, that of a log or a copy of it; None if it cannot be read or is damaged."""
    try:
        told = json.loads(path.read_bytes())
        head = AuditHead(**told)
    except (OSError, ValueError, TypeError):
        return None
    is_sound = type(head.sequence) is int and isinstance(head.hash, str) and type(head.size_bytes) is int
    return head if is_sound and head.sequence >= 0 and head.size_bytes >= 0 else None


__all__ = [
    "ACTIONS",
    "GENESIS",
    "LINE_BYTES_MAX",
    "Action",
    "AuditEntry",
    "AuditHead",
    "AuditLog",
    "entries",
    "head_path",
    "read_head",
    "verify",
]
