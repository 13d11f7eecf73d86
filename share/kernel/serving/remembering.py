"""What is done behind an answer: recorded, queued for a person, or learned from if the gate lets it.

One thread does it, in order, and what waits for it is bounded: what there is no room for is given up and counted.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from share.kernel.adaptation.gate import GateRequest, entropy_of, label_key
from share.kernel.adaptation.review import ReviewQueue
from share.kernel.contracts.serving import Request
from share.kernel.errors import BufferProblem, PixelisError, ReviewProblem, UnknownTrace
from share.kernel.experience.buffer import ExperienceBuffer
from share.kernel.serving.answering import UPDATES_UNTIL
from share.kernel.serving.ballots import Ballots
from share.kernel.serving.batching import Asked, Batcher, Prediction
from share.kernel.serving.behind import Behind
from share.kernel.serving.consultation import supporters
from share.kernel.serving.engine_config import EngineConfig
from share.kernel.serving.evidence import Evidence
from share.kernel.serving.gate_log import LoggedGate
from share.kernel.serving.in_flight import InFlight
from share.kernel.serving.pictures import Pictures
from share.kernel.serving.recording import Answered, Recorder
from share.kernel.serving.reviews import Reviews
from share.kernel.serving.subjects import Subjects, unkeyed
from share.kernel.serving.troubles import Troubles
from share.kernel.serving.update_task import LearnTask
from share.kernel.serving.updates import Updates
from share.kernel.serving.versions import FROZEN

if TYPE_CHECKING:
    from share.kernel.contracts.experience import Vector

RECENT_MAX = 10_000
"""Answered requests whose client is remembered until they are recorded."""

OTHERS_MAX = 64
"""Audited requests for which the policy that did not answer is still to be asked."""

ERASED_MAX = 10_000
"""Subjects of whom it is remembered that they were erased while requests of theirs may have been on their way."""

_GATED = "gated-"
"""The id of an update that nobody reviewed is its request's behind this."""


class Remembering:
    """Follows answered requests. Thread-safe; the records are made by the thread of `behind`."""

    def __init__(
        self,
        config: EngineConfig,
        batcher: Batcher,
        buffer: ExperienceBuffer,
        ballots: Ballots,
        queue: ReviewQueue,
        recorder: Recorder,
        subjects: Subjects,
        evidence: Evidence,
        pictures: Pictures,
        gate: LoggedGate,
        reviews: Reviews,
        updates: Updates,
        behind: Behind,
        in_flight: InFlight,
        troubles: Troubles,
    ) -> None:
        self._config = config
        self._batcher = batcher
        self._buffer = buffer
        self._ballots = ballots
        self._queue = queue
        self._recorder = recorder
        self._subjects = subjects
        self._evidence = evidence
        self._pictures = pictures
        self._gate = gate
        self._reviews = reviews
        self._updates = updates
        self._behind = behind
        self._in_flight = in_flight
        self._troubles = troubles
        self._lock = threading.Lock()
        self._recent: OrderedDict[str, str] = OrderedDict()
        self._erased_at: OrderedDict[str, float] = OrderedDict()
        self._num_others = 0
        self.counts: Counter[str] = Counter()
        """`recorded`, and of feedback `right` and `wrong`."""
        self.gated: Counter[str] = Counter()
        """Decisions of the gate by reason."""

    def follow(self, answered: Answered) -> None:
        """Of an audited request the policy that did not answer is asked too: audited items judge both."""
        self._remember_client(answered.request)
        asked: Asked = "frozen" if answered.answers["frozen"] is None else "adapted"
        if answered.answers[asked] is None and self._queue.is_audited(answered.request.trace_id):
            with self._lock:
                is_room = self._num_others < OTHERS_MAX and not self._in_flight.is_closed
                self._num_others += is_room
            if is_room and self._ask_other(answered, asked):
                return
        self._record_behind(answered)

    def feedback(self, trace_id: str, correct: bool, client: str, answer: str | None) -> None:
        """What a client says of an answer. Raises UnknownTrace when it is not the client's own."""
        asked_by = self._recent.get(trace_id)
        if asked_by is None and (experience := self._buffer.get(trace_id)) is not None:
            asked_by = cast(str, experience.metadata.get("client"))
        if asked_by != client:
            raise UnknownTrace(f"trace {trace_id}: no such request of this client; it expired, or was never recorded")
        self.counts["right" if correct else "wrong"] += 1
        if not correct and not self._behind.offer(lambda: self._doubt(trace_id, answer)):
            self._troubles.note("not_offered", "full", f"{self._config.behind_max} answers wait to be recorded")

    def erase(self, subject: str) -> int:
        """Remove what is about a subject and keep what is on its way from being recorded; says how many experiences
        went. Raises BufferProblem, ReviewProblem, OSError."""
        with self._lock:
            self._erased_at[unkeyed(subject)] = time.monotonic()
            while len(self._erased_at) > ERASED_MAX:
                self._erased_at.popitem(last=False)

        def removed() -> int:
            count = 0
            keys = self._subjects.keys(subject)
            try:
                trace_ids = [trace_id for key in keys for trace_id in self._buffer.ids_of(key)]
                self._reviews.erase(keys, trace_ids)
                self._updates.withdraw([_GATED + trace_id for trace_id in trace_ids])
                self._gate.erase(keys, trace_ids)
                for key in keys:
                    self._pictures.erase(key)
                    count += self._buffer.erase(key)
            finally:
                self._ballots.forget_all()
            return count

        return self._behind.ask(removed)

    def _ask_other(self, answered: Answered, asked: Asked) -> bool:
        request = replace(answered.request, deadline=None)
        try:
            other = self._batcher.submit(request, expert=asked, background=True)
        except PixelisError as error:
            self._troubles.note("other_not_asked", type(error).__name__, str(error))
            with self._lock:
                self._num_others -= 1
            return False
        self._in_flight.stay()

        def told(done: Future[Prediction]) -> None:
            whole = answered
            # One that meanwhile has other weights is not the one that could have answered.
            expected = FROZEN if asked == "frozen" else answered.adapted_version
            if done.exception() is None and done.result().policy_version == expected:
                whole = replace(answered, answers={**answered.answers, asked: done.result().answer})
            self._record_behind(whole)
            with self._lock:
                self._num_others -= 1
            self._in_flight.leave()

        other.add_done_callback(told)
        return True

    def _record_behind(self, answered: Answered) -> None:
        if not self._behind.offer(lambda: self._record(answered)):
            message = f"{self._config.behind_max} answers wait to be recorded"
            self._troubles.note("not_recorded", "full", message)

    def _record(self, answered: Answered) -> None:
        request, subject = answered.request, answered.request.subject
        if subject is not None and self._erased_at.get(unkeyed(subject), 0.0) >= answered.begun:
            return
        if answered.embedding is None:
            self._troubles.note("not_recorded", "embedding", "what was seen and asked has no embedding")
            return
        try:
            key = None if subject is None else self._subjects.key(subject)
            experience = self._recorder.experience(answered, answered.embedding, key)
            self._buffer.add(experience)
        except (BufferProblem, OSError) as error:
            self._troubles.note("not_recorded", type(error).__name__, str(error))
            return
        self._ballots.know(experience)
        self.counts["recorded"] += 1
        self._pictures.hold(request.trace_id, request.images, key)
        try:
            if self._reviews.offer(experience, is_unsure=experience.confidence < self._config.unsure_below):
                return
        except ReviewProblem as error:
            self._troubles.note("not_offered", type(error).__name__, str(error))
        self._learn_unaudited(answered, answered.embedding, key)

    def _learn_unaudited(self, answered: Answered, embedding: Vector, subject: str | None) -> None:
        """What the memory agrees on may be learned from, if the gate lets it; what nobody else says may not: to learn
        one's own answers makes surer, not better."""
        request, votes = answered.request, answered.consultation.votes
        if votes is None or not supporters(votes) or self._updates.state != "on" or self._batcher.load > UPDATES_UNTIL:
            return
        task_id = _GATED + request.trace_id
        if not self._updates.has_room(task_id, request.images):
            return  # the gate must not count as learned what cannot be sent
        try:
            asked = GateRequest(
                request_id=request.trace_id,
                client=request.client,
                label=label_key(votes.answer, request.answer_type, self._subjects.secret()),
                confidence=self._evidence.calibrated("memory", votes.confidence),
                entropy=entropy_of(votes.shares),
                buffer_size=len(self._buffer),
            )
            decision = self._gate.decide(asked, embedding, subject)
        except OSError as error:
            self._troubles.note("gate_not_logged", type(error).__name__, str(error))
            return
        self.gated[decision.reason] += 1
        question = self._recorder.redacted(request.question)
        target = self._recorder.redacted(votes.answer)
        if decision.accepted and decision.learning_rate > 0 and question and target:
            lesson = LearnTask(
                question=question,
                answer=target,
                answer_type=request.answer_type,
                kind="gated",
                trust=decision.trust,
                learning_rate=decision.learning_rate,
                is_video=request.is_video,
            )
            self._updates.learn(task_id, lesson, request.images)

    def _doubt(self, trace_id: str, answer: str | None) -> None:
        experience = self._buffer.get(trace_id)
        if experience is None:
            return
        if answer:
            self._reviews.suggest(trace_id, answer)
        try:
            self._reviews.offer(experience, is_unsure=True)
        except ReviewProblem as error:
            self._troubles.note("not_offered", type(error).__name__, str(error))

    def _remember_client(self, request: Request) -> None:
        with self._lock:
            self._recent[request.trace_id] = request.client
            while len(self._recent) > RECENT_MAX:
                self._recent.popitem(last=False)


__all__ = ["ERASED_MAX", "OTHERS_MAX", "RECENT_MAX", "Remembering"]
