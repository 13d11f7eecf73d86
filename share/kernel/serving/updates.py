"""Updates on their way to the worker: sent when learning is possible, else counted, and never waited for."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import ValidationError

from share.kernel.errors import (
    AuditUnavailable,
    LearningSuspended,
    QueueFull,
    SlabFull,
    TaskQuarantined,
    TaskWithdrawn,
    TransportError,
)
from share.kernel.serving.audit_trail import AuditTrail
from share.kernel.serving.releases import ENGINE, Releases
from share.kernel.serving.statistics import LearningState, LearningStatistics
from share.kernel.serving.troubles import Troubles
from share.kernel.serving.update_task import LEARN, RESTORE, LearnTask, RestoreTask, UpdateResult
from share.kernel.transport.ledger import Ledger
from share.kernel.transport.supervisor import Confirmation, WorkerState, WorkerSupervisor
from share.kernel.transport.worker import Task

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels

Told = Callable[[str, str, UpdateResult | None], None]
"""Is told what became of a task that was sent: its id, its kind, and what the worker says of it, None when it was not
done. Called from the supervisor's thread."""

ANNOUNCED_MAX = 256
"""Tasks of which it is remembered that the audit log has them: one that is tried again is not told of again."""

_OUTCOME = "outcome:"


class Updates:
    """Sends tasks to the supervisor's worker; None where there is none. `directory` is the supervisor's."""

    def __init__(
        self,
        supervisor: WorkerSupervisor | None,
        directory: Path,
        trail: AuditTrail,
        releases: Releases,
        troubles: Troubles,
        told: Told,
    ) -> None:
        self._supervisor = supervisor
        self._directory = directory
        self._trail = trail
        self._releases = releases
        self._troubles = troubles
        self._told = told
        self._on_their_way: set[str] = set()
        self._announced: deque[str] = deque(maxlen=ANNOUNCED_MAX)
        self._counts: Counter[str] = Counter()
        self._last: UpdateResult | None = None

    @property
    def state(self) -> LearningState:
        if self._supervisor is None:
            return "no_worker"
        if not self._releases.is_learning:
            return "off"
        if not self._trail.is_available:
            return "no_audit_log"
        if self._supervisor.status().state is WorkerState.SUSPENDED:
            return "suspended"
        return "on"

    def has_room(self, task_id: str, images: tuple[Pixels, ...]) -> bool:
        """Whether an update about these could be sent now, as far as room goes. Where it could not, that is counted."""
        if self._supervisor is None or self._supervisor.has_room(pixels.nbytes for pixels in images):
            return True
        self._troubles.note("update_not_sent", "full", f"task {task_id} is not sent: too many are on their way")
        return False

    def learn(self, task_id: str, lesson: LearnTask, images: tuple[Pixels, ...]) -> bool:
        """Send an update about images (uint8 HWC RGB). False when it was not sent, which is counted."""
        self.restore()
        writable = [np.require(pixels, requirements="W") for pixels in images]  # torch warns of others
        tensors = {f"image_{number:04}": torch.from_numpy(pixels) for number, pixels in enumerate(writable)}
        return self._send(Task(task_id, LEARN, lesson.model_dump(mode="json"), tensors))

    def restore(self) -> bool:
        """Tell the worker to go on from the version that a rollback went to, if it is still to be told."""
        due = self._releases.restore
        if due is None or due[1] in self._on_their_way:
            return False
        version, task_id = due
        return self._send(Task(task_id, RESTORE, RestoreTask(version=version).model_dump(mode="json")))

    def was_done(self, task_id: str) -> bool:
        """Whether a worker has committed this task, whoever sent it. Raises TransportError."""
        with closing(Ledger(self._directory)) as ledger:
            return ledger.find(task_id) is not None

    def withdraw(self, task_ids: Collection[str]) -> None:
        """Take back what was sent and has not reached the worker; what has is done, or was."""
        if self._supervisor is not None:
            self._supervisor.withdraw(task_ids)

    def resume(self) -> None:
        """Go on after workers died too often; what is in quarantine may be tried again."""
        if self._supervisor is not None:
            for task_id in self._supervisor.status().quarantined:
                self._supervisor.release(task_id)
            self._supervisor.resume()

    def forget(self, before: float) -> None:
        """Remove what the ledger has of tasks from before that second since 1970. Raises TransportError."""
        if (self._directory / "ledger.sqlite").exists():  # opening one makes it
            with closing(Ledger(self._directory)) as ledger:
                ledger.forget(before)
                released = ledger.release_older(before)
            if self._supervisor is not None:
                for task_id in released:
                    self._supervisor.release(task_id)

    def statistics(self, gate: Counter[str]) -> LearningStatistics:
        last = self._last
        return LearningStatistics(
            state=self.state,
            sent=self._counts["sent"],
            confirmed=self._counts["confirmed"],
            not_sent=self._troubles.counts("update_not_sent"),
            outcomes={
                name.removeprefix(_OUTCOME): count
                for name, count in list(self._counts.items())
                if name.startswith(_OUTCOME)
            },
            gate=dict(gate),
            last=last,
            worker=self._supervisor.status() if self._supervisor is not None else None,
        )

    def close(self) -> None:
        """Let the worker finish, and end it."""
        if self._supervisor is not None:
            self._supervisor.close()

    def _send(self, task: Task) -> bool:
        state = self.state
        # An audit log that was not there may be there again: to write to it is the test.
        if self._supervisor is None or state not in ("on", "no_audit_log"):
            self._troubles.note("update_not_sent", state, f"task {task.task_id} is not sent: learning is {state}")
            return False
        try:
            if task.task_id not in self._announced:
                version = self._releases.live
                self._trail.append(ENGINE, "update", version=version, reason=task.kind, task_id=task.task_id)
                self._announced.append(task.task_id)
            future = self._supervisor.submit(task)
        except (SlabFull, QueueFull) as error:
            self._troubles.note("update_not_sent", "full", str(error))
            return False
        except (AuditUnavailable, LearningSuspended, TaskQuarantined, TransportError) as error:
            self._troubles.note("update_not_sent", type(error).__name__, str(error))
            return False
        self._counts["sent"] += 1
        self._on_their_way.add(task.task_id)
        future.add_done_callback(lambda done: self._confirmed(task, done))
        return True

    def _confirmed(self, task: Task, done: Future[Confirmation]) -> None:
        self._on_their_way.discard(task.task_id)
        result = self._result(task.task_id, done)
        if result is not None:
            self._counts["confirmed"] += 1
            self._counts[f"{_OUTCOME}{result.outcome}"] += 1
            self._last = result
        self._told(task.task_id, task.kind, result)

    def _result(self, task_id: str, done: Future[Confirmation]) -> UpdateResult | None:
        error = done.exception()
        if error is None:
            try:
                return UpdateResult.model_validate(done.result().result)
            except ValidationError as problem:
                error = problem
        match error:
            case TaskWithdrawn():
                reason = "withdrawn"
            case TaskQuarantined():
                reason = "quarantined"
            case ValidationError():
                reason = "not_understood"
            case _:
                reason = "closed"
        # What was withdrawn was about somebody who is forgotten, and the audit log says so: no line about it here.
        is_asked_for = reason == "withdrawn"
        self._troubles.note("update_not_done", reason, f"task {task_id}: {error}", quiet=is_asked_for)
        return None


__all__ = ["ANNOUNCED_MAX", "Told", "Updates"]
