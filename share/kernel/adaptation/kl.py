"""How far a policy may move: the coefficient of the KL penalty, steered so that the divergence stays near a target.

The divergence is per token, in nats. A sum over a batch or a sequence grows with its length, and no target fits it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from share.kernel.config import ConfigModel
from share.kernel.errors import ConfigError

WINDOW = 10
"""Updates whose mean is looked at, and between two changes of beta. Steered at every update, beta never settles: what
it did last has not yet been seen in a mean."""

RESTORE_FACTOR = 2.0
"""Times the target: a policy that moved so far is put back, because skipping its updates would keep it there."""

Advice = Literal["go_on", "restore"]


class KLConfig(ConfigModel):
    """The KL penalty of updates: beta times the divergence per token."""

    beta_update_mode: Literal["auto", "fixed"] = "auto"
    """`auto` steers beta to the target, `fixed` leaves it at `initial_beta`."""
    initial_beta: float = Field(default=0.01, gt=0.0)
    """Coefficient of the penalty at the start."""
    target_kl: float = Field(default=0.05, gt=0.0)
    """Divergence that is aimed at, in nats per token."""
    kl_tolerance: float = Field(default=0.01, ge=0.0)
    """Distance from the target, in nats per token, within which beta is left alone."""
    beta_increase_factor: float = Field(default=1.2, gt=1.0)
    """What beta is multiplied with when the divergence is too large."""
    beta_decrease_factor: float = Field(default=1.2, gt=1.0)
    """What beta is divided by when the divergence is too small."""
    min_beta: float = Field(default=0.0001, gt=0.0)
    """Least beta."""
    max_beta: float = Field(default=1.0, gt=0.0)
    """Greatest beta."""

    @model_validator(mode="after")
    def _consistent(self) -> KLConfig:
        if self.min_beta > self.max_beta:
            raise ValueError(f"min_beta: must not exceed max_beta ({self.min_beta} > {self.max_beta})")
        if not self.min_beta <= self.initial_beta <= self.max_beta:
            raise ValueError(f"initial_beta: must lie between min_beta and max_beta, not {self.initial_beta}")
        if self.kl_tolerance >= self.target_kl:
            raise ValueError(f"kl_tolerance: must be less than target_kl ({self.kl_tolerance} >= {self.target_kl})")
        return self


class KLController:
    """Says which `beta` the next update uses, and when the last good version must be restored."""

    def __init__(self, config: KLConfig) -> None:
        self.config = config
        self.beta = config.initial_beta
        self.last_mean: float | None = None
        """Mean divergence of the last window, in nats per token; infinite after an update without a finite one."""
        self._sum = 0.0
        self._count = 0

    def observe(self, kl: float) -> Advice:
        """The divergence of one update, in nats per token. Beta changes at the end of a window only.

        `restore` when the window's mean exceeds twice the target, told as soon as it is sure to: at once after an
        update that alone is too far, or is not a number. A new window begins then.
        """
        self._sum += kl
        self._count += 1
        if not math.isfinite(kl) or self._sum > RESTORE_FACTOR * self.config.target_kl * WINDOW:
            self._end_window(self._sum / self._count if math.isfinite(kl) else math.inf)
            return "restore"
        if self._count == WINDOW:
            self._end_window(self._sum / WINDOW)
        return "go_on"

    def state(self) -> dict[str, float]:
        """What `restore` takes."""
        return {"beta": self.beta, "sum": self._sum, "count": float(self._count)}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on where another controller was; a beta out of bounds is clamped. Raises ConfigError if it is no state."""
        if set(state) != {"beta", "sum", "count"} or not all(map(math.isfinite, state.values())):
            raise ConfigError(f"KL state: needs finite beta, sum and count, not {dict(state)}")
        if not 0 <= state["count"] < WINDOW:
            raise ConfigError(f"KL state: count must lie in [0, {WINDOW}), not {state['count']}")
        self.beta = self._clamped(state["beta"] if self.config.beta_update_mode == "auto" else self.beta)
        self._sum, self._count = state["sum"], int(state["count"])

    def _end_window(self, mean: float) -> None:
        config = self.config
        self.last_mean = mean
        self._sum, self._count = 0.0, 0
        if config.beta_update_mode == "fixed":
            return
        if mean > config.target_kl + config.kl_tolerance:
            self.beta = self._clamped(self.beta * config.beta_increase_factor)
        elif mean < config.target_kl - config.kl_tolerance:
            self.beta = self._clamped(self.beta / config.beta_decrease_factor)

    def _clamped(self, beta: float) -> float:
        return min(max(beta, self.config.min_beta), self.config.max_beta)


__all__ = ["RESTORE_FACTOR", "WINDOW", "Advice", "KLConfig", "KLController"]
