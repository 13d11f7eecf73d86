"""The worker's side: it takes tasks, gives them to a handler, commits what came of them, and confirms.

A handler is made by a callable that the engine names by "module:attribute"; docs/formats/transport.md says what it must
keep to so that every task has its effect exactly once.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import os
import signal
import socket
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from pydantic import JsonValue
from torch import Tensor

from share.kernel.errors import TransportError
from share.kernel.transport.ledger import Entry, Ledger
from share.kernel.transport.memory import SharedMemoryReconstructor
from share.kernel.transport.messages import (
    Assign,
    Begun,
    Channel,
    Confirmed,
    Failed,
    Finish,
    Fork,
    Leaving,
    Message,
    Ready,
    TakeOver,
    Warm,
    encode,
    readable,
)

_PR_SET_PDEATHSIG = 1
_ERROR_CHARACTERS_MAX = 4000
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Task:
    """Something for the worker to do. `task_id` names it for ever: what has it was done is not done again.

    `metadata` is small and JSON; what is large is in `tensors`. For a handler these are views of the slab: it may read
    them until it returns, must not write to them, and clones what it keeps.
    """

    task_id: str
    kind: str
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Commit:
    """What a handler made of its tasks: the version that has all their effects, and results where there are any."""

    version: str
    results: Mapping[str, JsonValue] = field(default_factory=dict)


class Handler(Protocol):
    """Does the work. The callable that makes it is given the settings, and loads all that no version changes.

    It must leave no trace of an effect outside the version that it returns: `take_over` begins at a committed version,
    whatever a worker before has written besides.
    """

    def take_over(self, version: str | None) -> None:
        """Go on from this version, the last one committed; None when there is none. Called once, before `handle`."""

    def handle(self, tasks: Sequence[Task]) -> Commit:
        """Handle all of these, one to `batch_max`. When it returns, the version must be on disk, synced.

        An exception ends the worker, as it may have left anything half done; the tasks are blamed for it. A task that
        is only refused is committed like any other, with a result that says so.
        """


def work(end: socket.socket, slab_fd: int, order: Fork, nursery_pid: int) -> int:
    """Be a worker until the engine asks to end or is gone; returns the exit status."""
    die_with_parent(nursery_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine, which drains
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a standby ends with the engine
    if order.is_idle:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    torch.set_num_threads(order.threads)
    channel = Channel(end)
    try:
        handler = _make(order)
        memory = SharedMemoryReconstructor(slab_fd, order.slot_bytes)
        os.close(slab_fd)
        channel.send(Warm())
        packet = channel.receive(wait=True)
        assert packet is not None
        assert isinstance(packet.message, TakeOver), packet.message
        _Worker(channel, handler, memory, order).run()
    except EOFError:  # the engine is gone, or needs no standby any more
        return 0
    except Exception:
        # The process ends here, whatever was raised: what it may have left half done must not be gone on from.
        channel.send(Failed(traceback.format_exc()[-_ERROR_CHARACTERS_MAX:]))
        return 1
    return 0


class _Worker:
    def __init__(self, channel: Channel, handler: Handler, memory: SharedMemoryReconstructor, order: Fork) -> None:
        self._channel = channel
        self._handler = handler
        self._memory = memory
        self._batch_max = order.batch_max
        directory = Path(order.directory)
        self._lock = _locked(directory / "worker.lock")
        self._ledger = Ledger(directory)
        self._ledger.forget(time.time() - order.ledger_days * _DAY_S)
        self._waiting: deque[Assign] = deque()
        self._is_last = False
        self._term = _on_sigterm()

    def run(self) -> None:
        version = self._ledger.version()
        self._handler.take_over(version)
        self._channel.send(Ready(version))
        while not self._is_asked_to_leave():
            self._take()
            if self._waiting:
                self._handle(self._batch())
            elif self._is_last:
                break
        self._channel.send(Leaving())

    def _is_asked_to_leave(self) -> bool:
        """Whether SIGTERM came. What is waiting is sent again to the next worker."""
        return bool(readable([self._term.fileno()], 0))

    def _take(self) -> None:
        """Read what there is; wait only when there is nothing to do."""
        while len(self._waiting) < self._batch_max and not self._is_last:
            if not self._waiting:
                readable([self._channel.fileno(), self._term.fileno()])
            packet = self._channel.receive(wait=False)
            if packet is None:
                return
            if isinstance(packet.message, Finish):
                self._is_last = True
            else:
                assert isinstance(packet.message, Assign), packet.message
                self._waiting.append(packet.message)

    def _batch(self) -> list[Assign]:
        """The next tasks that may be handled together."""
        batch = [self._waiting.popleft()]
        while self._waiting and not batch[0].alone and not self._waiting[0].alone:
            batch.append(self._waiting.popleft())
        return batch

    def _handle(self, batch: Sequence[Assign]) -> None:
        fresh = []
        for assigned in batch:
            if entry := self._ledger.find(assigned.task_id):
                self._channel.send(Confirmed(entry.task_id, entry.version, entry.result, repeated=True))
            else:
                fresh.append(assigned)
        if not fresh:
            return
        self._channel.send(Begun(tuple(assigned.task_id for assigned in fresh)))
        commit = self._handler.handle([self._task(assigned) for assigned in fresh])
        if unknown := commit.results.keys() - {assigned.task_id for assigned in fresh}:
            raise TransportError(
                f"the handler returned results for tasks it was not given: {', '.join(sorted(unknown))}"
            )
        confirmations: list[Message] = []
        entries = []
        for assigned in fresh:
            entry = Entry(assigned.task_id, commit.version, commit.results.get(assigned.task_id))
            confirmations.append(Confirmed(entry.task_id, entry.version, entry.result))
            encode(confirmations[-1])  # too long a result must be known before it is committed
            entries.append(entry)
        self._ledger.commit(entries)
        for confirmation in confirmations:
            self._channel.send(confirmation)

    def _task(self, assigned: Assign) -> Task:
        rebuild = self._memory.reconstruct_tensor_from_info
        tensors = {name: rebuild(info) for name, info in assigned.tensors.items()}
        return Task(assigned.task_id, assigned.kind, assigned.metadata, tensors)


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL when the thread that made this process ends. Ends at once when it already has."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os._exit(0)


def _make(order: Fork) -> Handler:
    module, _, attribute = order.target.partition(":")
    handler: Handler = getattr(importlib.import_module(module), attribute)(order.settings)
    return handler


def _locked(path: Path) -> int:
    """Wait until no other worker commits here: that of a killed engine may still be ending.

    A lock of lockf is this process's alone: it is not inherited by what a handler forks, and ends with the process.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    return fd


def _on_sigterm() -> socket.socket:
    """A socket that becomes readable with SIGTERM, so that waiting for it and for a message is one wait."""
    readable, writable = socket.socketpair()
    writable.setblocking(False)
    signal.set_wakeup_fd(writable.detach(), warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    return readable


__all__ = ["Commit", "Handler", "Task", "die_with_parent", "work"]
