"""How long calls take: the latest few thousand, for percentiles."""

from __future__ import annotations

import numpy as np

SIZE = 4096


class Latencies:
    """Durations in seconds of the last calls. Recording is a store: two threads at once may lose one of the two."""

    def __init__(self) -> None:
        self._seconds = np.zeros(SIZE)
        self._count = 0

    def record(self, seconds: float) -> None:
        self._seconds[self._count % SIZE] = seconds
        self._count += 1

    @property
    def count(self) -> int:
        return self._count

    def percentile_ms(self, percent: float) -> float | None:
        """None before the first call."""
        if not self._count:
            return None
        return float(np.percentile(self._seconds[: min(self._count, SIZE)], percent)) * 1000


__all__ = ["SIZE", "Latencies"]
