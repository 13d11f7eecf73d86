"""Groups with their rewards: what they say of a step, and how they are shown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from share.kernel.policy.orchestrator import ScoredGroup
from share.kernel.policy.rollout import Group
from share.kernel.report.gallery import GalleryItem
from share.kernel.trainer.evaluation import Evaluation


@dataclass(frozen=True, slots=True)
class Scored:
    """A group with its rewards."""

    group: Group
    rewards: ScoredGroup


def seen(sampled: Sequence[Scored]) -> dict[str, float]:
    """What the rollouts of a step say of the policy and of its rewards.

    `rapr` is the share of rollouts that call an operation. `entropy`, in nats per token, is estimated from the tokens
    that were sampled. Of each component: the mean and the deviation in the group of its raw values, and its weight;
    `contribution_*` is the mean size of what it adds to an advantage.
    """
    rollouts = [each for scored in sampled for each in scored.group.rollouts]
    operations = [len(each.trajectory.operations) for each in rollouts]
    written = sum(each.num_actions for each in rollouts)
    numbers = {
        "reward": mean([value for scored in sampled for value in scored.rewards.reward]),
        "accuracy": mean([value for scored in sampled for value in scored.rewards.correctness]),
        "rapr": mean([float(count > 0) for count in operations]),
        "operations_mean": mean([float(count) for count in operations]),
        "truncated_share": mean([float(not counts) for scored in sampled for counts in scored.rewards.counted]),
        "zero_variance_share": mean([float(scored.rewards.zero_variance) for scored in sampled]),
        "entropy": -sum(float(each.behavior_logprobs.double().sum()) for each in rollouts) / max(written, 1),
        "tokens": float(sum(len(each.completion_ids) for each in rollouts)),
        "tokens_written": float(written),
    }
    for name in sampled[0].rewards.raw:
        raw = [[value for value in scored.rewards.raw[name] if value is not None] for scored in sampled]
        numbers[f"reward_{name}"] = mean([value for values in raw for value in values])
        numbers[f"reward_{name}_std"] = mean([statistics.pstdev(values) for values in raw if values])
        numbers[f"reward_{name}_weight"] = sampled[0].rewards.weights[name]
        sizes = [abs(value) for scored in sampled for value in scored.rewards.contribution(name)]
        numbers[f"contribution_{name}"] = mean(sizes)
    return numbers


def scored_items(step: int, scored: Scored) -> list[GalleryItem]:
    """The rollouts of a group for the gallery."""
    rewards = scored.rewards
    return [
        GalleryItem(
            step=step,
            split="train",
            prompt=scored.group.prompt,
            trajectory=each.trajectory,
            scene=each.scene,
            correctness=rewards.correctness[row],
            reward=rewards.reward[row],
            rewards={name: values[row] for name, values in rewards.raw.items()},
            advantage=rewards.advantages[row],
        )
        for row, each in enumerate(scored.group.rollouts)
    ]


def evaluated_items(step: int, evaluation: Evaluation) -> list[GalleryItem]:
    """The rollouts of a held-out evaluation for the gallery."""
    return [
        GalleryItem(step, "held_out", group.prompt, each.trajectory, each.scene, correct)
        for group, correct in zip(evaluation.groups, evaluation.correctness, strict=True)
        for each in group.rollouts
    ]


def mean(values: Sequence[float]) -> float:
    """0.0 of nothing."""
    return sum(values) / len(values) if values else 0.0


__all__ = ["Scored", "evaluated_items", "mean", "scored_items", "seen"]
