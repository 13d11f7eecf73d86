"""Sampling rows in proportion to their weights, exactly, a million rows at a time.

While no weight is far above the mean, rows are drawn evenly and kept with probability weight / greatest weight: one
pass over a few hundred numbers. With a heavy tail that would refuse nearly all, so a tree of sums with 64 branches is
kept and descended instead. Both give the same distribution.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

REJECTION_RATIO_MAX = 40.0
"""Greatest weight over mean weight up to which drawing and refusing is the faster way."""

BRANCHES = 64
DESCEND_AT_ONCE = 1024
"""Draws of which the branches that are looked at stay in the processor's cache."""

REFRESH_EVERY = 1 << 20
"""Weights that may be set before sum and greatest weight are counted anew: rounding adds up, maxima only grow."""


class PrioritySampler:
    """Weights of rows, and draws in proportion to them. Not thread-safe.

    Rows are numbers that may begin anywhere and mostly grow; a row that was never set has weight 0, and space before
    the first row with a weight is given back as rows are added. `capacity_hint` is how many rows to make room for.
    """

    def __init__(self, capacity_hint: int = 0) -> None:
        self._weights = np.zeros(max(BRANCHES, capacity_hint))
        self._first = -1  # the row of _weights[0]; -1 before the first row
        self._used = 0
        self._total = 0.0
        self._greatest = 0.0
        self._since_refresh = 0
        self._levels: list[NDArray[np.float64]] | None = None

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return self._total

    def set(self, rows: ArrayLike, weights: ArrayLike) -> None:
        """The weights (finite, >= 0) of these rows are now these. Of a row that is named twice the last one counts."""
        rows_N = np.asarray(rows, np.int64).reshape(-1)
        weights_N = np.asarray(weights, np.float64).reshape(-1)
        assert rows_N.shape == weights_N.shape
        if len(rows_N) == 0:
            return
        greatest = float(weights_N.max())
        assert float(weights_N.min()) >= 0
        assert greatest < np.inf
        at_N = self._room_for(rows_N)
        if at_N.min() < 0:  # rows whose space was given back: they can only be dead
            assert not weights_N[at_N < 0].any(), "a row that was given up is set again"
            at_N, weights_N = at_N[at_N >= 0], weights_N[at_N >= 0]
        if len(at_N) > 1 and len(at_N) < 4096 and len(np.unique(at_N)) < len(at_N):
            last = len(at_N) - 1 - np.unique(at_N[::-1], return_index=True)[1]
            at_N, weights_N = at_N[last], weights_N[last]
        if len(at_N) >= 4096:
            self._weights[at_N] = weights_N
            self._refresh()
            return
        self._total += float((weights_N - self._weights[at_N]).sum())
        self._weights[at_N] = weights_N
        self._greatest = max(self._greatest, greatest)
        self._since_refresh += len(at_N)
        if self._since_refresh > REFRESH_EVERY:
            self._refresh()
        elif self._levels is not None:
            self._update_levels(at_N)

    def sample(self, n: int, random: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """n independent draws: rows, and what probability a draw had of being it. None if all weights are 0."""
        if self._total <= 1e-9 * self._greatest:  # what rounding leaves of weights that are gone, or nearly so
            self._refresh()
            if self._total <= 0:
                return np.empty(0, np.int64), np.empty(0)
        if self._is_bounded():
            self._levels = None
            at_N = self._reject(n, random)
        else:
            parts = [self._descend(min(DESCEND_AT_ONCE, n - done), random) for done in range(0, n, DESCEND_AT_ONCE)]
            at_N = np.concatenate(parts) if parts else np.empty(0, np.int64)
        return at_N + self._first, self._weights[at_N] / self._total

    def _is_bounded(self) -> bool:
        if self._greatest * self._used <= REJECTION_RATIO_MAX * self._total:
            return True
        if self._levels is None:  # the greatest may have been lowered long ago, or much of the beginning be dead
            self._refresh()
            return self._greatest * self._used <= REJECTION_RATIO_MAX * self._total
        return False

    def _reject(self, n: int, random: np.random.Generator) -> NDArray[np.int64]:
        kept: list[NDArray[np.int64]] = []
        missing = n
        tries_per_draw = self._greatest * self._used / self._total
        while missing > 0:
            # One uniform number chooses the row and, by what is behind the point, whether it is kept.
            chosen = random.random(int(missing * tries_per_draw * 1.1) + 16)
            chosen *= self._used
            at = chosen.astype(np.int64)
            chosen -= at
            chosen *= self._greatest
            at = at[chosen < self._weights[at]][:missing]
            kept.append(at)
            missing -= len(at)
        return kept[0] if len(kept) == 1 else np.concatenate(kept)

    def _descend(self, n: int, random: np.random.Generator) -> NDArray[np.int64]:
        if self._levels is None:
            self._build_levels()
        assert self._levels is not None
        top = np.cumsum(self._levels[-1])
        targets = random.random(n) * top[-1]
        at_N: NDArray[np.int64] = np.searchsorted(top, targets, side="right")
        np.minimum(at_N, np.flatnonzero(self._levels[-1])[-1], out=at_N)
        for level in [*self._levels[-2::-1], self._padded()]:
            branches_NB = level.reshape(-1, BRANCHES)[at_N]
            sums_NB = np.cumsum(branches_NB, axis=1)
            # A fresh number in each node: what is left of the old one has fewer and fewer bits.
            targets = random.random(n) * sums_NB[:, -1]
            inner_N = (sums_NB <= targets[:, None]).sum(axis=1)
            at_N = at_N * BRANCHES + inner_N
        return at_N

    def _room_for(self, rows_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of rows, after making room for those that are new."""
        lowest, highest = int(rows_N.min()), int(rows_N.max())
        if self._first < 0:
            self._first = lowest
        if highest - self._first >= len(self._weights):
            (living,) = np.nonzero(self._weights[: self._used])
            given_up = int(living[0]) if len(living) else self._used
            if len(living) == 0:
                given_up = lowest - self._first
            keep = self._weights[given_up : self._used] if given_up < self._used else self._weights[:0]
            self._first += given_up
            needed = highest - self._first + 1
            size = -(-max(needed, needed * 5 // 4) // BRANCHES) * BRANCHES
            self._weights = np.zeros(size)
            self._weights[: len(keep)] = keep
            self._used = len(keep)
            self._levels = None
        self._used = max(self._used, highest - self._first + 1)
        return rows_N - self._first

    def _refresh(self) -> None:
        used = self._weights[: self._used]
        self._total = float(used.sum())
        self._greatest = float(used.max()) if self._used else 0.0
        self._since_refresh = 0
        if self._levels is not None:
            self._build_levels()

    def _padded(self) -> NDArray[np.float64]:
        rest = -len(self._weights) % BRANCHES
        if rest:
            self._weights = np.concatenate([self._weights, np.zeros(rest)])
        return self._weights

    def _build_levels(self) -> None:
        """Sums of 64 weights each, sums of 64 of those, …, until at most 4,096 are left."""
        levels: list[NDArray[np.float64]] = []
        level: NDArray[np.float64] = self._padded()
        while not levels or len(level) > BRANCHES**2:
            level = level.reshape(-1, BRANCHES).sum(axis=1)
            level = np.concatenate([level, np.zeros(-len(level) % BRANCHES)])
            levels.append(level)
        self._levels = levels

    def _update_levels(self, at_N: NDArray[np.int64]) -> None:
        below: NDArray[np.float64] = self._weights
        assert self._levels is not None
        for level in self._levels:
            at_N = np.unique(at_N // BRANCHES)
            level[at_N] = below.reshape(-1, BRANCHES)[at_N].sum(axis=1)
            below = level


def importance_weights(probabilities_N: NDArray[np.floating[Any]], size: int, exponent: float) -> NDArray[np.float64]:
    """(size * probability) ** -exponent over the greatest of them: what undoes uneven sampling (arXiv:1511.05952)."""
    if len(probabilities_N) == 0:
        return np.empty(0)
    weights_N: NDArray[np.float64] = (size * probabilities_N.astype(np.float64)) ** -exponent
    weights_N /= weights_N.max()
    return weights_N


__all__ = ["BRANCHES", "REJECTION_RATIO_MAX", "PrioritySampler", "importance_weights"]
