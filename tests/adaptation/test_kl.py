"""The KL controller: bounded, settled after a step, and it says when to go back."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from share.kernel.adaptation.kl import WINDOW, KLConfig, KLController
from share.kernel.config import validate
from share.kernel.errors import ConfigError
from share.kernel.registry import Registry


def plant(controller: KLController, drive: float, *, seed: int = 0, lag: float = 0.5) -> Iterator[float]:
    """A policy whose divergence goes to drive / beta with a lag and 5 % noise; restored, it begins at zero again.

    Yields the mean divergence of each window of `WINDOW` updates.
    """
    random = np.random.default_rng(seed)
    kl = drive / controller.beta
    while True:
        seen = []
        for _ in range(WINDOW):
            kl += lag * (drive / controller.beta - kl)
            seen.append(kl * float(random.normal(1.0, 0.05)))
            if controller.observe(seen[-1]) == "restore":
                kl = 0.0
        yield float(np.mean(seen))


@given(
    kls=st.lists(st.floats(-1.0, 10.0) | st.sampled_from([math.nan, math.inf, -math.inf]), max_size=200),
    mode=st.sampled_from(["auto", "fixed"]),
)
def test_beta_stays_within_its_bounds_and_changes_once_per_window_at_most(kls: list[float], mode: str) -> None:
    config = KLConfig.model_validate({"beta_update_mode": mode})
    controller = KLController(config)
    since = 0
    for kl in kls:
        before = controller.beta
        since += 1
        advice = controller.observe(kl)
        assert config.min_beta <= controller.beta <= config.max_beta
        if controller.beta != before:
            assert advice == "restore" or since == WINDOW
            assert mode == "auto"
        if advice == "restore" or since == WINDOW:
            since = 0


@settings(max_examples=30)
@given(factor=st.floats(0.2, 5.0), seed=st.integers(0, 1000))
def test_after_a_step_change_it_is_within_the_tolerance_in_ten_windows(factor: float, seed: int) -> None:
    config = KLConfig(initial_beta=0.01)
    controller = KLController(config)
    settled = config.target_kl * controller.beta
    for _, mean in zip(range(30), plant(controller, settled, seed=seed), strict=False):
        assert abs(mean - config.target_kl) <= config.kl_tolerance, "it does not leave a place that is good"
    means = [mean for _, mean in zip(range(40), plant(controller, settled * factor, seed=seed), strict=False)]
    noise = 4 * 0.05 / math.sqrt(WINDOW) * config.target_kl  # four standard deviations of a window's mean
    assert all(abs(mean - config.target_kl) <= config.kl_tolerance + noise for mean in means[10:]), means


def test_fixed_leaves_beta_where_it_is() -> None:
    controller = KLController(KLConfig(beta_update_mode="fixed", initial_beta=0.3))
    for kl in [0.0] * 50 + [9.0] * 50:
        controller.observe(kl)
    assert controller.beta == 0.3


def test_a_window_over_twice_the_target_asks_to_restore_as_soon_as_it_is_sure() -> None:
    controller = KLController(KLConfig(target_kl=0.05))
    assert [controller.observe(0.19) for _ in range(6)] == ["go_on"] * 5 + ["restore"]
    assert controller.beta == pytest.approx(0.012)
    assert [controller.observe(0.09) for _ in range(WINDOW)] == ["go_on"] * WINDOW, "a new window began"
    assert controller.last_mean == pytest.approx(0.09)
    assert controller.observe(5.0) == "restore", "one update alone"
    for kl in (math.nan, math.inf, -math.inf):
        assert controller.observe(kl) == "restore", "what is no number is too far"
    assert controller.observe(0.05) == "go_on"


def test_a_restart_changes_nothing() -> None:
    whole, first, second = (KLController(KLConfig()) for _ in range(3))
    kls = np.random.default_rng(0).uniform(0.0, 0.12, 55).tolist()
    for kl in kls:
        whole.observe(kl)
    for kl in kls[:33]:
        first.observe(kl)
    second.restore(first.state())
    for kl in kls[33:]:
        second.observe(kl)
    assert second.state() == whole.state()
    with pytest.raises(ConfigError, match="KL state"):
        second.restore({"beta": math.nan, "sum": 0.0, "count": 0.0})
    with pytest.raises(ConfigError, match="count"):
        second.restore({"beta": 0.1, "sum": 0.0, "count": 10.0})


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"beta_update_mode": "manual"}, "beta_update_mode"),
        ({"initial_beta": 0.0}, "initial_beta"),
        ({"initial_beta": 2.0}, "initial_beta"),
        ({"target_kl": 0.0}, "target_kl"),
        ({"kl_tolerance": -0.01}, "kl_tolerance"),
        ({"kl_tolerance": 0.05}, "kl_tolerance"),
        ({"beta_increase_factor": 1.0}, "beta_increase_factor"),
        ({"beta_decrease_factor": 0.5}, "beta_decrease_factor"),
        ({"min_beta": 0.0}, "min_beta"),
        ({"min_beta": 2.0}, "min_beta"),
        ({"max_beta": math.inf}, "max_beta"),
        ({"bta": 1.0}, "bta"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(
    values: dict[str, float | str], field: str, registry: Registry
) -> None:
    with pytest.raises(ConfigError, match=field):
        validate(KLConfig, values, registry)
    with pytest.raises(ValidationError):
        KLConfig.model_validate(values)
