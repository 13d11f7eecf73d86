"""Two experts for benchmarks.online_stream that need a closed set of answers and their probabilities.

A service that answers in free text has neither, so nothing in it asks them: they show what audited items can be worth
at most. The first also stands in for the policy that learns where the stream is answered as the service would.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

FEATURE_NORM = 3.0
"""Length to which features are scaled, so that learning rate and penalty mean the same for every network."""


class ResidualHead:
    """Corrects the frozen network: logits = frozen logits + features x `weights`.

    Multinomial logistic regression on top of the frozen logits, learned from audited items. With weights of zero, at
    the start, it is the frozen network. `penalty` pulls it back there (ridge); an audited item's weight halves every
    `half_life` items of the stream, because the stream drifts; the newest `items_max` are kept.
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
        self.weights = np.zeros((dimension + 1, num_answers))
        self._learning_rate, self._penalty = learning_rate, penalty
        self._half_life, self._steps, self._items_max = half_life, steps, items_max
        self._inputs = np.zeros((0, dimension + 1))
        self._logits = np.zeros((0, num_answers))
        self._answers = np.zeros(0, np.int64)
        self._positions = np.zeros(0)

    def predict(self, logits_NC: Matrix, features_ND: Matrix) -> Matrix:
        """Probabilities, shape (N, C)."""
        return np.asarray(softmax(logits_NC + _inputs(features_ND) @ self.weights, axis=1))

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
            errors = softmax(self._logits + self._inputs @ self.weights, axis=1)
            errors[rows, self._answers] -= 1
            gradient = self._inputs.T @ (errors * recency[:, None]) / scale + self._penalty * self.weights
            self.weights = self.weights - self._learning_rate * gradient


class SessionPrior:
    """Which answers are in season: corrects probabilities of a network that was trained on balanced answers.

    The label prior of the last few batches, estimated from unlabelled predictions by expectation maximisation (Saerens,
    Latinne and Decaestecker 2002, "Adjusting the Outputs of a Classifier to New a Priori Probabilities"), shrunk to the
    uniform one. `window` batches are kept, each weighing `decay` times the one after it; `strength` is the number of
    imagined items with uniform answers that the estimate is shrunk with.
    """

    def __init__(self, *, window: int = 6, decay: float = 0.75, strength: float = 8.0, steps: int = 3) -> None:
        self._recent: deque[tuple[Matrix, Vector]] = deque(maxlen=window)
        self._decay, self._strength, self._steps = decay, strength, steps

    def correct(self, probabilities_NC: Matrix, clients_N: NDArray[np.int64]) -> Matrix:
        """The next batch's probabilities under the session's prior; shape (N, C)."""
        _, which, counts = np.unique(clients_N, return_inverse=True, return_counts=True)
        self._recent.append((probabilities_NC, 1 / counts[which]))
        newest = len(self._recent) - 1
        seen = np.concatenate([batch for batch, _ in self._recent])
        weights = np.concatenate([shares * self._decay ** (newest - i) for i, (_, shares) in enumerate(self._recent)])
        num_answers = probabilities_NC.shape[1]
        prior = np.full(num_answers, 1 / num_answers)
        for _ in range(self._steps):
            posterior = seen * prior
            posterior /= posterior.sum(axis=1, keepdims=True)
            prior = (weights @ posterior + self._strength / num_answers) / (weights.sum() + self._strength)
        corrected = probabilities_NC * prior
        return np.asarray(corrected / corrected.sum(axis=1, keepdims=True))


def _inputs(features_ND: Matrix) -> Matrix:
    norms = np.maximum(np.linalg.norm(features_ND, axis=1, keepdims=True), 1e-12)
    return np.concatenate([features_ND * (FEATURE_NORM / norms), np.ones((len(features_ND), 1))], axis=1)


__all__ = ["FEATURE_NORM", "ResidualHead", "SessionPrior"]
