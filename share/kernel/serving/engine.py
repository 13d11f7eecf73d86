"""The online engine: answers, remembers, learns, and never gets worse for it.

The path of a request: predict, consult the memory, vote, arbitrate, respond. Everything else is done behind the answer,
by one thread: record, gate, queue for review, send an update, publish. Nothing there can delay an answer or make it
fail: with the worker dead, the disk full, the index broken or the audit log gone, requests are answered.

What serves is believed as far as audited items bear it out: without any, every answer is the shipped policy's.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from share.kernel.adaptation.audit import Action
from share.kernel.adaptation.gate import GateRequest, entropy_of, label_key
from share.kernel.adaptation.review import ReviewQueue
from share.kernel.contracts.kinds import Voter
from share.kernel.contracts.serving import Expert, Listener, Reply, Request
from share.kernel.contracts.voting import Vote
from share.kernel.data.checkers import canonical
from share.kernel.errors import (
    BufferProblem,
    EngineClosed,
    ExperienceRefused,
    PixelisError,
    ReviewProblem,
    UnknownTrace,
)
from share.kernel.events import StructuredLogger
from share.kernel.experience.buffer import ExperienceBuffer
from share.kernel.experience.latency import SIZE, Latencies
from share.kernel.privacy.redaction import Redactor
from share.kernel.serving.audit_trail import AuditTrail
from share.kernel.serving.batching import Asked, Batcher, Prediction
from share.kernel.serving.behind import Behind
from share.kernel.serving.consultation import Consultant, Consultation, Question, supporters
from share.kernel.serving.engine_config import EngineConfig
from share.kernel.serving.evidence import Evidence
from share.kernel.serving.gate_log import LoggedGate
from share.kernel.serving.pictures import Pictures
from share.kernel.serving.recording import POLICY, Answered, Recorder, subject_key
from share.kernel.serving.releases import ENGINE, Releases
from share.kernel.serving.review_item import ReviewItem, ReviewOutcome
from share.kernel.serving.reviews import Reviews
from share.kernel.serving.statistics import MemoryStatistics, Quantiles, RequestStatistics, Statistics
from share.kernel.serving.troubles import Troubles
from share.kernel.serving.update_task import RESTORE, LearnTask, UpdateResult
from share.kernel.serving.updates import Updates
from share.kernel.serving.versions import FROZEN
from share.kernel.transport.supervisor import WorkerSupervisor

if TYPE_CHECKING:
    from share.kernel.contracts.experience import Vector
    from share.kernel.media.operator import Operator
    from share.kernel.policy.loading import Policy

TEND_S = 10.0
"""Seconds between two looks at what could not be done before."""

UPDATES_UNTIL, MEMORY_UNTIL = 0.5, 0.8
"""Parts of the batcher's queue: with more waiting, answers are learned from no more, and with still more nor asked."""

RECENT_MAX = 10_000
"""Answered requests whose client is remembered until they are recorded."""

OTHERS_MAX = 64
"""Audited requests for which the policy that did not answer is still to be asked."""

STEPS = ("queue", "predict", "consult", "total")


class InferenceEngine:
    """Answers requests, and learns behind the answers. All methods may be called from any thread.

    `directory` holds what is durable of it beside the buffer: reviews, evidence, releases, the audit log, gate
    decisions, images. The engine owns what it is given, and `close` ends it all; `supervisor` is None where nothing is
    to be learned. `seed` draws the audited share; `clock` gives seconds since 1970. Raises ReviewProblem when the
    review queue cannot be opened.
    """

    def __init__(
        self,
        config: EngineConfig,
        directory: Path,
        *,
        batcher: Batcher,
        buffer: ExperienceBuffer,
        voter: Voter,
        redactor: Redactor,
        supervisor: WorkerSupervisor | None,
        worker_directory: Path,
        logger: StructuredLogger,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._config = config
        self._batcher = batcher
        self._buffer = buffer
        self._clock = clock
        self._troubles = Troubles(logger)
        self._queue = ReviewQueue(directory / "reviews.sqlite", config.review, seed=seed, clock=clock)
        self._trail = AuditTrail(directory / "audit.log", self._troubles, clock=clock)
        self._evidence = Evidence(directory / "evidence.json", config, logger, clock=clock)
        self._releases = Releases(
            directory / "releases.json", batcher.served, self._trail, self._evidence, self._troubles
        )
        self._gate = LoggedGate(directory / "gate", config.gate, logger, clock=clock)
        self._pictures = Pictures(
            directory / "images" if config.keep_images else None, bytes_max=config.images_bytes_max
        )
        self._recorder = Recorder(redactor)
        self._updates = Updates(
            supervisor, worker_directory, self._trail, self._releases, self._troubles, self._told_of_update
        )
        self._reviews = Reviews(
            config,
            self._queue,
            buffer,
            self._recorder,
            self._evidence,
            self._pictures,
            self._trail,
            self._updates,
            self._troubles,
            clock=clock,
        )
        self._consultant = Consultant(
            buffer,
            voter,
            neighbors=config.neighbors,
            similarity_min=config.similarity_min,
            limit_s=config.consult_ms / 1000,
            clock=clock,
        )
        self._behind = Behind(config.behind_max, self._troubles)
        self._counts: Counter[str] = Counter()
        self._operations: Counter[str] = Counter()
        self._gated: Counter[str] = Counter()
        self._latencies = {step: Latencies() for step in STEPS}
        self._entropies: deque[float] = deque(maxlen=SIZE)
        self._recent: OrderedDict[str, str] = OrderedDict()
        self._erased_at: dict[str, float] = {}
        self._num_others = 0
        self._num_open = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._started_at = clock()
        self._try("not_audited", lambda: self._trail.append(ENGINE, "start"))
        self._tending = threading.Event()
        self._tender = threading.Thread(target=self._tend, name="engine-upkeep", daemon=True)
        self._tender.start()

    @property
    def policy(self) -> Policy:
        """The policy as it was shipped."""
        return self._batcher.served.frozen().policy

    @property
    def operator(self) -> Operator:
        """The operations that the policy may call."""
        return self._batcher.operator

    # Answering

    def submit(self, request: Request, listener: Listener | None = None) -> Future[Reply]:
        """Ask for an answer. The future raises ServiceFull, DeadlineExceeded, RequestDropped, EngineClosed, or what the
        policy raised; it cannot be cancelled, the listener says who is gone."""
        answer: Future[Reply] = Future()
        answer.set_running_or_notify_cancel()
        begun = time.monotonic()
        with self._changed:
            if self._is_closed:
                answer.set_exception(EngineClosed("no more requests are taken: the engine is ending"))
                return answer
            self._num_open += 1
        try:
            predicted = self._batcher.submit(request, expert=cast(Asked, self._evidence.policy), listener=listener)
        except PixelisError as error:
            self._fail(answer, error)
            return answer
        predicted.add_done_callback(lambda done: self._predicted(request, begun, done, answer))
        return answer

    def infer_and_adapt(self, request: Request) -> Reply:
        """Ask for an answer and wait for it. Raises as the future of `submit`."""
        return self.submit(request).result()

    def _predicted(self, request: Request, begun: float, done: Future[Prediction], answer: Future[Reply]) -> None:
        """In the batcher's thread, so that it returns at once."""
        error = done.exception()
        if error is not None:
            self._fail(answer, error)
            return
        prediction = done.result()
        embedding, problem = self._embedding(prediction)

        def told(consultation: Consultation) -> None:
            self._respond(request, begun, prediction, embedding, consultation, answer)

        if embedding is None:
            told(Consultation(None, problem="embedding", detail=problem))
        elif not len(self._buffer):
            told(Consultation(None))
        elif self._load > MEMORY_UNTIL:
            told(Consultation(None, problem="busy", detail="too many requests wait"))
        else:
            confidence = self._evidence.calibrated("frozen", prediction.confidence)
            audited, right = self._evidence.record_of(_ran(prediction))
            vote = Vote(POLICY, prediction.answer, confidence, retrieval_count=audited, success_count=right)
            self._consultant.consult(Question(request.trace_id, embedding, vote, request.answer_type), told)

    def _respond(
        self,
        request: Request,
        begun: float,
        prediction: Prediction,
        embedding: Vector | None,
        consultation: Consultation,
        answer: Future[Reply],
    ) -> None:
        """Arbitrate, and tell the client; then what is to be done behind the answer."""
        try:
            answered = self._arbitrated(request, begun, prediction, embedding, consultation)
        except BaseException as error:  # whatever it is, a client waits to be told
            self._fail(answer, error)
            raise
        self._count(answered, prediction)
        if not request.read_only:
            self._remember_client(request)
        answer.set_result(answered.reply)
        if not request.read_only:
            self._follow_up(answered)
        self._close_one()

    def _arbitrated(
        self,
        request: Request,
        begun: float,
        prediction: Prediction,
        embedding: Vector | None,
        consultation: Consultation,
    ) -> Answered:
        votes, live = consultation.votes, self._releases.live
        ran = _ran(prediction)
        are_one = live == FROZEN and ran == "frozen"
        given: Expert = ran
        text, confidence = prediction.answer, prediction.confidence
        if votes is not None:
            is_other = canonical(votes.answer, request.answer_type) != canonical(text, request.answer_type)
            if is_other and self._evidence.overrules(ran, self._trust, are_one=are_one):
                given, text, confidence = "memory", votes.answer, votes.confidence
        answers: dict[Expert, str | None] = dict.fromkeys(("frozen", "adapted"), prediction.answer if are_one else None)
        answers |= {ran: prediction.answer, "memory": votes.answer if votes is not None else prediction.answer}
        total_ms = (time.monotonic() - begun) * 1000
        reply = Reply(
            trace_id=request.trace_id,
            answer=text,
            confidence=self._evidence.calibrated(given, confidence),
            path="consensus" if given == "memory" else "policy",
            expert=given,
            policy_version=prediction.policy_version,
            trajectory=prediction.trajectory,
            votes=votes,
            prompt_tokens=prediction.prompt_tokens,
            completion_tokens=prediction.completion_tokens,
            elapsed_ms={
                "queue": prediction.queue_ms,
                "predict": prediction.predict_ms,
                "consult": consultation.elapsed_ms,
                "total": total_ms,
            },
        )
        return Answered(
            request=request,
            reply=reply,
            embedding=embedding,
            consultation=consultation,
            answers=answers,
            confidence=confidence,
            entropy=prediction.entropy,
            adapted_version=live,
            begun=begun,
            at=self._clock(),
        )

    def _embedding(self, prediction: Prediction) -> tuple[Vector | None, str]:
        """What was seen and asked, or of a request without images what was asked; or why there is none."""
        if not prediction.visual_embedding.any():
            return prediction.text_embedding, ""
        try:
            return self._buffer.embedding(prediction.visual_embedding, prediction.text_embedding), ""
        except ExperienceRefused as error:
            return None, str(error)

    def _fail(self, answer: Future[Reply], error: BaseException) -> None:
        self._counts["failed"] += 1
        answer.set_exception(error)
        self._close_one()

    def _close_one(self) -> None:
        with self._changed:
            self._num_open -= 1
            self._changed.notify_all()

    def _count(self, answered: Answered, prediction: Prediction) -> None:
        request, reply = answered.request, answered.reply
        self._counts["answered"] += 1
        self._counts["read_only"] += request.read_only
        self._counts[f"by:{reply.expert}"] += 1
        self._entropies.append(prediction.entropy)
        self._operations.update(each.operation for each in reply.trajectory.operations if each.operation is not None)
        for step, elapsed_ms in reply.elapsed_ms.items():
            self._latencies[step].record(elapsed_ms / 1000)
        consultation = answered.consultation
        self._counts["consulted"] += consultation.votes is not None
        if consultation.problem is not None:
            reason, detail = consultation.problem, consultation.detail
            self._troubles.note("policy_only", reason, f"the policy answered alone: {detail}", quiet=request.read_only)

    @property
    def _load(self) -> float:
        """Part of the batcher's queue that is taken."""
        return self._batcher.num_waiting / self._batcher.config.queue_max

    @property
    def _trust(self) -> float:
        """How far the memory is believed for its size: gradual, and the same after a restart."""
        size = len(self._buffer)
        return size / (size + self._config.gate.cold_start_threshold)

    # Behind the answer

    def _follow_up(self, answered: Answered) -> None:
        """Of an audited request the policy that did not answer is asked too: audited items judge both."""
        asked: Asked = "frozen" if answered.answers["frozen"] is None else "adapted"
        if answered.answers[asked] is None and self._queue.is_audited(answered.request.trace_id):
            with self._changed:
                is_room = self._num_others < OTHERS_MAX and not self._is_closed
                self._num_others += is_room
            if is_room and self._ask_other(answered, asked):
                return
        self._record_behind(answered)

    def _ask_other(self, answered: Answered, asked: Asked) -> bool:
        request = replace(answered.request, deadline=None)
        try:
            other = self._batcher.submit(request, expert=asked, background=True)
        except PixelisError as error:
            self._troubles.note("other_not_asked", type(error).__name__, str(error))
            with self._changed:
                self._num_others -= 1
            return False
        with self._changed:
            self._num_open += 1

        def told(done: Future[Prediction]) -> None:
            whole = answered
            # One that meanwhile has other weights is not the one that could have answered.
            expected = FROZEN if asked == "frozen" else answered.adapted_version
            if done.exception() is None and done.result().policy_version == expected:
                whole = replace(answered, answers={**answered.answers, asked: done.result().answer})
            self._record_behind(whole)
            with self._changed:
                self._num_others -= 1
            self._close_one()

        other.add_done_callback(told)
        return True

    def _record_behind(self, answered: Answered) -> None:
        if not self._behind.offer(lambda: self._record(answered)):
            message = f"{self._config.behind_max} answers wait to be recorded"
            self._troubles.note("not_recorded", "full", message)

    def _record(self, answered: Answered) -> None:
        request = answered.request
        key = subject_key(request.subject)
        if key is not None and self._erased_at.get(key, 0.0) >= answered.begun:
            return
        if answered.embedding is None:
            self._troubles.note("not_recorded", "embedding", "what was seen and asked has no embedding")
            return
        experience = self._recorder.experience(answered, answered.embedding)
        try:
            self._buffer.add(experience)
        except BufferProblem as error:
            self._troubles.note("not_recorded", type(error).__name__, str(error))
            return
        self._counts["recorded"] += 1
        self._pictures.hold(request.trace_id, request.images, key)
        try:
            if self._reviews.offer(experience, is_unsure=experience.confidence < self._config.unsure_below):
                return
        except ReviewProblem as error:
            self._troubles.note("not_offered", type(error).__name__, str(error))
        self._learn_unaudited(answered, answered.embedding)

    def _learn_unaudited(self, answered: Answered, embedding: Vector) -> None:
        """What the memory agrees on may be learned from, if the gate lets it; what nobody else says may not: to learn
        one's own answers makes surer, not better."""
        request, votes = answered.request, answered.consultation.votes
        if votes is None or not supporters(votes) or self._updates.state != "on" or self._load > UPDATES_UNTIL:
            return
        asked = GateRequest(
            request_id=request.trace_id,
            client=request.client,
            label=label_key(votes.answer, request.answer_type),
            confidence=self._evidence.calibrated("memory", votes.confidence),
            entropy=entropy_of(votes.shares),
            buffer_size=len(self._buffer),
        )
        try:
            decision = self._gate.decide(asked, embedding)
        except OSError as error:
            self._troubles.note("gate_not_logged", type(error).__name__, str(error))
            return
        self._gated[decision.reason] += 1
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
            self._updates.learn(f"gated-{request.trace_id}", lesson, request.images)

    def _told_of_update(self, task_id: str, kind: str, result: UpdateResult | None) -> None:
        """From the supervisor's thread."""
        self._behind.take(lambda: self._updated(task_id, kind, result))

    def _updated(self, task_id: str, kind: str, result: UpdateResult | None) -> None:
        is_done = False
        try:
            if result is not None and kind == RESTORE:
                self._releases.restored(task_id)
            elif result is not None:
                if result.qualification is not None:
                    self._releases.count(qualified=not result.qualification.failures)
                if result.version is not None:
                    self._releases.publish(result.version, result.parent, task_id=task_id)
            is_done = result is not None
        finally:
            self._reviews.updated(task_id, is_done=is_done)

    def settle(self) -> None:
        """Wait until everything is recorded that was answered before, and what was confirmed is published."""
        with self._changed:
            self._changed.wait_for(lambda: not self._num_open)
        self._behind.ask(lambda: None)

    # Reviewing

    def process_human_review_decision(
        self, task_id: str, approved: bool, reviewer_notes: str = "", *, reviewer: str, answer: str | None = None
    ) -> ReviewOutcome:
        """Keep a reviewer's decision and do what follows from it, once however often it is said.

        Approved, the answer is right: exactly one update is made of it. Rejected, it is wrong, and `answer` is the
        right one if the reviewer knows it. Raises UnknownReview, ReviewConflict, ReviewProblem, BufferProblem.
        """
        outcome = self._reviews.decide(task_id, approved, reviewer, reviewer_notes, answer)
        if self._releases.check():
            self._updates.restore()
        return outcome

    def lease_reviews(self, reviewer: str, num_items: int = 1) -> list[ReviewItem]:
        """Items for a reviewer, kept from others for a while. Raises ReviewProblem."""
        return self._reviews.lease(reviewer, num_items)

    def review_item(self, task_id: str) -> ReviewItem:
        """One item that waits or was decided. Raises UnknownReview."""
        return self._reviews.item(task_id)

    def record_feedback(self, trace_id: str, correct: bool, *, client: str, answer: str | None = None) -> None:
        """What a client says of an answer it got: no evidence, but where it was wrong a reason for a person to look.

        Raises UnknownTrace.
        """
        asked_by = self._recent.get(trace_id)
        if asked_by is None and (experience := self._buffer.get(trace_id)) is not None:
            asked_by = cast(str, experience.metadata.get("client"))
        if asked_by != client:
            raise UnknownTrace(f"trace {trace_id}: no such request of this client; it expired, or was never recorded")
        self._counts["feedback:right" if correct else "feedback:wrong"] += 1
        if not correct and not self._behind.offer(lambda: self._doubt(trace_id, answer)):
            self._troubles.note("not_offered", "full", f"{self._config.behind_max} answers wait to be recorded")

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

    # Operating

    def erase(self, subject: str, *, actor: str) -> int:
        """Erase everything about a person from memory and every file; says how many experiences went.

        Versions that learned from them stay. Raises AuditUnavailable, BufferProblem, ReviewProblem, OSError: then it is
        to be asked for again.
        """
        key = subject_key(subject)
        assert key is not None
        self._trail.append(actor, "erase", reason="subject")
        self._erased_at[key] = time.monotonic()

        def removed() -> int:
            self._pictures.erase(key)
            self._queue.erase(key)
            return self._buffer.erase(key)

        count = self._behind.ask(removed)
        self._buffer.compact()
        self._counts["erasures"] += 1
        return count

    def roll_back(self, *, actor: str, reason: str) -> str:
        """Serve the version before; returns its name, `frozen` for the shipped policy. Raises AuditUnavailable,
        OSError: then nothing has changed."""
        version = self._releases.roll_back(actor=actor, reason=reason)
        self._updates.restore()
        return version

    def reset(self, *, actor: str, reason: str) -> str:
        """Serve the shipped policy again; returns `frozen`. Raises as `roll_back`."""
        version = self._releases.reset(actor=actor, reason=reason)
        self._updates.restore()
        return version

    def set_learning(self, on: bool, *, actor: str) -> None:
        """Send updates, or none until told otherwise; on also resumes after workers died too often.

        Raises AuditUnavailable, OSError: then nothing has changed.
        """
        self._releases.set_learning(on, actor=actor)
        if on:
            self._updates.resume()
            self._tending.set()

    def note(self, actor: str, action: Action, *, reason: str = "", task_id: str = "") -> None:
        """Write into the audit log what is about to be done beside the engine, such as a key made.

        Raises AuditUnavailable, and then it must not be done.
        """
        self._trail.append(actor, action, reason=reason, task_id=task_id)

    def get_statistics(self) -> Statistics:
        counts = Counter(self._counts)
        try:
            reviews = self._queue.counts()
        except ReviewProblem as error:
            self._troubles.note("reviews_unavailable", type(error).__name__, str(error))
            reviews = {}
        entropies = list(self._entropies)
        experts: tuple[Expert, ...] = ("frozen", "adapted", "memory")
        return Statistics(
            started_at=self._started_at,
            behind=self._behind.waiting,
            requests=RequestStatistics(
                answered=counts["answered"],
                failed=counts["failed"],
                read_only=counts["read_only"],
                waiting=self._batcher.num_waiting,
                by_expert={expert: counts[f"by:{expert}"] for expert in experts},
                entropy=float(np.mean(entropies)) if entropies else None,
                operations=dict(self._operations),
                latency={step: _quantiles(each) for step, each in self._latencies.items()},
            ),
            memory=MemoryStatistics(
                consulted=counts["consulted"],
                policy_only=self._troubles.counts("policy_only"),
                recorded=counts["recorded"],
                not_recorded=self._troubles.counts("not_recorded"),
                trust=self._trust,
                buffer=self._buffer.metrics(),
            ),
            evidence=self._evidence.statistics(),
            learning=self._updates.statistics(self._gated),
            releases=self._releases.statistics(),
            reviews=reviews,
            feedback={name: counts[f"feedback:{name}"] for name in ("right", "wrong")},
            erasures=counts["erasures"],
            troubles=self._troubles.all(),
        )

    def is_ready(self) -> bool:
        """Whether requests are answered; a dead worker does not change that."""
        return not self._is_closed

    def close(self) -> None:
        """Take nothing more, finish what was taken, sync, end the worker."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
        self._batcher.close()
        with self._changed:
            self._changed.wait_for(lambda: not self._num_open)
        self._consultant.close()
        self._tending.set()
        self._tender.join()
        self._updates.close()
        self._behind.close()
        self._gate.close()
        self._queue.close()
        self._buffer.close()
        self._try("not_audited", lambda: self._trail.append(ENGINE, "stop"))
        self._trail.close()

    # Upkeep

    def _tend(self) -> None:
        """What could not be done before, and what has become too old."""
        sweep_at = time.monotonic()
        while not self._is_closed:
            self._try("reviews_not_resumed", self._reviews.resume)
            self._try("harm_not_checked", self._releases.check)
            self._try("worker_not_restored", self._updates.restore)
            if time.monotonic() >= sweep_at:
                sweep_at = time.monotonic() + self._config.sweep_hours * 3600
                self.sweep()
            self._tending.wait(TEND_S)
            self._tending.clear()

    def sweep(self) -> None:
        """Erase what is older than is kept, each part for itself: one that cannot be cleaned now does not keep the
        others from it."""
        days = self._config.retention_days
        self._try("not_swept", lambda: self._buffer.expire(days) and self._buffer.compact())
        self._try("not_swept", self._queue.expire)
        self._try("not_swept", lambda: self._pictures.expire(days))
        self._try("not_swept", lambda: self._gate.expire(days))
        self._try("not_swept", self._evidence.expire)

    def _try(self, part: str, work: Callable[[], object]) -> None:
        try:
            work()
        except (PixelisError, OSError) as error:
            self._troubles.note(part, type(error).__name__, str(error))

    def _remember_client(self, request: Request) -> None:
        with self._changed:
            self._recent[request.trace_id] = request.client
            while len(self._recent) > RECENT_MAX:
                self._recent.popitem(last=False)


def _ran(prediction: Prediction) -> Expert:
    return "frozen" if prediction.policy_version == FROZEN else "adapted"


def _quantiles(latencies: Latencies) -> Quantiles:
    p50, p95, p99 = (latencies.percentile_ms(percent) for percent in (50, 95, 99))
    return Quantiles(latencies.count, p50, p95, p99)


__all__ = ["MEMORY_UNTIL", "OTHERS_MAX", "RECENT_MAX", "STEPS", "TEND_S", "UPDATES_UNTIL", "InferenceEngine"]
