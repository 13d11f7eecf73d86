"""Whom to believe: weights over experts that are learned from audited items only.

The frozen policy is one of the experts and has most of the weight at first. Weights follow the fixed-share forecaster
(Herbster and Warmuth 1998, "Tracking the Best Expert"): its regret is small against the best *sequence* of experts, so
that an expert that was good yesterday and is bad today loses its say within a few audits. Nothing but audited evidence
moves a weight, hence without any the answer is that of the frozen policy and the priors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from share.kernel.errors import ConfigError

Probabilities = NDArray[np.float64]


class Arbiter:
    """Mixes the experts' opinions about an answer.

    `prior` gives each expert's weight before any evidence, in any scale; `learning_rate` is by how much an expert's
    log-weight falls with a wrong answer; `share` is the part of all weight that returns to the prior with every audited
    item. Raises ConfigError for a prior that is negative or all zero, or numbers out of range.
    """

    def __init__(self, prior: Mapping[str, float], *, learning_rate: float = 0.8, share: float = 0.03) -> None:
        values = np.array(list(prior.values()), float)
        if not len(values) or not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
            raise ConfigError("prior: needs weights that are not negative, at least one above zero")
        if learning_rate <= 0:
            raise ConfigError("learning_rate: must be greater than 0")
        if not 0 < share <= 1:
            raise ConfigError("share: must lie in (0, 1]: without it an expert that failed once never comes back")
        self.names = tuple(prior)
        self.audits = 0
        self._prior = values / values.sum()
        self._weights = self._prior.copy()
        self._learning_rate = learning_rate
        self._share = share

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each expert; they sum to one."""
        return dict(zip(self.names, self._weights.tolist(), strict=True))

    def mix(self, opinions_ENC: Probabilities) -> Probabilities:
        """Probabilities (N, C) of C answers to N questions, from those of the E experts in the order of `names`."""
        assert opinions_ENC.shape[0] == len(self.names)
        return np.tensordot(self._weights, opinions_ENC, axes=1)

    def learn(self, was_wrong_E: NDArray[np.bool_]) -> None:
        """One audited item: which experts' own answers were wrong."""
        weights = self._weights * np.exp(-self._learning_rate * np.asarray(was_wrong_E, float))
        weights /= weights.sum()
        self._weights = (1 - self._share) * weights + self._share * self._prior
        self.audits += 1

    def state(self) -> dict[str, float]:
        """What `restore` takes: weights by expert, and the number of audits."""
        return {**self.weights, "audits": float(self.audits)}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on where another arbiter of the same experts was. Raises ConfigError for other experts."""
        if set(state) != {*self.names, "audits"}:
            raise ConfigError(f"experts: the kept weights are of {sorted(set(state) - {'audits'})}")
        weights = np.array([state[name] for name in self.names])
        self._weights = weights / weights.sum()
        self.audits = int(state["audits"])


def sign_test(won: int, lost: int) -> float:
    """The probability that of so many fair coins at least `lost` fall this way: of two who are equally good, that one
    loses so clearly (McNemar 1947, in its exact form)."""
    coins = won + lost
    return float(sum(math.comb(coins, each) for each in range(lost, coins + 1)) / 2**coins)


__all__ = ["Arbiter", "sign_test"]
