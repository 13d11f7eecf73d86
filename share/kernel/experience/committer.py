"""Group commit: what several threads ask for becomes durable with one sync.

Whoever comes first leads: it takes all who wait into a batch, appends it, applies it to memory and wakes them; of those
that came meanwhile the first leads next. A single caller hands over to nobody and pays for its own sync, nothing else.
Where several came lately, a leader waits a moment for them: far shorter than a sync, which they then share. While the
disk works, what follows is prepared where nobody looks. Nothing is applied or acknowledged before it is durable and the
lock is known to be still ours.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from share.kernel.contracts.experience import RecordType
from share.kernel.contracts.kinds import RecordLog
from share.kernel.errors import BufferFenced, BufferProblem, BufferUnavailable, ExperienceRefused
from share.kernel.experience.live import LivePage
from share.kernel.experience.lock import WriterLock
from share.kernel.experience.memory import Memory
from share.kernel.experience.problem import problem
from share.kernel.experience.replay import add, change, stacked
from share.kernel.experience.requests import Batch, Request
from share.kernel.experience.vectors import Vectors

LET_IN_S = 1e-4
GATHER_SHARE = 0.25
"""Share of the last sync's time that a leader waits for others."""

GATHER_MAX_S = 5e-4


class Committer:
    """The only one that appends. `writing` is held while anything is appended or applied."""

    def __init__(
        self, log: RecordLog, memory: Memory, vectors: Vectors, lock: WriterLock, live: LivePage, capacity: int | None
    ) -> None:
        self.writing = threading.RLock()
        self.num_syncs = 0
        self.num_records = 0
        self.group_size_max = 0
        self._log = log
        self._memory = memory
        self._vectors = vectors
        self._lock = lock
        self._live = live
        self._capacity = capacity
        self._queue = threading.Lock()  # for the next two
        self._calls: deque[_Call] = deque()
        self._is_led = False
        self._num_callers = 1  # that were there lately
        self._sync_s = 0.0
        self._broken = ""
        self._fenced = ""

    @property
    def durable(self) -> int:
        """The last sequence that is durable."""
        return self._log.next_sequence - 1

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits for `writing`."""
        return bool(self._calls)

    def let_in(self) -> None:
        """Called while holding `writing` once: let those who wait go first."""
        self.writing.release()
        try:
            time.sleep(LET_IN_S)  # without it this thread would have the lock again before another wakes up
        finally:
            self.writing.acquire()

    def commit(self, request: Request) -> None:
        """Return when the request is durable and applied. Raises BufferProblem: then nothing of it is."""
        self.commit_all([request])
        if request.error is not None:
            raise request.error

    def commit_all(self, requests: Sequence[Request]) -> None:
        """Several at once, each with its own error."""
        self._lock.check_process()  # in a fork, nobody would ever end what was under way
        call = _Call(requests)
        with self._queue:
            self._calls.append(call)
            if self._is_led:
                call.wait = threading.Lock()
                call.wait.acquire()
            self._is_led = True
        if call.wait is not None:
            self._wait(call, call.wait)
            if call.is_done:
                return
        taken: list[_Call] = []
        try:
            with self.writing:
                self._gather()
                self._lead(taken)
        finally:
            with self._queue:
                if not taken and call in self._calls:  # Ctrl-C before anything was taken
                    self._calls.remove(call)
                self._num_callers = len(taken) + len(self._calls)
                for each in taken:
                    each.is_done = True
                    if each.wait is not None and each is not call:
                        each.wait.release()
                self._hand_over()

    def _wait(self, call: _Call, wait: threading.Lock) -> None:
        """Until the call is done, or leads."""
        try:
            wait.acquire()
        except BaseException:  # Ctrl-C: what was taken already may happen, and nobody may wait for this thread
            with self._queue:
                if call in self._calls:
                    self._calls.remove(call)
                    if call.leads:
                        self._hand_over()
            raise

    def _hand_over(self) -> None:
        """The first of those who wait leads next. Called while holding `_queue`."""
        self._is_led = bool(self._calls)
        if self._calls:
            following = self._calls[0]
            following.leads = True
            assert following.wait is not None
            following.wait.release()

    def _gather(self) -> None:
        if len(self._calls) < self._num_callers:
            deadline = time.perf_counter() + min(GATHER_SHARE * self._sync_s, GATHER_MAX_S)
            while len(self._calls) < self._num_callers and time.perf_counter() < deadline:
                time.sleep(0)

    def _lead(self, calls: list[_Call]) -> None:
        """Make a batch durable, and fill `calls` with those whose requests it holds."""
        batch = Batch(self._memory.table, self._log.next_sequence)
        if self._capacity not in (None, self._memory.table.capacity):  # it is another one since the buffer was opened
            batch.set_capacity(self._capacity or 0)
        taken = []
        while self._calls and not batch.is_full:
            calls.append(self._calls.popleft())
            for request in calls[-1].requests:
                try:
                    request.put(batch)
                    taken.append(request)
                except ExperienceRefused as refusal:
                    request.error = refusal
        error: BufferProblem | None = None
        try:
            if batch.records:
                self._write(batch)
        except BufferProblem as met:
            error = met
        except BaseException as failure:
            # Whether it is durable is not known, nor what memory holds of it: only a new recovery can tell.
            self._broken = f"an append was broken off by {type(failure).__name__}: {failure}; open the buffer again"
            error = BufferUnavailable(self._broken)
            raise
        finally:
            for request in taken:
                request.error = type(error)(str(error)) if error is not None else None

    def _write(self, batch: Batch) -> None:
        if self._broken:
            raise BufferUnavailable(self._broken)
        if self._fenced:
            raise BufferFenced(self._fenced)
        vectors_ND = stacked(batch.heads)
        started = time.perf_counter()
        locations = self._log.append(batch.records, lambda: self._prepare(vectors_ND))
        self._sync_s = time.perf_counter() - started
        try:
            self._lock.check()
        except BufferFenced as error:  # it is in a log that nobody reads on from here
            self._fenced = str(error)
            raise
        self._apply(batch, locations, vectors_ND)
        self._live.publish(batch.next_sequence + len(locations) - 1)
        self.num_syncs += 1
        self.num_records += len(locations)
        self.group_size_max = max(self.group_size_max, len(locations))

    def _prepare(self, vectors_ND: NDArray[np.float32]) -> None:
        """What can be done of an add before it counts: a full disk would be found out too late behind it."""
        if len(vectors_ND):
            first_row = self._memory.table.stop
            try:
                self._vectors.append(first_row, vectors_ND)
            except OSError as error:
                raise problem(error, f"{self._vectors.path}: cannot be written") from error
            self._memory.retriever.prepare(first_row, vectors_ND)

    def _apply(self, batch: Batch, locations: Sequence[int], vectors_ND: NDArray[np.float32]) -> None:
        table, follower = self._memory.table, self._memory
        first = taken = 0
        while first < len(locations):
            type_, payload = batch.records[first]
            if type_ is not RecordType.ADD:
                change(table, batch.next_sequence + first, type_, b"".join(payload), follower)
                first += 1
                continue
            stop = first
            while stop < len(locations) and batch.records[stop][0] is RecordType.ADD:
                stop += 1
            at = slice(taken, taken + stop - first)
            sequences = range(batch.next_sequence + first, batch.next_sequence + stop)
            run_ND = vectors_ND if stop - first == len(vectors_ND) else vectors_ND[at]  # all: as they were prepared
            add(table, sequences, locations[first:stop], batch.heads[at], run_ND, follower)
            first, taken = stop, at.stop


class _Call:
    """Requests of one caller; `wait` is held until they are done, or until it `leads`."""

    __slots__ = ("is_done", "leads", "requests", "wait")

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self.wait: threading.Lock | None = None
        self.is_done = False
        self.leads = False


__all__ = ["GATHER_MAX_S", "GATHER_SHARE", "LET_IN_S", "Committer"]
