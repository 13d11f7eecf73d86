"""Handlers for the transport that learn in no time. Light to import: a worker process does it at every start."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue
from safetensors.torch import load_file

from share.kernel.serving.update_task import LEARN, Comparison, Counters, LearnTask, Qualification, UpdateResult
from share.kernel.serving.versions import FROZEN, VersionStore
from share.kernel.transport.worker import Commit, Task

NOTHING = Comparison(items=0, won=0, lost=0, probability=1.0)
QUALIFIED = Qualification(
    failures=(),
    anchor_accuracy=1.0,
    against_served=NOTHING,
    against_frozen=NOTHING,
    audited=NOTHING,
    entropy_ratio=1.0,
    drift=0.0,
)


class Learner:
    """Whatever it is taught, it learns the weights of a file; every task that it was given is a line in another."""

    def __init__(self, settings: Mapping[str, JsonValue]) -> None:
        self.store = VersionStore(Path(str(settings["versions"])))
        self.weights = load_file(str(settings["weights"]))
        self.given = Path(str(settings["given"]))
        self.version = FROZEN

    def take_over(self, version: str | None) -> None:
        if version is not None:
            self.version = version.partition("@")[2]

    def handle(self, tasks: Sequence[Task]) -> Commit:
        results: dict[str, JsonValue] = {}
        for task in tasks:
            parent = self.version
            if task.kind == LEARN:
                lesson = LearnTask.model_validate(task.metadata)
                assert task.tensors, "an update has its images"
                with open(self.given, "a") as file:
                    file.write(f"{task.task_id} {lesson.kind} {lesson.answer}\n")
                self.version = self.store.write(self.weights, parent, {"kind": lesson.kind})
            else:
                self.version = str(task.metadata["version"])
            result = UpdateResult(
                outcome="learned" if task.kind == LEARN else "restored",
                parent=parent,
                version=self.version if self.version != parent else None,
                mode="frozen" if self.version == FROZEN else "adapted",
                qualification=QUALIFIED if task.kind == LEARN else None,
                beta=0.01,
                counters=Counters(),
            )
            results[task.task_id] = result.model_dump(mode="json")
        return Commit(f"{time.time_ns()}@{self.version}", results)


__all__ = ["Learner"]
