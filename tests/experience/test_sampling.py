"""Draws are in proportion to the weights, exactly, whatever the weights and however they came to be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from share.kernel.experience.sampling import PrioritySampler, importance_weights

SHAPES = {
    "even": lambda rng, n: np.ones(n),
    "mild": lambda rng, n: rng.random(n) + 0.05,
    "one heavy": lambda rng, n: np.where(np.arange(n) == n // 2, 1e4, rng.random(n)),
    "lognormal": lambda rng, n: rng.lognormal(0, 2.5, n),
    "mostly dead": lambda rng, n: np.where(rng.random(n) < 0.02, rng.random(n), 0.0),
}


def is_in_proportion(sampler: PrioritySampler, weights: np.ndarray, first: int = 0) -> None:  # type: ignore[type-arg]
    """Chi-squared over the rows, those that are expected less than ten times taken together."""
    rows, probabilities = sampler.sample(100_000, np.random.default_rng(1))
    assert probabilities == pytest.approx(weights[rows - first] / weights.sum(), rel=1e-9)
    expected = weights / weights.sum() * len(rows)
    counts = np.bincount(rows - first, minlength=len(weights)).astype(float)
    rare = expected < 10
    assert not counts[weights == 0].any()
    seen, wanted = list(counts[~rare]), list(expected[~rare])
    if expected[rare].sum() > 5:
        seen.append(counts[rare].sum())
        wanted.append(expected[rare].sum())
    if len(seen) > 1:
        assert chisquare(seen, np.array(wanted) * sum(seen) / sum(wanted)).pvalue > 1e-4


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 65, 5000, 270_000])
def test_draws_are_in_proportion(shape: str, size: int) -> None:
    weights = SHAPES[shape](np.random.default_rng(0), size)
    weights[0] = max(weights[0], 0.5)
    sampler = PrioritySampler(size)
    sampler.set(np.arange(size), weights)
    is_in_proportion(sampler, weights)


@pytest.mark.parametrize("shape", SHAPES)
def test_draws_are_in_proportion_after_many_small_changes(shape: str) -> None:
    rng = np.random.default_rng(0)
    weights = SHAPES[shape](rng, 4000)
    weights[7] = 1.0
    sampler = PrioritySampler()
    for start in range(0, 4000, 500):
        sampler.set(1000 + np.arange(start, start + 500), weights[start : start + 500])
        sampler.sample(10, rng)
    for _ in range(200):
        rows = rng.integers(0, 4000, 50)  # some twice: the last one counts
        for row, value in zip(rows, rng.permutation(weights[rows]), strict=True):
            weights[row] = value
        sampler.set(1000 + rows, weights[rows])
        sampler.sample(3, rng)
    weights[3000:] = 0
    sampler.set(np.arange(4000, 5000), np.zeros(1000))
    is_in_proportion(sampler, weights, first=1000)


@given(
    st.lists(
        st.tuples(st.integers(0, 300), st.lists(st.sampled_from([0.0, 1e-9, 0.3, 1.0, 7.0, 1e6]), max_size=90)),
        max_size=8,
    )
)
def test_it_agrees_with_a_plain_list(changes: list[tuple[int, list[float]]]) -> None:
    model = np.zeros(400)
    sampler, rng = PrioritySampler(), np.random.default_rng(0)
    newest = 0
    for start, values in changes:
        rows = start + np.arange(len(values))
        # Rows begin where the first is set and may be given up from the front; none before them is ever set again.
        if start >= (np.flatnonzero(model)[0] if model.any() else newest):
            newest = max(newest, start)
            model[rows] = values
            sampler.set(rows, values)
        drawn, probabilities = sampler.sample(20, rng)
        if not model.any():
            assert len(drawn) == 0
            continue
        assert sampler.total == pytest.approx(model.sum())
        assert (model[drawn] > 0).all()
        assert probabilities == pytest.approx(model[drawn] / model.sum())


def test_a_window_that_moves_keeps_its_size() -> None:
    sampler, rng = PrioritySampler(1000), np.random.default_rng(0)
    for row in range(0, 200_000, 500):
        sampler.set(np.arange(row, row + 500), np.ones(500))
        sampler.set(np.arange(max(0, row - 1000), max(0, row - 500)), np.zeros(min(500, max(0, row - 500))))
    rows, _ = sampler.sample(1000, rng)
    assert rows.min() >= 198_500
    assert len(sampler._weights) < 10_000


def test_a_weight_that_is_no_weight_is_our_mistake() -> None:
    for wrong in (-1.0, np.nan, np.inf):
        with pytest.raises(AssertionError):
            PrioritySampler().set([1], [wrong])


def test_importance_weights_undo_the_sampling() -> None:
    probabilities = np.array([0.5, 0.25, 0.25])
    assert importance_weights(probabilities, 3, 1.0) == pytest.approx([0.5, 1, 1])
    assert importance_weights(probabilities, 3, 0.0) == pytest.approx([1, 1, 1])
    assert len(importance_weights(np.empty(0), 3, 0.5)) == 0
