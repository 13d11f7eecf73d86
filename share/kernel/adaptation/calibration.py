"""Confidence that means what it says: Platt scaling on audited items, and how far off it is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

GRID = np.arange(-16, 9) / 4
"""Biases that are tried, in logits, and slopes, as powers of two: a grid is exact enough for two numbers, cannot
diverge, and has no slope that would turn the order of confidences around."""

EPSILON = 1e-6
"""Confidences count as being at least so far from 0 and 1."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """logit(probability of being right) = `slope` x logit(confidence) + `bias`; the slope is above 0."""

    slope: float = 1.0
    bias: float = 0.0

    def __call__(self, confidence: float) -> float:
        """The probability of being right, of one that was stated; without evidence the one that was stated."""
        if self.slope == 1.0 and self.bias == 0.0:
            return confidence
        logit = float(_logit(np.array(confidence)))
        return float(1 / (1 + np.exp(-(self.slope * logit + self.bias))))


def fit_calibration(confidences_N: Vector, was_right_N: NDArray[np.bool_], *, prior_items: float = 10.0) -> Calibration:
    """Under which the audited outcomes were likeliest (Platt 1999, "Probabilistic Outputs for Support Vector
    Machines").

    A slope alone, one temperature, cannot say that an answer stated with more than one half is mostly wrong.
    `prior_items` is how much evidence stands for leaving confidences as they are, so that they move gradually: the
    inverse of the variance of a normal prior on the bias, and on the logarithm of the slope.
    """
    slopes_G, biases_G = (np.array(column) for column in zip(*product(2.0**GRID, GRID), strict=True))
    sign_N = np.where(was_right_N, -1.0, 1.0)
    scores_GN = (slopes_G[:, None] * _logit(confidences_N) + biases_G[:, None]) * sign_N
    losses_G = np.logaddexp(0, scores_GN).sum(axis=1) + prior_items * (np.log(slopes_G) ** 2 + biases_G**2) / 2
    best = int(np.argmin(losses_G))
    return Calibration(float(slopes_G[best]), float(biases_G[best]))


def calibration_error(confidences_N: Vector, was_right_N: NDArray[np.bool_], *, bins: int = 15) -> float:
    """Expected calibration error in [0, 1]: mean |accuracy - confidence| over bins of equal width, weighted by size."""
    which = np.minimum((confidences_N * bins).astype(int), bins - 1)
    counts = np.bincount(which, minlength=bins)
    gaps = np.bincount(which, weights=was_right_N - confidences_N, minlength=bins)
    return float(np.abs(gaps).sum() / max(counts.sum(), 1))


def _logit(confidences: Vector) -> Vector:
    inside = np.clip(confidences, EPSILON, 1 - EPSILON)
    return np.asarray(np.log(inside / (1 - inside)))


__all__ = ["EPSILON", "GRID", "Calibration", "calibration_error", "fit_calibration"]
