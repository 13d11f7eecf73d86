"""The vectors that a reader searches: those of the writer's file that a manifest vouches for, newer ones of its own.

What stands in the writer's file beyond the manifest was never synced and may be anything after a power cut, so a
reader takes it from the log, which has checksums.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from share.kernel.experience.vectors import Vectors, to_float32

BLOCK_ROWS = 4096
"""Rows of its own that are kept together: in blocks nothing is ever copied to make room, however many there are."""


class FollowedVectors:
    """Reads as `Vectors` does. Rows below `shared_stop` are the writer's; later ones are appended here, in memory.

    One thread appends and shares; any number read beside it.
    """

    def __init__(self, dimension: int, dtype: str, shared: Vectors | None = None, shared_stop: int = 0) -> None:
        self.dimension = dimension
        self.dtype = np.dtype(dtype)
        self._parts = _Parts(shared, shared_stop, (), shared_stop, shared_stop)

    @property
    def stop(self) -> int:
        """One behind the last row."""
        return self._parts.stop

    def append(self, first_row: int, vectors_ND: NDArray[Any]) -> None:
        """Keep rows first_row, first_row + 1, …; shape (N, D)."""
        parts = self._parts
        assert first_row == parts.stop
        blocks, done = parts.blocks, 0
        while done < len(vectors_ND):
            used = (first_row + done - parts.start) % BLOCK_ROWS
            if used == 0:
                blocks = (*blocks, np.empty((BLOCK_ROWS, self.dimension), self.dtype))
            take = min(len(vectors_ND) - done, BLOCK_ROWS - used)
            blocks[-1][used : used + take] = vectors_ND[done : done + take]
            done += take
        self._parts = parts._replace(blocks=blocks, stop=first_row + done)

    def share(self, shared: Vectors, shared_stop: int) -> None:
        """Take rows below `shared_stop` from the writer's file from now on."""
        parts = self._parts
        assert parts.shared_stop <= shared_stop <= parts.stop
        done = (shared_stop - parts.start) // BLOCK_ROWS
        self._parts = _Parts(shared, shared_stop, parts.blocks[done:], parts.start + done * BLOCK_ROWS, parts.stop)

    def gather(self, rows_N: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Copies of these rows in this order, float32 of shape (N, D)."""
        parts = self._parts
        rows_N = np.asarray(rows_N)
        is_own = rows_N >= parts.shared_stop
        if parts.shared is not None and not is_own.any():
            return parts.shared.gather(rows_N)
        numbers = np.where(is_own, (rows_N - parts.start) // BLOCK_ROWS, -1)
        gathered_ND = np.empty((len(rows_N), self.dimension), np.float32)
        for number in np.unique(numbers).tolist():
            (here,) = np.nonzero(numbers == number)
            if number < 0:
                assert parts.shared is not None
                gathered_ND[here] = parts.shared.gather(rows_N[here])
            else:
                at = rows_N[here] - parts.start - number * BLOCK_ROWS
                gathered_ND[here] = to_float32(parts.blocks[number].take(at, axis=0))
        return gathered_ND

    def block(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows start <= row < stop, float32 of shape (stop - start, D)."""
        return to_float32(self.stored(start, stop))

    def stored(self, start: int, stop: int) -> NDArray[Any]:
        """The same rows as they are kept."""
        parts = self._parts
        pieces = []
        if parts.shared is not None and start < parts.shared_stop:
            pieces.append(parts.shared.stored(start, min(stop, parts.shared_stop)))
        row, stop = max(start, parts.shared_stop), min(stop, parts.stop)
        while row < stop:
            number, used = divmod(row - parts.start, BLOCK_ROWS)
            take = min(stop - row, BLOCK_ROWS - used)
            pieces.append(parts.blocks[number][used : used + take])
            row += take
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty((0, self.dimension), self.dtype), *pieces])


class _Parts(NamedTuple):
    """Swapped as one, so that no reader sees half a change."""

    shared: Vectors | None
    shared_stop: int
    blocks: tuple[NDArray[Any], ...]  # of BLOCK_ROWS rows each, the first of which is `start`
    start: int
    stop: int


__all__ = ["BLOCK_ROWS", "FollowedVectors"]
