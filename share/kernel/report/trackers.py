"""Numbers by step for the trackers of accelerate: TensorBoard, Weights & Biases, and the others that are installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from accelerate import Accelerator
from accelerate.tracking import filter_trackers
from accelerate.utils import LoggerType, ProjectConfiguration
from pydantic import AfterValidator

from share.kernel.errors import ConfigError
from share.kernel.events import StructuredLogger, whereabouts

AUTOMATIC = ("tensorboard", "wandb")
"""Trackers that `auto` uses where they are installed and can be started."""

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
    are installed and can be started, and the log names the others. What was chosen is kept in `names`. With `dry_run`
    nothing is started and nothing is written.

    Raises ConfigError for one that was named and cannot be started, as W&B without a key.
    """

    def __init__(
        self, trackers: Sequence[str], run_dir: Path, run_id: str, logger: StructuredLogger, *, dry_run: bool = False
    ) -> None:
        self._logger = logger
        self.names: list[str] = []
        self._started: list[Accelerator] = []
        for chosen in _chosen(trackers):
            name = str(chosen.value)
            try:
                if not dry_run:
                    self._started.append(_started(chosen, run_dir, run_id))
            except Exception as error:  # a stranger's program, with errors of its own
                first = f"{type(error).__name__}: {error}".partition("\n")[0]
                problem = f"trackers: {name} cannot be started: {first}"
                if tuple(trackers) != ("auto",):
                    self.close()
                    raise ConfigError(f"{problem}; set it up, or leave {name} out") from error
                logger.warn("tracker_left_out", f"{problem}; going on without it")
            else:
                self.names.append(name)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for accelerator in self._started:
            accelerator.log(dict(numbers), step=step)

    def close(self) -> None:
        """Write what was not written yet. What cannot be is logged: the run itself has ended well."""
        for accelerator in self._started:
            try:
                accelerator.end_training()
            except Exception as error:  # as above
                self._logger.warn("tracker_not_ended", f"the trackers could not be ended: {whereabouts(error)}")


def _started(tracker: LoggerType, run_dir: Path, run_id: str) -> Accelerator:
    """Each has one of its own, so that none takes another with it."""
    directory = run_dir / DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)  # else wandb takes the current one
    project = ProjectConfiguration(project_dir=str(run_dir), logging_dir=str(directory))
    accelerator = Accelerator(cpu=True, log_with=[tracker], project_config=project)
    accelerator.init_trackers("pixelis", init_kwargs={"wandb": {"name": run_id, "dir": str(directory)}})
    return accelerator


def _chosen(trackers: Sequence[str]) -> list[LoggerType]:
    if list(trackers) == ["auto"]:
        return [LoggerType(name) for name in AUTOMATIC if name in _installed()]
    return [LoggerType(name) for name in trackers]


__all__ = ["AUTOMATIC", "DIRECTORY", "Trackers", "Tracking"]
