"""What a GRPO run can be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from share.kernel.config import Choice, ConfigModel, choice
from share.kernel.data.curriculum import RewardPhase
from share.kernel.policy.loading import PolicyConfig
from share.kernel.policy.logprobs import Layout
from share.kernel.policy.losses import Variant
from share.kernel.policy.orchestrator import Normalization
from share.kernel.policy.rollout import RolloutConfig
from share.kernel.report.trackers import Trackers
from share.kernel.trainer.alarms import AlarmConfig
from share.kernel.trainer.optimization import OptimizationConfig

ZOOM_IN = {"name": "ZOOM_IN", "side_min": 56, "side_max": 56}
"""Crops of the size that the starter policy reads."""


class RewardTerm(ConfigModel):
    reward: Annotated[Choice, choice("reward")]
    """The reward component."""
    weight: float = 1.0
    """Its weight in the sum of the normalised components."""


class GRPOConfig(OptimizationConfig):
    """Group-relative policy optimisation with visual operations in the loop."""

    policy: PolicyConfig = PolicyConfig()
    """The policy to train; the shipped starter when no path is given."""
    task: Annotated[Choice, choice("task")] = Choice("task", "zoom_digits")
    """Source of the prompts, for training and for the held-out evaluation."""
    operations: tuple[Annotated[Choice, choice("operation")], ...] = Field(
        default_factory=lambda: (ZOOM_IN,)  # type: ignore[arg-type]
    )
    """Visual operations that the policy may call."""
    rewards: dict[str, RewardTerm] = Field(default_factory=dict)
    """Reward components by name. `{curiosity: 0.5}` is short for weight 0.5 of the reward `curiosity`; `task` with
    weight 1 is added when it is not named."""
    reward_curriculum: tuple[RewardPhase, ...] = ()
    """Phases of reward weights, which then replace the weights of `rewards`. Empty: constant weights."""
    reward_window_steps: int = Field(default=100, ge=1)
    """Steps of the moving averages that end a phase."""
    normalization: Normalization = "component"
    """`component`: every component to zero mean and unit deviation in its group, then the weighted sum; `sum`: the sum
    is normalised; `center`: only its mean is subtracted (Dr. GRPO)."""

    learning_rate: float = Field(default=1e-4, gt=0.0)
    """Peak learning rate of AdamW. The default is for the starter policy; billions of weights want 1e-6, an adapter of
    them 1e-5."""
    schedule: Literal["constant", "cosine", "linear"] = "linear"
    """How the learning rate falls, if it does, to `learning_rate_end` at the last update."""
    learning_rate_end: float = Field(default=0.05, ge=0.0, le=1.0)
    """Where cosine and linear end, as a share of the peak."""
    decay_share: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the updates, the last ones, over which cosine and linear fall; before, the learning rate is constant."""
    warmup_updates: int = Field(default=5, ge=0)
    """Optimizer updates over which the learning rate rises linearly from near zero."""

    steps: int = Field(default=100, ge=1)
    """Steps of the run: rounds of rollouts, each followed by its updates."""
    prompts_per_step: int = Field(default=16, ge=1)
    """Prompts (groups) per step."""
    prompts_per_update: int | None = None
    """Groups per optimizer update; None: all of the step in one update."""
    prompts_per_forward: int = Field(default=4, ge=1)
    """Groups per forward and backward pass: bounds memory, does not change the update."""
    num_iterations: int = Field(default=1, ge=1)
    """Passes over the groups of a step."""
    rollout: RolloutConfig = RolloutConfig(group_size=8, turns_max=3, tokens_max=128)
    """How the policy is sampled; `rollout.group_size` rollouts per prompt."""
    mask_truncated: bool = True
    """Rollouts that were cut at turns_max or tokens_max neither pay nor cost (Mini-o3's over-turn masking)."""
    zero_variance: Literal["keep", "skip", "resample"] = "skip"
    """Groups whose rewards are all equal: compute them all the same, leave them out of the update, or draw other
    prompts instead (dynamic sampling, DAPO, arXiv 2503.14476)."""
    resample_rounds_max: int = Field(default=3, ge=1)
    """Rounds of drawing other prompts per step."""

    loss: Variant = "dapo"
    """Loss variant."""
    clip_low: float = Field(default=0.2, ge=0.0)
    """The ratio of policy to behavior policy is clipped below 1 minus this."""
    clip_high: float = Field(default=0.28, ge=0.0)
    """The ratio of policy to behavior policy is clipped above 1 plus this."""
    kl_coefficient: float = Field(default=0.0, ge=0.0)
    """Weight of the KL divergence from the reference policy (the policy without its adapter; a frozen copy when all
    weights are trained)."""
    measure_kl: bool = True
    """Measure that divergence on one group a step also when its coefficient is 0. Where all weights are trained this
    keeps a frozen copy of them in memory."""
    entropy_coefficient: float = Field(default=0.0, ge=0.0)
    """Weight of the entropy bonus."""
    layout: Layout = "packed"
    """Forward pass of the update: one row per group with a tree mask, or one padded row per rollout. Same loss."""

    evaluate_every: int = Field(default=25, ge=1)
    """Steps between held-out evaluations; there is one before the first step and one after the last."""
    evaluation_prompts: int = Field(default=100, ge=1)
    """Held-out prompts per evaluation."""
    evaluate_without_operations: bool = False
    """Also evaluate, before and after, with operations switched off: what can be guessed."""
    checkpoint_every: int = Field(default=25, ge=1)
    """Steps between checkpoints."""
    checkpoints_kept: int = Field(default=2, ge=1)
    """Newest checkpoints that are kept."""
    trackers: Trackers = ("auto",)
    """Trackers of accelerate (tensorboard, wandb, …); `auto`: those of the two that can be started."""
    alarms: AlarmConfig = AlarmConfig()
    """When to warn that operation use or entropy collapses or groups teach nothing."""

    @model_validator(mode="before")
    @classmethod
    def _complete_rewards(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("rewards", {}), Mapping):
            return data
        terms = {"task": 1.0, **data.get("rewards", {})}
        return {**data, "rewards": {name: _term(name, value) for name, value in terms.items()}}

    @field_validator("rollout")
    @classmethod
    def _enough_to_compare(cls, value: RolloutConfig) -> RolloutConfig:
        if value.group_size < 2:
            reason = "a rollout is judged against the others of its group, so a group needs 2 or more"
            error = PydanticCustomError("group_size", "{reason}", {"reason": reason})
            mistake = InitErrorDetails(type=error, loc=("group_size",), input=value.group_size)
            raise ValidationError.from_exception_data("RolloutConfig", [mistake])
        return value

    @field_validator("reward_curriculum")
    @classmethod
    def _weighs_what_is_scored(cls, value: tuple[RewardPhase, ...], info: ValidationInfo) -> tuple[RewardPhase, ...]:
        known = info.data.get("rewards", {})
        for phase in value:
            for name in phase.weights:
                if name not in known:
                    raise ValueError(f"phase {phase.name!r} weighs {name!r}; rewards has {', '.join(known)}")
        return value

    @field_validator("prompts_per_update")
    @classmethod
    def _divides_the_step(cls, value: int | None, info: ValidationInfo) -> int | None:
        prompts = info.data.get("prompts_per_step")
        if value is not None and prompts is not None and (value < 1 or prompts % value):
            raise ValueError(f"must divide prompts_per_step ({prompts})")
        return value


def _term(name: str, value: Any) -> Any:
    if isinstance(value, int | float):
        return {"reward": name, "weight": value}
    if isinstance(value, Mapping):
        reward = value.get("reward", name)
        return {**value, "reward": {"name": name, **reward} if isinstance(reward, Mapping) else reward}
    return value


__all__ = ["ZOOM_IN", "GRPOConfig", "RewardTerm"]
