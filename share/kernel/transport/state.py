"""The state that the worker is in: what changes it, what does not, and how often workers died on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from share.kernel.events import StructuredLogger
from share.kernel.transport.circuit import Circuit
from share.kernel.transport.memory import SharedMemoryStatus


class WorkerState(StrEnum):
    """DEAD is both a worker that waits to be replaced and, after `close`, the end."""

    STARTING = "starting"
    READY = "ready"
    UPDATING = "updating"
    DRAINING = "draining"
    DEAD = "dead"
    RESTARTING = "restarting"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class SupervisorStatus:
    """A look at the worker. `pid`s are None where there is none; `last_death` says why the last one died."""

    state: WorkerState
    generation: int
    version: str | None
    pid: int | None
    standby_pid: int | None
    nursery_pid: int | None
    tasks_on_their_way: int
    tasks_confirmed: int
    deaths: int
    last_death: str | None
    quarantined: Mapping[str, str]
    memory: SharedMemoryStatus


class State:
    """Not safe to use from several threads at once.

    `version` is the last one committed, `start_at` (seconds, monotonic) when the next worker may be started.
    """

    def __init__(self, deaths_max: int, deaths_window_s: float, version: str | None, logger: StructuredLogger) -> None:
        self._circuit = Circuit(deaths_max, deaths_window_s)
        self._deaths_max = deaths_max
        self._deaths_window_s = deaths_window_s
        self._logger = logger
        self.value = WorkerState.STARTING
        self.version = version
        self.start_at = 0.0
        self.num_confirmed = self.num_deaths = 0
        self.last_death: str | None = None

    @property
    def is_suspended(self) -> bool:
        """Workers died too often; so it stays while draining too."""
        return self._circuit.is_open

    def become(self, value: WorkerState) -> None:
        """Draining and suspension are not ended by what a worker goes through meanwhile."""
        is_kept = self.is_suspended and value in (WorkerState.READY, WorkerState.UPDATING, WorkerState.DEAD)
        if self.value is not WorkerState.DRAINING and not is_kept:
            self.value = value

    def end(self) -> None:
        """Of draining too: there is no worker any more, and will be none."""
        self.value = WorkerState.DEAD

    def confirm(self, version: str) -> None:
        """A task is done: the worker is not dying of its start."""
        self.num_confirmed += 1
        self.version = version
        self._circuit.record_success()

    def record_death(self, cause: str, generation: int, now: float) -> None:
        """Count it, and suspend learning when it was one too many."""
        self.num_deaths += 1
        self.last_death = cause
        self.start_at = now + self._circuit.record_death(now)
        self._logger.warn("worker_died", f"a worker died: {cause}", generation=generation, deaths=self.num_deaths)
        if self.is_suspended:
            self.become(WorkerState.SUSPENDED)
            self._logger.error(
                "learning_suspended",
                f"{self._deaths_max} workers died within {self._deaths_window_s:g} s: learning is suspended until it "
                "is resumed, serving goes on",
            )

    def resume(self, generation: int, *, has_worker: bool) -> None:
        """Close the circuit, if it is open; but draining goes on to its end."""
        if self.value is WorkerState.SUSPENDED:
            self._circuit.close()
            self.start_at = 0.0
            self.become(WorkerState.READY if has_worker else WorkerState.RESTARTING)
            self._logger.info("worker_resumed", "learning goes on", generation=generation)


__all__ = ["State", "SupervisorStatus", "WorkerState"]
