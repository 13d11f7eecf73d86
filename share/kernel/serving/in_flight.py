"""What is on its way, counted, so that closing can wait for all of it."""

from __future__ import annotations

import threading


class InFlight:
    """A count of what was let in and has not left. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def enter(self) -> bool:
        """One more is on its way; False, and it is not, after `close`."""
        with self._changed:
            self._count += not self._is_closed
            return not self._is_closed

    def stay(self) -> None:
        """One more is on its way, begun by one that is."""
        with self._changed:
            self._count += 1

    def leave(self) -> None:
        with self._changed:
            self._count -= 1
            if not self._count:
                self._changed.notify_all()

    def wait(self) -> None:
        """Until nothing is on its way."""
        with self._changed:
            self._changed.wait_for(lambda: not self._count)

    def close(self) -> bool:
        """Let nothing in any more; False when that was so already."""
        with self._changed:
            was_open, self._is_closed = not self._is_closed, True
            return was_open


__all__ = ["InFlight"]
