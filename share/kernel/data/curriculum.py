"""Curricula: when to open the next stage of supervised training, when to take a step back, when to reweight rewards.

Nothing here touches weights. A trainer shows a curriculum what it measured and does what it is told; the state of a
curriculum is a plain tree that goes into the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from share.kernel.config import ConfigModel

Verdict = Literal["stay", "advance", "roll_back", "finish", "close", "give_up"]


class PhaseExit(ConfigModel):
    """When a phase of the reward curriculum ends: as soon as one of the triggers that are set fires."""

    success_above: float | None = Field(default=None, ge=0.0, le=1.0)
    """Accuracy, averaged over the window, in [0, 1]."""
    reward_above: float | None = None
    """Weighted sum of the raw reward components, averaged over the window."""
    slope_below: float | None = None
    """Gain of accuracy per step, as the least-squares slope over the window: the phase has nothing more to give."""
    patience: int = Field(default=5, ge=1)
    """Consecutive steps for which the slope must stay below."""
    steps_max: int | None = Field(default=None, ge=1)
    """Steps after which the phase ends in any case."""


class RewardPhase(ConfigModel):
    name: str
    """Shown in the log when the phase begins."""
    weights: dict[str, float]
    """Weight of each reward component; one that is not named has weight 0 in this phase."""
    exit: PhaseExit | None = None
    """When the phase ends; the last phase never does."""


class RewardCurriculum:
    """Walks through phases of reward weights. Moving averages need a full window before they can trigger."""

    def __init__(self, phases: Sequence[RewardPhase], window: int) -> None:
        self.phases = tuple(phases)
        self.window = window
        self.index = 0
        self._steps = 0
        self._flat_steps = 0
        self._success: list[float] = []
        self._reward: list[float] = []

    @property
    def phase(self) -> RewardPhase:
        return self.phases[self.index]

    def observe(self, success: float, reward: float) -> str | None:
        """Record one step; returns the reason when it ended the phase, else None."""
        self._steps += 1
        self._success = [*self._success, success][-self.window :]
        self._reward = [*self._reward, reward][-self.window :]
        reason = self._trigger()
        if reason is None or self.index + 1 == len(self.phases):
            return None
        self.index += 1
        self._steps = self._flat_steps = 0
        self._success, self._reward = [], []
        return reason

    def _trigger(self) -> str | None:
        exit_ = self.phase.exit
        if exit_ is None:
            return None
        if len(self._success) == self.window:
            success, reward = float(np.mean(self._success)), float(np.mean(self._reward))
            if exit_.success_above is not None and success > exit_.success_above:
                return f"accuracy {success:.3f} > {exit_.success_above} over {self.window} steps"
            if exit_.reward_above is not None and reward > exit_.reward_above:
                return f"reward {reward:.3f} > {exit_.reward_above} over {self.window} steps"
            if exit_.slope_below is not None:
                slope = least_squares_slope(self._success)
                self._flat_steps = self._flat_steps + 1 if slope < exit_.slope_below else 0
                if self._flat_steps >= exit_.patience:
                    return f"accuracy gains {slope:.5f} < {exit_.slope_below} a step for {exit_.patience} steps"
        if exit_.steps_max is not None and self._steps >= exit_.steps_max:
            return f"{exit_.steps_max} steps"
        return None

    def state_dict(self) -> dict[str, object]:
        return {
            "index": self.index,
            "steps": self._steps,
            "flat_steps": self._flat_steps,
            "success": list(self._success),
            "reward": list(self._reward),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.index, self._steps, self._flat_steps = (_integer(state[key]) for key in ("index", "steps", "flat_steps"))
        self._success, self._reward = _floats(state["success"]), _floats(state["reward"])


class StageRules(ConfigModel):
    """When a stage of supervised training hands over to the next, and what it must not break."""

    gate: dict[str, float] = Field(default_factory=dict)
    """Held-out score per skill, in [0, 1], that the lower confidence bound must reach before the next stage opens."""
    steps_max: int = Field(default=1000, ge=1)
    """Optimizer steps after which the stage ends; the next one opens only if the gate was reached."""


class HarmRules(ConfigModel):
    """When a stage is taken back. A drop counts when even the upper confidence bound of the paired change is a drop."""

    tolerance: float = Field(default=0.05, ge=0.0)
    """Loss of a skill's held-out score that is accepted."""
    rollbacks_max: int = Field(default=2, ge=0)
    """Rollbacks of one stage after which it is given up, and the training ends with the weights from before it."""
    cooldown_steps: int = Field(default=0, ge=0)
    """Optimizer steps after a rollback during which a stage is not taken back again."""
    learning_rate_factor: float = Field(default=0.5, gt=0.0, le=1.0)
    """The stage is tried again with its learning rate times this."""
    confidence: float = Field(default=0.95, gt=0.0, lt=1.0)
    """Of the bootstrap intervals, both here and at the gate."""
    resamples: int = Field(default=1000, ge=100)
    """Bootstrap resamples per interval."""


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    reason: str


class StageCurriculum:
    """Judges held-out evaluations, each a score in [0, 1] per skill and prompt (the same prompts every time).

    advance: the gate is reached, the next stage opens, and the trainer keeps these weights to go back to.
    roll_back: a skill that the stage began with was lost; the trainer restores the kept weights.
    finish: the last stage is over. close: a stage made all its steps without reaching its gate. give_up: a stage did
    harm once too often; the trainer restores the kept weights. After these three there is nothing more to train.
    """

    def __init__(self, stages: Sequence[StageRules], harm: HarmRules, seed: int) -> None:
        self.stages = tuple(stages)
        self.harm = harm
        self.seed = seed
        self.index = 0
        self.stage_steps = 0
        self.rollbacks = 0
        self._since_rollback = 0
        self._kept: dict[str, list[float]] = {}

    def begin(self, scores: Mapping[str, Sequence[float]]) -> None:
        """The scores before the first step."""
        self._kept = {skill: [float(value) for value in values] for skill, values in scores.items()}

    def stepped(self) -> None:
        """One optimizer step was made."""
        self.stage_steps += 1
        self._since_rollback += 1

    @property
    def exhausted(self) -> bool:
        """Whether the stage has made all its steps, so that an evaluation is due."""
        return self.stage_steps >= self.stages[self.index].steps_max

    @property
    def learning_rate_factor(self) -> float:
        return float(self.harm.learning_rate_factor**self.rollbacks)

    def judge(self, scores: Mapping[str, Sequence[float]]) -> Judgement:
        """What to do after an evaluation."""
        lost = self._lost(scores)
        cooling = self.rollbacks > 0 and self._since_rollback < self.harm.cooldown_steps
        if lost is not None and not cooling:
            if self.rollbacks >= self.harm.rollbacks_max:
                return Judgement("give_up", f"{lost}, after {self.rollbacks} rollbacks")
            self.rollbacks += 1
            self.stage_steps = self._since_rollback = 0
            return Judgement("roll_back", lost)
        missing = self._missing(scores)
        last = self.index + 1 == len(self.stages)
        gated = bool(self.stages[self.index].gate)
        if missing is None and gated and not last:
            return self._advance(scores, "gate reached")
        if not self.exhausted:
            return Judgement("stay", missing or "")
        if missing is not None:
            return Judgement("close", f"{missing} after {self.stage_steps} steps")
        return Judgement("finish", "all steps made") if last else self._advance(scores, "all steps made")

    def _advance(self, scores: Mapping[str, Sequence[float]], reason: str) -> Judgement:
        self.begin(scores)
        self.index += 1
        self.stage_steps = self.rollbacks = self._since_rollback = 0
        return Judgement("advance", reason)

    def _lost(self, scores: Mapping[str, Sequence[float]]) -> str | None:
        for skill, kept in sorted(self._kept.items()):
            change = [now - before for now, before in zip(scores[skill], kept, strict=True)]
            _, upper = self._interval(change)
            if upper < -self.harm.tolerance:
                return f"{skill} fell by {-float(np.mean(change)):.3f} (at least {-upper:.3f})"
        return None

    def _missing(self, scores: Mapping[str, Sequence[float]]) -> str | None:
        for skill, threshold in sorted(self.stages[self.index].gate.items()):
            lower, _ = self._interval(scores[skill])
            if lower < threshold:
                return f"{skill} {float(np.mean(scores[skill])):.3f} (at least {lower:.3f}) is below {threshold}"
        return None

    def _interval(self, values: Sequence[float]) -> tuple[float, float]:
        return bootstrap_interval(values, self.harm.confidence, self.harm.resamples, self.seed)

    def state_dict(self) -> dict[str, object]:
        return {
            "index": self.index,
            "stage_steps": self.stage_steps,
            "rollbacks": self.rollbacks,
            "since_rollback": self._since_rollback,
            "kept": {skill: list(values) for skill, values in self._kept.items()},
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.index, self.stage_steps, self.rollbacks, self._since_rollback = (
            _integer(state[key]) for key in ("index", "stage_steps", "rollbacks", "since_rollback")
        )
        kept = state["kept"]
        assert isinstance(kept, Mapping)
        self._kept = {str(skill): _floats(values) for skill, values in kept.items()}


def bootstrap_interval(values: Sequence[float], confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron, 1979), two-sided, a pure function of its arguments."""
    assert values, "an interval needs at least one value"
    samples = np.asarray(values, dtype=np.float64)
    chosen = np.random.default_rng(seed).integers(0, len(samples), size=(resamples, len(samples)))
    means = np.sort(samples[chosen].mean(axis=1))
    tail = (1.0 - confidence) / 2.0
    return float(np.quantile(means, tail)), float(np.quantile(means, 1.0 - tail))


def least_squares_slope(values: Sequence[float]) -> float:
    """Slope per step of the straight line through the values; 0.0 for fewer than two."""
    if len(values) < 2:
        return 0.0
    steps = np.arange(len(values), dtype=np.float64)
    steps -= steps.mean()
    return float(steps @ np.asarray(values, dtype=np.float64) / (steps @ steps))


def _integer(value: object) -> int:
    assert isinstance(value, int)
    return value


def _floats(value: object) -> list[float]:
    assert isinstance(value, list | tuple)
    return [float(number) for number in value]


__all__ = [
    "HarmRules",
    "Judgement",
    "PhaseExit",
    "RewardCurriculum",
    "RewardPhase",
    "StageCurriculum",
    "StageRules",
    "Verdict",
    "bootstrap_interval",
    "least_squares_slope",
]
