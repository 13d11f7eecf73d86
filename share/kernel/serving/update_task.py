"""What the engine asks of the update worker, and what it is told: metadata of tasks, results of confirmations."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from share.kernel.contracts.voting import AnswerType

LEARN, RESTORE = "learn", "restore"
"""Kinds of tasks."""

Outcome = Literal["learned", "no_signal", "skipped", "unqualified", "reset", "restored", "refused"]
"""What became of a task.

`learned`: a new version has its effect. `no_signal`: all samples were alike, there was nothing to learn. `skipped`: the
step was not finite and was undone. `unqualified`: the candidate was refused and dropped. `reset`: the last of too many
in a row was, and all that was learned is dropped. `restored`: learning goes on from another version, as was asked.
`refused`: the task cannot be used.
"""


class LearnTask(BaseModel):
    """Metadata of a task "learn"; its tensors are the images that the policy was shown, uint8 HWC RGB, in order."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    """The right answer, or where it was `rejected` the wrong one."""
    answer_type: AnswerType = "text"
    kind: Literal["approved", "rejected", "corrected", "gated"]
    """Who says so: a reviewer, or for `gated` the vote alone."""
    trust: float = Field(default=1.0, gt=0.0, le=1.0)
    """How far a reviewer is believed. The gate has it in its learning rate already."""
    learning_rate: float = Field(gt=0.0, le=1.0)
    """Of the task's update; tasks that are learned together share the greatest, each in proportion to its own."""
    is_video: bool = False
    """Whether the images are frames."""

    @property
    def is_audited(self) -> bool:
        """Whether the right answer is known from a person."""
        return self.kind in ("approved", "corrected")

    @property
    def weight(self) -> float:
        return self.learning_rate * (1.0 if self.kind == "gated" else self.trust)


class RestoreTask(BaseModel):
    """Metadata of a task "restore": serving was put to this version, and learning shall go on from there."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str = Field(min_length=1)


class Comparison(BaseModel):
    """Items that two versions answered: how often the candidate (or what served) alone was right, or alone wrong."""

    model_config = ConfigDict(frozen=True)

    items: int
    won: int
    lost: int
    probability: float
    """Of losing so clearly by chance (one-sided exact sign test)."""


class Qualification(BaseModel):
    """What a candidate was measured by; it qualified when `failures` is empty."""

    model_config = ConfigDict(frozen=True)

    failures: tuple[str, ...]
    anchor_accuracy: float
    against_served: Comparison
    against_frozen: Comparison
    audited: Comparison
    entropy_ratio: float
    drift: float


class Counters(BaseModel):
    """Since the worker's directory was made."""

    model_config = ConfigDict(frozen=True)

    updates: int = 0
    """Batches that were learned from, whatever became of the candidate."""
    anchors: int = 0
    """Anchor prompts that were replayed."""
    qualified: int = 0
    unqualified: int = 0
    failures_in_a_row: int = 0
    skipped: int = 0
    no_signal: int = 0
    refused: int = 0
    kl_restores: int = 0
    resets: int = 0
    restored: int = 0


class UpdateResult(BaseModel):
    """Result of every task, the same for all that were learned together but for `outcome`, `reason` and `reward`.

    `version` is what shall serve from now on in place of `parent`: the name of a version, `frozen` after a reset, None
    when nothing changed. Divergences are in nats per token, None when nothing was sampled. The three shares of TTRL
    (arXiv 2504.16084): `label_accuracy` of the prompts with a known answer whose majority of samples is right,
    `reward_accuracy` of their samples that the majority would have rewarded as the truth does, `majority_ratio` of all
    samples that agree with their majority. `seconds` by phase.
    """

    model_config = ConfigDict(frozen=True)

    outcome: Outcome
    reason: str = ""
    parent: str
    version: str | None = None
    reward: float | None = None
    """Mean reward of the task's samples."""
    mode: Literal["frozen", "adapted"]
    """What serves once `version` is published."""
    kl_frozen: float | None = None
    kl_served: float | None = None
    beta: float
    learning_rate: float | None = None
    gradient_norm: float | None = None
    label_accuracy: float | None = None
    reward_accuracy: float | None = None
    majority_ratio: float | None = None
    qualification: Qualification | None = None
    counters: Counters
    seconds: dict[str, float] = Field(default_factory=dict)


__all__ = [
    "LEARN",
    "RESTORE",
    "Comparison",
    "Counters",
    "LearnTask",
    "Outcome",
    "Qualification",
    "RestoreTask",
    "UpdateResult",
]
