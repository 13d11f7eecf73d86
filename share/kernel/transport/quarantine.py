"""Tasks that are not tried again, because workers died over them, with the reason of each; on disk until released."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from share.kernel.errors import TaskQuarantined
from share.kernel.events import StructuredLogger
from share.kernel.transport.ledger import Ledger


class Quarantine:
    """Kept in the ledger. Not safe to use from several threads at once."""

    def __init__(self, ledger: Ledger, logger: StructuredLogger) -> None:
        self._ledger = ledger
        self._logger = logger
        self._reasons = dict(ledger.quarantined())

    def reasons(self) -> Mapping[str, str]:
        """The reason of each task, as of now."""
        return dict(self._reasons)

    def check(self, task_id: str) -> None:
        """Raises TaskQuarantined for a task that is here."""
        if reason := self._reasons.get(task_id):
            raise TaskQuarantined(f"task {task_id!r}: in quarantine, {reason}; release it to try again")

    def add(self, task_id: str, reason: str) -> None:
        """Until released, or until the engine ends when it cannot be stored: a full disk must not end learning."""
        self._reasons[task_id] = reason
        try:
            self._ledger.quarantine(task_id, reason)
        except sqlite3.Error as error:
            self._logger.error("quarantine_not_stored", f"{self._ledger.path}: {error}", task_id=task_id)
        self._logger.error("task_quarantined", f"task {task_id} is not tried again: {reason}", task_id=task_id)

    def release(self, task_id: str) -> None:
        """Let it be submitted again."""
        self._ledger.release(task_id)
        self._reasons.pop(task_id, None)


__all__ = ["Quarantine"]
