"""What similar experiences say of a request: a k-NN search and a vote, within a time limit, never an error.

The search begins when the policy has read the prompt and runs beside its writing; when it has answered, the vote is all
that is left to do. Both are done in threads of their own; one more watches the clock. Whatever hangs or breaks there,
index, disk or a stranger's voter, costs an answer the time limit at most, and then the policy answers alone.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from share.kernel.contracts.kinds import Voter
from share.kernel.contracts.voting import AnswerType, Vote, VotingResult
from share.kernel.errors import ExperienceRefused
from share.kernel.events import whereabouts
from share.kernel.experience.buffer import ExperienceBuffer
from share.kernel.serving.ballots import Ballots

if TYPE_CHECKING:
    from share.kernel.contracts.experience import Neighbor, Vector

AWAKE_S = 1.0
"""Seconds without a request after which the clock is not looked at any more until the next."""

THREADS = 2
"""Threads that search, and as many that vote."""

WAITING_MAX = 64
"""Requests that wait for a search at most, and for a vote; more are answered by the policy alone."""

ASKED_TIMES = (2, 4)
"""So many times the experiences that are to vote are looked for, and where they are crowded out."""


@dataclass(frozen=True, slots=True, eq=False)
class Consultation:
    """What came of it. `votes` is None where nobody similar had a say or it went wrong; then `problem` says what did
    (None if nothing did) and `detail` has it in words. `voters` are the experiences that voted, in the order of
    `ballots`. `elapsed_ms` counts from the policy's answer on."""

    votes: VotingResult | None
    voters: tuple[str, ...] = ()
    ballots: tuple[Vote, ...] = ()
    problem: str | None = None
    detail: str = ""
    elapsed_ms: float = 0.0


class Retrieval:
    """A search for a request that was read, which the experience `trace_id` must not be found by.

    It keeps who is near, and not what they say: that is asked at the vote, so that nobody votes who was erased
    meanwhile, and nobody as he was before a reviewer's word. `embedding` is the hybrid one of the request (float32, D,
    unit length) once the search has begun, None before or where there is none.
    """

    def __init__(self, trace_id: str, visual: Vector, text: Vector, answer_type: AnswerType) -> None:
        self.trace_id = trace_id
        self.visual = visual
        self.text = text
        self.answer_type: AnswerType = answer_type
        self.embedding: Vector | None = None
        self.near: Sequence[Neighbor] = ()
        self.failure: Consultation | None = None
        self._lock = threading.Lock()
        self._is_over = self._is_dropped = False
        self._case: _Case | None = None

    def drop(self) -> None:
        """Nobody will ask for it: it is not begun any more."""
        self._is_dropped = True

    @property
    def is_wanted(self) -> bool:
        return not self._is_dropped and (self._case is None or not self._case.is_ended)

    def is_over_or(self, case: _Case) -> bool:
        """Whether it is over; if not, whoever ends it gets the case."""
        with self._lock:
            if not self._is_over:
                self._case = case
            return self._is_over

    def end(self) -> _Case | None:
        """It is over; the case that waits for it, if there is one."""
        with self._lock:
            self._is_over = True
            return self._case


class Consultant:
    """Asks the buffer and the voter. `close` ends its threads."""

    def __init__(
        self,
        buffer: ExperienceBuffer,
        ballots: Ballots,
        voter: Voter,
        *,
        neighbors: int,
        similarity_min: float,
        limit_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._buffer = buffer
        self._ballots = ballots
        self._voter = voter
        self._neighbors = neighbors
        self._similarity_min = similarity_min
        self._limit_s = limit_s
        self._clock = clock
        self._is_crowded = False
        self._searching: queue.SimpleQueue[Retrieval | None] = queue.SimpleQueue()
        self._voting: queue.SimpleQueue[_Case | None] = queue.SimpleQueue()
        self._open: deque[_Case] = deque()  # in the order of their deadlines
        self._changed = threading.Condition()
        self._is_closed = self._is_asleep = False
        works = [("search", self._search), ("vote", self._vote)] * THREADS + [("clock", self._watch)]
        self._threads = [threading.Thread(target=work, name=f"consult-{name}", daemon=True) for name, work in works]
        for thread in self._threads:
            thread.start()

    def retrieve(self, trace_id: str, visual: Vector, text: Vector, answer_type: AnswerType) -> Retrieval:
        """Begin to look for who is similar to what was seen (zero: nothing) and asked. Returns at once."""
        retrieval = Retrieval(trace_id, visual, text, answer_type)
        if self._is_closed or self._searching.qsize() >= WAITING_MAX:
            retrieval.failure = Consultation(None, problem="busy", detail=f"{WAITING_MAX} requests wait for a search")
            retrieval.end()
        else:
            self._searching.put(retrieval)
        return retrieval

    def consult(self, retrieval: Retrieval, vote: Vote, told: Callable[[Consultation], None]) -> None:
        """Put it to the vote, with the policy's own, once; the time limit counts from now on. `told` is called once,
        from a thread of this object, or before this returns if there is no room."""
        case = _Case(retrieval, vote, told, time.perf_counter(), self._limit_s)
        with self._changed:
            is_refused = self._is_closed or self._voting.qsize() >= WAITING_MAX
            if not is_refused:
                self._open.append(case)
                if self._is_asleep:
                    self._changed.notify()
        if is_refused:
            case.end(Consultation(None, problem="busy", detail=f"{WAITING_MAX} requests wait for a vote"))
        elif retrieval.is_over_or(case):
            self._voting.put(case)

    def embedding(self, visual: Vector, text: Vector) -> Vector:
        """Of what was seen and asked, or of a request without images of what was asked. Raises ExperienceRefused."""
        return self._buffer.embedding(visual, text) if visual.any() else text

    def close(self) -> None:
        """What is open is answered without the memory. A thread that hangs is left to itself."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        for _ in range(THREADS):
            self._searching.put(None)
            self._voting.put(None)
        for thread in self._threads:
            thread.join(self._limit_s + 1.0)

    def _search(self) -> None:
        while (retrieval := self._searching.get()) is not None:
            if retrieval.is_wanted:
                try:
                    self._retrieve(retrieval)
                except ExperienceRefused as error:
                    retrieval.failure = Consultation(None, problem="embedding", detail=str(error))
                except Exception as error:  # an index of whomever: nothing that it raises may reach the client
                    retrieval.failure = _failed(error)
            case = retrieval.end()
            if case is not None:  # the policy was faster
                self._decide(case)

    def _vote(self) -> None:
        while (case := self._voting.get()) is not None:
            self._decide(case)

    def _decide(self, case: _Case) -> None:
        if case.is_ended:
            return
        try:
            found = case.retrieval.failure or self._voted(case)
        except Exception as error:  # a plugin of whomever, as above
            found = _failed(error)
        case.end(found)

    def _watch(self) -> None:
        """End what is overdue. The oldest is always first, for all have the same limit: who looks once in that time
        need not be woken for each."""
        busy_at = time.perf_counter()
        while True:
            with self._changed:
                while self._open and self._open[0].is_ended:
                    self._open.popleft()
                now = time.perf_counter()
                if self._open:
                    busy_at = now
                if not self._is_closed and (not self._open or self._open[0].deadline > now):
                    self._is_asleep = now > busy_at + AWAKE_S
                    wait_s = self._open[0].deadline - now if self._open else self._limit_s
                    self._changed.wait(None if self._is_asleep else wait_s)
                    busy_at = time.perf_counter() if self._is_asleep else busy_at
                    self._is_asleep = False
                    continue
                overdue = [self._open.popleft()] if not self._is_closed else [*self._open]
            for case in overdue:
                case.end(Consultation(None, problem="timeout", detail=f"no vote within {self._limit_s * 1000:g} ms"))
            if self._is_closed:
                return

    def _retrieve(self, retrieval: Retrieval) -> None:
        """Look for twice as many as are to vote, which takes hardly longer than as many; for four times as many where
        those were too few: of a client only the nearest is heard, however often it has asked the same."""
        few, many = (times * self._neighbors - 1 for times in ASKED_TIMES)  # the search adds the one that is excluded
        retrieval.embedding = self.embedding(retrieval.visual, retrieval.text)
        retrieval.near = self._nearest(retrieval, many if self._is_crowded else few)
        votes, num_asked = self._votes(retrieval)  # reads what nobody has read yet, so that the vote need not
        if not self._is_crowded and len(votes) < self._neighbors and len(retrieval.near) == few:
            retrieval.near = self._nearest(retrieval, many)
            _, num_asked = self._votes(retrieval)
        self._is_crowded = num_asked > few  # the next question is likely to be like this one

    def _nearest(self, retrieval: Retrieval, most: int) -> list[Neighbor]:
        assert retrieval.embedding is not None
        found = self._buffer.search_index(retrieval.embedding, most, exclude=(retrieval.trace_id,))
        return [neighbor for neighbor in found if neighbor.similarity >= self._similarity_min]

    def _voted(self, case: _Case) -> Consultation:
        votes, _ = self._votes(case.retrieval)
        if not votes:
            return Consultation(None)
        ballots = tuple(votes.values())
        return Consultation(self._voter.vote(case.vote, ballots, case.retrieval.answer_type), tuple(votes), ballots)

    def _votes(self, retrieval: Retrieval) -> tuple[dict[str, Vote], int]:
        """The votes by experience, the nearest first, one of each source; how many were asked for theirs."""
        votes: dict[str, Vote] = {}
        sources = set[str]()
        now, num_asked = self._clock(), 0
        for neighbor in retrieval.near:
            if len(votes) == self._neighbors:
                break
            num_asked += 1
            ballot = self._ballots.of(neighbor.id)
            if ballot is None or ballot.answer_type != retrieval.answer_type or ballot.source in sources:
                continue
            sources.add(ballot.source)
            votes[neighbor.id] = ballot.vote(neighbor.similarity, now)
        return votes, num_asked


class _Case:
    """A vote on its way; whoever ends it first has answered it."""

    def __init__(
        self, retrieval: Retrieval, vote: Vote, told: Callable[[Consultation], None], begun: float, limit_s: float
    ) -> None:
        self.retrieval = retrieval
        self.vote = vote
        self.deadline = begun + limit_s
        self.is_ended = False
        self._told = told
        self._begun = begun
        self._lock = threading.Lock()

    def end(self, found: Consultation) -> None:
        with self._lock:
            if self.is_ended:
                return
            self.is_ended = True
        self._told(replace(found, elapsed_ms=(time.perf_counter() - self._begun) * 1000))


def _failed(error: Exception) -> Consultation:
    return Consultation(None, problem="failed", detail=whereabouts(error))


def supporters(votes: VotingResult) -> Sequence[Vote]:
    """The votes beside the policy's that the consensus rests on."""
    return [each.vote for each in votes.provenance[1:] if each.agrees and each.weight > 0]


__all__ = ["ASKED_TIMES", "AWAKE_S", "THREADS", "WAITING_MAX", "Consultant", "Consultation", "Retrieval", "supporters"]
