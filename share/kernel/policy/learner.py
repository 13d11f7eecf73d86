"""What an update changes: the trained weights of a policy and their optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from share.kernel.errors import CheckpointError


class LearnerConfig(Protocol):
    """What a learner needs to be told; the configurations of those who train have it among other things."""

    @property
    def weight_decay(self) -> float: ...

    @property
    def adam_betas(self) -> tuple[float, float]: ...

    @property
    def gradient_norm_max(self) -> float: ...


class Learner:
    """The parameters of `model` that take gradients, by name (tied ones once), under AdamW."""

    def __init__(self, model: torch.nn.Module, config: LearnerConfig) -> None:
        self.parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self.optimizer = _adamw(self.parameters, config)
        self._gradient_norm_max = config.gradient_norm_max

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())

    def update(self, learning_rate: float) -> float:
        """Clip, update, clear the gradients; returns the gradient's norm before clipping."""
        norm = self.clip()
        self.step(learning_rate)
        return norm

    def clip(self) -> float:
        """Scale the gradients down to the greatest norm; returns the norm they had, which need not be finite."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return float(torch.nn.utils.clip_grad_norm_(parameters, self._gradient_norm_max))

    def step(self, learning_rate: float) -> None:
        """Update with the gradients as they are, and clear them."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.discard()

    def discard(self) -> None:
        """Clear the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer, on the CPU where the weights are: not copied, the next update changes them."""
        weights = {name: parameter.detach().cpu() for name, parameter in self.parameters.items()}
        return {"policy": weights, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state, bit by bit. Raises CheckpointError when it is of another policy."""
        weights = state["policy"]
        if {name: each.shape for name, each in self.parameters.items()} != {
            name: each.shape for name, each in weights.items()
        }:
            raise CheckpointError("the checkpoint holds weights of another policy than policy.path names")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])
        self.optimizer.load_state_dict(state["optimizer"])


def _adamw(parameters: Mapping[str, torch.nn.Parameter], config: LearnerConfig) -> torch.optim.AdamW:
    matrices = [parameter for parameter in parameters.values() if parameter.dim() >= 2]
    vectors = [parameter for parameter in parameters.values() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], betas=config.adam_betas)


__all__ = ["Learner", "LearnerConfig"]
