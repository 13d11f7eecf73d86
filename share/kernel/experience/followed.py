"""The vectors that a reader searches: those of the writer's file that a manifest vouches for, newer ones of its own.

What stands in the writer's file beyond the manifest was never synced and may be anything after a power cut, so a
reader takes it from the log, which has checksums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from share.kernel.experience.vectors import Vectors, to_float32


class FollowedVectors:
    """Reads as `Vectors` does. Rows below `shared_stop` are the writer's; later ones are appended here, in memory.

    One thread appends and shares; any number read beside it.
    """

    def __init__(self, dimension: int, dtype: str, shared: Vectors | None = None, shared_stop: int = 0) -> None:
        self.dimension = dimension
        self.dtype = np.dtype(dtype)
        self._parts = _Parts(shared, shared_stop, np.empty((0, dimension), self.dtype), shared_stop)

    @property
    def stop(self) -> int:
        """One behind the last row."""
        return self._parts.stop

    def append(self, first_row: int, vectors_ND: NDArray[Any]) -> None:
        """Keep rows first_row, first_row + 1, …; shape (N, D)."""
        parts = self._parts
        assert first_row == parts.stop
        start = first_row - parts.shared_stop
        needed = start + len(vectors_ND)
        own_ND = parts.own_ND
        if needed > len(own_ND):
            own_ND = np.empty((max(needed, 256, len(own_ND) * 3 // 2), self.dimension), self.dtype)
            own_ND[:start] = parts.own_ND[:start]
        own_ND[start:needed] = vectors_ND
        self._parts = _Parts(parts.shared, parts.shared_stop, own_ND, first_row + len(vectors_ND))

    def share(self, shared: Vectors, shared_stop: int) -> None:
        """Take rows below `shared_stop` from the writer's file from now on."""
        parts = self._parts
        assert parts.shared_stop <= shared_stop <= parts.stop
        kept_ND = parts.own_ND[shared_stop - parts.shared_stop : parts.stop - parts.shared_stop].copy()
        self._parts = _Parts(shared, shared_stop, kept_ND, parts.stop)

    def gather(self, rows_N: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Copies of these rows in this order, float32 of shape (N, D)."""
        parts = self._parts
        rows_N = np.asarray(rows_N)
        is_own = rows_N >= parts.shared_stop
        if parts.shared is None or is_own.all():
            return to_float32(parts.own_ND[rows_N - parts.shared_stop])
        if not is_own.any():
            return parts.shared.gather(rows_N)
        gathered_ND = np.empty((len(rows_N), self.dimension), np.float32)
        gathered_ND[is_own] = to_float32(parts.own_ND[rows_N[is_own] - parts.shared_stop])
        gathered_ND[~is_own] = parts.shared.gather(rows_N[~is_own])
        return gathered_ND

    def block(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows start <= row < stop, float32 of shape (stop - start, D)."""
        return to_float32(self.stored(start, stop))

    def stored(self, start: int, stop: int) -> NDArray[Any]:
        """The same rows as they are kept."""
        parts = self._parts
        own_ND = parts.own_ND[max(start - parts.shared_stop, 0) : max(stop - parts.shared_stop, 0)]
        if parts.shared is None or start >= parts.shared_stop:
            return own_ND
        shared_ND = parts.shared.stored(start, min(stop, parts.shared_stop))
        return shared_ND if len(own_ND) == 0 else np.concatenate([shared_ND, own_ND])


class _Parts:
    """Swapped as one, so that no reader sees half a change."""

    __slots__ = ("own_ND", "shared", "shared_stop", "stop")

    def __init__(self, shared: Vectors | None, shared_stop: int, own_ND: NDArray[Any], stop: int) -> None:
        self.shared = shared
        self.shared_stop = shared_stop
        self.own_ND = own_ND
        self.stop = stop


__all__ = ["FollowedVectors"]
