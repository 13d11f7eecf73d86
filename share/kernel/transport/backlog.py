"""Tasks that were accepted and are not settled yet: they wait to be sent, or the worker has them.

Each owns its tensors' slots until it is settled, and that is once: confirmed, quarantined, or given up at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace

from pydantic import JsonValue
from torch import Tensor

from share.kernel.errors import QueueFull, TaskQuarantined, TaskWithdrawn, TransportError
from share.kernel.transport.memory import SharedMemoryInfo, SharedMemoryManager
from share.kernel.transport.messages import Assign, Confirmed, encode
from share.kernel.transport.quarantine import Quarantine
from share.kernel.transport.worker import Task


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A task is done and will not be done again: `version` is the first that has its effect.

    `repeated` when it had been done before it was sent the last time: a worker died between doing and saying so.
    """

    task_id: str
    version: str
    result: JsonValue
    repeated: bool


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the future of a task is to be told."""

    future: Future[Confirmation]
    outcome: Confirmation | TransportError

    def tell(self) -> None:
        if isinstance(self.outcome, Confirmation):
            self.future.set_result(self.outcome)
        else:
            self.future.set_exception(self.outcome)


@dataclass(slots=True, eq=False)
class Job:
    """A task on its way. `deaths` counts the workers that died over it."""

    assign: Assign
    future: Future[Confirmation]
    deaths: int = 0

    @property
    def task_id(self) -> str:
        return self.assign.task_id


class Backlog:
    """At most `tasks_max` tasks; one that `quarantine_deaths` workers died over goes to quarantine.

    Not safe to use from several threads at once, but for `load`.
    """

    def __init__(
        self, memory: SharedMemoryManager, quarantine: Quarantine, *, tasks_max: int, quarantine_deaths: int
    ) -> None:
        self._memory = memory
        self._quarantine = quarantine
        self._tasks_max = tasks_max
        self._quarantine_deaths = quarantine_deaths
        self._jobs: dict[str, Job] = {}
        self._unsent: deque[Job] = deque()
        self._sent: dict[str, Job] = {}
        self._settled: list[Settlement] = []

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def is_any_sent(self) -> bool:
        """Whether the worker has something to do."""
        return bool(self._sent)

    def accept(self, task: Task) -> Job:
        """Count it in. Raises QueueFull, and TransportError for a task that is here already."""
        name = f"task {task.task_id!r}"
        if task.task_id in self._jobs:
            raise TransportError(f"{name}: is on its way already")
        if len(self._jobs) >= self._tasks_max:
            raise QueueFull(f"{name}: {len(self._jobs)} tasks are on their way, as many as tasks_max allows")
        future: Future[Confirmation] = Future()
        future.set_running_or_notify_cancel()  # what was sent cannot be taken back
        job = self._jobs[task.task_id] = Job(Assign(task.task_id, task.kind, task.metadata, {}), future)
        return job

    def load(self, job: Job, tensors: Mapping[str, Tensor]) -> None:
        """Copy an accepted task's tensors into the slab; from any thread, as it takes long.

        Raises SlabFull, TensorTooLarge, and TransportError for what cannot be shared or said; nothing is left in the
        slab then, and the task is to be dropped.
        """
        loaded: dict[str, SharedMemoryInfo] = {}
        try:
            for name, tensor in tensors.items():
                loaded[name] = self._memory.create_shared_tensor(tensor)
                self._memory.keep(loaded[name].name)
            assign = replace(job.assign, tensors=loaded)
            encode(assign)
        except BaseException:
            self._free(loaded)
            raise
        job.assign = assign

    def drop(self, job: Job) -> None:
        """Forget a task that was never queued."""
        self._jobs.pop(job.task_id, None)

    def queue(self, job: Job) -> None:
        """Let a loaded task be sent."""
        self._unsent.append(job)

    def next(self) -> Job | None:
        """The task that is to be sent first."""
        return self._unsent[0] if self._unsent else None

    def mark_sent(self) -> None:
        """The worker was told of `next`."""
        job = self._unsent.popleft()
        self._sent[job.task_id] = job
        for info in job.assign.tensors.values():
            self._memory.mark_sent(info.name)

    def confirm(self, message: Confirmed) -> None:
        """The worker says that it is done."""
        job = self._sent.pop(message.task_id)
        self._settle(job, Confirmation(message.task_id, message.version, message.result, message.repeated))

    def send_again(self, blamed: tuple[str, ...], cause: str) -> None:
        """The worker is dead: what it had goes to the next one, and what is blamed for it, if at all, alone."""
        for job in reversed(self._sent.values()):
            for info in job.assign.tensors.values():
                self._memory.mark_written(info.name)
            self._unsent.appendleft(job)
        self._sent.clear()
        for task_id in blamed:
            job = self._jobs[task_id]
            job.deaths += 1
            job.assign = replace(job.assign, alone=True)
            if job.deaths >= self._quarantine_deaths:
                reason = f"{job.deaths} workers died over it, the last because {cause}"
                self._quarantine.add(task_id, reason)
                self._unsent.remove(job)
                self._settle(job, TaskQuarantined(f"task {task_id!r}: {reason}"))

    def withdraw(self, task_ids: Collection[str]) -> None:
        """Settle those that wait to be sent: they are not done."""
        for job in [job for job in self._unsent if job.task_id in task_ids]:
            self._unsent.remove(job)
            self._settle(job, TaskWithdrawn(f"task {job.task_id!r}: was withdrawn before the worker had it"))

    def give_up(self) -> None:
        """Settle what is left: it was not done."""
        for task_id, job in self._jobs.items():
            error = TransportError(f"task {task_id!r}: the supervisor was closed before it was done")
            self._settled.append(Settlement(job.future, error))
        self._jobs.clear()

    def take_settled(self) -> list[Settlement]:
        """What was settled since this was called last, to be told where a future's callback may call anything."""
        settled, self._settled = self._settled, []
        return settled

    def _settle(self, job: Job, outcome: Confirmation | TransportError) -> None:
        del self._jobs[job.task_id]
        self._free(job.assign.tensors)
        self._settled.append(Settlement(job.future, outcome))

    def _free(self, tensors: Mapping[str, SharedMemoryInfo]) -> None:
        for info in tensors.values():
            self._memory.mark_cleaned(info.name)


__all__ = ["Backlog", "Confirmation", "Job", "Settlement"]
