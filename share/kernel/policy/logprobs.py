"""Log-probabilities and entropies of what policies wrote, with gradients, packed or padded.

`packed` computes every shared token once (see packing.py); `padded` is the plain forward, one row per rollout, which
every model can do. Both give the same numbers and gradients; tests hold them to 1e-5. The head runs on the tokens that
the policy wrote, in chunks whose logits are computed again in the backward pass instead of being kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from share.kernel.policy.attention import TreePlan
from share.kernel.policy.packing import pack, read_ids, read_images
from share.kernel.policy.plain import padded_inputs
from share.kernel.policy.rollout import Group, Rollout

if TYPE_CHECKING:
    from share.kernel.policy.backbone import Backbone
    from share.kernel.policy.loading import Policy

Layout = Literal["packed", "padded"]

_CHUNK_LOGITS = 1 << 22
"""Logits that exist at one time: 16 MiB in float32."""


def token_logprobs(
    policy: Policy, batch: Sequence[Group] | Sequence[Rollout], layout: Layout = "packed"
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each rollout, in order: log-probabilities and entropies float32[S], zero where the policy did not write.

    Entropies are in nats. Both are those of the distribution at the rollout's temperature, as its behavior
    log-probabilities are. A model whose prefixes cannot be shared is computed padded.
    """
    groups = [each if isinstance(each, Group) else _alone(each) for each in batch]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    with policy.checkpointed():
        if layout == "packed" and policy.backbone is not None:
            hidden, counts = _packed_hidden(policy, policy.backbone, groups)
        else:
            hidden, counts = _padded_hidden(policy, rollouts)
    targets = torch.cat([rollout.completion_ids[rollout.action_mask] for rollout in rollouts]).to(hidden.device)
    temperatures = torch.repeat_interleave(
        torch.tensor([rollout.temperature for rollout in rollouts]), torch.tensor(counts)
    )
    logprobs, entropies = head_logprobs(
        policy.base.get_output_embeddings(), hidden, targets, temperatures.to(hidden.device)
    )
    results = []
    for rollout, logprob, entropy in zip(
        rollouts, torch.split(logprobs, counts), torch.split(entropies, counts), strict=True
    ):
        places = rollout.action_mask.nonzero()[:, 0].to(logprobs.device)
        empty = logprobs.new_zeros(len(rollout.completion_ids))
        results.append((empty.index_copy(0, places, logprob), empty.index_copy(0, places, entropy)))
    return results


def head_logprobs(
    head: Any, hidden_AD: torch.Tensor, targets_A: torch.Tensor, temperatures_A: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the targets and entropies, float32[A] each, without ever holding all logits."""
    vocabulary = int(head.weight.shape[0])
    chunk = max(1, _CHUNK_LOGITS // vocabulary)
    plain = None if (temperatures_A == 1.0).all() else temperatures_A
    logprobs, entropies = [], []
    for first in range(0, len(targets_A), chunk):
        part = slice(first, first + chunk)
        scale = plain[part] if plain is not None else None
        if type(head) is torch.nn.Linear and head.bias is None:
            logprob, entropy = _LinearHead.apply(hidden_AD[part], head.weight, targets_A[part], scale)
        else:
            logprob, entropy = torch.utils.checkpoint.checkpoint(
                _head_logprobs, head, hidden_AD[part], targets_A[part], scale, use_reentrant=False
            )
        logprobs.append(logprob)
        entropies.append(entropy)
    if not logprobs:
        return hidden_AD.new_zeros(0), hidden_AD.new_zeros(0)
    return torch.cat(logprobs), torch.cat(entropies)


def _head_logprobs(
    head: torch.nn.Module, hidden_AD: torch.Tensor, targets_A: torch.Tensor, temperatures_A: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = head(hidden_AD).float()
    if temperatures_A is not None:
        logits = logits / temperatures_A[:, None]
    logprobs = torch.log_softmax(logits, dim=-1)
    return logprobs.gather(1, targets_A[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(dim=-1)


class _LinearHead(torch.autograd.Function):
    """`_head_logprobs` of a plain linear head; its gradient is written out so that no logits are kept for it.

    With p = softmax(z), l = log p, H = -sum(p l): dl_t/dz = 1_t - p and dH/dz = -p (l + H).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_AD: torch.Tensor,
        weight_VD: torch.Tensor,
        targets_A: torch.Tensor,
        temperatures_A: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs_AV = _LinearHead.logprobs(hidden_AD, weight_VD, temperatures_A)
        entropies = -(logprobs_AV.exp() * logprobs_AV).sum(dim=-1)
        ctx.save_for_backward(hidden_AD, weight_VD, targets_A, entropies, temperatures_A)
        return logprobs_AV.gather(1, targets_A[:, None])[:, 0], entropies

    @staticmethod
    def backward(
        ctx: Any, grad_logprobs_A: torch.Tensor, grad_entropies_A: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        hidden_AD, weight_VD, targets_A, entropies_A, temperatures_A = ctx.saved_tensors
        logprobs_AV = _LinearHead.logprobs(hidden_AD, weight_VD, temperatures_A)
        probabilities_AV = logprobs_AV.exp()
        grad_AV = logprobs_AV.add_(entropies_A[:, None]).mul_(grad_entropies_A[:, None])
        grad_AV = grad_AV.add_(grad_logprobs_A[:, None]).mul_(probabilities_AV).neg_()
        grad_AV.scatter_add_(1, targets_A[:, None], grad_logprobs_A[:, None])
        if temperatures_A is not None:
            grad_AV /= temperatures_A[:, None]
        grad_AV = grad_AV.to(weight_VD.dtype)
        grad_hidden = grad_AV @ weight_VD if ctx.needs_input_grad[0] else None
        grad_weight = grad_AV.T @ hidden_AD if ctx.needs_input_grad[1] else None
        return grad_hidden, grad_weight, None, None

    @staticmethod
    def logprobs(hidden_AD: torch.Tensor, weight_VD: torch.Tensor, temperatures_A: torch.Tensor | None) -> torch.Tensor:
        logits = (hidden_AD @ weight_VD.T).float()
        if temperatures_A is not None:
            logits = logits / temperatures_A[:, None]
        return torch.log_softmax(logits, dim=-1)


def _packed_hidden(policy: Policy, backbone: Backbone, groups: Sequence[Group]) -> tuple[torch.Tensor, list[int]]:
    """Hidden states of the tokens that predict what was written, [A, width], and how many each rollout has."""
    packed = pack(backbone, groups)
    device = policy.device
    features = backbone.image_features(packed.images)
    hidden = backbone.hidden(
        packed.ids[None].to(device),
        torch.cat(features) if features else None,
        packed.positions[:, None].to(device),
        TreePlan(packed.branches, device, backbone.dtype),
    )
    counts = [len(places) for places in packed.places]
    return hidden[0].index_select(0, torch.cat(packed.places).to(device)), counts


def _padded_hidden(policy: Policy, rollouts: Sequence[Rollout]) -> tuple[torch.Tensor, list[int]]:
    """The same from the model's own forward, one row per rollout, padded on the right."""
    rows = [[*rollout.prompt_ids.tolist(), *read_ids(rollout)] for rollout in rollouts]
    images = [[*rollout.prompt_images, *read_images(rollout, policy.chat.image_token_id)] for rollout in rollouts]
    inputs = padded_inputs(policy, [rollout.name for rollout in rollouts], rows, images, "right")
    length = inputs["input_ids"].shape[1]
    places = [
        number * length + len(rollout.prompt_ids) - 1 + rollout.action_mask.nonzero()[:, 0]
        for number, rollout in enumerate(rollouts)
    ]
    hidden = policy.base.model(**inputs, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, torch.cat(places).to(policy.device)), [len(each) for each in places]


def _alone(rollout: Rollout) -> Group:
    return Group(None, (rollout,))  # type: ignore[arg-type]


__all__ = ["Layout", "head_logprobs", "token_logprobs"]
