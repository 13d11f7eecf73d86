"""The update worker: learns from the stream in a process of its own, where it delays nobody.

It is a handler of the transport (docs/formats/transport.md). It publishes nothing: a version that it wrote is named in
the results of its tasks, and the engine makes it serve, or does not and says from which version to go on. So what it
computes is a function of the tasks and their batches alone, and a worker that takes over from a killed one computes the
same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch import Tensor

from share.kernel.config import validate
from share.kernel.contracts.task import Prompt
from share.kernel.contracts.vision import PIXELS_MAX
from share.kernel.errors import PixelisError, UpdateRefused
from share.kernel.registry import load_registry
from share.kernel.serving.learning import Learning, Update
from share.kernel.serving.learning_state import read_state, remove_uncommitted, write_state
from share.kernel.serving.lessons import Agreement
from share.kernel.serving.update_config import UpdateConfig
from share.kernel.serving.update_task import LEARN, RESTORE, LearnTask, Outcome, RestoreTask, UpdateResult
from share.kernel.serving.versions import FROZEN, VersionStore
from share.kernel.transport.worker import Commit, Task

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels

TARGET = "share.kernel.serving.update_worker:UpdateWorker"
"""What a supervisor is told to make, with `update_config.worker_settings`."""

PRELOAD = ("torch", "transformers", "peft", "share.kernel.serving.update_worker")
"""What it imports once before it forks workers: seconds that every start would take otherwise."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    config: dict[str, JsonValue]
    versions: Path
    directory: Path


class UpdateWorker:
    """Learns from tasks "learn"; begins anew from a version at a task "restore".

    Raises ConfigError when the settings name what is not there.
    """

    def __init__(self, settings: Mapping[str, JsonValue]) -> None:
        given = _Settings.model_validate(settings)
        registry = load_registry()
        config = validate(UpdateConfig, given.config, registry)
        self._states = given.directory / "learning"
        self._learning = Learning(config, registry, VersionStore(given.versions))

    def take_over(self, version: str | None) -> None:
        """Raises CheckpointError when that state is not there, damaged, or of another policy."""
        remove_uncommitted(self._states, version)
        if version is not None:
            self._learning.take_up(read_state(self._states, self._learning.identity, version))

    def handle(self, tasks: Sequence[Task]) -> Commit:
        results: dict[str, UpdateResult] = {}
        for kind, together in groupby(tasks, lambda task: task.kind):
            if kind == LEARN:
                results |= self._learn(list(together))
            elif kind == RESTORE:
                results |= {task.task_id: self._restore(task) for task in together}
            else:
                results |= {task.task_id: self._refused(f"no task is of kind {kind!r}") for task in together}
        learning = self._learning
        learning.number += 1
        state = learning.state()
        write_state(self._states, learning.identity, state)
        return Commit(state.name, {task_id: result.model_dump(mode="json") for task_id, result in results.items()})

    def _learn(self, tasks: Sequence[Task]) -> dict[str, UpdateResult]:
        results = {}
        accepted = []
        for task in tasks:
            try:
                accepted.append((task.task_id, *self._accepted(task)))
            except PixelisError as error:
                results[task.task_id] = self._refused(str(error))
        if not accepted:
            return results
        parent = self._learning.version
        update = self._learning.learn([(asked, prompt) for _, asked, prompt in accepted])
        for (task_id, _, _), reward in zip(accepted, update.rewards, strict=True):
            results[task_id] = self._result(update.outcome, update.reason, parent, update, reward)
        return results

    def _accepted(self, task: Task) -> tuple[LearnTask, Prompt]:
        """Raises UpdateRefused, or another PixelisError, when nothing can be learned from the task."""
        try:
            asked = LearnTask.model_validate(task.metadata)
        except ValidationError as error:
            raise UpdateRefused(_mistakes(error)) from error
        images = tuple(_image(name, tensor) for name, tensor in task.tensors.items())
        prompt = Prompt(task.task_id, "online", asked.question, images, asked.answer, is_video=asked.is_video)
        self._learning.open(prompt)
        return asked, prompt

    def _restore(self, task: Task) -> UpdateResult:
        parent = self._learning.version
        try:
            asked = RestoreTask.model_validate(task.metadata)
            self._learning.restore(asked.version)
        except ValidationError as error:
            return self._refused(_mistakes(error))
        except PixelisError as error:
            return self._refused(str(error))
        return self._result("restored", f"learning went on from {parent} before", asked.version)

    def _refused(self, reason: str) -> UpdateResult:
        self._learning.count_refused()
        return self._result("refused", reason, self._learning.version)

    def _result(
        self, outcome: Outcome, reason: str, parent: str, update: Update | None = None, reward: float | None = None
    ) -> UpdateResult:
        learning = self._learning
        update = update or Update()
        agreement = update.agreement or Agreement()
        return UpdateResult(
            outcome=outcome,
            reason=reason,
            parent=parent,
            version=learning.version if learning.version != parent else None,
            reward=reward,
            mode="frozen" if learning.version == FROZEN else "adapted",
            kl_frozen=update.kl_frozen,
            kl_served=update.kl_served,
            beta=learning.beta,
            learning_rate=update.learning_rate,
            gradient_norm=update.gradient_norm,
            label_accuracy=agreement.label_accuracy,
            reward_accuracy=agreement.reward_accuracy,
            majority_ratio=agreement.majority_ratio,
            qualification=update.qualification,
            counters=learning.counters,
            seconds={phase: round(seconds, 4) for phase, seconds in update.seconds.items()},
        )


def _image(name: str, tensor: Tensor) -> Pixels:
    """A copy: the tensor is the slab's, and is gone when the tasks are done. Raises UpdateRefused."""
    pixels = tensor.numpy().copy()
    if pixels.dtype != "uint8" or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise UpdateRefused(f"{name}: is {pixels.dtype}{list(pixels.shape)}, not an image uint8[height, width, 3]")
    if not 0 < pixels.shape[0] * pixels.shape[1] <= PIXELS_MAX:
        raise UpdateRefused(
            f"{name}: has {pixels.shape[0] * pixels.shape[1]:,} pixels; 1 to {PIXELS_MAX:,} can be used"
        )
    return pixels


def _mistakes(error: ValidationError) -> str:
    """Fields and what is wrong with them; never what was given, which may be anybody's words."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'metadata'}: {each['msg']}" for each in found)


__all__ = ["PRELOAD", "TARGET", "UpdateWorker"]
