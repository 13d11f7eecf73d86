"""What the update worker goes on from, on disk: a checkpoint for every batch that it handled.

A checkpoint's name is the version that the transport's ledger commits tasks with. It holds all that the next batch
depends on, so that a worker that takes over computes what the one before it would have computed, bit by bit. Two are
kept: the one that is committed, and the one being committed. No text and no pixel of a task is in them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from share.kernel.errors import CheckpointError
from share.kernel.policy.checkpoint import read_checkpoint, write_checkpoint
from share.kernel.serving.qualify import Standing
from share.kernel.serving.update_task import Counters

_PREFIX = "state-"


class _Progress(BaseModel):
    """The part of a state that is no tensor."""

    model_config = ConfigDict(extra="forbid")

    version: str
    counters: Counters
    kl: dict[str, float]
    was_restored: bool
    audited: list[tuple[bool, bool]]
    standing: tuple[tuple[bool, ...], float, float]


@dataclass(slots=True)
class LearningState:
    """`number` counts the states. `version` serves, `standing` is its own on the anchors.

    `base` are the plain parameters that training began from (empty: those that were shipped), `learner` the state dict
    of the learner, `mean` the moving average of the trained weights. `kl` is the state of the KL controller, and
    `was_restored` whether it has put back what serves since it last saw a whole window of small divergences.
    `audited` says of audited items, newest last, whether what served then and the shipped policy were right.
    """

    number: int
    version: str
    base: Mapping[str, Tensor]
    learner: Mapping[str, Any]
    mean: Mapping[str, Tensor]
    standing: Standing
    kl: dict[str, float]
    was_restored: bool = False
    audited: list[tuple[bool, bool]] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)

    @property
    def name(self) -> str:
        return f"{_PREFIX}{self.number:08d}"


def write_state(directory: Path, identity: str, state: LearningState) -> None:
    """Write a state, synced. `identity` says which policy and which trained weights it is of."""
    progress = _Progress(
        version=state.version,
        counters=state.counters,
        kl=state.kl,
        was_restored=state.was_restored,
        audited=state.audited,
        standing=(state.standing.right, state.standing.entropy, state.standing.logprob),
    )
    parts = {
        "base": dict(state.base),
        "learner": dict(state.learner),
        "mean": dict(state.mean),
        "progress": progress.model_dump_json(),
    }
    write_checkpoint(directory, state.number, identity, parts)


def read_state(directory: Path, identity: str, name: str) -> LearningState:
    """The state of that name. Raises CheckpointError when it is not there, damaged, or of another policy."""
    number = _number(name)
    checkpoint = read_checkpoint(directory, identity, step=number)
    if checkpoint is None:
        raise CheckpointError(f"{directory}: {name} is not there; remove the directory to begin anew")
    parts: Mapping[str, Any] = checkpoint.parts
    progress = _Progress.model_validate_json(parts["progress"])
    return LearningState(
        number=number,
        version=progress.version,
        base=parts["base"],
        learner=parts["learner"],
        mean=parts["mean"],
        standing=Standing(*progress.standing),
        kl=progress.kl,
        was_restored=progress.was_restored,
        audited=progress.audited,
        counters=progress.counters,
    )


def remove_uncommitted(directory: Path, name: str | None) -> None:
    """Remove the states after this one, which a worker wrote and never committed; all of them for None."""
    committed = _number(name) if name is not None else 0
    for path in directory.glob("step_*"):
        if int(path.name.removeprefix("step_")) > committed:
            shutil.rmtree(path)


def _number(name: str) -> int:
    return int(name.removeprefix(_PREFIX))


__all__ = ["LearningState", "read_state", "remove_uncommitted", "write_state"]
