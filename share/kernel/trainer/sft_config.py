"""What a supervised run can be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, model_validator

from share.kernel.config import Choice, ConfigModel, choice
from share.kernel.data.curriculum import HarmRules, StageRules
from share.kernel.media.operator import load_operator
from share.kernel.policy.loading import PolicyConfig
from share.kernel.policy.logprobs import Layout
from share.kernel.policy.rollout import RolloutConfig
from share.kernel.report.trackers import Trackers
from share.kernel.trainer.demonstrations import check_demonstrations
from share.kernel.trainer.grpo_config import ZOOM_IN
from share.kernel.trainer.optimization import OptimizationConfig
from share.kernel.trainer.prompts import build_task

UNDEMONSTRATED_MAX = 1000
"""Prompts in a row for which a task may know no demonstration before that is a mistake."""


class TaskTerm(ConfigModel):
    task: Annotated[Choice, choice("task")]
    """Source of the demonstrations."""
    weight: float = Field(default=1.0, gt=0.0)
    """How often it is drawn, relative to the other tasks of the stage."""


class SFTStage(StageRules):
    name: str
    """Shown in the log."""
    tasks: dict[str, TaskTerm] = Field(default_factory=dict)
    """What is imitated in this stage, by name; `{zoom_digits: 2.0}` is short for that task with weight 2. Empty: the
    task of the run."""
    learning_rate_scale: float = Field(default=1.0, gt=0.0)
    """The stage's learning rate as a multiple of the run's."""

    @model_validator(mode="before")
    @classmethod
    def _complete_tasks(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("tasks", {}), Mapping):
            return data
        return {**data, "tasks": {name: _term(name, value) for name, value in data.get("tasks", {}).items()}}


class SFTConfig(OptimizationConfig):
    """Supervised fine-tuning on the demonstrations of tasks, in stages."""

    policy: PolicyConfig = PolicyConfig()
    """The policy to train; the shipped starter when no path is given."""
    task: Annotated[Choice, choice("task")] = Choice("task", "zoom_digits")
    """Source of the held-out prompts that the skills are scored on, and of the demonstrations where a stage names no
    other."""
    operations: tuple[Annotated[Choice, choice("operation")], ...] = Field(
        default_factory=lambda: (ZOOM_IN,)  # type: ignore[arg-type]
    )
    """Visual operations that the demonstrations call."""
    learning_rate: float = Field(default=3e-4, gt=0.0)
    """Peak learning rate of AdamW. The default is for the starter policy; billions of weights want 1e-5."""
    stages: tuple[SFTStage, ...] = Field(default=(SFTStage(name="imitate", steps_max=200),), min_length=1)
    """Stages in order. The next one opens when the gate of the one before is reached on held-out prompts."""
    harm: HarmRules = HarmRules()
    """When a stage is taken back."""

    prompts_per_step: int = Field(default=16, ge=1)
    """Demonstrations per optimizer update."""
    prompts_per_forward: int = Field(default=8, ge=1)
    """Demonstrations per forward and backward pass: bounds memory, does not change the update."""
    layout: Layout = "packed"
    """Forward pass: shared tokens once, or one padded row per demonstration. Same loss."""
    rollout: RolloutConfig = RolloutConfig(turns_max=3, tokens_max=128)
    """How the policy is sampled in the evaluation, which is greedy."""

    evaluate_every: int = Field(default=50, ge=1)
    """Steps between held-out evaluations, each of which may end, open or take back a stage."""
    evaluation_prompts: int = Field(default=64, ge=1)
    """Held-out prompts per evaluation."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between checkpoints; there is one after every change of stage, too."""
    checkpoints_kept: int = Field(default=2, ge=1)
    """Newest checkpoints that are kept."""
    trackers: Trackers = ("auto",)
    """Trackers of accelerate (tensorboard, wandb, …); `auto`: those of the two that can be started."""

    @model_validator(mode="after")
    def _has_what_to_imitate(self, info: ValidationInfo) -> SFTConfig:
        """Raises ConfigError and TaskError, which pydantic lets through."""
        registry = (info.context or {}).get("registry")
        if registry is None:
            return self
        operator = load_operator(registry, self.operations)
        task = build_task(registry, self.task)
        check_demonstrations(task, "held_out", self.evaluation_prompts, "task", operator)
        if any(not stage.tasks for stage in self.stages):
            check_demonstrations(task, "train", UNDEMONSTRATED_MAX, "task", operator)
        for stage in self.stages:
            for name, term in stage.tasks.items():
                key = f"stages.{stage.name}.tasks.{name}"
                check_demonstrations(build_task(registry, term.task), "train", UNDEMONSTRATED_MAX, key, operator)
        return self


def _term(name: str, value: Any) -> Any:
    return {"task": name, "weight": value} if isinstance(value, int | float) else value


__all__ = ["UNDEMONSTRATED_MAX", "SFTConfig", "SFTStage", "TaskTerm"]
