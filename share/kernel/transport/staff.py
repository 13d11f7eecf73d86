"""The worker, the standby that takes its place, and the nursery that both come from: hired, heard, killed, buried.

What they say and that they died is handed up as events; what that means for tasks is the supervisor's affair.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from share.kernel.transport.config import TransportConfig
from share.kernel.transport.messages import Born, Channel, Died, Failed, Fork, Message, TakeOver
from share.kernel.transport.nursery import Nursery

_BIRTH_TIMEOUT_S = 600.0
"""How long the nursery may take over its imports, on a busy machine."""


@dataclass(slots=True, eq=False)
class WorkerProcess:
    """A worker as the engine sees it; `pid` and `pidfd` are None until the nursery says that it was born.

    `owing_since` (seconds, monotonic): since when a message is expected of it; None when it may be silent. `is_mute`
    when nothing more will be heard of it. `begun` are the tasks that are blamed if it dies now, `cause` says why it
    will have died, if that is known before.
    """

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

    def say(self, message: Message) -> bool:
        """False when there is no room for it now, or the worker has hung up and is about to be found dead."""
        return not self.is_mute and self.channel.send(message)

    def deadline(self, timeout_s: float) -> float | None:
        """When it will have been silent for too long; None when it may be."""
        if self.owing_since is None:
            return None
        return self.owing_since + (timeout_s if self.pid is not None else max(timeout_s, _BIRTH_TIMEOUT_S))

    def kill(self, cause: str) -> None:
        assert self.pidfd is not None
        self.is_killed = True
        self.cause = cause
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Said:
    """A worker or the standby said this."""

    worker: WorkerProcess
    message: Message


@dataclass(frozen=True, slots=True)
class Buried:
    """A worker is dead, and all that it had said was heard. `was_active`: it was no standby."""

    worker: WorkerProcess
    was_active: bool
    cause: str


@dataclass(frozen=True, slots=True)
class NurseryFailed:
    """It could not be started, or died before it had forked what was asked for."""

    cause: str


Event = Said | Buried | NurseryFailed


class Staff:
    """The processes below one engine. `order` is what a worker is told at its birth, `slab_fd` what it maps.

    Registers with `selector` what is to be waited for; the data of each key is a callable that returns the events.
    Events are to be taken one by one, each before the next: they are made when they are asked for. To be used by one
    thread that lives as long as the staff shall.
    """

    def __init__(self, config: TransportConfig, *, order: Fork, slab_fd: int, selector: selectors.BaseSelector) -> None:
        self._config = config
        self._order = order
        self._slab_fd = slab_fd
        self._selector = selector
        self._nursery: Nursery | None = None
        self._nursery_error: str | None = None
        self.active: WorkerProcess | None = None
        self.standby: WorkerProcess | None = None
        self.generation = 0

    @property
    def nursery_pid(self) -> int | None:
        return self._nursery.pid if self._nursery else None

    def fill(self, now: float) -> Iterator[Event]:
        """Have a worker, and one to take its place."""
        if self._nursery is None:
            # Here, because the nursery dies with the thread that started it.
            try:
                self._nursery = Nursery(self._config.preload, self._config.threads)
            except OSError as error:  # no memory or no process left just now
                yield NurseryFailed(f"the nursery could not be started: {error}")
                return
            self._nursery_error = None
            self._selector.register(self._nursery.channel, selectors.EVENT_READ, self._hear_nursery)
        if self.active is None and self.standby is not None and self.standby.is_warm and not self.standby.is_mute:
            self.active, self.standby = self.standby, None
            self.generation += 1
            self.active.owing_since = now
            self.active.say(TakeOver(self.generation))
        if self.standby is None and (self.active is None or self.active.is_ready):
            self.standby = self._order_worker(self._nursery, now)

    def kill_the_silent(self, now: float) -> None:
        """Those that let their deadline pass; their deaths are heard of later."""
        timeout_s = self._config.timeout_s
        for worker in self._workers():
            deadline = worker.deadline(timeout_s)
            if deadline is None or now < deadline:
                continue
            worker.owing_since = now
            if worker.pidfd is not None and not worker.is_killed:
                worker.kill(f"it was silent for {timeout_s:g} s and was killed")
            elif self._nursery is not None:  # then it is the nursery that hangs, if it is not dead already
                self._nursery.kill()

    def next_deadline(self) -> float | None:
        """When (seconds, monotonic) the next of them will have been silent for too long."""
        deadlines = [worker.deadline(self._config.timeout_s) for worker in self._workers()]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def close(self) -> None:
        """End them all, at once."""
        for worker in self._workers():
            self._hang_up(worker)
            if worker.pidfd is not None:
                os.close(worker.pidfd)
        self.active = self.standby = None
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None

    def _workers(self) -> list[WorkerProcess]:
        return [worker for worker in (self.active, self.standby) if worker is not None]

    def _order_worker(self, nursery: Nursery, now: float) -> WorkerProcess:
        channel, theirs = Channel.pair()
        worker = WorkerProcess(channel, owing_since=now)
        with theirs:
            nursery.fork(theirs, self._slab_fd, self._order)
        self._selector.register(channel, selectors.EVENT_READ, lambda: self._hear(worker))
        return worker

    def _hear(self, worker: WorkerProcess) -> Iterator[Event]:
        if worker.is_mute:
            return
        try:
            while packet := worker.channel.receive(wait=False):
                yield Said(worker, packet.message)
        except EOFError:  # it is dying; the nursery says when it is dead
            worker.owing_since = time.monotonic()
            self._hang_up(worker)

    def _hear_nursery(self) -> Iterator[Event]:
        nursery = self._nursery
        if nursery is None:
            return
        try:
            while packet := nursery.receive():
                match packet.message:
                    case Born(pid=pid):
                        worker = self.standby
                        assert worker is not None
                        worker.pid, worker.pidfd = pid, packet.fds[0]
                        if not worker.is_warm:
                            worker.owing_since = time.monotonic()
                    case Died(pid=pid, status=status):
                        for dead in self._workers():
                            if dead.pid == pid:
                                yield from self._bury(dead, _cause_of(status))
                    case Failed(error=error):
                        self._nursery_error = error
                    case message:
                        raise AssertionError(f"the nursery does not say {message}")
        except EOFError:
            yield from self._bury_nursery(nursery)

    def _bury(self, worker: WorkerProcess, cause: str) -> Iterator[Event]:
        """It is dead, and what it had said is still to be heard: confirmations among it."""
        yield from self._hear(worker)
        self._hang_up(worker)
        assert worker.pidfd is not None
        os.close(worker.pidfd)
        was_active = worker is self.active
        if was_active:
            self.active = None
        else:
            self.standby = None
        yield Buried(worker, was_active, worker.cause or cause)

    def _bury_nursery(self, nursery: Nursery) -> Iterator[Event]:
        """The kernel kills with it what it forked; that is waited for, as a dying worker may still be committing."""
        self._selector.unregister(nursery.channel)
        nursery.close()
        self._nursery = None
        if self.standby is not None and self.standby.pid is None:
            self._hang_up(self.standby)
            self.standby = None
            yield NurseryFailed(self._nursery_error or "the nursery died")
        for worker in self._workers():
            if worker.pidfd is not None and worker.pidfd not in self._selector.get_map():
                self._selector.register(worker.pidfd, selectors.EVENT_READ, self._orphaned(worker, worker.pidfd))

    def _orphaned(self, worker: WorkerProcess, pidfd: int) -> Callable[[], Iterator[Event]]:
        """What to do when a worker has died after the nursery, which would have said so."""

        def bury() -> Iterator[Event]:
            self._selector.unregister(pidfd)
            yield from self._bury(worker, "the nursery died")

        return bury

    def _hang_up(self, worker: WorkerProcess) -> None:
        if not worker.is_mute:
            worker.is_mute = True
            self._selector.unregister(worker.channel)
            worker.channel.close()


def _cause_of(status: int) -> str:
    return f"it was killed by {signal.Signals(-status).name}" if status < 0 else f"it ended with exit code {status}"


__all__ = ["Buried", "Event", "NurseryFailed", "Said", "Staff", "WorkerProcess"]
