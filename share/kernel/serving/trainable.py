"""What of a policy is trained, and what that makes of the policy's plain weights.

Serving and qualifying know only plain weights: a version names parameters of the policy as it was shipped and has their
full values, adapters merged. So whatever is trained, a version loads the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from share.kernel.errors import ConfigError
from share.kernel.policy.learner import Learner, LearnerConfig
from share.kernel.policy.loading import LoRAConfig, Policy, PolicyConfig, load_policy

Values = Mapping[str, Tensor]
"""Full values of plain parameters, by name."""

_ADAPTER = "default"


class Trainable:
    """A policy whose trained weights start somewhere and are moved by a learner; everything of it can be begun anew.

    `learner` holds what is trained now. Raises ConfigError when nothing would be trained.
    """

    def __init__(
        self,
        policy: PolicyConfig,
        what: Literal["lora", "norm", "all"],
        lora: LoRAConfig,
        config: LearnerConfig,
        seed: int,
    ) -> None:
        torch.manual_seed(seed)  # an adapter's first weights are drawn
        self.policy = load_policy(policy.model_copy(update={"lora": lora}) if what == "lora" else policy)
        self._config = config
        if what == "norm":
            scales = {id(each) for each in _norm_parameters(self.policy)}
            for parameter in self.policy.model.parameters():
                parameter.requires_grad_(id(parameter) in scales and parameter.requires_grad)
        self.learner = self._learner()
        self._adapted = _adapted_layers(self.policy) if what == "lora" else {}
        self._initial = {name: each.detach().clone() for name, each in self.learner.parameters.items()}
        if not self._initial:
            raise ConfigError(f"trainable: {what!r} leaves nothing of this policy to train")

    @property
    def names(self) -> list[str]:
        """Of the plain parameters that training changes."""
        return sorted(self._adapted or self.learner.parameters)

    def weights(self) -> dict[str, Tensor]:
        """A copy of what is trained, by name, float32."""
        return {name: each.detach().float().clone() for name, each in self.learner.parameters.items()}

    def values(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The plain parameters that trained weights of such values come to."""
        if not self._adapted:
            parameters = self.learner.parameters
            return {name: weights[name].to(parameters[name].dtype, copy=True) for name in self.names}
        return {name: layer.merged(weights) for name, layer in sorted(self._adapted.items())}

    def begin(self, values: Values) -> None:
        """Train on from these plain parameters: adapters that do nothing yet, an optimizer that has seen nothing."""
        with torch.no_grad():
            if self._adapted:
                for name, layer in self._adapted.items():
                    layer.base.copy_(values[name])
                for name, parameter in self.learner.parameters.items():
                    parameter.copy_(self._initial[name])
            else:
                for name, parameter in self.learner.parameters.items():
                    parameter.copy_(values[name])
        self.learner = self._learner()

    def _learner(self) -> Learner:
        return Learner(self.policy.model, self._config)


@dataclass(frozen=True, slots=True)
class _Adapted:
    """A linear layer with an adapter: its weight [out, in], and the names of the adapter's two factors."""

    base: Tensor
    down: str
    up: str
    scaling: float

    def merged(self, weights: Mapping[str, Tensor]) -> Tensor:
        change = weights[self.up].float() @ weights[self.down].float()
        return (self.base.detach().float() + self.scaling * change).to(self.base.dtype)


def _adapted_layers(policy: Policy) -> dict[str, _Adapted]:
    """The layers that peft gave an adapter, by the plain name of their weight."""
    layers = {}
    root: Any = policy.model.get_base_model()
    prefix = next(name for name, module in policy.model.named_modules() if module is root)
    for name, module in root.named_modules():
        if _ADAPTER in getattr(module, "lora_A", {}):
            factor = f"{prefix}.{name}.lora_{{}}.{_ADAPTER}.weight"
            scaling = float(module.scaling[_ADAPTER])
            layers[f"{name}.weight"] = _Adapted(
                module.base_layer.weight, factor.format("A"), factor.format("B"), scaling
            )
    return layers


def _norm_parameters(policy: Policy) -> list[Tensor]:
    return [
        parameter
        for module in policy.model.modules()
        if "Norm" in type(module).__name__
        for parameter in module.parameters(recurse=False)
    ]


def moved(mean: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float) -> dict[str, Tensor]:
    """The exponential moving average of weights, one update further."""
    return {name: torch.lerp(weights[name], each, decay) for name, each in mean.items()}


def are_finite(values: Values) -> bool:
    return all(bool(torch.isfinite(each).all()) for each in values.values())


__all__ = ["Trainable", "Values", "are_finite", "moved"]
