"""Confidence that means what it says: temperature scaling on audited items, and how far off it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

TEMPERATURES = np.geomspace(0.05, 20.0, 121)
"""What is tried: a grid is exact enough for one number and cannot diverge."""


def tempered(probabilities_NC: Matrix, temperature: float) -> Matrix:
    """Probabilities with their logarithms divided by `temperature`; above 1 they become less sure."""
    logs = np.log(np.maximum(probabilities_NC, 1e-12)) / temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def fit_temperature(probabilities_NC: Matrix, answers_N: NDArray[np.int64], *, prior_items: float = 10.0) -> float:
    """The temperature under which the audited answers were likeliest (Guo et al. 2017, arXiv:1706.04599).

    `prior_items` is how many items' worth of evidence stands for leaving it at 1, so that it moves gradually.
    """
    rows = np.arange(len(answers_N))
    losses = []
    for temperature in TEMPERATURES:
        likelihood = tempered(probabilities_NC, float(temperature))[rows, answers_N]
        losses.append(-np.log(np.maximum(likelihood, 1e-12)).sum() + prior_items * np.log(temperature) ** 2 / 2)
    return float(TEMPERATURES[int(np.argmin(losses))])


def calibration_error(confidences_N: Vector, was_right_N: NDArray[np.bool_], *, bins: int = 15) -> float:
    """Expected calibration error in [0, 1]: mean |accuracy - confidence| over bins of equal width, weighted by size."""
    which = np.minimum((confidences_N * bins).astype(int), bins - 1)
    counts = np.bincount(which, minlength=bins)
    gaps = np.bincount(which, weights=was_right_N - confidences_N, minlength=bins)
    return float(np.abs(gaps).sum() / max(counts.sum(), 1))


__all__ = ["TEMPERATURES", "calibration_error", "fit_temperature", "tempered"]
