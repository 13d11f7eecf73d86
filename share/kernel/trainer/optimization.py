"""What both trainers optimise with: AdamW, warm-up and a schedule that is a pure function of the update's number."""

from __future__ import annotations

import math
import random
import resource
import sys
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from share.kernel.config import ConfigModel


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


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch: what draws from them (an adapter's first weights) repeats itself."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that was held: of the GPU as torch allocated it, else of this process (resident)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


__all__ = ["OptimizationConfig", "learning_rate_at", "peak_memory_bytes", "seed_everything"]
