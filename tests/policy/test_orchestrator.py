from __future__ import annotations

from collections.abc import Sequence

import pytest

from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Trajectory
from share.kernel.contracts.vision import Scene
from share.kernel.data.curriculum import PhaseExit, RewardCurriculum, RewardPhase
from share.kernel.policy.orchestrator import RewardOrchestrator, ScoredGroup, normalize

PROMPT = Prompt("p", "t", "?", (), "1")
TRAJECTORIES = [Trajectory("p", (), None, "answer")] * 4
SCENES = [Scene(())] * 4


class Fixed:
    """A reward component that says what it was told to say."""

    def __init__(self, *values: float | None) -> None:
        self.values = list(values)

    def score(
        self, prompt: Prompt, trajectories: Sequence[Trajectory], scenes: Sequence[Scene], correctness: Sequence[float]
    ) -> list[float | None]:
        return self.values


def score(orchestrator: RewardOrchestrator, counted: Sequence[bool] | None = None) -> ScoredGroup:
    return orchestrator.score(PROMPT, TRAJECTORIES, SCENES, [0.0] * 4, counted)


def test_components_of_any_scale_speak_with_their_weight() -> None:
    large, small = Fixed(100.0, 0.0, 100.0, 0.0), Fixed(0.01, 0.01, 0.0, 0.0)
    scored = score(RewardOrchestrator({"large": large, "small": small}, {"large": 1.0, "small": 0.5}))
    unit = 0.75**0.5  # unbiased deviation of two ones and two zeros is 1 / sqrt(3)
    assert scored.normalized["small"] == pytest.approx((unit, unit, -unit, -unit))
    assert scored.advantages == pytest.approx((1.5 * unit, -0.5 * unit, 0.5 * unit, -1.5 * unit))
    assert scored.contribution("small") == pytest.approx((0.5 * unit, 0.5 * unit, -0.5 * unit, -0.5 * unit))
    assert sum(scored.advantages) == pytest.approx(0.0)


def test_what_was_not_scored_neither_counts_nor_contributes() -> None:
    scored = score(RewardOrchestrator({"a": Fixed(1.0, 0.0, None, None)}, {"a": 1.0}))
    assert scored.advantages == pytest.approx((0.5**0.5, -(0.5**0.5), 0.0, 0.0))
    assert scored.reward == (1.0, 0.0, 0.0, 0.0)


def test_equal_rewards_teach_nothing() -> None:
    assert score(RewardOrchestrator({"a": Fixed(0.3, 0.3, 0.3, 0.3)}, {"a": 1.0})).zero_variance


def test_a_rollout_that_is_not_counted_does_not_move_the_others() -> None:
    orchestrator = RewardOrchestrator({"a": Fixed(1.0, 0.0, 1.0, -9.0)}, {"a": 1.0})
    scored = score(orchestrator, [True, True, True, False])
    assert scored.advantages[3] == 0.0
    assert sum(scored.advantages) == pytest.approx(0.0)
    assert scored.advantages[0] == pytest.approx(scored.advantages[2])


def test_sum_and_center_normalise_the_weighted_sum() -> None:
    components = {"a": Fixed(1.0, 0.0, 0.0, 0.0), "b": Fixed(1.0, 0.0, 0.0, 0.0)}
    weights = {"a": 1.0, "b": 3.0}
    assert score(RewardOrchestrator(components, weights, "center")).advantages == pytest.approx((3.0, -1.0, -1.0, -1.0))
    assert score(RewardOrchestrator(components, weights, "sum")).advantages == pytest.approx((1.5, -0.5, -0.5, -0.5))


def test_the_curriculum_sets_the_weights() -> None:
    phases = [
        RewardPhase(name="base", weights={"a": 1.0}, exit=PhaseExit(steps_max=1)),
        RewardPhase(name="full", weights={"a": 1.0, "b": 0.1}),
    ]
    orchestrator = RewardOrchestrator({"a": Fixed(), "b": Fixed()}, {}, curriculum=RewardCurriculum(phases, window=100))
    assert orchestrator.weights == {"a": 1.0, "b": 0.0}
    assert orchestrator.observe(0.5, 0.5) == "1 steps"
    assert orchestrator.weights == {"a": 1.0, "b": 0.1}


def test_normalize_of_nothing_is_nothing() -> None:
    assert normalize([]) == []
    assert normalize([None, None]) == [None, None]
    assert normalize([2.0]) == [0.0]
