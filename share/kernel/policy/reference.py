"""The reference policy, which the KL divergence pulls towards: the policy as it was before training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from share.kernel.policy.logprobs import Layout, token_logprobs

if TYPE_CHECKING:
    from share.kernel.policy.loading import Policy
    from share.kernel.policy.rollout import Group, Rollout


class ReferencePolicy:
    """Made from a policy before its first update: with LoRA the adapter is switched off, otherwise it is a copy.

    Like the policy, it computes packed, so it costs one more forward of the same stream.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._frozen = None
        if policy.config.lora is None:
            frozen = copy.copy(policy)
            frozen.model = copy.deepcopy(policy.model).requires_grad_(False).eval()
            frozen.rebind()
            self._frozen = frozen

    def token_logprobs(
        self, batch: Sequence[Group] | Sequence[Rollout], layout: Layout = "packed"
    ) -> list[torch.Tensor]:
        """For each rollout, float32[S], zero where the policy did not write; no gradients."""
        with torch.no_grad():
            if self._frozen is not None:
                return [logprobs for logprobs, _ in token_logprobs(self._frozen, batch, layout)]
            with self._policy.without_adapter():
                return [logprobs for logprobs, _ in token_logprobs(self._policy, batch, layout)]


__all__ = ["ReferencePolicy"]
