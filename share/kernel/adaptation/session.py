"""Which answers are in season: the label prior of the last few batches.

A session asks about few things, and an expert that knows this is far ahead of one that does not; an expert that only
believes to know it falls behind as far, which is why it speaks through the arbiter. The prior is estimated from
unlabelled predictions by expectation maximisation (Saerens, Latinne and Decaestecker 2002, "Adjusting the Outputs of a
Classifier to New a Priori Probabilities"), shrunk to the uniform one.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]


class SessionPrior:
    """Corrects probabilities of a policy that was trained on balanced answers.

    `window` batches are kept, each weighing `decay` times the one after it; `strength` is the number of imagined items
    with uniform answers that the estimate is shrunk with.
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


__all__ = ["SessionPrior"]
