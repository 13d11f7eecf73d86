"""The contract of a reward component: one finite score or None per trajectory, repeatable."""

from __future__ import annotations

import copy
import math

from share.kernel.contracts.kinds import Reward
from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.contracts.vision import Scene, Transform
from share.kernel.testing.scene import example_scene


def check_reward(reward: Reward) -> None:
    """A reward component scores each trajectory of a group with a finite number or None.

    One that does not learn (has no `state_dict`) repeats itself; one that does can be put back to where it was.
    """
    prompt = Prompt("prompt-1", "example", "How bright is it?", example_scene().natives, "bright")
    call = Action("operation", "", "ZOOM_IN", {"bbox": [0, 0, 40, 40]}, "image_2: …", view="image_2", elapsed_ms=1.0)
    failed = Action("operation", "", "ZOOM_IN", {"bbox": [9, 9, 1, 1]}, error="bbox: is empty", elapsed_ms=1.0)
    right = Action("answer", "<answer>bright</answer>")
    groups = (
        (
            Trajectory("prompt-1", (right,), "bright", "answer"),
            Trajectory("prompt-1", (call, right), "bright", "answer"),
            Trajectory("prompt-1", (call, call, failed, Action("answer", "dark")), "dark", "answer"),
            Trajectory("prompt-1", (Action("invalid", "<tool_call>{"),), None, "invalid"),
            Trajectory("prompt-1", (call,), None, "turns_max"),
        ),
        (Trajectory("prompt-1", (right,), "bright", "answer"),),
    )
    for group in groups:
        scenes = [_scene_after(trajectory) for trajectory in group]
        correctness = [float(trajectory.answer == "bright") for trajectory in group]
        state = copy.deepcopy(reward.state_dict()) if hasattr(reward, "state_dict") else None
        scored = reward.score(prompt, group, scenes, correctness)
        assert isinstance(scored, list), "scores are a list"
        assert len(scored) == len(group), "one score per trajectory"
        for score in scored:
            assert score is None or (isinstance(score, int | float) and math.isfinite(score)), f"{score!r} is no score"
        if state is not None:
            reward.load_state_dict(state)  # type: ignore[attr-defined]
        assert reward.score(prompt, group, scenes, correctness) == scored, "the same group gives the same scores"


def _scene_after(trajectory: Trajectory) -> Scene:
    scene = example_scene()
    for action in trajectory.actions:
        if action.view is not None:
            scene.add_view(scene.natives[0][:40, :40], 0, Transform())
    return scene


__all__ = ["check_reward"]
