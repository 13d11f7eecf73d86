"""Reading a database without its locks, where they cannot be written: right while nobody writes, and refused otherwise.

Somebody without the permission to write, or on a read-only mount, cannot tell a writer what he is reading. So nothing
is read while a writer lives, and nothing that was read counts if the file is not the one that was opened.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from share.kernel.errors import BufferUnavailable
from share.kernel.experience.lock import is_locked


class Quiet:
    """The file of a database, below `log/<generation>` of a buffer, that is to stay as it is now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._buffer = path.parents[2]
        self._seen = self._state()
        self._check()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Raises BufferUnavailable if a writer is or was there: before anything is read, or after it."""
        self._check()
        try:
            yield
        finally:  # what looks like damage may be the writer's work
            self._check()

    def _check(self) -> None:
        if is_locked(self._buffer):
            raise BufferUnavailable(
                f"{self._path}: is being written to, and may not be read without permission to write beside it; "
                "read it as its writer's user, or when nobody writes"
            )
        if self._state() != self._seen:
            raise BufferUnavailable(f"{self._path}: has changed since it was opened without its locks; open it again")

    def _state(self) -> tuple[int, int, int]:
        with contextlib.suppress(FileNotFoundError):
            state = os.stat(self._path)
            return state.st_ino, state.st_size, state.st_mtime_ns
        return 0, 0, 0


__all__ = ["Quiet"]
