"""Numbers by step for the trackers of accelerate: TensorBoard, Weights & Biases, and the others that are installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from accelerate import Accelerator
from accelerate.tracking import filter_trackers
from accelerate.utils import LoggerType, ProjectConfiguration
from pydantic import AfterValidator

AUTOMATIC = ("tensorboard", "wandb")
"""Trackers that `auto` uses where they are installed."""

DIRECTORY = "trackers"
"""Below a run's directory, where those that write files write them."""


def _known(trackers: tuple[str, ...]) -> tuple[str, ...]:
    for name in trackers:
        if trackers != ("auto",) and name not in _installed():
            installed = ", ".join(_installed()) or "none"
            raise ValueError(f"no tracker {name!r} is installed; use 'auto' alone, or some of: {installed}")
    return trackers


def _installed() -> list[str]:
    return sorted(str(tracker.value) for tracker in filter_trackers("all", "."))


Trackers = Annotated[tuple[str, ...], AfterValidator(_known)]
"""The type of a setting that names trackers."""


class Tracking:
    """The trackers of one run. `trackers` are names of accelerate's; `auto` uses those of tensorboard and wandb that
    are installed. What was chosen is kept in `names`. With `dry_run` nothing is written."""

    def __init__(self, trackers: Sequence[str], run_dir: Path, run_id: str, *, dry_run: bool = False) -> None:
        chosen = _chosen(trackers)
        self.names = [str(tracker.value) for tracker in chosen]
        self._accelerator: Accelerator | None = None
        if chosen and not dry_run:
            directory = run_dir / DIRECTORY
            directory.mkdir(parents=True, exist_ok=True)  # else wandb takes the current one
            project = ProjectConfiguration(project_dir=str(run_dir), logging_dir=str(directory))
            self._accelerator = Accelerator(cpu=True, log_with=chosen, project_config=project)
            self._accelerator.init_trackers("pixelis", init_kwargs={"wandb": {"name": run_id, "dir": str(directory)}})

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        if self._accelerator is not None:
            self._accelerator.log(dict(numbers), step=step)

    def close(self) -> None:
        """Write what was not written yet."""
        if self._accelerator is not None:
            self._accelerator.end_training()


def _chosen(trackers: Sequence[str]) -> list[LoggerType]:
    if list(trackers) == ["auto"]:
        return [LoggerType(name) for name in AUTOMATIC if name in _installed()]
    return [LoggerType(name) for name in trackers]


__all__ = ["AUTOMATIC", "DIRECTORY", "Trackers", "Tracking"]
