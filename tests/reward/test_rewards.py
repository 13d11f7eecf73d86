from __future__ import annotations

import numpy as np
import pytest

from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.contracts.vision import Scene, Transform
from share.kernel.reward.coherence import Coherence, CoherenceConfig
from share.kernel.reward.curiosity import Curiosity, CuriosityConfig, ReleasedCuriosity, ReleasedCuriosityConfig
from share.kernel.reward.misuse import Misuse, MisuseConfig
from share.kernel.reward.task import TaskReward, TaskRewardConfig

IMAGE = np.zeros((100, 100, 3), np.uint8)
PROMPT = Prompt("p0", "zoom_digits", "Which digit?", (IMAGE,), "7")
VIDEO = Prompt("p1", "follow_object", "Which?", (IMAGE,), "a", is_video=True)


def call(operation: str = "ZOOM_IN", error: str | None = None, **arguments: object) -> Action:
    return Action("operation", "", operation=operation, arguments=arguments, error=error)


def rollout(*actions: Action, answer: str | None = "7") -> Trajectory:
    return Trajectory("p0", (*actions, Action("answer", "7")), answer, "answer")


def scene() -> Scene:
    made = Scene((IMAGE,))
    made.add_view(IMAGE, 0, Transform())
    made.add_view(IMAGE, 0, Transform(scale_x=0.5, scale_y=0.5, offset_x=20.0, offset_y=20.0))
    return made


def score(reward: object, *trajectories: Trajectory, prompt: Prompt = PROMPT) -> list[float | None]:
    scenes = [scene() for _ in trajectories]
    return reward.score(prompt, trajectories, scenes, [1.0] * len(trajectories))  # type: ignore[attr-defined]


def test_task_reward_is_the_correctness() -> None:
    reward = TaskReward(TaskRewardConfig())
    assert reward.score(PROMPT, [rollout(), rollout()], [scene(), scene()], [1.0, 0.25]) == [1.0, 0.25]


def test_task_reward_can_refuse_an_answer_after_a_failed_operation() -> None:
    failed_last, failed_first = rollout(call(), call(error="no")), rollout(call(error="no"), call())
    assert score(TaskReward(TaskRewardConfig()), failed_last) == [1.0]
    assert score(TaskReward(TaskRewardConfig(zero_after_error=True)), failed_last, failed_first) == [0.0, 1.0]


def test_curiosity_pays_only_callers_and_only_while_calling_is_rare() -> None:
    reward = Curiosity(CuriosityConfig())
    rare = score(reward, rollout(call()), *[rollout()] * 7)
    assert rare == pytest.approx([0.5 * (0.3 - 1 / 8)] + [0.0] * 7)
    assert score(reward, rollout(call()), rollout()) == [0.0, 0.0]


def test_curiosity_charges_operations_beyond_the_free_one() -> None:
    assert score(Curiosity(CuriosityConfig()), rollout(call(), call(), call()), rollout(call())) == pytest.approx(
        [-0.1, 0.0]
    )


def test_released_curiosity_pays_the_relative_shortfall() -> None:
    group = (rollout(call()), *[rollout()] * 7)
    reward = ReleasedCuriosity(ReleasedCuriosityConfig())
    assert score(reward, *group)[0] == pytest.approx(0.175)
    assert score(reward, *group, prompt=VIDEO)[0] == pytest.approx(0.175 * 2.0 / 1.5)
    assert score(reward, rollout(), rollout()) == [0.0, 0.0]
    assert score(reward, rollout(call(), call()), rollout(call())) == pytest.approx([-0.05, 0.0])


def test_coherence_does_not_judge_a_rollout_without_operations() -> None:
    assert score(Coherence(CoherenceConfig()), rollout()) == [None]


def test_coherence_rewards_a_good_pair_once_and_charges_a_bad_one() -> None:
    segment, properties = call("SEGMENT_OBJECT_AT", x=1, y=1), call("GET_PROPERTIES", region="r1")
    reward = Coherence(CoherenceConfig())
    assert score(reward, rollout(segment, properties)) == pytest.approx([0.2])
    assert score(reward, rollout(properties, segment)) == pytest.approx([-0.2])
    other = call("SEGMENT_OBJECT_AT", x=50, y=50), call("GET_PROPERTIES", region="r2")
    assert score(reward, rollout(segment, properties, *other)) == pytest.approx([0.2 - 0.2])


def test_coherence_charges_a_repeated_zoom_but_not_a_deeper_one() -> None:
    reward = Coherence(CoherenceConfig())
    first, same, deeper = call(bbox=[0, 0, 40, 40]), call(bbox=[0, 0, 40, 41]), call(bbox=[10, 10, 30, 30])
    assert score(reward, rollout(first, same)) == pytest.approx([-0.5])
    assert score(reward, rollout(first, deeper)) == [0.0]


def test_coherence_compares_boxes_of_different_views_in_native_pixels() -> None:
    native = call(bbox=[20, 20, 40, 40])
    same_place = call(bbox=[0, 0, 40, 40], image="image_2")
    elsewhere = call(bbox=[20, 20, 40, 40], image="image_2")
    reward = Coherence(CoherenceConfig())
    assert score(reward, rollout(native, same_place)) == pytest.approx([-0.5])
    assert score(reward, rollout(native, elsewhere)) == [0.0]


@pytest.mark.parametrize("bbox", [None, [1, 2], "box", [1, 2, "x", 4], [True, 1, 2, 3]])
def test_coherence_survives_malformed_arguments(bbox: object) -> None:
    malformed = call(bbox=bbox, image="image_9")
    assert score(Coherence(CoherenceConfig()), rollout(malformed, call(bbox=[1, 2, 3, 4]))) == [0.0]


def test_misuse_charges_failures_invalid_turns_and_excess() -> None:
    reward = Misuse(MisuseConfig(operations_max=1))
    assert score(reward, rollout(call()), rollout(call(error="no")), rollout(call(), call())) == pytest.approx(
        [0.0, -0.1, -0.05]
    )
    invalid = Trajectory("p0", (Action("invalid", "gibberish"),), None, "invalid")
    assert score(reward, invalid) == pytest.approx([-0.1])


def test_misuse_is_bounded() -> None:
    assert score(Misuse(MisuseConfig()), rollout(*[call(error="no")] * 100)) == [-1.0]
