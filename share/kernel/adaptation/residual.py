"""An expert that corrects the frozen policy: logits = frozen logits + features · W, W learned from audited items."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

Matrix = NDArray[np.float64]

FEATURE_NORM = 3.0
"""Length to which features are scaled, so that learning rate and penalty mean the same for every policy."""


class ResidualHead:
    """Multinomial logistic regression on top of the frozen logits.

    With W = 0, at the start, it is the frozen policy. `penalty` pulls it back there (ridge); an audited item's weight
    halves every `half_life` items of the stream, because the stream drifts; the newest `items_max` are kept.
    """

    def __init__(
        self,
        dimension: int,
        num_answers: int,
        *,
        learning_rate: float = 0.5,
        penalty: float = 0.02,
        half_life: float = 1500.0,
        steps: int = 30,
        items_max: int = 2000,
    ) -> None:
        self._weights = np.zeros((dimension + 1, num_answers))
        self._learning_rate, self._penalty = learning_rate, penalty
        self._half_life, self._steps, self._items_max = half_life, steps, items_max
        self._inputs = np.zeros((0, dimension + 1))
        self._logits = np.zeros((0, num_answers))
        self._answers = np.zeros(0, np.int64)
        self._positions = np.zeros(0)

    def predict(self, logits_NC: Matrix, features_ND: Matrix) -> Matrix:
        """Probabilities, shape (N, C)."""
        return np.asarray(softmax(logits_NC + _inputs(features_ND) @ self._weights, axis=1))

    def learn(self, logits_NC: Matrix, features_ND: Matrix, answers_N: NDArray[np.int64], position: float) -> None:
        """Audited items with their right answers; `position` is how many items the stream has had."""
        keep = -self._items_max
        self._inputs = np.concatenate([self._inputs, _inputs(features_ND)])[keep:]
        self._logits = np.concatenate([self._logits, logits_NC])[keep:]
        self._answers = np.concatenate([self._answers, answers_N])[keep:]
        self._positions = np.concatenate([self._positions, np.full(len(answers_N), position)])[keep:]
        recency = 0.5 ** ((position - self._positions) / self._half_life)
        scale = max(recency.sum(), 8.0)  # the first few items must not swing it
        rows = np.arange(len(self._answers))
        for _ in range(self._steps):
            errors = softmax(self._logits + self._inputs @ self._weights, axis=1)
            errors[rows, self._answers] -= 1
            gradient = self._inputs.T @ (errors * recency[:, None]) / scale + self._penalty * self._weights
            self._weights -= self._learning_rate * gradient


def _inputs(features_ND: Matrix) -> Matrix:
    norms = np.maximum(np.linalg.norm(features_ND, axis=1, keepdims=True), 1e-12)
    return np.concatenate([features_ND * (FEATURE_NORM / norms), np.ones((len(features_ND), 1))], axis=1)


__all__ = ["FEATURE_NORM", "ResidualHead"]
