"""Experts are believed as far as audited items bear them out, and never further."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from share.kernel.adaptation.arbiter import Arbiter
from share.kernel.errors import ConfigError

PRIOR = {"frozen": 0.75, "adapted": 0.15, "neighbors": 0.1}


def test_without_evidence_the_answer_is_that_of_the_prior() -> None:
    arbiter = Arbiter(PRIOR)
    opinions_ENC = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]]])
    assert arbiter.mix(opinions_ENC)[0] == pytest.approx([0.75, 0.25])


def test_an_expert_that_turned_bad_loses_its_say_within_a_few_audits() -> None:
    arbiter = Arbiter(PRIOR)
    for _ in range(200):
        arbiter.learn(np.array([True, False, True]))
    assert arbiter.weights["adapted"] > 0.8
    for _ in range(6):
        arbiter.learn(np.array([False, True, True]))
    assert arbiter.weights["frozen"] > arbiter.weights["adapted"]


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=60))
def test_weights_stay_a_distribution_and_nobody_is_ever_silenced(history: list[tuple[bool, bool, bool]]) -> None:
    arbiter = Arbiter(PRIOR, share=0.03)
    for was_wrong in history:
        arbiter.learn(np.array(was_wrong))
    weights = np.array(list(arbiter.weights.values()))
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0.03 * np.array([0.75, 0.15, 0.1]) - 1e-12).all()


def test_an_arbiter_goes_on_where_it_was() -> None:
    first, second = Arbiter(PRIOR), Arbiter(PRIOR)
    first.learn(np.array([True, False, False]))
    second.restore(first.state())
    assert second.weights == pytest.approx(first.weights)
    assert second.audits == 1
    with pytest.raises(ConfigError, match="experts: the kept weights are of"):
        Arbiter({"frozen": 1.0}).restore(first.state())


@pytest.mark.parametrize(
    ("prior", "settings", "field"),
    [
        ({}, {}, "prior"),
        ({"frozen": -1.0}, {}, "prior"),
        ({"frozen": 0.0}, {}, "prior"),
        ({"frozen": 1.0}, {"learning_rate": 0.0}, "learning_rate"),
        ({"frozen": 1.0}, {"share": 0.0}, "share"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(
    prior: dict[str, float], settings: dict[str, float], field: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{field}:"):
        Arbiter(prior, **settings)
