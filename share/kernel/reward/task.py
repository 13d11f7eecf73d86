"""Reward component `task`: was the answer right?"""

from __future__ import annotations

from collections.abc import Sequence

from share.kernel.config import ConfigModel
from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Trajectory
from share.kernel.contracts.vision import Scene


class TaskRewardConfig(ConfigModel):
    zero_after_error: bool = False
    """Score a correct answer 0 when the last operation before it failed (as the released Pixel-Reasoner does)."""


class TaskReward:
    """The correctness of the answer as the task judges it, in [0, 1]."""

    def __init__(self, config: TaskRewardConfig) -> None:
        self.config = config

    def score(
        self,
        prompt: Prompt,
        trajectories: Sequence[Trajectory],
        scenes: Sequence[Scene],
        correctness: Sequence[float],
    ) -> list[float | None]:
        return [self._score(trajectory, correct) for trajectory, correct in zip(trajectories, correctness, strict=True)]

    def _score(self, trajectory: Trajectory, correct: float) -> float:
        operations = trajectory.operations
        if self.config.zero_after_error and operations and operations[-1].error is not None:
            return 0.0
        return correct


__all__ = ["TaskReward", "TaskRewardConfig"]
