"""The engine's side: gives tasks to the one worker, keeps a second one warm, and replaces what dies.

One thread waits for messages and for deaths; nothing is polled. Whatever happens to workers, a task that was accepted
is confirmed once, or quarantined, or still on its way. What the engine's own death interrupts is to be submitted again
by whoever keeps it; what the ledger has is then confirmed without being done again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from pydantic import JsonValue

from share.kernel.errors import LearningSuspended, QueueFull, SlabFull, TaskQuarantined, TransportError
from share.kernel.events import StructuredLogger
from share.kernel.transport.circuit import Circuit
from share.kernel.transport.config import TransportConfig
from share.kernel.transport.ledger import Ledger
from share.kernel.transport.memory import SharedMemoryInfo, SharedMemoryManager, SharedMemoryStatus
from share.kernel.transport.messages import (
    Assign,
    Begun,
    Born,
    Channel,
    Confirmed,
    Died,
    Failed,
    Finish,
    Fork,
    Leaving,
    Message,
    Ready,
    TakeOver,
    Warm,
    encode,
)
from share.kernel.transport.nursery import Nursery
from share.kernel.transport.worker import Task

_BIRTH_TIMEOUT_S = 600.0
"""How long the nursery may take over its imports, on a busy machine."""


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
class Confirmation:
    """A task is done and will not be done again: `version` is the first that has its effect.

    `repeated` when it had been done before it was sent the last time: a worker died between doing and saying so.
    """

    task_id: str
    version: str
    result: JsonValue
    repeated: bool


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


@dataclass(slots=True)
class _Job:
    assign: Assign
    future: Future[Confirmation]
    deaths: int = 0


@dataclass(slots=True, eq=False)
class _Worker:
    """`owing_since` (seconds, monotonic): since when a message is expected of it; None when it may be silent."""

    channel: Channel
    owing_since: float | None
    pid: int | None = None
    pidfd: int | None = None
    is_warm: bool = False
    is_ready: bool = False
    is_leaving: bool = False
    is_killed: bool = False
    is_mute: bool = False
    begun: tuple[str, ...] = ()
    cause: str | None = None


class WorkerSupervisor:
    """Runs the worker of one directory, in which the ledger is; one engine at a time may use it.

    `target` is the "module:attribute" that makes the handler (worker.Handler) from `settings`. Starting takes as long
    as importing `config.preload`; tasks may be submitted at once. All methods may be called from any thread.
    Raises TransportError when another engine uses the directory.
    """

    def __init__(
        self,
        config: TransportConfig,
        *,
        target: str,
        settings: Mapping[str, JsonValue],
        directory: Path,
        logger: StructuredLogger,
    ) -> None:
        self._config = config
        self._logger = logger
        with contextlib.ExitStack() as opened:
            self._ledger = opened.enter_context(contextlib.closing(Ledger(directory)))
            opened.callback(os.close, _lock_directory(directory))
            self._memory = opened.enter_context(
                contextlib.closing(
                    SharedMemoryManager(config.timeout_s, num_slots=config.num_slots, slot_bytes=config.slot_bytes)
                )
            )
            self._order = Fork(
                target=target,
                settings=settings,
                directory=str(directory),
                slot_bytes=self._memory.slot_bytes,
                threads=config.threads,
                is_idle=config.scheduling == "idle",
                batch_max=config.batch_max,
                ledger_days=config.ledger_days,
            )
            encode(self._order)  # too long settings are the caller's mistake, and said here
            self._opened = opened.pop_all()
        self._quarantined = dict(self._ledger.quarantined())
        self._circuit = Circuit(config.deaths_max, config.deaths_window_s)
        self._nursery: Nursery | None = None
        self._active: _Worker | None = None
        self._standby: _Worker | None = None
        self._jobs: dict[str, _Job] = {}
        self._unsent: deque[_Job] = deque()
        self._sent: dict[str, _Job] = {}
        self._state = WorkerState.STARTING
        self._generation = 0
        self._version = self._ledger.version()
        self._num_confirmed = self._num_deaths = 0
        self._last_death: str | None = None
        self._start_at = 0.0
        self._close_by: float | None = None
        self._is_ended = False
        self._is_finishing = False
        self._told: list[tuple[Future[Confirmation], Confirmation | TransportError]] = []
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._selector = selectors.DefaultSelector()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake_fd, selectors.EVENT_READ, self._clear_wake)
        self._thread = threading.Thread(target=self._run, name="worker-supervisor", daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> Future[Confirmation]:
        """Accept a task: its tensors are copied before this returns.

        The future raises TaskQuarantined when the task killed too many workers, and TransportError when the supervisor
        was closed before the task was done. Raises SlabFull and QueueFull when there is no room now, TensorTooLarge
        when there never is, TaskQuarantined, LearningSuspended, and TransportError for a task that is on its way
        already or cannot be said in one message.
        """
        with self._lock:
            self._check_acceptable(task)
            future: Future[Confirmation] = Future()
            future.set_running_or_notify_cancel()  # what was sent cannot be taken back
            job = self._jobs[task.task_id] = _Job(Assign(task.task_id, task.kind, task.metadata, {}), future)
        tensors: dict[str, SharedMemoryInfo] = {}
        try:
            for name, tensor in task.tensors.items():
                tensors[name] = self._memory.create_shared_tensor(tensor)
                self._memory.keep(tensors[name].name)
            job.assign = Assign(task.task_id, task.kind, task.metadata, tensors)
            encode(job.assign)
        except BaseException as error:
            with self._lock:
                self._free(tensors)
                self._jobs.pop(task.task_id, None)
                if isinstance(error, SlabFull):
                    self._memory.cleanup_stale_segments(worker_alive=True)
                self._wake()  # `close` may be waiting for it
            raise
        with self._lock:
            if self._is_ended:  # meanwhile, and the future was told
                return future
            self._unsent.append(job)
            self._send()
        return future

    def resume(self) -> None:
        """Close the circuit after learning was suspended; what was on its way is sent again."""
        with self._lock:
            if self._state is WorkerState.SUSPENDED:
                self._circuit.close()
                self._start_at = 0.0
                self._set_state(WorkerState.READY if self._active else WorkerState.RESTARTING)
                self._logger.info("worker_resumed", "learning goes on", generation=self._generation)
            self._wake()

    def release(self, task_id: str) -> None:
        """Take a task out of quarantine; it may be submitted again."""
        with self._lock:
            self._ledger.release(task_id)
            self._quarantined.pop(task_id, None)

    def status(self) -> SupervisorStatus:
        with self._lock:
            return self._status()

    def wait_for(self, condition: Callable[[SupervisorStatus], bool], timeout_s: float) -> bool:
        """Wait until the status is like that; returns whether it is. It is looked at after every change."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self._status()), timeout_s)

    def close(self, timeout_s: float = 30.0) -> None:
        """Accept nothing more, let the worker finish what is on its way, at most `timeout_s` seconds, and end it.

        Futures that are left raise TransportError.
        """
        with self._lock:
            if self._close_by is None:
                self._close_by = time.monotonic() + timeout_s
                self._set_state(WorkerState.DRAINING)
            self._wake()
        self._thread.join()

    def __enter__(self) -> WorkerSupervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What follows is called with the lock held, and but for `_send` in the supervisor's own thread.

    def _check_acceptable(self, task: Task) -> None:
        name = f"task {task.task_id!r}"
        if self._close_by is not None or self._is_ended:
            raise TransportError(f"{name}: the supervisor is closed")
        if reason := self._quarantined.get(task.task_id):
            raise TaskQuarantined(f"{name}: in quarantine, {reason}; release it to try again")
        if self._circuit.is_open:
            raise LearningSuspended(f"{name}: learning is suspended, {self._last_death}; resume it to go on")
        if task.task_id in self._jobs:
            raise TransportError(f"{name}: is on its way already")
        if len(self._jobs) >= self._config.tasks_max:
            raise QueueFull(f"{name}: {len(self._jobs)} tasks are on their way, as many as tasks_max allows")

    def _run(self) -> None:
        """The thread. It takes the lock itself, and lets go of it to wait and to tell futures."""
        try:
            while True:
                with self._lock:
                    now = time.monotonic()
                    self._kill_the_silent(now)
                    self._staff(now)
                    self._send()
                    self._finish_when_done(now)
                    self._changed.notify_all()
                    if self._is_over(now):
                        break
                    sleep_s = self._sleep_s(now)
                self._tell()
                for key, _ in self._selector.select(sleep_s):
                    with self._lock:
                        key.data()
        finally:
            with self._lock:
                self._end()
                self._changed.notify_all()
            self._tell()

    def _kill_the_silent(self, now: float) -> None:
        timeout_s = self._config.timeout_s
        for worker in (self._active, self._standby):
            if worker is None or not self._is_overdue(worker, now):
                continue
            worker.owing_since = now
            if worker.pidfd is None or worker.is_killed:  # then it is the nursery that hangs, if it is not dead already
                if self._nursery is not None:
                    self._nursery.kill()
            else:
                worker.is_killed = True
                worker.cause = f"it was silent for {timeout_s:g} s and was killed"
                _kill(worker.pidfd)

    def _is_overdue(self, worker: _Worker, now: float) -> bool:
        return worker.owing_since is not None and now >= worker.owing_since + self._patience_s(worker)

    def _patience_s(self, worker: _Worker) -> float:
        timeout_s = self._config.timeout_s
        return timeout_s if worker.pid is not None else max(timeout_s, _BIRTH_TIMEOUT_S)

    def _staff(self, now: float) -> None:
        """Have a worker, and one to take its place."""
        is_done = self._close_by is not None and not self._jobs
        if self._circuit.is_open or now < self._start_at or is_done:
            return
        if self._state is WorkerState.DEAD:
            self._set_state(WorkerState.RESTARTING)
        if self._nursery is None:
            # Here, because the nursery dies with the thread that started it.
            try:
                self._nursery = Nursery(self._config.preload, self._config.threads)
            except OSError as error:  # no memory or no process left just now
                self._record_death(f"the nursery could not be started: {error}")
                return
            self._selector.register(self._nursery.channel, selectors.EVENT_READ, self._hear_nursery)
        if self._active is None and self._standby is not None and self._standby.is_warm and not self._standby.is_mute:
            self._active, self._standby = self._standby, None
            self._generation += 1
            self._active.owing_since = now
            self._say(self._active, TakeOver(self._generation))
        if self._standby is None and (self._active is None or self._active.is_ready):
            self._standby = self._order_worker(self._nursery, now)

    def _order_worker(self, nursery: Nursery, now: float) -> _Worker:
        channel, theirs = Channel.pair()
        worker = _Worker(channel, owing_since=now)
        with theirs:
            nursery.fork(theirs, self._memory.fd, self._order)
        self._selector.register(channel, selectors.EVENT_READ, lambda: self._hear(worker))
        return worker

    def _send(self) -> None:
        """Say what there is room for. When there is no more, the worker has something to do and will be heard."""
        while self._unsent and self._active is not None and not self._circuit.is_open:
            job = self._unsent[0]
            if not self._say(self._active, job.assign):
                return
            self._unsent.popleft()
            self._sent[job.assign.task_id] = job
            for info in job.assign.tensors.values():
                self._memory.mark_sent(info.name)
            if self._active.owing_since is None:
                self._active.owing_since = time.monotonic()
                self._wake()

    def _say(self, worker: _Worker, message: Message) -> bool:
        """False when there is no room for it now, or the worker has hung up and is about to be found dead."""
        return not worker.is_mute and worker.channel.send(message)

    def _finish_when_done(self, now: float) -> None:
        if self._close_by is not None and not self._jobs and self._active is not None and not self._is_finishing:
            self._is_finishing = True
            self._active.owing_since = now
            self._say(self._active, Finish())

    def _is_over(self, now: float) -> bool:
        if self._close_by is None:
            return False
        return now >= self._close_by or self._circuit.is_open or (not self._jobs and self._active is None)

    def _sleep_s(self, now: float) -> float | None:
        deadlines = [self._start_at] if self._start_at > now else []
        deadlines += [self._close_by] if self._close_by is not None else []
        for worker in (self._active, self._standby):
            if worker is not None and worker.owing_since is not None:
                deadlines.append(worker.owing_since + self._patience_s(worker))
        return max(0.0, min(deadlines) - now) if deadlines else None

    def _hear(self, worker: _Worker) -> None:
        if worker.is_mute:
            return
        try:
            while packet := worker.channel.receive(wait=False):
                self._heed(worker, packet.message)
                is_owing = worker is self._active and (self._sent or not worker.is_ready or self._is_finishing)
                worker.owing_since = time.monotonic() if is_owing else None
        except EOFError:  # it is dying; the nursery says when it is dead
            worker.owing_since = time.monotonic()
            self._hang_up(worker)

    def _heed(self, worker: _Worker, message: Message) -> None:
        match message:
            case Warm():
                worker.is_warm = True
            case Ready(version=version):
                worker.is_ready = True
                self._version = version
                self._set_state(WorkerState.READY)
                self._logger.info(
                    "worker_ready", "a worker took over", generation=self._generation, pid=worker.pid, version=version
                )
            case Begun(task_ids=task_ids):
                worker.begun = task_ids
                self._set_state(WorkerState.UPDATING)
            case Confirmed(task_id=task_id):
                self._sent.pop(task_id)
                job = self._jobs.pop(task_id)
                self._free(job.assign.tensors)
                self._num_confirmed += 1
                self._version = message.version
                self._circuit.record_success()
                self._told.append(
                    (job.future, Confirmation(task_id, message.version, message.result, message.repeated))
                )
                worker.begun = tuple(begun for begun in worker.begun if begun != task_id)
                if not worker.begun:
                    self._set_state(WorkerState.READY)
            case Failed(error=error):
                worker.cause = error
            case Leaving():
                worker.is_leaving = True
            case _:
                raise AssertionError(f"a worker does not say {message}")

    def _hear_nursery(self) -> None:
        nursery = self._nursery
        if nursery is None:
            return
        try:
            while packet := nursery.receive():
                match packet.message:
                    case Born(pid=pid):
                        worker = self._standby
                        assert worker is not None
                        worker.pid, worker.pidfd = pid, packet.fds[0]
                        if not worker.is_warm:
                            worker.owing_since = time.monotonic()
                    case Died(pid=pid, status=status):
                        for dead in (self._active, self._standby):
                            if dead is not None and dead.pid == pid:
                                self._bury(dead, _cause_of(status))
                    case Failed(error=error):
                        self._last_death = error
                    case message:
                        raise AssertionError(f"the nursery does not say {message}")
        except EOFError:
            self._bury_nursery(nursery)

    def _bury_nursery(self, nursery: Nursery) -> None:
        """The kernel kills with it what it forked; that is waited for, as a dying worker may still be committing."""
        self._selector.unregister(nursery.channel)
        nursery.close()
        self._nursery = None
        if self._standby is not None and self._standby.pid is None:
            self._hang_up(self._standby)
            self._standby = None
            self._record_death(self._last_death or "the nursery died")
        for worker in (self._active, self._standby):
            if worker is not None and worker.pidfd is not None and worker.pidfd not in self._selector.get_map():
                self._selector.register(worker.pidfd, selectors.EVENT_READ, self._after_nursery(worker))

    def _after_nursery(self, worker: _Worker) -> Callable[[], None]:
        def bury() -> None:
            assert worker.pidfd is not None
            self._selector.unregister(worker.pidfd)
            self._bury(worker, "the nursery died")

        return bury

    def _bury(self, worker: _Worker, cause: str) -> None:
        """It is dead, and what it had said is still to be heard: confirmations among it."""
        self._hear(worker)
        self._hang_up(worker)
        assert worker.pidfd is not None
        os.close(worker.pidfd)
        cause = worker.cause or cause
        was_active = worker is self._active
        if was_active:
            self._active = None
            self._set_state(WorkerState.DEAD)
            self._send_again(() if worker.is_leaving else worker.begun, cause)
            self._memory.cleanup_stale_segments(worker_alive=False)
        else:
            self._standby = None
        if worker.is_leaving:
            self._logger.info("worker_left", "the worker ended as it was asked to", pid=worker.pid)
        elif was_active or not worker.is_warm:
            self._record_death(cause)
        else:
            self._logger.warn("standby_died", f"the standby died: {cause}", pid=worker.pid)

    def _send_again(self, blamed: tuple[str, ...], cause: str) -> None:
        for job in reversed(self._sent.values()):
            for info in job.assign.tensors.values():
                self._memory.mark_written(info.name)
            self._unsent.appendleft(job)
        self._sent.clear()
        for task_id in blamed:
            job = self._jobs[task_id]
            job.deaths += 1
            job.assign = replace(job.assign, alone=True)
            if job.deaths >= self._config.quarantine_deaths:
                self._quarantine(job, f"{job.deaths} workers died over it, the last because {cause}")

    def _quarantine(self, job: _Job, reason: str) -> None:
        task_id = job.assign.task_id
        self._quarantined[task_id] = reason
        try:
            self._ledger.quarantine(task_id, reason)
        except sqlite3.Error as error:  # a full disk must not end learning: it is quarantined until the engine ends
            self._logger.error("quarantine_not_stored", f"{self._ledger.path}: {error}", task_id=task_id)
        self._unsent.remove(job)
        del self._jobs[task_id]
        self._free(job.assign.tensors)
        self._told.append((job.future, TaskQuarantined(f"task {task_id!r}: {reason}")))
        self._logger.error("task_quarantined", f"task {task_id} is not tried again: {reason}", task_id=task_id)

    def _record_death(self, cause: str) -> None:
        now = time.monotonic()
        self._num_deaths += 1
        self._last_death = cause
        self._start_at = now + self._circuit.record_death(now)
        self._logger.warn(
            "worker_died", f"a worker died: {cause}", generation=self._generation, deaths=self._num_deaths
        )
        if self._circuit.is_open:
            self._set_state(WorkerState.SUSPENDED)
            self._logger.error(
                "learning_suspended",
                f"{self._config.deaths_max} workers died within {self._config.deaths_window_s:g} s: learning is "
                "suspended until it is resumed, serving goes on",
            )

    def _set_state(self, state: WorkerState) -> None:
        """Draining and suspension are not ended by what a worker goes through meanwhile."""
        if self._close_by is not None and state is not WorkerState.DRAINING and not self._is_ended:
            return
        if self._circuit.is_open and state in (WorkerState.READY, WorkerState.UPDATING, WorkerState.DEAD):
            return
        self._state = state

    def _hang_up(self, worker: _Worker) -> None:
        if not worker.is_mute:
            worker.is_mute = True
            self._selector.unregister(worker.channel)
            worker.channel.close()

    def _free(self, tensors: Mapping[str, SharedMemoryInfo]) -> None:
        for info in tensors.values():
            self._memory.mark_cleaned(info.name)

    def _status(self) -> SupervisorStatus:
        return SupervisorStatus(
            state=self._state,
            generation=self._generation,
            version=self._version,
            pid=self._active.pid if self._active else None,
            standby_pid=self._standby.pid if self._standby and self._standby.is_warm else None,
            nursery_pid=self._nursery.pid if self._nursery else None,
            tasks_on_their_way=len(self._jobs),
            tasks_confirmed=self._num_confirmed,
            deaths=self._num_deaths,
            last_death=self._last_death,
            quarantined=dict(self._quarantined),
            memory=self._memory.get_status(),
        )

    def _end(self) -> None:
        """Whatever ended the thread: nothing is left running, and no future is left waiting."""
        self._is_ended = True
        self._state = WorkerState.DEAD
        for worker in (self._active, self._standby):
            if worker is not None:
                self._hang_up(worker)
                if worker.pidfd is not None:
                    os.close(worker.pidfd)
        self._active = self._standby = None
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None
        for task_id, job in self._jobs.items():
            self._told.append(
                (job.future, TransportError(f"task {task_id!r}: the supervisor was closed before it was done"))
            )
        self._jobs.clear()
        self._selector.close()
        os.close(self._wake_fd)
        self._opened.close()

    def _wake(self) -> None:
        """From any thread. With the lock: without it the descriptor may meanwhile have been closed and be another's."""
        if not self._is_ended:
            os.eventfd_write(self._wake_fd, 1)

    def _clear_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    def _tell(self) -> None:
        """Without the lock: a future's callback may submit the next task."""
        told, self._told = self._told, []
        for future, outcome in told:
            if isinstance(outcome, Confirmation):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)


def _lock_directory(directory: Path) -> int:
    fd = os.open(directory / "engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise TransportError(f"{directory}: another engine uses it; give each its own directory") from error
    return fd


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _cause_of(status: int) -> str:
    return f"it was killed by {signal.Signals(-status).name}" if status < 0 else f"it ended with exit code {status}"


__all__ = ["Confirmation", "SupervisorStatus", "WorkerState", "WorkerSupervisor"]
