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

from share.kernel.contracts.experience import Experience, Neighbor, Status
from share.kernel.contracts.kinds import Voter
from share.kernel.contracts.voting import AnswerType, Vote, VotingResult
from share.kernel.experience.buffer import ExperienceBuffer

if TYPE_CHECKING:
    from share.kernel.contracts.experience import Vector

AWAKE_S = 1.0
"""Seconds without a request after which the clock is not looked at any more until the next."""

THREADS = 2
WAITING_MAX = 64
"""Requests that wait for a thread at most; more are answered by the policy alone."""


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
        voter: Voter,
        *,
        neighbors: int,
        similarity_min: float,
        limit_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._buffer = buffer
        self._voter = voter
        self._neighbors = neighbors
        self._similarity_min = similarity_min
        self._limit_s = limit_s
        self._clock = clock
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
        found = self._buffer.search_index(question.embedding, self._neighbors, exclude=(question.trace_id,))
        near = [neighbor for neighbor in found if neighbor.similarity >= self._similarity_min]
        voters: list[str] = []
        ballots: list[Vote] = []
        for neighbor in near:
            experience = self._buffer.get(neighbor.id)
            if experience is None or not _may_vote(experience, question.answer_type):
                continue
            voters.append(neighbor.id)
            ballots.append(self._ballot(experience, neighbor))
        if not ballots:
            return Consultation(None)
        votes = self._voter.vote(question.vote, ballots, question.answer_type)
        return Consultation(votes, tuple(voters), tuple(ballots))

    def _ballot(self, experience: Experience, neighbor: Neighbor) -> Vote:
        """What a person approved is sure, and the person's word; all else counts once for its client."""
        is_audited = experience.status is Status.APPROVED
        return Vote(
            source=f"review:{experience.id}" if is_audited else f"client:{experience.metadata.get('client', '')}",
            answer=experience.answer,
            confidence=1.0 if is_audited else experience.confidence,
            similarity=neighbor.similarity,
            age_s=max(0.0, self._clock() - experience.created_at),
            retrieval_count=experience.retrieval_count,
            success_count=experience.success_count,
        )


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


def _may_vote(experience: Experience, answer_type: AnswerType) -> bool:
    is_sound = experience.status in (Status.UNVERIFIED, Status.APPROVED)
    return is_sound and bool(experience.answer) and experience.metadata.get("answer_type") == answer_type


def supporters(votes: VotingResult) -> Sequence[Vote]:
    """The votes beside the policy's that the consensus rests on."""
    return [each.vote for each in votes.provenance[1:] if each.agrees and each.weight > 0]


__all__ = ["AWAKE_S", "THREADS", "WAITING_MAX", "Consultant", "Consultation", "Question", "supporters"]
