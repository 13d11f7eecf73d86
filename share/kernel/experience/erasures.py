"""How old what is dead can be that files still hold, so that retention knows when to compact.

After a compaction nothing that was dead is in any file, so what dies later is no older than the oldest that lived then.
That is kept on disk once the compaction is through: one that failed, or whose process died, has changed nothing here.
"""

from __future__ import annotations

import json
from pathlib import Path

from share.kernel.experience.disk import Disk
from share.kernel.experience.envelope import Damaged, read_envelope, write_envelope
from share.kernel.experience.table import Table

NAME = "compacted"


class Erasures:
    """Of the buffer in `directory`. Times are in seconds since 1970; all methods raise OSError."""

    def __init__(self, disk: Disk, directory: Path, table: Table) -> None:
        self._disk = disk
        self._path = directory / NAME
        self._table = table
        self._first_row = table.row_base  # of those before it the file says enough
        self._is_new = table.stop == 0

    def are_due(self, before: float, now: float) -> bool:
        """Whether anything dead that was created before that may be in a file. Without a word of it on disk it may."""
        added = self._oldest_added(now)
        oldest = self._oldest()
        if oldest is None and self._is_new:
            oldest = added
            self._keep(oldest)
        return oldest is None or min(oldest, added) < before

    def done(self, oldest: float, stop: int) -> None:
        """What was dead is erased; of the rows below `stop` the oldest that lived was created at `oldest`."""
        self._keep(oldest)
        self._first_row = stop

    def _oldest(self) -> float | None:
        try:
            content = read_envelope(self._disk, self._path, NAME).content
        except (FileNotFoundError, Damaged):
            return None
        return float(json.loads(bytes(content))["oldest"])

    def _keep(self, oldest: float) -> None:
        content = json.dumps({"oldest": oldest}).encode()
        write_envelope(self._disk, self._path, NAME, 0, 0, [content], replace=True)

    def _oldest_added(self, now: float) -> float:
        """Of the rows that came since: of those that a snapshot knows to be dead, nothing is known, and 0 is said."""
        columns = self._table.columns
        created = columns.created[max(self._first_row - columns.row_base, 0) : self._table.stop - columns.row_base]
        return float(created[created != 0].min(initial=now))


__all__ = ["NAME", "Erasures"]
