from __future__ import annotations

import pytest

from share.kernel.data.curriculum import (
    HarmRules,
    PhaseExit,
    RewardCurriculum,
    RewardPhase,
    StageCurriculum,
    StageRules,
    bootstrap_interval,
    least_squares_slope,
)

GOOD, BAD = [1.0] * 40, [0.0] * 40
HALF = [1.0, 0.0] * 20


def phases(**exit_: float) -> list[RewardPhase]:
    return [
        RewardPhase(name="base", weights={"task": 1.0}, exit=PhaseExit(**exit_)),
        RewardPhase(name="full", weights={"task": 1.0, "coherence": 0.1}),
    ]


def test_a_phase_ends_when_accuracy_stays_high_over_a_full_window() -> None:
    curriculum = RewardCurriculum(phases(success_above=0.7), window=3)
    assert [curriculum.observe(1.0, 0.0) for _ in range(2)] == [None, None]
    assert "accuracy 1.000 > 0.7" in str(curriculum.observe(1.0, 0.0))
    assert curriculum.phase.name == "full"


def test_a_phase_ends_on_a_plateau_only_after_its_patience() -> None:
    curriculum = RewardCurriculum(phases(slope_below=0.001, patience=2), window=3)
    assert [curriculum.observe(value, 0.0) for value in (0.1, 0.2, 0.3, 0.3, 0.3)] == [None] * 5
    assert curriculum.observe(0.3, 0.0) is not None


def test_a_phase_ends_after_its_steps_and_the_last_never() -> None:
    curriculum = RewardCurriculum(phases(steps_max=2), window=100)
    assert [curriculum.observe(0.0, 0.0) is not None for _ in range(4)] == [False, True, False, False]


def test_a_reward_curriculum_survives_a_checkpoint() -> None:
    curriculum = RewardCurriculum(phases(reward_above=0.5), window=2)
    curriculum.observe(0.0, 1.0)
    restored = RewardCurriculum(phases(reward_above=0.5), window=2)
    restored.load_state_dict(curriculum.state_dict())
    assert restored.observe(0.0, 1.0) is not None


def stages(**harm: float) -> StageCurriculum:
    rules = [StageRules(gate={"format": 0.9}, steps_max=10), StageRules(gate={"reading": 0.9}, steps_max=10)]
    curriculum = StageCurriculum(rules, HarmRules(**harm), seed=0)
    curriculum.begin({"format": BAD, "reading": BAD})
    return curriculum


def test_the_next_stage_opens_only_when_the_lower_bound_reaches_the_gate() -> None:
    curriculum = stages()
    almost = [1.0] * 37 + [0.0] * 3  # 92.5 %, but not surely above 90 %
    assert curriculum.judge({"format": almost, "reading": BAD}).verdict == "stay"
    assert curriculum.judge({"format": GOOD, "reading": BAD}).verdict == "advance"
    assert curriculum.index == 1


def test_a_stage_that_harms_is_rolled_back_and_given_up_when_it_harms_again() -> None:
    curriculum = stages(rollbacks_max=1)
    curriculum.judge({"format": GOOD, "reading": BAD})
    judged = curriculum.judge({"format": HALF, "reading": BAD})
    assert judged.verdict == "roll_back"
    assert "format fell by 0.500" in judged.reason
    assert curriculum.learning_rate_factor == 0.5
    assert curriculum.judge({"format": HALF, "reading": BAD}).verdict == "give_up"


def test_a_small_or_uncertain_loss_is_no_harm() -> None:
    curriculum = stages()
    curriculum.judge({"format": GOOD, "reading": BAD})
    assert curriculum.judge({"format": [1.0] * 38 + [0.0] * 2, "reading": BAD}).verdict == "stay"


def test_a_stage_is_not_taken_back_while_it_cools_down() -> None:
    curriculum = stages(cooldown_steps=2)
    curriculum.judge({"format": GOOD, "reading": BAD})
    assert curriculum.judge({"format": HALF, "reading": BAD}).verdict == "roll_back"
    curriculum.stepped()
    assert curriculum.judge({"format": HALF, "reading": BAD}).verdict == "stay"
    curriculum.stepped()
    assert curriculum.judge({"format": HALF, "reading": BAD}).verdict == "roll_back"


def test_a_stage_without_its_gate_closes_the_curriculum() -> None:
    curriculum = stages()
    for _ in range(10):
        curriculum.stepped()
    judged = curriculum.judge({"format": HALF, "reading": BAD})
    assert judged.verdict == "close"
    assert "format 0.500" in judged.reason


def test_the_last_stage_runs_to_its_end() -> None:
    curriculum = stages()
    curriculum.judge({"format": GOOD, "reading": BAD})
    assert curriculum.judge({"format": GOOD, "reading": GOOD}).verdict == "stay"
    for _ in range(10):
        curriculum.stepped()
    assert curriculum.judge({"format": GOOD, "reading": GOOD}).verdict == "finish"


def test_a_stage_curriculum_survives_a_checkpoint() -> None:
    curriculum = stages()
    curriculum.judge({"format": GOOD, "reading": BAD})
    curriculum.stepped()
    restored = StageCurriculum(curriculum.stages, curriculum.harm, seed=0)
    restored.load_state_dict(curriculum.state_dict())
    assert restored.state_dict() == curriculum.state_dict()
    assert restored.judge({"format": HALF, "reading": BAD}).verdict == "roll_back"


def test_the_bootstrap_interval_covers_the_mean_and_is_deterministic() -> None:
    lower, upper = bootstrap_interval(HALF, 0.95, 1000, seed=3)
    assert lower < 0.5 < upper
    assert upper - lower == pytest.approx(2 * 1.96 * (0.25 / 40) ** 0.5, rel=0.15)
    assert (lower, upper) == bootstrap_interval(HALF, 0.95, 1000, seed=3)


def test_the_slope_of_a_line_is_its_slope() -> None:
    assert least_squares_slope([1.0, 1.5, 2.0, 2.5]) == pytest.approx(0.5)
    assert least_squares_slope([1.0]) == 0.0
