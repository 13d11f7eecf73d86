"""Versions of the starter policy that answer differently, and how one knows which version answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from share.kernel.contracts.serving import Request
from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Trajectory
from share.kernel.media.operator import Limits, Operator
from share.kernel.operation.zoom_in import ZoomIn, ZoomInConfig
from share.kernel.policy.loading import Policy
from share.kernel.policy.rollout import Rollout, RolloutConfig, RolloutKey, rollout

ALONE = RolloutConfig(group_size=1, turns_max=3, tokens_max=96, temperature=0.0)
"""How the answers are made that batched ones are compared with: one request, alone, through `rollout`."""


def zooming(policy: Policy) -> Operator:
    """Operations without a time limit that a busy machine could reach."""
    zoom = ZoomIn(ZoomInConfig(side_min=56, side_max=56))
    return Operator({"ZOOM_IN": zoom}, Limits(timeout_s=120.0), fit=policy.fit)


def variant(policy: Policy, seed: int, scale: float = 0.4) -> dict[str, torch.Tensor]:
    """Other norms of the language model: fluent still, but it looks elsewhere and is otherwise sure of itself."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: parameter.detach() * (1 + scale * torch.randn(parameter.shape, generator=generator))
        for name, parameter in policy.model.named_parameters()
        if "language_model" in name and "layernorm" in name
    }


def request(prompt: Prompt, number: int = 0, **more: object) -> Request:
    return Request(f"trace-{number}", prompt.question, prompt.images, "client", **more)  # type: ignore[arg-type]


def alone(policy: Policy, prompt: Prompt, operator: Operator | None = None) -> Rollout:
    return rollout(policy, [prompt], operator or zooming(policy), ALONE, RolloutKey(0, 0))[0].rollouts[0]


def texts(trajectory: Trajectory) -> tuple[str, ...]:
    """Everything that a policy wrote, turn by turn."""
    return tuple(action.text for action in trajectory.actions)


def written(policies: Mapping[str, Policy], prompts: Sequence[Prompt]) -> dict[str, list[tuple[str, ...]]]:
    """What each version writes about each prompt."""
    return {
        version: [texts(alone(policy, prompt).trajectory) for prompt in prompts] for version, policy in policies.items()
    }
