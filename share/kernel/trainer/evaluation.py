"""Held-out evaluation: what the policy does on prompts that it never learns from, decoded greedily."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from share.kernel.contracts.kinds import Task
from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Trajectory
from share.kernel.media.operator import Operator
from share.kernel.policy.loading import Policy
from share.kernel.policy.rollout import Group, RolloutConfig, RolloutKey, rollout


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One greedy rollout per prompt, with the correctness of its answer in [0, 1]."""

    groups: tuple[Group, ...]
    correctness: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        return sum(self.correctness) / len(self.correctness)

    @property
    def operation_share(self) -> float:
        """Share of rollouts that call an operation."""
        return sum(bool(trajectory.operations) for trajectory in self.trajectories) / len(self.correctness)

    @property
    def operations_mean(self) -> float:
        """Operations per rollout."""
        return sum(len(trajectory.operations) for trajectory in self.trajectories) / len(self.correctness)

    @property
    def trajectories(self) -> tuple[Trajectory, ...]:
        return tuple(group.rollouts[0].trajectory for group in self.groups)

    def numbers(self, prefix: str) -> dict[str, float]:
        return {
            f"{prefix}accuracy": self.accuracy,
            f"{prefix}operation_share": self.operation_share,
            f"{prefix}operations_mean": self.operations_mean,
        }


def evaluate(
    policy: Policy, task: Task, prompts: Sequence[Prompt], operator: Operator, config: RolloutConfig, seed: int
) -> Evaluation:
    """Greedy rollouts, one per prompt."""
    greedy = config.model_copy(update={"group_size": 1, "temperature": 0.0})
    groups = rollout(policy, prompts, operator, greedy, RolloutKey(seed, 0))
    correctness = [answered(task, group.prompt, group.rollouts[0].trajectory) for group in groups]
    return Evaluation(tuple(groups), tuple(correctness))


def answered(task: Task, prompt: Prompt, trajectory: Trajectory) -> float:
    """The correctness of a trajectory's answer in [0, 1]; 0.0 without one."""
    return 0.0 if trajectory.answer is None else float(task.check(prompt, trajectory.answer))


__all__ = ["Evaluation", "answered", "evaluate"]
