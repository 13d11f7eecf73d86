"""One invocation of the kernel: what a backend is given, and what is left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from share.kernel.events import StructuredLogger
    from share.kernel.registry import Registry

Mode = Literal["train", "autolabel", "online", "deploy-edge", "deploy-remote", "infer"]
Status = Literal["ok", "failed", "interrupted", "dry_run"]
Metric = float | int | str | bool | None | list["Metric"] | dict[str, "Metric"]


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a backend is given beside its configuration.

    `metrics` and `artifacts` are live: whatever a backend has put there is written to `metrics.json` and
    `artifacts.json` even when it then fails or is interrupted. `stop` is set by Ctrl-C and SIGTERM; a backend looks
    at it where it can stop without loss, saves what it needs to resume, and raises `Interrupted`.
    `resume` is true when `run_dir` holds an earlier part of this run. `registry` builds nested plugins.
    """

    run_id: str
    mode: Mode
    workdir: Path
    run_dir: Path
    logger: StructuredLogger
    seed: int
    registry: Registry
    dry_run: bool = False
    resume: bool = False
    stop: Event = field(default_factory=Event)
    metrics: dict[str, Metric] = field(default_factory=dict)
    artifacts: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended. `error` is one line, None when it ended well; `elapsed_ms` is wall time."""

    run_context: RunContext
    status: Status
    backend: str
    elapsed_ms: float
    artifacts: Mapping[str, Path]
    error: str | None = None


__all__ = ["Metric", "Mode", "RunContext", "RunResult", "Status"]
