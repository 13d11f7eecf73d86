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
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path

from pydantic import JsonValue

from share.kernel.errors import LearningSuspended, SlabFull, TransportError
from share.kernel.events import StructuredLogger
from share.kernel.transport.backlog import Backlog, Confirmation
from share.kernel.transport.config import TransportConfig
from share.kernel.transport.ledger import Ledger
from share.kernel.transport.memory import SharedMemoryManager
from share.kernel.transport.messages import (
    Begun,
    Confirmed,
    Failed,
    Finish,
    Fork,
    Leaving,
    Message,
    Ready,
    Warm,
    encode,
)
from share.kernel.transport.quarantine import Quarantine
from share.kernel.transport.staff import Buried, Event, NurseryFailed, Said, Staff, WorkerProcess
from share.kernel.transport.state import State, SupervisorStatus, WorkerState
from share.kernel.transport.worker import Task


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
            order = Fork(
                target=target,
                settings=settings,
                directory=str(directory),
                slot_bytes=self._memory.slot_bytes,
                threads=config.threads,
                is_idle=config.scheduling == "idle",
                batch_max=config.batch_max,
                ledger_days=config.ledger_days,
            )
            encode(order)  # too long settings are the caller's mistake, and said here
            self._opened = opened.pop_all()
        self._state = State(config.deaths_max, config.deaths_window_s, self._ledger.version(), logger)
        self._quarantine = Quarantine(self._ledger, logger)
        self._backlog = Backlog(
            self._memory,
            self._quarantine,
            tasks_max=config.tasks_max,
            quarantine_deaths=config.quarantine_deaths,
        )
        self._selector = selectors.DefaultSelector()
        self._staff = Staff(config, order=order, slab_fd=self._memory.fd, selector=self._selector)
        self._close_by: float | None = None
        self._is_ended = False
        self._is_finishing = False
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake_fd, selectors.EVENT_READ, self._clear_wake)
        self._thread = threading.Thread(target=self._run, name="worker-supervisor", daemon=True)
        self._thread.start()

    def has_room(self, sizes: Iterable[int]) -> bool:
        """Whether a task with tensors of so many bytes each would be taken now, if free slots lie together."""
        with self._lock:
            memory = self._memory.get_status()
            num_slots = sum(max(-(-size // memory.slot_bytes), 1) for size in sizes)
            return len(self._backlog) < self._config.tasks_max and num_slots <= memory.free_slots

    def submit(self, task: Task) -> Future[Confirmation]:
        """Accept a task: its tensors are copied before this returns.

        The future raises TaskQuarantined when the task killed too many workers, TaskWithdrawn when it was withdrawn,
        and TransportError when the supervisor was closed before the task was done. Raises SlabFull and QueueFull when
        there is no room now, TensorTooLarge when there never is, TaskQuarantined, LearningSuspended, and TransportError
        for a task that is on its way already or cannot be said in one message.
        """
        with self._lock:
            self._check_acceptable(task)
            job = self._backlog.accept(task)
        try:
            self._backlog.load(job, task.tensors)
        except BaseException as error:
            with self._lock:
                self._backlog.drop(job)
                if isinstance(error, SlabFull):
                    self._memory.cleanup_stale_segments(worker_alive=True)
                self._wake()  # `close` may be waiting for it
            raise
        with self._lock:
            if not self._is_ended:  # meanwhile, and the future was told
                self._backlog.queue(job)
                self._send()
        return job.future

    def resume(self) -> None:
        """Close the circuit after learning was suspended; what was on its way is sent again."""
        with self._lock:
            self._state.resume(self._staff.generation, has_worker=self._staff.active is not None)
            self._wake()

    def release(self, task_id: str) -> None:
        """Take a task out of quarantine; it may be submitted again."""
        with self._lock:
            self._quarantine.release(task_id)

    def withdraw(self, task_ids: Collection[str]) -> None:
        """Settle tasks that the worker was not told of yet: their futures raise TaskWithdrawn. Others are left."""
        with self._lock:
            if not self._is_ended:  # then all are settled
                self._backlog.withdraw(task_ids)
                self._wake()

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
                self._state.become(WorkerState.DRAINING)
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
        self._quarantine.check(task.task_id)
        if self._state.is_suspended:
            raise LearningSuspended(f"{name}: learning is suspended, {self._state.last_death}; resume it to go on")

    def _run(self) -> None:
        """The thread. It takes the lock itself, and lets go of it to wait and to tell futures."""
        try:
            while True:
                with self._lock:
                    now = time.monotonic()
                    self._staff.kill_the_silent(now)
                    self._fill_places(now)
                    self._send()
                    self._finish_when_done(now)
                    self._changed.notify_all()
                    if self._is_over(now):
                        break
                    sleep_s = self._sleep_s(now)
                self._tell()
                for key, _ in self._selector.select(sleep_s):
                    with self._lock:
                        self._take_in(key.data())
        finally:
            with self._lock:
                self._end()
                self._changed.notify_all()
            self._tell()

    def _fill_places(self, now: float) -> None:
        """Unless there shall be nobody, or not yet."""
        is_done = self._close_by is not None and not self._backlog
        if self._state.is_suspended or now < self._state.start_at or is_done:
            return
        if self._state.value is WorkerState.DEAD:
            self._state.become(WorkerState.RESTARTING)
        self._take_in(self._staff.fill(now))

    def _send(self) -> None:
        """Say what there is room for. When there is no more, the worker has something to do and will be heard."""
        worker = self._staff.active
        while worker is not None and not self._state.is_suspended and (job := self._backlog.next()):
            if not worker.say(job.assign):
                return
            self._backlog.mark_sent()
            if worker.owing_since is None:
                worker.owing_since = time.monotonic()
                self._wake()

    def _finish_when_done(self, now: float) -> None:
        worker = self._staff.active
        if self._close_by is not None and not self._backlog and worker is not None and not self._is_finishing:
            self._is_finishing = True
            worker.owing_since = now
            worker.say(Finish())

    def _is_over(self, now: float) -> bool:
        if self._close_by is None:
            return False
        is_done = not self._backlog and self._staff.active is None
        return now >= self._close_by or self._state.is_suspended or is_done

    def _sleep_s(self, now: float) -> float | None:
        start_at = self._state.start_at if self._state.start_at > now else None
        deadlines = [at for at in (start_at, self._close_by, self._staff.next_deadline()) if at is not None]
        return max(0.0, min(deadlines) - now) if deadlines else None

    def _take_in(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case Said(worker, message):
                    self._heed(worker, message)
                    worker.owing_since = time.monotonic() if self._is_owing(worker) else None
                case Buried(worker, was_active, cause):
                    self._mourn(worker, was_active, cause)
                case NurseryFailed(cause):
                    self._record_death(cause)

    def _is_owing(self, worker: WorkerProcess) -> bool:
        is_busy = self._backlog.is_any_sent or not worker.is_ready or self._is_finishing
        return worker is self._staff.active and is_busy

    def _heed(self, worker: WorkerProcess, message: Message) -> None:
        match message:
            case Warm():
                worker.is_warm = True
            case Ready(version=version):
                worker.is_ready = True
                self._state.version = version
                self._state.become(WorkerState.READY)
                generation = self._staff.generation
                self._logger.info(
                    "worker_ready", "a worker took over", generation=generation, pid=worker.pid, version=version
                )
            case Begun(task_ids=task_ids):
                worker.begun = task_ids
                self._state.become(WorkerState.UPDATING)
            case Confirmed(task_id=task_id):
                self._backlog.confirm(message)
                self._state.confirm(message.version)
                worker.begun = tuple(begun for begun in worker.begun if begun != task_id)
                if not worker.begun:
                    self._state.become(WorkerState.READY)
            case Failed(error=error):
                worker.cause = error
            case Leaving():
                worker.is_leaving = True
            case _:
                raise AssertionError(f"a worker does not say {message}")

    def _mourn(self, worker: WorkerProcess, was_active: bool, cause: str) -> None:
        """What it had is sent again; a death, but for that of an idle standby, counts."""
        if was_active:
            self._state.become(WorkerState.DEAD)
            self._backlog.send_again(() if worker.is_leaving else worker.begun, cause)
            self._memory.cleanup_stale_segments(worker_alive=False)
        if worker.is_leaving:
            self._logger.info("worker_left", "the worker ended as it was asked to", pid=worker.pid)
        elif was_active or not worker.is_warm:
            self._record_death(cause)
        else:
            self._logger.warn("standby_died", f"the standby died: {cause}", pid=worker.pid)

    def _record_death(self, cause: str) -> None:
        self._state.record_death(cause, self._staff.generation, time.monotonic())

    def _status(self) -> SupervisorStatus:
        active, standby = self._staff.active, self._staff.standby
        return SupervisorStatus(
            state=self._state.value,
            generation=self._staff.generation,
            version=self._state.version,
            pid=active.pid if active else None,
            standby_pid=standby.pid if standby and standby.is_warm else None,
            nursery_pid=self._staff.nursery_pid,
            tasks_on_their_way=len(self._backlog),
            tasks_confirmed=self._state.num_confirmed,
            deaths=self._state.num_deaths,
            last_death=self._state.last_death,
            quarantined=self._quarantine.reasons(),
            memory=self._memory.get_status(),
        )

    def _end(self) -> None:
        """Whatever ended the thread: nothing is left running, and no future is left waiting."""
        self._is_ended = True
        self._state.end()
        self._staff.close()
        self._backlog.give_up()
        self._selector.close()
        os.close(self._wake_fd)
        self._opened.close()

    def _wake(self) -> None:
        """From any thread. With the lock: without it the descriptor may meanwhile have been closed and be another's."""
        if not self._is_ended:
            os.eventfd_write(self._wake_fd, 1)

    def _clear_wake(self) -> Iterable[Event]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)
        return ()

    def _tell(self) -> None:
        """Without the lock: a future's callback may submit the next task."""
        for settlement in self._backlog.take_settled():
            settlement.tell()


def _lock_directory(directory: Path) -> int:
    fd = os.open(directory / "engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise TransportError(f"{directory}: another engine uses it; give each its own directory") from error
    return fd


__all__ = ["Confirmation", "SupervisorStatus", "WorkerState", "WorkerSupervisor"]
