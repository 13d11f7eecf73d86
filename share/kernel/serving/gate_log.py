"""The gate's decisions on disk, a line each, so that every one of them can be made again from the file.

A file holds the decisions of one gate from its first on, under the configuration in its first line; with a new day, or
another configuration, a new gate begins a new file. Retention removes whole files, and each of the rest still replays.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from share.kernel.adaptation.gate import Gate, GateConfig, GateDecision, GateRequest
from share.kernel.adaptation.review import DAY_S
from share.kernel.errors import GateMismatch
from share.kernel.events import StructuredLogger

if TYPE_CHECKING:
    from share.kernel.contracts.experience import Vector

_SUFFIX = ".jsonl"


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

    def decide(self, request: GateRequest, embedding_D: Vector) -> GateDecision:
        """Decide, and log it. Raises OSError when it is not in the log: then nothing may follow from it, and the next
        decision begins a new file."""
        if self._path is None or not self._path.name.startswith(self._day()):
            self._begin()
        decision = self._gate.decide(request, embedding_D)
        try:
            self._write(asdict(decision))
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
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
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
        line = json.dumps(content, separators=(",", ":")).encode() + b"\n"
        if os.write(self._file, line) < len(line):
            raise OSError(None, "only a part of the line was written")

    def _day(self, at: float | None = None) -> str:
        return time.strftime("%Y%m%d", time.gmtime(self._clock() if at is None else at))


def read_gate_log(path: Path) -> tuple[GateConfig, list[GateDecision]]:
    """What `Gate.replay` takes. A torn last line, which a crash leaves, is left out; raises ValueError for another."""
    config, decisions, _ = _read(path)
    return config, decisions


def _read(path: Path) -> tuple[GateConfig, list[GateDecision], bool]:
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop()
    config = GateConfig.model_validate(json.loads(lines[0])["config"]) if lines else GateConfig()
    decisions = []
    for line in lines[1:]:
        told = json.loads(line)
        decisions.append(GateDecision(**{**told, "request": GateRequest(**told["request"])}))
    return config, decisions, bool(torn) or not lines


__all__ = ["LoggedGate", "read_gate_log"]
