"""Settings of the transport and of the process behind it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from share.kernel.config import ConfigModel


class TransportConfig(ConfigModel):
    num_slots: int = Field(default=64, ge=1, le=65_536)
    """Slots of the slab; a tensor takes at least one."""
    slot_bytes: int = Field(default=1 << 20, ge=1, le=1 << 30)
    """Bytes of a slot, rounded up to whole pages. A larger tensor takes several slots."""
    tasks_max: int = Field(default=256, ge=1, le=100_000)
    """Tasks on their way at most, waiting or being handled."""
    batch_max: int = Field(default=16, ge=1, le=1024)
    """Tasks that the handler is given at once, at most."""
    timeout_s: float = Field(default=300.0, gt=0.0)
    """Seconds a worker may be silent while something is expected of it, then it is killed: starting, or one batch."""
    threads: int = Field(default=1, ge=1, le=1024)
    """Threads of the worker's arithmetic."""
    scheduling: Literal["idle", "normal"] = "idle"
    """`idle` runs the worker where nothing else wants the processor, so that learning never delays serving."""
    preload: tuple[str, ...] = ("torch",)
    """Modules that are imported once, before workers are forked."""
    quarantine_deaths: int = Field(default=2, ge=1, le=100)
    """A task that this many workers died over is not tried again."""
    deaths_max: int = Field(default=3, ge=1, le=100_000)
    """Deaths within `deaths_window_s` that suspend learning."""
    deaths_window_s: float = Field(default=60.0, gt=0.0)
    """Seconds over which deaths are counted."""
    ledger_days: int = Field(default=90, ge=1, le=36_500)
    """Days for which it is remembered that a task was done."""


__all__ = ["TransportConfig"]
