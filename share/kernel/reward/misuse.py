"""Reward component `misuse`: what it costs to call operations wrongly or without end. Never positive."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from share.kernel.config import ConfigModel
from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Trajectory
from share.kernel.contracts.vision import Scene


class MisuseConfig(ConfigModel):
    failed_penalty: float = Field(default=0.1, ge=0.0)
    """Cost of a call that the operation refused or that failed."""
    invalid_penalty: float = Field(default=0.1, ge=0.0)
    """Cost of a turn that is neither a call that can be parsed nor an answer."""
    excess_penalty: float = Field(default=0.05, ge=0.0)
    """Cost of each call beyond `operations_max`."""
    operations_max: int = Field(default=3, ge=0)
    """Calls per rollout that cost nothing when they succeed."""
    penalty_max: float = Field(default=1.0, gt=0.0)
    """Bound on the cost of one rollout, so that no misuse can outweigh everything else."""


class Misuse:
    """Failed calls, invalid turns and calls beyond a budget, each at its price.

    A rollout that was cut at its turn limit is not punished for the cut itself.
    """

    def __init__(self, config: MisuseConfig) -> None:
        self.config = config

    def score(
        self,
        prompt: Prompt,
        trajectories: Sequence[Trajectory],
        scenes: Sequence[Scene],
        correctness: Sequence[float],
    ) -> list[float | None]:
        return [0.0 - min(self._cost(trajectory), self.config.penalty_max) for trajectory in trajectories]

    def _cost(self, trajectory: Trajectory) -> float:
        operations = trajectory.operations
        return (
            self.config.failed_penalty * sum(action.error is not None for action in operations)
            + self.config.invalid_penalty * sum(action.kind == "invalid" for action in trajectory.actions)
            + self.config.excess_penalty * max(len(operations) - self.config.operations_max, 0)
        )


__all__ = ["Misuse", "MisuseConfig"]
