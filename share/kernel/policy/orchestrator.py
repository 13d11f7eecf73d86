"""The RewardOrchestrator: from the reward components of a group to advantages.

Each component is normalised inside its group before the weighted sum. A running z-score over the past would cancel in
the group's mean and, as its deviation drifts, silently reweight the components; a plain sum lets the component with
the largest scale speak alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from share.kernel.contracts.kinds import Reward
from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Trajectory
from share.kernel.contracts.vision import Scene
from share.kernel.data.curriculum import RewardCurriculum

Normalization = Literal["component", "sum", "center"]

DEVIATION_MIN = 1e-6
"""Rewards of a group whose standard deviation is below this are equal."""


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """The rewards of the G rollouts of a prompt. Each tuple has one entry per rollout.

    `raw` and `normalized` are per component (None = not scored), `weights` the weights in force, `reward` the weighted
    sum of the raw components, `advantages` what the loss uses (their mean over the counted rollouts is zero).
    `counted` is False for a rollout that takes no part: its advantage is zero.
    """

    correctness: tuple[float, ...]
    raw: Mapping[str, tuple[float | None, ...]]
    normalized: Mapping[str, tuple[float | None, ...]]
    weights: Mapping[str, float]
    reward: tuple[float, ...]
    advantages: tuple[float, ...]
    counted: tuple[bool, ...]

    @property
    def zero_variance(self) -> bool:
        """Whether the group teaches nothing."""
        return not any(self.advantages)

    def contribution(self, component: str) -> tuple[float, ...]:
        """What a component adds to each advantage: its weight times its normalised value, 0.0 where not scored."""
        return tuple(self.weights[component] * (value or 0.0) for value in self.normalized[component])


@runtime_checkable
class Stateful(Protocol):
    """A reward that learns: its state goes into checkpoints."""

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


class RewardOrchestrator:
    """Scores groups with weighted reward components, the weights from a curriculum when there is one.

    `normalization`: `component` normalises every component to zero mean and unit deviation in its group, then sums;
    `sum` sums, then normalises (GRPO, arXiv 2402.03300); `center` sums and subtracts the mean only (Dr. GRPO, arXiv
    2503.20783).
    """

    def __init__(
        self,
        components: Mapping[str, Reward],
        weights: Mapping[str, float],
        normalization: Normalization = "component",
        curriculum: RewardCurriculum | None = None,
    ) -> None:
        self.components = dict(components)
        self.normalization = normalization
        self.curriculum = curriculum
        self._weights = dict(weights)

    @property
    def weights(self) -> dict[str, float]:
        if self.curriculum is None:
            return dict(self._weights)
        phase = self.curriculum.phase.weights
        return {name: phase.get(name, 0.0) for name in self.components}

    def score(
        self,
        prompt: Prompt,
        trajectories: Sequence[Trajectory],
        scenes: Sequence[Scene],
        correctness: Sequence[float],
        counted: Sequence[bool] | None = None,
    ) -> ScoredGroup:
        """Score the rollouts of one prompt. A rollout that is not `counted` is rewarded but has no advantage."""
        counts = tuple(counted) if counted is not None else (True,) * len(trajectories)
        weights = self.weights
        raw: dict[str, tuple[float | None, ...]] = {}
        for name, component in self.components.items():
            values = component.score(prompt, trajectories, scenes, correctness)
            assert len(values) == len(trajectories), f"reward {name!r} scored {len(values)} of {len(trajectories)}"
            raw[name] = tuple(None if value is None else float(value) for value in values)
        reward = tuple(
            sum(weights[name] * (values[row] or 0.0) for name, values in raw.items()) for row in range(len(counts))
        )
        normalized = {name: normalize(_only(values, counts)) for name, values in raw.items()}
        if self.normalization == "component":
            advantages: Sequence[float | None] = [
                sum(weights[name] * (values[row] or 0.0) for name, values in normalized.items())
                for row in range(len(counts))
            ]
        else:
            advantages = normalize(_only(reward, counts), divide=self.normalization == "sum")
        return ScoredGroup(
            correctness=tuple(float(value) for value in correctness),
            raw=raw,
            normalized={name: tuple(values) for name, values in normalized.items()},
            weights=weights,
            reward=reward,
            advantages=tuple(value or 0.0 for value in advantages),
            counted=counts,
        )

    def observe(self, success: float, reward: float) -> str | None:
        """Tell the curriculum how a step went; returns why it entered the next phase, None when it did not."""
        return self.curriculum.observe(success, reward) if self.curriculum is not None else None

    def state_dict(self) -> dict[str, object]:
        components = {name: each.state_dict() for name, each in self.components.items() if isinstance(each, Stateful)}
        curriculum = self.curriculum.state_dict() if self.curriculum is not None else {}
        return {"curriculum": curriculum, "components": components}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        curriculum, learned = state["curriculum"], state["components"]
        assert isinstance(curriculum, Mapping)
        assert isinstance(learned, Mapping)
        if self.curriculum is not None:
            self.curriculum.load_state_dict(curriculum)
        for name, component_state in learned.items():
            component = self.components[name]
            assert isinstance(component, Stateful)
            component.load_state_dict(component_state)


def normalize(values: Sequence[float | None], divide: bool = True) -> list[float | None]:
    """Zero mean, and with `divide` unit standard deviation (unbiased, as torch and TRL compute it), over the values
    that are not None. All zero when they are equal."""
    scored = [value for value in values if value is not None]
    mean = math.fsum(scored) / len(scored) if scored else 0.0
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in scored) / max(len(scored) - 1, 1))
    if deviation < DEVIATION_MIN:
        return [None if value is None else 0.0 for value in values]
    scale = deviation if divide else 1.0
    return [None if value is None else (value - mean) / scale for value in values]


def _only(values: Sequence[float | None], counted: Sequence[bool]) -> list[float | None]:
    return [value if counts else None for value, counts in zip(values, counted, strict=True)]


__all__ = ["DEVIATION_MIN", "Normalization", "RewardOrchestrator", "ScoredGroup", "Stateful", "normalize"]
