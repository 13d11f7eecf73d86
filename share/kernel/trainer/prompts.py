"""The order of prompts: a pure function of seed and cursor, so that a run goes on where it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from share.kernel.config import Choice
from share.kernel.contracts.kinds import Task
from share.kernel.contracts.task import Prompt, Split
from share.kernel.errors import ConfigError
from share.kernel.registry import Registry


@dataclass(frozen=True, slots=True)
class PromptStream:
    """The prompts of a split without end: a finite split is shuffled anew for each pass over it."""

    task: Task
    split: Split
    seed: int

    def index(self, cursor: int) -> int:
        size = self.task.size(self.split)
        if size is None:
            return cursor
        epoch, place = divmod(cursor, size)
        return int(np.random.default_rng([self.seed, epoch]).permutation(size)[place])

    def pass_of(self, cursor: int) -> int:
        """Which pass over the split a cursor belongs to, from 0."""
        return cursor // (self.task.size(self.split) or cursor + 1)

    def prompt(self, cursor: int) -> Prompt:
        return self.task.prompt(self.split, self.index(cursor))


def build_task(registry: Registry, choice: Choice) -> Task:
    """The task source of a configuration. Raises ConfigError when it has nothing to train on."""
    task = cast(Task, registry.build(choice))
    if task.size("train") == 0:
        raise ConfigError(f"task: {choice.name!r} has no prompts in its train split")
    return task


def held_out(task: Task, limit: int) -> list[Prompt]:
    """The first `limit` prompts of the held-out split, fewer when it has fewer."""
    size = task.size("held_out")
    return [task.prompt("held_out", index) for index in range(limit if size is None else min(limit, size))]


__all__ = ["PromptStream", "build_task", "held_out"]
