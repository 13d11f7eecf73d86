"""The audit log as the engine has it: opened anew when it could not be written, and never in the way of answering."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from share.kernel.adaptation.audit import Action, AuditHead, AuditLog
from share.kernel.errors import AuditBroken, AuditUnavailable, ConfigError
from share.kernel.serving.troubles import Troubles

AGAIN_S = 10.0
"""Seconds until a log that could not be opened is tried again: opening reads all of it."""


class AuditTrail:
    """Keeps the log at `path` open as well as it can. Thread-safe.

    A log that is broken stays as it is until a person has looked at it: nothing that needs an entry is done meanwhile.
    """

    def __init__(
        self,
        path: Path,
        troubles: Troubles,
        *,
        clock: Callable[[], float] = time.time,
        again_s: float = AGAIN_S,
    ) -> None:
        self._path = path
        self._troubles = troubles
        self._clock = clock
        self._lock = threading.Lock()
        self._log: AuditLog | None = None
        self._problem = ""
        self._again_s = again_s
        self._again_at = 0.0
        self._open()

    @property
    def is_available(self) -> bool:
        """Whether the last attempt to open or to write succeeded."""
        return self._log is not None

    @property
    def head(self) -> AuditHead | None:
        """The last entry; None while the log is not available."""
        log = self._log
        return log.head if log is not None else None

    def append(self, actor: str, action: Action, *, version: str = "", reason: str = "", task_id: str = "") -> None:
        """Write an entry; it is on disk at return. Raises AuditUnavailable, and what it tells of must not be done;
        ConfigError for a field that is no identifier."""
        with self._lock:
            if self._log is None and time.monotonic() >= self._again_at:
                self._open()
            if self._log is None:
                raise AuditUnavailable(self._problem)
            try:
                self._log.append(actor, action, version=version, reason=reason, task_id=task_id)
            except ValueError as error:
                raise ConfigError(str(error)) from error
            except AuditUnavailable as error:
                self._fail(error)
                raise

    def close(self) -> None:
        with self._lock:
            if self._log is not None:
                self._log.close()
                self._log = None

    def _open(self) -> None:
        try:
            self._log = AuditLog(self._path, clock=self._clock)
        except (AuditUnavailable, AuditBroken) as error:
            self._fail(error)

    def _fail(self, error: AuditUnavailable | AuditBroken) -> None:
        if self._log is not None:
            self._log.close()
        self._log = None
        self._problem = str(error)
        self._again_at = time.monotonic() + self._again_s
        self._troubles.note("audit_unavailable", type(error).__name__, f"{error}; nothing is learned meanwhile")


__all__ = ["AGAIN_S", "AuditTrail"]
