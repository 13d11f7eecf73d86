from __future__ import annotations

import numpy as np
import torch

from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.contracts.vision import Scene, Transform
from share.kernel.reward.icm import InverseCuriosity, InverseCuriosityConfig, action_features

PROMPT = Prompt("p", "t", "?", (), "1")
ZOOM = Action("operation", "", operation="ZOOM_IN", arguments={"bbox": [0, 0, 8, 8]}, view="image_2")


def scene(seed: int) -> Scene:
    rng = np.random.default_rng(seed)
    made = Scene((np.zeros((32, 32, 3), np.uint8),))
    for _ in range(2):
        made.add_view(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), 0, Transform())
    return made


def surprise(module: InverseCuriosity, seed: int) -> float:
    (reward,) = module.score(PROMPT, [Trajectory("p", (ZOOM,), "1", "answer")], [scene(seed)], [0.0])
    assert reward is not None
    return reward


def test_what_was_seen_often_stops_paying_and_what_is_new_pays_again() -> None:
    module = InverseCuriosity(InverseCuriosityConfig(learning_rate=3e-3, reward_max=1e9))
    first = surprise(module, 0)
    for _ in range(200):
        again = surprise(module, 0)
    assert again < 0.2 * first
    assert surprise(module, 1) > 2 * again


def test_a_rollout_without_a_returned_view_earns_nothing() -> None:
    module = InverseCuriosity(InverseCuriosityConfig())
    failed = Action("operation", "", operation="ZOOM_IN", arguments={"bbox": "x", "image": "image_9"}, error="no")
    trajectories = [Trajectory("p", (), "1", "answer"), Trajectory("p", (failed,), "1", "answer")]
    assert module.score(PROMPT, trajectories, [scene(0), scene(0)], [0.0, 0.0]) == [0.0, 0.0]


def test_the_module_goes_on_from_its_state_bit_by_bit_and_leaves_global_randomness_alone() -> None:
    before = torch.get_rng_state()
    module = InverseCuriosity(InverseCuriosityConfig())
    surprise(module, 0)
    other = InverseCuriosity(InverseCuriosityConfig(seed=9))
    other.load_state_dict(module.state_dict())
    assert [surprise(other, seed) for seed in range(5)] == [surprise(module, seed) for seed in range(5)]
    assert torch.equal(before, torch.get_rng_state())


def test_action_features_are_a_function_of_the_action() -> None:
    view = scene(0).view(None)
    features = action_features(ZOOM, view)
    assert np.array_equal(features, action_features(ZOOM, view))
    assert features[8:12].tolist() == [0.0, 0.0, 0.25, 0.25]
    point = Action("operation", "", operation="SEGMENT_OBJECT_AT", arguments={"x": 16, "y": 8})
    assert action_features(point, view)[12:].tolist() == [0.5, 0.25]
