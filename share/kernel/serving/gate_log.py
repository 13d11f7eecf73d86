"""The gate's decisions on disk, a line each, so that every one of them can be made again from the file.

A file holds the decisions of one gate from its first on, under the configuration in its first line; with a new day, or
another configuration, a new gate begins a new file. Retention removes whole files, and each of the rest still replays.
So does one that a person was erased from: the lines stay, and nothing in them leads to the person any more.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from share.kernel.adaptation.gate import Gate, GateConfig, GateDecision, GateRequest
from share.kernel.adaptation.review import DAY_S
from share.kernel.errors import ConfigError, GateMismatch
from share.kernel.events import StructuredLogger
from share.kernel.files import write_atomically

if TYPE_CHECKING:
    from share.kernel.contracts.experience import Vector

ERASED = "erased"
"""The id of a request that was erased."""

_SUFFIX = ".jsonl"
_REQUEST_ID = re.compile(rb'"request_id":("(?:[^"\\]|\\.)*")')
_MODE = 0o600


class LoggedGate:
    """A gate whose decisions are in a log below `directory` before anything follows from them. One thread asks.

    It goes on from the newest file if that is of today and replays; else it begins anew.
    """

    def __init__(
        self,
        directory: Path,
        config: GateConfig,
        logger: StructuredLogger,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._config = config
        self._logger = logger
        self._clock = clock
        self._gate = Gate(config)
        self._path: Path | None = None
        self._file = -1
        newest = max(directory.glob(f"*{_SUFFIX}"), default=None)
        if newest is not None and newest.name.startswith(self._day()):
            self._go_on(newest)

    def decide(self, request: GateRequest, embedding_D: Vector, subject: str | None = None) -> GateDecision:
        """Decide, and log it with the key of whom it is about. Raises OSError when it is not in the log: then nothing
        may follow from it, and the next decision begins a new file."""
        if self._path is None or not self._path.name.startswith(self._day()):
            self._begin()
        decision = self._gate.decide(request, embedding_D)
        try:
            self._write({**({} if subject is None else {"subject": subject}), **asdict(decision)})
        except OSError:
            self.close()
            raise
        return decision

    def expire(self, older_than_days: float) -> None:
        """Remove files with anything in them from before that. Raises OSError."""
        oldest = self._day(self._clock() - older_than_days * DAY_S)
        for path in self._directory.glob(f"*{_SUFFIX}"):
            if path != self._path and path.name[: len(oldest)] <= oldest:
                path.unlink()

    def erase(self, subjects: Collection[str], request_ids: Collection[str]) -> None:
        """Leave of a person, known by their keys and requests, nothing that can be traced. Raises OSError.

        Their decisions count in those after them, so their lines stay: without id and subject, and with other names
        for their labels and clients, throughout the file. If it is the newest file, the next decision begins one.
        """
        for path in sorted(self._directory.glob(f"*{_SUFFIX}")):
            content = path.read_bytes()
            kept = _erased(content, subjects, request_ids)
            if kept != content:
                if path == self._path:
                    self.close()
                write_atomically(path, kept, _MODE)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file, self._path = -1, None

    def _begin(self) -> None:
        self.close()
        self._gate = Gate(self._config)
        self._directory.mkdir(parents=True, exist_ok=True)
        number = len(list(self._directory.glob(f"{self._day()}*{_SUFFIX}")))
        path = self._directory / f"{self._day()}-{number:06}{_SUFFIX}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, _MODE)
        self._path = path
        self._write({"config": self._config.model_dump(mode="json")})

    def _go_on(self, path: Path) -> None:
        try:
            config, decisions, is_torn = _read(path)
            if config != self._config or is_torn:
                return
            self._gate = Gate.replay(config, decisions)
        except (OSError, ValueError, KeyError, TypeError, GateMismatch) as error:
            self._logger.warn("gate_log_not_replayed", f"{path}: a new gate begins: {error}")
            return
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._path = path

    def _write(self, content: dict[str, Any]) -> None:
        line = _line(content) + b"\n"
        if os.write(self._file, line) < len(line):
            raise OSError(None, "only a part of the line was written")

    def _day(self, at: float | None = None) -> str:
        return time.strftime("%Y%m%d", time.gmtime(self._clock() if at is None else at))


@dataclass(frozen=True, slots=True)
class GateLogCheck:
    """What came of making the decisions of a directory again.

    `differing` says of each file which decision is the first that does not follow, or cannot be read: those after it in
    that file were not tried. `torn` are files with a last line without its end, which is what a crash leaves.
    """

    files: int
    decisions: int
    reproduced: int
    differing: tuple[str, ...]
    torn: tuple[str, ...]


def verify_gate_log(directory: Path) -> GateLogCheck:
    """Make every decision again that a service logged below its directory. It may be at work meanwhile.

    Raises ConfigError where that is no directory of a service, or cannot be read.
    """
    folder = directory / "gate"
    if not folder.is_dir() and not (directory / "reviews.sqlite").is_file():
        raise ConfigError(f"{directory}: has no gate/; give the directory of a service, by default work-dir/online")
    differing, torn = [], []
    files = decisions = reproduced = 0
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            *lines, rest = path.read_bytes().split(b"\n")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        files += 1
        decisions += max(len(lines) - 1, 0)
        again, problem = _repeated(lines)
        reproduced += again
        if problem:
            differing.append(f"{path}, {problem}")
        elif rest or not lines:
            torn.append(str(path))
    return GateLogCheck(files, decisions, reproduced, tuple(differing), tuple(torn))


def _repeated(lines: list[bytes]) -> tuple[int, str]:
    """How many decisions could be made again, and what is wrong with the first that could not."""
    if not lines:
        return 0, ""
    try:
        gate = Gate(_config(lines[0]))
    except (ValueError, KeyError, TypeError):
        return 0, "line 1: is no configuration of a gate"
    for number, line in enumerate(lines[1:]):
        try:
            gate.repeat(_decision(line))
        except GateMismatch as error:
            return number, f"line {number + 2}: {error}"
        except (ValueError, KeyError, TypeError, ArithmeticError):
            return number, f"line {number + 2}: is no decision of a gate"
    return len(lines) - 1, ""


def read_gate_log(path: Path) -> tuple[GateConfig, list[GateDecision]]:
    """What `Gate.replay` takes. A torn last line, which a crash leaves, is left out; raises ValueError for another."""
    config, decisions, _ = _read(path)
    return config, decisions


def _read(path: Path) -> tuple[GateConfig, list[GateDecision], bool]:
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop()
    config = _config(lines[0]) if lines else GateConfig()
    return config, [_decision(line) for line in lines[1:]], bool(torn) or not lines


def _config(line: bytes) -> GateConfig:
    return GateConfig.model_validate(json.loads(line)["config"])


def _decision(line: bytes) -> GateDecision:
    told = json.loads(line)
    told.pop("subject", None)
    return GateDecision(**{**told, "request": GateRequest(**told["request"])})


def _erased(content: bytes, subjects: Collection[str], request_ids: Collection[str]) -> bytes:
    """A file without what is about a person. What is torn or damaged in it may be about anybody, and goes too."""
    ids = {json.dumps(each).encode() for each in request_ids}
    is_named = any(each.encode() in content for each in subjects) or not ids.isdisjoint(_REQUEST_ID.findall(content))
    if not is_named and content.endswith(b"\n"):
        return content
    head, *lines = content.split(b"\n")[:-1] or [b""]
    told = [each for line in lines if (each := _parsed(line)) is not None]
    theirs = [
        each for each in told if each.get("subject") in subjects or each["request"].get("request_id") in request_ids
    ]
    secret = secrets.token_bytes(32)  # kept nowhere: nobody can confirm a guess with it
    renamed: dict[str, str] = {}
    for each in theirs:
        each.pop("subject", None)
        each["request"]["request_id"] = ERASED
        for field in ("client", "label"):
            name = str(each["request"].get(field))
            renamed[name] = hashlib.blake2b(name.encode(), digest_size=8, key=secret).hexdigest()
    for each in told:
        for field in ("client", "label"):
            name = str(each["request"].get(field))
            each["request"][field] = renamed.get(name, name)
    return b"".join(line + b"\n" for line in (head, *map(_line, told)) if line)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(line)
    except ValueError:
        return None
    return told if isinstance(told, dict) and isinstance(told.get("request"), dict) else None


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


__all__ = ["ERASED", "GateLogCheck", "LoggedGate", "read_gate_log", "verify_gate_log"]
