"""What similar experiences say of a request: a k-NN search and a vote, within a time limit, never an error.

Searching and voting run in threads of their own; one more watches the clock. Whatever hangs or breaks there, index,
disk or a stranger's voter, costs an answer the time limit at most, and then the policy answers alone.
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
from share.kernel.experience.buffer import ExperienceBuffer
from share.kernel.serving.ballots import Ballots

if TYPE_CHECKING:
    from share.kernel.contracts.experience import Vector

AWAKE_S = 1.0
"""Seconds without a request after which the clock is not looked at any more until the next."""

THREADS = 2
WAITING_MAX = 64
"""Requests that wait for a thread at most; more are answered by the policy alone."""

ASKED_TIMES = (2, 4)
"""So many times the experiences that are to vote are looked for, and where they are crowded out."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is put to the vote. `embedding` is the hybrid one of the request (float32, D, unit length), `vote` the
    policy's own, `trace_id` the experience that must not vote on itself."""

    trace_id: str
    embedding: Vector
    vote: Vote
    answer_type: AnswerType


@dataclass(frozen=True, slots=True, eq=False)
class Consultation:
    """What came of it. `votes` is None where nobody similar had a say or it went wrong; then `problem` says what did
    (None if nothing did) and `detail` has it in words. `voters` are the experiences that voted, in the order of
    `ballots`."""

    votes: VotingResult | None
    voters: tuple[str, ...] = ()
    ballots: tuple[Vote, ...] = ()
    problem: str | None = None
    detail: str = ""
    elapsed_ms: float = 0.0


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
        self._waiting: queue.SimpleQueue[_Case | None] = queue.SimpleQueue()
        self._open: deque[_Case] = deque()  # in the order of their deadlines
        self._changed = threading.Condition()
        self._is_closed = self._is_asleep = False
        self._threads = [threading.Thread(target=self._work, name=f"consult-{n}", daemon=True) for n in range(THREADS)]
        self._threads.append(threading.Thread(target=self._watch, name="consult-clock", daemon=True))
        for thread in self._threads:
            thread.start()

    def consult(self, question: Question, told: Callable[[Consultation], None]) -> None:
        """Ask; `told` is called once, from a thread of this object, or before this returns if there is no room."""
        case = _Case(question, told, time.perf_counter(), self._limit_s)
        with self._changed:
            is_refused = self._is_closed or self._waiting.qsize() >= WAITING_MAX
            if not is_refused:
                self._open.append(case)
                if self._is_asleep:
                    self._changed.notify()
        if is_refused:
            case.end(Consultation(None, problem="busy", detail=f"{WAITING_MAX} requests wait for a search"))
        else:
            self._waiting.put(case)

    def close(self) -> None:
        """What is open is answered without the memory. A thread that hangs is left to itself."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        for _ in range(THREADS):
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(self._limit_s + 1.0)

    def _work(self) -> None:
        while (case := self._waiting.get()) is not None:
            if case.is_ended:
                continue
            try:
                found = self._asked(case.question)
            except Exception as error:  # a plugin of whomever: nothing that it raises may reach the client
                found = Consultation(None, problem="failed", detail=f"{type(error).__name__}: {error}")
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

    def _asked(self, question: Question) -> Consultation:
        """Look for twice as many as are to vote, which takes hardly longer than as many; for four times as many where
        those were too few: of a client only the nearest is heard, however often it has asked the same."""
        few, many = (times * self._neighbors - 1 for times in ASKED_TIMES)  # the search adds the one that is excluded
        votes, num_asked, num_near = self._votes(question, many if self._is_crowded else few)
        if not self._is_crowded and len(votes) < self._neighbors and num_near == few:
            votes, num_asked, _ = self._votes(question, many)
        self._is_crowded = num_asked > few  # the next question is likely to be like this one
        if not votes:
            return Consultation(None)
        ballots = tuple(votes.values())
        return Consultation(self._voter.vote(question.vote, ballots, question.answer_type), tuple(votes), ballots)

    def _votes(self, question: Question, most: int) -> tuple[dict[str, Vote], int, int]:
        """The votes by experience, the nearest first, one of each source; how many were asked for theirs, and how many
        are near enough of the `most` that were looked for."""
        found = self._buffer.search_index(question.embedding, most, exclude=(question.trace_id,))
        near = [neighbor for neighbor in found if neighbor.similarity >= self._similarity_min]
        votes: dict[str, Vote] = {}
        sources = set[str]()
        now, num_asked = self._clock(), 0
        for neighbor in near:
            if len(votes) == self._neighbors:
                break
            num_asked += 1
            ballot = self._ballots.of(neighbor.id)
            if ballot is None or ballot.answer_type != question.answer_type or ballot.source in sources:
                continue
            sources.add(ballot.source)
            votes[neighbor.id] = ballot.vote(neighbor.similarity, now)
        return votes, num_asked, len(near)


class _Case:
    """A question on its way; whoever ends it first has answered it."""

    def __init__(self, question: Question, told: Callable[[Consultation], None], begun: float, limit_s: float) -> None:
        self.question = question
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


def supporters(votes: VotingResult) -> Sequence[Vote]:
    """The votes beside the policy's that the consensus rests on."""
    return [each.vote for each in votes.provenance[1:] if each.agrees and each.weight > 0]


__all__ = ["ASKED_TIMES", "AWAKE_S", "THREADS", "WAITING_MAX", "Consultant", "Consultation", "Question", "supporters"]
