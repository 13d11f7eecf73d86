"""What the update worker can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from share.kernel.adaptation.kl import KLConfig
from share.kernel.config import Choice, ConfigModel, choice
from share.kernel.policy.loading import LoRAConfig, PolicyConfig
from share.kernel.policy.rollout import RolloutConfig

ZOOM_IN = {"name": "ZOOM_IN", "side_min": 56, "side_max": 56}
"""Crops of the size that the starter policy reads."""


class QualifyConfig(ConfigModel):
    """What a candidate must hold to before it may serve."""

    anchors: int = Field(default=32, ge=4, le=10_000)
    """Held-out prompts of the anchor task that every candidate answers; each costs its time at every update."""
    harm_probability: float = Field(default=0.05, gt=0.0, le=0.5)
    """A candidate is refused when it lost so clearly that one as good would lose so with at most this probability
    (one-sided exact sign test)."""
    loss_max: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the anchors that a candidate may answer rightly less often than the shipped policy and than the version
    that serves, whatever the test says: many small losses do not add up."""
    audited_window: int = Field(default=64, ge=0, le=100_000)
    """Newest audited items on which the versions that served are compared with the shipped policy."""
    entropy_ratio_min: float = Field(default=0.6, ge=0.0, le=1.0)
    """Least entropy on the anchors, as a share of that of the shipped policy, or of the version that serves where that
    is greater: what is lost beyond that is no learning but a collapse."""
    drift_max: float = Field(default=2.0, gt=0.0)
    """Greatest change of the mean log-probability of what the shipped policy says about the anchors, nats per token."""
    failures_max: int = Field(default=3, ge=1)
    """Candidates in a row that may fail before all that was learned is dropped."""


class UpdateConfig(ConfigModel):
    """Updates of a policy that serves."""

    policy: PolicyConfig = PolicyConfig()
    """The policy that was shipped, as the service loads it."""
    operations: tuple[Annotated[Choice, choice("operation")], ...] = Field(
        default_factory=lambda: (ZOOM_IN,)  # type: ignore[arg-type]
    )
    """Visual operations that the policy may call."""
    trainable: Literal["lora", "norm", "all"] = "lora"
    """What is trained: low-rank adapters, the scales of normalisation layers, or all weights."""
    lora: LoRAConfig = LoRAConfig(rank=8, alpha=16.0)
    """The adapters of `trainable: lora`."""
    anchors: Annotated[Choice, choice("task")] = Choice("task", "zoom_digits")
    """Task whose training prompts are replayed beside the stream's and whose held-out prompts qualify a candidate."""
    prompts_min: int = Field(default=8, ge=1)
    """Prompts of an update; what the stream lacks is filled up with anchors."""
    replay_share: float = Field(default=0.25, ge=0.0, le=1.0)
    """Anchors per prompt of the stream, at least."""
    prompts_per_forward: int = Field(default=4, ge=1)
    """Groups per forward and backward pass: bounds memory, does not change the update."""
    rollout: RolloutConfig = RolloutConfig(group_size=8, turns_max=3, tokens_max=128)
    """How the policy is sampled; `rollout.group_size` rollouts per prompt."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled weight decay per unit of learning rate, on tensors of two or more dimensions."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's moments."""
    gradient_norm_max: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this global norm."""
    ema_decay: float = Field(default=0.5, ge=0.0, lt=1.0)
    """What stays of the mean of the weights, which is the candidate, when an update is added to it."""
    kl: KLConfig = KLConfig()
    """The penalty on moving away from the shipped policy and from the version that serves."""
    qualify: QualifyConfig = QualifyConfig()
    """What a candidate must hold to before it may serve."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of adapters and samples."""

    @field_validator("policy")
    @classmethod
    def _has_no_adapter(cls, value: PolicyConfig) -> PolicyConfig:
        if value.lora is not None:
            raise ValueError("lora: leave it out; `trainable: lora` with the worker's own `lora` says what is trained")
        return value

    @field_validator("rollout")
    @classmethod
    def _enough_to_compare(cls, value: RolloutConfig) -> RolloutConfig:
        if value.group_size < 2:
            raise ValueError("group_size: a rollout is judged against the others of its group, so it needs 2 or more")
        if value.temperature == 0.0:
            raise ValueError("temperature: must not be 0, or all rollouts of a group are the same")
        return value

    @model_validator(mode="after")
    def _fits_the_machine(self) -> UpdateConfig:
        if self.policy.dtype == "float16":
            raise ValueError("policy.dtype: float16 cannot be trained; use bfloat16 or float32")
        return self


def worker_settings(config: UpdateConfig, *, versions: Path, directory: Path) -> dict[str, JsonValue]:
    """What the supervisor gives the worker: `versions` is where the VersionStore is, `directory` the worker's own."""
    return {"config": config.model_dump(mode="json"), "versions": str(versions), "directory": str(directory)}


__all__ = ["ZOOM_IN", "QualifyConfig", "UpdateConfig", "worker_settings"]
