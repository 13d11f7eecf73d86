"""Sampling rows in proportion to their weights, exactly, a million rows at a time.

While no weight is far above the mean, rows are drawn evenly and kept with probability weight / greatest weight: one
pass over a few hundred numbers. With a heavy tail that would refuse nearly all, so sums of 16 weights, and of 16 such
sums, are kept and descended instead. Both give the same distribution. Calls to numpy are counted here: with a batch of
a few hundred each costs about what it works on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

REJECTION_RATIO_MAX = 10.0
"""Greatest weight over mean weight up to which drawing and refusing is the faster way."""

BRANCHES = 16
TOP_MAX = 4096
"""Sums that are searched from the beginning at each draw; more get another level above them."""

DESCEND_AT_ONCE = 1024
"""Draws of which the branches that are looked at stay in the processor's cache."""

MANY = 4096
"""From so many weights on, setting them counts everything anew."""

REFRESH_EVERY = 1 << 20
"""Weights that may be set before sum and greatest weight are counted anew: rounding adds up, maxima only grow."""


_ONES = np.ones(BRANCHES)
_UP_TO = np.triu(np.ones((BRANCHES, BRANCHES)))  # a product with it adds up, four times as fast as cumsum


class PrioritySampler:
    """Weights of rows, and draws in proportion to them. Not thread-safe.

    Rows are numbers that may begin anywhere and mostly grow; a row that was never set has weight 0, and space before
    the first row with a weight is given back as rows are added. `capacity_hint` is how many rows to make room for.
    """

    def __init__(self, capacity_hint: int = 0) -> None:
        self._weights = np.zeros(_whole(max(1, capacity_hint)))
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
        rows_N = np.asarray(rows, np.int64)
        weights_N = np.asarray(weights, np.float64)
        assert rows_N.shape == weights_N.shape == (len(rows_N),)
        if len(rows_N) == 0:
            return
        greatest = float(np.maximum.reduce(weights_N))
        assert np.minimum.reduce(weights_N) >= 0
        assert greatest < np.inf
        ordered_N = np.sort(rows_N)
        self._make_room(int(ordered_N[0]), int(ordered_N[-1]))
        at_N = rows_N - self._first
        if ordered_N[0] < self._first:  # rows whose space was given back: they can only be dead
            assert not weights_N[at_N < 0].any(), "a row that was given up is set again"
            at_N, weights_N = at_N[at_N >= 0], weights_N[at_N >= 0]
        self._greatest = max(self._greatest, greatest)
        self._since_refresh += len(at_N)
        if len(at_N) >= MANY or self._since_refresh > REFRESH_EVERY:
            self._weights[at_N] = weights_N
            self._refresh()
        elif self._levels is not None:
            self._weights[at_N] = weights_N
            self._update_levels(at_N)
        else:
            if np.logical_or.reduce(ordered_N[1:] == ordered_N[:-1]):
                last = len(at_N) - 1 - np.unique(at_N[::-1], return_index=True)[1]
                at_N, weights_N = at_N[last], weights_N[last]
            self._total += float(np.add.reduce(weights_N - self._weights.take(at_N)))
            self._weights[at_N] = weights_N

    def sample(self, n: int, random: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """n independent draws: rows, and what probability a draw had of being it. None if all weights are 0."""
        if self._total <= 1e-9 * self._greatest:  # what rounding leaves of weights that are gone, or nearly so
            self._refresh()
            if self._total <= 0:
                return np.empty(0, np.int64), np.empty(0)
        if self._is_bounded():
            self._levels = None
            at_N = _reject(self._weights[: self._used], self._total, self._greatest, n, random)
        else:
            parts = [self._descend(min(DESCEND_AT_ONCE, n - done), random) for done in range(0, n, DESCEND_AT_ONCE)]
            at_N = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int64), *parts])
        probabilities_N = self._weights.take(at_N)
        probabilities_N /= self._total
        if self._first:
            at_N += self._first
        return at_N, probabilities_N

    def _is_bounded(self) -> bool:
        if self._greatest * self._used <= REJECTION_RATIO_MAX * self._total:
            return True
        if self._levels is None:  # the greatest may have been lowered long ago, or much of the beginning be dead
            self._refresh()
            return self._greatest * self._used <= REJECTION_RATIO_MAX * self._total
        return False

    def _descend(self, n: int, random: np.random.Generator) -> NDArray[np.int64]:
        levels = self._levels if self._levels is not None else self._build_levels()
        top = levels[-1]
        greatest = float(np.maximum.reduce(top))
        if greatest * len(top) <= REJECTION_RATIO_MAX * self._total:  # a sum of hundreds is seldom far above the mean
            at_N = _reject(top, self._total, greatest, n, random)
        else:
            up_to = np.cumsum(top)
            at_N = np.searchsorted(up_to, random.random(n) * up_to[-1], side="right")
        for level in [*levels[-2::-1], self._weights]:
            sums_NB = level.reshape(-1, BRANCHES).take(at_N, axis=0) @ _UP_TO
            # A fresh number in each node: what is left of the old one has fewer and fewer bits. Less than one times a
            # sum is less than the sum, and no sum of nothing is greater than nothing: weight 0 is never chosen.
            targets_N = random.random(n) * sums_NB[:, -1]
            at_N = at_N * BRANCHES + (sums_NB > targets_N[:, None]).argmax(axis=1)
        return at_N

    def _make_room(self, lowest: int, highest: int) -> None:
        """Make room for rows up to `highest`, of which `lowest` is one."""
        if self._first < 0:
            self._first = lowest
        if highest - self._first >= len(self._weights):
            (living,) = np.nonzero(self._weights[: self._used])
            given_up = int(living[0]) if len(living) else lowest - self._first
            keep = self._weights[given_up : self._used] if given_up < self._used else self._weights[:0]
            self._first += given_up
            needed = highest - self._first + 1
            self._weights = np.zeros(_whole(max(needed, needed * 5 // 4)))
            self._weights[: len(keep)] = keep
            self._used = len(keep)
            self._levels = None
        self._used = max(self._used, highest - self._first + 1)

    def _refresh(self) -> None:
        used = self._weights[: self._used]
        self._total = float(used.sum())
        self._greatest = float(used.max()) if self._used else 0.0
        self._since_refresh = 0
        if self._levels is not None:
            self._build_levels()

    def _build_levels(self) -> list[NDArray[np.float64]]:
        """Sums of 16 weights each, and of 16 of those, until few enough are left."""
        levels: list[NDArray[np.float64]] = []
        level: NDArray[np.float64] = self._weights
        while not levels or len(level) > TOP_MAX:
            level = level.reshape(-1, BRANCHES) @ _ONES
            level = np.concatenate([level, np.zeros(_whole(len(level)) - len(level))])
            levels.append(level)
        self._levels = levels
        return levels

    def _update_levels(self, at_N: NDArray[np.int64]) -> None:
        """After weights were set. A sum of which two parts changed is taken twice: cheaper than to find out."""
        below: NDArray[np.float64] = self._weights
        assert self._levels is not None
        for level in self._levels:
            at_N = at_N // BRANCHES
            level[at_N] = below.reshape(-1, BRANCHES).take(at_N, axis=0) @ _ONES
            below = level
        self._total = float(np.add.reduce(below))


def _reject(
    weights: NDArray[np.float64], total: float, greatest: float, n: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """n positions in proportion to the weights, of which none is above `greatest`."""
    kept: list[NDArray[np.int64]] = []
    missing = n
    tries_per_draw = greatest * len(weights) / total
    while missing > 0:
        # One uniform number chooses the position and, by what is behind the point, whether it is kept.
        chosen = random.random(int(missing * tries_per_draw * 1.1) + 16)
        chosen *= len(weights)
        at = chosen.astype(np.int64)
        chosen -= at
        chosen *= greatest
        (accepted,) = np.less(chosen, weights.take(at)).nonzero()
        kept.append(at.take(accepted[:missing]))
        missing -= len(accepted)
    return kept[0] if len(kept) == 1 else np.concatenate([np.empty(0, np.int64), *kept])


def _whole(length: int) -> int:
    """The length that is a whole number of nodes."""
    return -(-length // BRANCHES) * BRANCHES


def importance_weights(probabilities_N: NDArray[np.floating[Any]], size: int, exponent: float) -> NDArray[np.float64]:
    """(size * probability) ** -exponent over the greatest of them: what undoes uneven sampling (arXiv:1511.05952)."""
    if len(probabilities_N) == 0:
        return np.empty(0)
    weights_N: NDArray[np.float64] = (size * probabilities_N.astype(np.float64)) ** -exponent
    weights_N /= weights_N.max()
    return weights_N


__all__ = ["BRANCHES", "REJECTION_RATIO_MAX", "PrioritySampler", "importance_weights"]
