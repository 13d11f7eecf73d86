"""What went wrong where nobody is to be told by an error: always counted, logged once a minute, never in the way."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from share.kernel.events import StructuredLogger

EVERY_S = 60.0
"""Seconds between two lines about the same: a disk that is full must not be filled with complaints about it."""


class Troubles:
    """Counts by (part, reason). Thread-safe."""

    def __init__(self, logger: StructuredLogger, *, now: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._now = now
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {}
        self._logged_at: dict[tuple[str, str], float] = {}

    def note(self, part: str, reason: str, message: str, *, quiet: bool = False, **fields: object) -> None:
        """Something went wrong in `part` for `reason`, a word; `quiet` counts it without a line on disk."""
        now = self._now()
        with self._lock:
            counter = self._counts.setdefault(part, Counter())
            counter[reason] += 1
            is_due = not quiet and now - self._logged_at.get((part, reason), -EVERY_S) >= EVERY_S
            if is_due:
                self._logged_at[part, reason] = now
            count = counter[reason]
        if is_due:
            with contextlib.suppress(OSError):  # the disk of the log may be the one that is full
                self._logger.warn(part, message, reason=reason, count=count, **fields)

    def counts(self, part: str) -> Mapping[str, int]:
        with self._lock:
            return dict(self._counts.get(part, ()))

    def all(self) -> Mapping[str, Mapping[str, int]]:
        with self._lock:
            return {part: dict(counter) for part, counter in self._counts.items()}


__all__ = ["EVERY_S", "Troubles"]
