"""Policy-gradient losses over groups: grpo, bnpo, dr_grpo, dapo, gspo, cispo.

Each is compared with TRL's own on the same tokens and rewards (tests/policy/test_losses.py). They differ in what the
ratio of policy to behavior policy is taken over and in what the sum over tokens is divided by:

- grpo (arXiv 2402.03300): per rollout by its tokens, then by the rollouts;
- bnpo: by the tokens of all rollouts given; dapo (arXiv 2503.14476): the same, over the whole update;
- dr_grpo (arXiv 2503.20783): by rollouts * tokens_max, a constant;
- gspo (arXiv 2507.18071): as grpo, with one ratio per rollout, the geometric mean of its tokens';
- cispo (arXiv 2506.13585): as dapo, with the clipped ratio as a constant weight of the log-probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

Variant = Literal["grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo"]


@dataclass(frozen=True, slots=True)
class UpdateSize:
    """What a whole optimizer update covers, of which one forward pass may be a part.

    `rollouts` and `tokens` (written by the policy) count all of it; `tokens_max` is the longest a completion may be.
    """

    rollouts: int
    tokens: int
    tokens_max: int


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """`loss` has the gradient; the losses of the parts of an update add up to that of the whole.

    The others are sums over the tokens given, as floats, so that parts can be added: `kl` and `entropy` in nats,
    `clipped_low` and `clipped_high` tokens whose ratio was clipped, `tokens` how many there were.
    """

    loss: torch.Tensor
    kl: float
    entropy: float
    clipped_low: float
    clipped_high: float
    tokens: int


def policy_loss(
    variant: Variant,
    policy_logprobs: Sequence[torch.Tensor],
    behavior_logprobs: Sequence[torch.Tensor],
    advantages: Sequence[float],
    action_masks: Sequence[torch.Tensor],
    size: UpdateSize,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    reference_logprobs: Sequence[torch.Tensor] | None = None,
    kl_coefficient: float = 0.0,
    entropies: Sequence[torch.Tensor] | None = None,
    entropy_coefficient: float = 0.0,
) -> PolicyLoss:
    """The loss of some rollouts of an update; each sequence has one entry per rollout, tensors of shape [S].

    `kl_coefficient` weighs the k3 estimate of the KL divergence from the reference policy, token by token, times the
    ratio: so its gradient is that of the reverse KL divergence, without bias (DeepSeek-V3.2, arXiv 2512.02556).
    `entropy_coefficient` the mean entropy over the update's tokens, which is subtracted.
    """
    masks = [mask.to(logprobs.device) for mask, logprobs in zip(action_masks, policy_logprobs, strict=True)]
    policy = _written(policy_logprobs, masks)
    behavior = _written(behavior_logprobs, masks).detach()
    counts = torch.stack([mask.sum() for mask in masks])
    rollout = torch.repeat_interleave(torch.arange(len(masks), device=policy.device), counts)
    advantage = torch.tensor(list(advantages), dtype=policy.dtype, device=policy.device)[rollout]
    count = counts.to(policy.dtype).clamp(min=1.0)

    log_ratio = policy - behavior
    if variant == "gspo":
        mean = torch.zeros_like(count).index_add(0, rollout, log_ratio) / count
        log_ratio = mean[rollout]
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    if variant == "cispo":
        per_token = -ratio.clamp(max=1.0 + clip_high).detach() * advantage * policy
    else:
        per_token = -torch.minimum(ratio * advantage, clipped * advantage)

    kl = torch.zeros_like(policy)
    if kl_coefficient and reference_logprobs is not None:
        towards = _written(reference_logprobs, masks).detach() - policy
        kl = towards.exp() - towards - 1.0
        per_token = per_token + kl_coefficient * kl * ratio

    loss = (per_token * _weights(variant, rollout, count, size)).sum()
    entropy = _written(entropies, masks) if entropies is not None else torch.zeros_like(policy)
    if entropy_coefficient:
        loss = loss - entropy_coefficient * entropy.sum() / max(size.tokens, 1)
    with torch.no_grad():
        low = (ratio < 1.0 - clip_low) & (advantage < 0) if variant != "cispo" else torch.zeros_like(ratio)
        high = (ratio > 1.0 + clip_high) & (advantage > 0)
        sums = [float(each.float().sum()) for each in (kl, entropy, low, high)]
    return PolicyLoss(loss, sums[0], sums[1], sums[2], sums[3], tokens=len(policy))


def _weights(variant: Variant, rollout: torch.Tensor, count: torch.Tensor, size: UpdateSize) -> torch.Tensor:
    """What each token's loss is multiplied with, [tokens]."""
    if variant in ("grpo", "gspo"):
        return (1.0 / (count * max(size.rollouts, 1)))[rollout]
    if variant == "dr_grpo":
        return torch.full_like(count, 1.0 / (max(size.rollouts, 1) * size.tokens_max))[rollout]
    if variant == "bnpo":
        # Divided by the tokens of this part alone, then weighed by the part's share of the rollouts, so that the
        # parts of an update are averaged.
        return torch.full_like(count, len(count) / (max(size.rollouts, 1) * max(len(rollout), 1)))[rollout]
    return torch.full_like(count, 1.0 / max(size.tokens, 1))[rollout]


def _written(values: Sequence[torch.Tensor], masks: Sequence[torch.Tensor]) -> torch.Tensor:
    """The entries of tokens that the policy wrote, all rollouts one after the other."""
    return torch.cat([value.to(mask.device)[mask] for value, mask in zip(values, masks, strict=True)])


__all__ = ["PolicyLoss", "UpdateSize", "Variant", "policy_loss"]
