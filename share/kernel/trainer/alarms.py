"""Alarms: what a person should be told while a policy is going wrong, not after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from share.kernel.config import ConfigModel


class AlarmConfig(ConfigModel):
    window_steps: int = Field(default=5, ge=1)
    """Steps over which each quantity is averaged before it is judged."""
    operation_share_min: float | None = Field(default=0.05, ge=0.0, le=1.0)
    """Share of rollouts that call an operation, below which operation use has collapsed. None: no such alarm."""
    entropy_min: float | None = Field(default=0.005, ge=0.0)
    """Entropy of the policy in nats per token, below which it no longer explores. None: no such alarm."""
    zero_variance_max: float | None = Field(default=0.8, ge=0.0, le=1.0)
    """Share of groups whose rewards are all equal, above which steps teach little. None: no such alarm."""
    solved_above: float = Field(default=0.95, ge=0.0, le=1.0)
    """Accuracy above which low entropy and equal rewards are what success looks like, and no alarm."""


@dataclass(frozen=True, slots=True)
class Alarm:
    name: str
    message: str


class Alarms:
    """Raises an alarm once when it begins, and again only after it has ended."""

    def __init__(self, config: AlarmConfig) -> None:
        self.config = config
        self._window: list[tuple[float, float, float, float]] = []
        self._raised: list[str] = []

    def observe(
        self, *, operation_share: float, entropy: float, zero_variance_share: float, accuracy: float
    ) -> list[Alarm]:
        """Record one step; returns the alarms that begin with it."""
        steps = self.config.window_steps
        self._window = [*self._window, (operation_share, entropy, zero_variance_share, accuracy)][-steps:]
        if len(self._window) < steps:
            return []
        current = self._current(*(sum(column) / steps for column in zip(*self._window, strict=True)))
        begun = [alarm for alarm in current if alarm.name not in self._raised]
        self._raised = [alarm.name for alarm in current]
        return begun

    def _current(
        self, operation_share: float, entropy: float, zero_variance_share: float, accuracy: float
    ) -> list[Alarm]:
        config, over = self.config, f"over the last {self.config.window_steps} steps"
        alarms = []
        if config.operation_share_min is not None and operation_share < config.operation_share_min:
            remedy = "give the curiosity reward weight, or check that the task needs an operation"
            message = f"only {operation_share:.1%} of rollouts call an operation {over}: {remedy}"
            alarms.append(Alarm("operation_collapse", message))
        if accuracy > config.solved_above:
            return alarms
        if config.entropy_min is not None and entropy < config.entropy_min:
            remedy = "raise entropy_coefficient, clip_high or temperature, or lower learning_rate"
            message = f"entropy is {entropy:.4f} nats a token {over} at accuracy {accuracy:.1%}: {remedy}"
            alarms.append(Alarm("entropy_collapse", message))
        if config.zero_variance_max is not None and zero_variance_share > config.zero_variance_max:
            remedy = "raise group_size or temperature, or change the difficulty of the task"
            message = f"{zero_variance_share:.0%} of groups have equal rewards {over}, so they teach nothing: {remedy}"
            alarms.append(Alarm("zero_variance", message))
        return alarms

    def state_dict(self) -> dict[str, object]:
        return {"window": [list(row) for row in self._window], "raised": list(self._raised)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        window, raised = state["window"], state["raised"]
        assert isinstance(window, list)
        assert isinstance(raised, list)
        self._window = [(row[0], row[1], row[2], row[3]) for row in window]
        self._raised = [str(name) for name in raised]


__all__ = ["Alarm", "AlarmConfig", "Alarms"]
