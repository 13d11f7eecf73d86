"""When a worker that died is replaced: at once, a little later, or not until an operator says so."""

from __future__ import annotations

from collections import deque

_FIRST_DELAY_S = 0.25
_DELAY_MAX_S = 30.0


class Circuit:
    """Counts deaths. `deaths_max` of them within `window_s` seconds open it, until it is closed by hand.

    The first death is replaced at once; each further one, without anything done in between, waits twice as long.
    """

    def __init__(self, deaths_max: int, window_s: float) -> None:
        self._deaths_max = deaths_max
        self._window_s = window_s
        self._deaths: deque[float] = deque(maxlen=deaths_max)
        self._in_a_row = 0
        self.is_open = False

    def record_death(self, now: float) -> float:
        """A worker died at `now` (seconds, monotonic); returns the delay in seconds before the next is started."""
        self._deaths.append(now)
        self._in_a_row += 1
        self.is_open |= len(self._deaths) == self._deaths_max and now - self._deaths[0] <= self._window_s
        if self._in_a_row == 1:
            return 0.0
        return min(_DELAY_MAX_S, _FIRST_DELAY_S * 2.0 ** min(self._in_a_row - 2, 10))

    def record_success(self) -> None:
        """Something was done: the worker is not dying of its start."""
        self._in_a_row = 0

    def close(self) -> None:
        """Begin again, without a past."""
        self._deaths.clear()
        self._in_a_row = 0
        self.is_open = False


__all__ = ["Circuit"]
