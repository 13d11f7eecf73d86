"""Group commit: what several threads ask for becomes durable with one sync.

Whoever comes first leads: it takes all who wait into a batch, appends it, applies it to memory and lets them go; those
that come meanwhile wait for the next leader. No thread is handed over to, so a single caller pays for its own sync and
nothing else. Nothing is applied or acknowledged before it is durable and the lock is known to be still ours.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from share.kernel.contracts.experience import RecordType
from share.kernel.contracts.kinds import RecordLog
from share.kernel.errors import BufferProblem, BufferUnavailable, ExperienceRefused
from share.kernel.experience.live import LivePage
from share.kernel.experience.lock import WriterLock
from share.kernel.experience.memory import Memory
from share.kernel.experience.problem import problem
from share.kernel.experience.replay import add, change
from share.kernel.experience.requests import Batch, Request
from share.kernel.experience.vectors import Vectors

LET_IN_S = 1e-4


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
        self._waiting: deque[Request] = deque()
        self._broken = ""

    @property
    def durable(self) -> int:
        """The last sequence that is durable."""
        return self._log.next_sequence - 1

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits for `writing`."""
        return bool(self._waiting)

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
        self._waiting.extend(requests)
        with self.writing:
            while not requests[-1].is_done:
                self._lead()

    def _lead(self) -> None:
        batch = Batch(self._memory.table, self._log.next_sequence)
        if self._capacity not in (None, self._memory.table.capacity):  # it is another one since the buffer was opened
            batch.set_capacity(self._capacity or 0)
        taken = []
        while self._waiting and not batch.is_full:
            request = self._waiting.popleft()
            try:
                request.put(batch)
                taken.append(request)
            except ExperienceRefused as refusal:
                request.error, request.is_done = refusal, True
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
                request.is_done = True

    def _write(self, batch: Batch) -> None:
        if self._broken:
            raise BufferUnavailable(self._broken)
        self._lock.check()
        memory = self._memory
        if batch.heads:
            try:  # before it counts, or a full disk would be found out too late
                self._vectors.append(memory.table.stop, np.stack([head.embedding for head in batch.heads]))
            except OSError as error:
                raise problem(error, f"{self._vectors.path}: cannot be written") from error
        locations = self._log.append(batch.records)
        self._lock.check()
        self._apply(batch, locations)
        self._live.publish(batch.next_sequence + len(locations) - 1)
        self.num_syncs += 1
        self.num_records += len(locations)
        self.group_size_max = max(self.group_size_max, len(locations))

    def _apply(self, batch: Batch, locations: Sequence[int]) -> None:
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
            heads = batch.heads[taken : taken + stop - first]
            sequences = range(batch.next_sequence + first, batch.next_sequence + stop)
            add(table, sequences, locations[first:stop], heads, follower)
            first, taken = stop, taken + len(heads)


__all__ = ["LET_IN_S", "Committer"]
