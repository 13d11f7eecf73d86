"""Structured events: one JSON object a line, the truth of a run as it happens."""

from __future__ import annotations

import json
import os
import threading
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TextIO

Level = Literal["debug", "info", "warn", "error"]

FRAMES = 4
"""Calls that are named of those that led to an error."""


class StructuredLogger:
    """Appends events to a JSON-lines file; any number of threads and processes may write to one file.

    Every line holds `ts_utc` (ISO 8601, microseconds), `level`, `event` (a stable name for programs), `message` (a
    sentence for people), `run_id`, `backend` and the fields of the event. Without a path nothing is stored. With
    `echo`, warnings and errors are also written there as one plain line.
    """

    def __init__(self, path: Path | None, *, run_id: str, backend: str, echo: TextIO | None = None) -> None:
        self.path = path
        self.run_id = run_id
        self.backend = backend
        self._echo = echo
        self._lock = threading.Lock()
        self._file: int | None = None
        if path is not None:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self._end_torn_line(self._file)

    def debug(self, event: str, message: str, **fields: object) -> None:
        self._log("debug", event, message, fields)

    def info(self, event: str, message: str, **fields: object) -> None:
        self._log("info", event, message, fields)

    def warn(self, event: str, message: str, **fields: object) -> None:
        self._log("warn", event, message, fields)

    def error(self, event: str, message: str, **fields: object) -> None:
        self._log("error", event, message, fields)

    def close(self) -> None:
        """Sync the file and let go of it. Events that come later are dropped."""
        with self._lock:
            if self._file is not None:
                os.fsync(self._file)
                os.close(self._file)
                self._file = None

    def _log(self, level: Level, event: str, message: str, fields: dict[str, object]) -> None:
        record = {
            "ts_utc": datetime.now(UTC).isoformat(timespec="microseconds"),
            "level": level,
            "event": event,
            "message": message,
            "run_id": self.run_id,
            "backend": self.backend,
        }
        line = json.dumps({**fields, **record} if fields.keys() & record.keys() else {**record, **fields}, default=str)
        with self._lock:
            if self._file is not None:
                data = line.encode() + b"\n"
                while data:  # a write to a regular file may be short when the disk fills
                    data = data[os.write(self._file, data) :]
            if self._echo is not None and level in ("warn", "error"):
                print(f"{level}: {message}", file=self._echo, flush=True)

    @staticmethod
    def _end_torn_line(file: int) -> None:
        """A killed process may have left half a line; the next event must not be glued to it."""
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            os.write(file, b"\n")


def whereabouts(error: BaseException) -> str:
    """The type of an error and the calls that led to it, the last one at the end, for a log: without its message, which
    may hold what a user sent."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    calls = " > ".join(f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)
    reason = f" ({os.strerror(error.errno)})" if isinstance(error, OSError) and error.errno else ""
    return f"{type(error).__name__}{reason}{f' at {calls}' if calls else ''}"


__all__ = ["FRAMES", "Level", "StructuredLogger", "whereabouts"]
