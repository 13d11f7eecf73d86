"""What both trainers optimise with: AdamW, warm-up and a schedule that is a pure function of the update's number."""

from __future__ import annotations

import math
import random
import resource
import sys
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from share.kernel.config import ConfigModel
from share.kernel.errors import CheckpointError


class OptimizationConfig(ConfigModel):
    learning_rate: float = Field(default=1e-4, gt=0.0)
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """How the learning rate falls, if it does, to `learning_rate_end` at the last update."""
    decay_share: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the updates, the last ones, over which cosine and linear fall; before, the learning rate is constant."""
    learning_rate_end: float = Field(default=0.0, ge=0.0, le=1.0)
    """Where cosine and linear end, as a share of the peak."""
    warmup_updates: int = Field(default=0, ge=0)
    """Optimizer updates over which the learning rate rises linearly from near zero."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled weight decay per unit of learning rate, on tensors of two or more dimensions."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's moments."""
    gradient_norm_max: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this global norm."""


def learning_rate_at(config: OptimizationConfig, update: int, updates: int) -> float:
    """The learning rate of update number `update` (from 0) out of `updates`."""
    if update < config.warmup_updates:
        return config.learning_rate * (update + 1) / (config.warmup_updates + 1)
    if config.schedule == "constant":
        return config.learning_rate
    start = max(updates * (1.0 - config.decay_share), config.warmup_updates)
    progress = min(max(update - start, 0.0) / max(updates - start, 1.0), 1.0)
    height = 0.5 * (1.0 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1.0 - progress
    return config.learning_rate * (config.learning_rate_end + (1.0 - config.learning_rate_end) * height)


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that take gradients, by name; tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def load_parameters(parameters: Mapping[str, torch.nn.Parameter], values: Mapping[str, torch.Tensor]) -> None:
    """Copy values into parameters, bit by bit. Raises CheckpointError when they are not of the same policy."""
    if {name: value.shape for name, value in parameters.items()} != {name: one.shape for name, one in values.items()}:
        raise CheckpointError("the checkpoint holds weights of another policy than policy.path names")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch: what draws from them (an adapter's first weights) repeats itself."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def adamw(parameters: Mapping[str, torch.nn.Parameter], config: OptimizationConfig) -> torch.optim.AdamW:
    matrices = [parameter for parameter in parameters.values() if parameter.dim() >= 2]
    vectors = [parameter for parameter in parameters.values() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.learning_rate, betas=config.adam_betas
    )


def make_update(optimizer: torch.optim.Optimizer, config: OptimizationConfig, learning_rate: float) -> float:
    """Clip, update, clear the gradients; returns the gradient's norm before clipping."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.gradient_norm_max)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(norm)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that was held: of the GPU as torch allocated it, else of this process (resident)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


__all__ = [
    "OptimizationConfig",
    "adamw",
    "learning_rate_at",
    "load_parameters",
    "make_update",
    "peak_memory_bytes",
    "seed_everything",
    "trainable",
]
