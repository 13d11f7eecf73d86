"""The path of a request, of which nothing else may take time: predict, consult, vote, arbitrate, respond."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from share.kernel.contracts.serving import Expert, Listener, Reply, Request
from share.kernel.contracts.trajectory import Trajectory
from share.kernel.contracts.voting import Vote
from share.kernel.data.checkers import canonical
from share.kernel.errors import EngineClosed, ExperienceRefused, PixelisError, RequestDropped
from share.kernel.experience.buffer import ExperienceBuffer
from share.kernel.experience.latency import SIZE, Latencies
from share.kernel.serving.batching import Asked, Batcher, Prediction
from share.kernel.serving.consultation import Consultant, Consultation, Retrieval
from share.kernel.serving.engine_config import EngineConfig
from share.kernel.serving.evidence import EXPERTS, Evidence
from share.kernel.serving.in_flight import InFlight
from share.kernel.serving.recording import POLICY, Answered
from share.kernel.serving.releases import Releases
from share.kernel.serving.statistics import Quantiles, RequestStatistics
from share.kernel.serving.troubles import Troubles
from share.kernel.serving.versions import FROZEN

if TYPE_CHECKING:
    from share.kernel.contracts.experience import Vector

UPDATES_UNTIL, MEMORY_UNTIL = 0.5, 0.8
"""What is given up under load, in this order, each above that part of what may wait (`Batcher.load`): answers are not
learned from; no experience is asked; and last, at 1, the service lets nobody in."""

UNKNOWN = "(unknown)"
"""What calls of operations that there are not are counted as: a name that a policy made up, from a question perhaps,
must become neither a figure nor a label."""

STEPS = ("queue", "predict", "consult", "total")


@dataclass(slots=True, eq=False)
class _Asking:
    """A request on its way. `begun` is on the clock of `time.monotonic`; `retrieval` began when it was read, if one
    was to."""

    request: Request
    begun: float
    answer: Future[Reply]
    retrieval: Retrieval | None = None


class Answering:
    """Answers requests with what it is given. Thread-safe.

    `follow` is told of every answered request that may leave a trace, after its client was.
    """

    def __init__(
        self,
        config: EngineConfig,
        batcher: Batcher,
        buffer: ExperienceBuffer,
        consultant: Consultant,
        evidence: Evidence,
        releases: Releases,
        in_flight: InFlight,
        troubles: Troubles,
        follow: Callable[[Answered], None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._batcher = batcher
        self._buffer = buffer
        self._consultant = consultant
        self._evidence = evidence
        self._releases = releases
        self._in_flight = in_flight
        self._troubles = troubles
        self._follow = follow
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._operations: Counter[str] = Counter()
        self._latencies = {step: Latencies() for step in STEPS}
        self._entropies: deque[float] = deque(maxlen=SIZE)

    def submit(self, request: Request, listener: Listener | None = None) -> Future[Reply]:
        """Ask for an answer. The future raises ServiceFull, DeadlineExceeded, RequestDropped, EngineClosed, or what the
        policy raised; it cannot be cancelled, the listener says who is gone."""
        answer: Future[Reply] = Future()
        answer.set_running_or_notify_cancel()
        begun = time.monotonic()
        if not self._in_flight.enter():
            answer.set_exception(EngineClosed("no more requests are taken: the engine is ending"))
            return answer
        asking = _Asking(request, begun, answer)
        try:
            predicted = self._batcher.submit(
                request,
                expert=cast(Asked, self._evidence.policy),
                listener=listener,
                seen=lambda visual, text: self._seen(asking, visual, text),
            )
        except PixelisError as error:
            self._fail(answer, error)
            return answer
        predicted.add_done_callback(lambda done: self._predicted(asking, done))
        return answer

    @property
    def trust(self) -> float:
        """How far the memory is believed for its size: gradual, and the same after a restart."""
        size = len(self._buffer)
        return size / (size + self._config.gate.cold_start_threshold)

    @property
    def num_consulted(self) -> int:
        """Answers for which somebody similar had a say."""
        return self._counts["consulted"]

    def statistics(self) -> RequestStatistics:
        counts, entropies = self._counts, list(self._entropies)
        return RequestStatistics(
            answered=counts["answered"],
            failed=counts["failed"],
            dropped=counts["dropped"],
            read_only=counts["read_only"],
            waiting=self._batcher.num_waiting,
            by_expert={expert: counts[f"by:{expert}"] for expert in EXPERTS},
            entropy=float(np.mean(entropies)) if entropies else None,
            operations=dict(self._operations),
            latency={step: _quantiles(each) for step, each in self._latencies.items()},
        )

    def _seen(self, asking: _Asking, visual: Vector, text: Vector) -> None:
        """In the batcher's thread, so that it returns at once: the search runs while the policy writes."""
        if len(self._buffer) and self._batcher.load <= MEMORY_UNTIL:
            asking.retrieval = self._retrieved(asking.request, visual, text)

    def _predicted(self, asking: _Asking, done: Future[Prediction]) -> None:
        """In the batcher's thread too."""
        error, retrieval = done.exception(), asking.retrieval
        if error is not None:
            if retrieval is not None:
                retrieval.drop()
            self._fail(asking.answer, error)
            return
        prediction = done.result()

        def told(consultation: Consultation) -> None:
            self._respond(asking, prediction, consultation)

        if not len(self._buffer):
            told(Consultation(None))
        elif self._batcher.load > MEMORY_UNTIL:
            told(Consultation(None, problem="busy", detail="too many requests wait"))
        else:
            if retrieval is None:  # when it was read too many waited, or nothing was remembered
                visual, text = prediction.visual_embedding, prediction.text_embedding
                retrieval = asking.retrieval = self._retrieved(asking.request, visual, text)
            confidence = self._evidence.calibrated("frozen", prediction.confidence)
            audited, right = self._evidence.record_of(_ran(prediction))
            vote = Vote(POLICY, prediction.answer, confidence, retrieval_count=audited, success_count=right)
            self._consultant.consult(retrieval, vote, told)

    def _retrieved(self, request: Request, visual: Vector, text: Vector) -> Retrieval:
        return self._consultant.retrieve(request.trace_id, visual, text, request.answer_type)

    def _respond(self, asking: _Asking, prediction: Prediction, consultation: Consultation) -> None:
        """Arbitrate, and tell the client; then what is to be done behind the answer."""
        try:
            answered = self._arbitrated(asking, prediction, consultation)
        except BaseException as error:  # whatever it is, a client waits to be told
            self._fail(asking.answer, error)
            raise
        self._count(answered)
        asking.answer.set_result(answered.reply)
        try:
            if not asking.request.read_only:
                self._follow(answered)
        finally:
            self._in_flight.leave()

    def _arbitrated(self, asking: _Asking, prediction: Prediction, consultation: Consultation) -> Answered:
        request, begun = asking.request, asking.begun
        votes, live = consultation.votes, self._releases.live
        ran = _ran(prediction)
        are_one = live == FROZEN and ran == "frozen"
        given: Expert = ran
        text, confidence = prediction.answer, prediction.confidence
        if votes is not None:
            is_other = canonical(votes.answer, request.answer_type) != canonical(text, request.answer_type)
            if is_other and self._evidence.overrules(ran, self.trust, are_one=are_one):
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
            embedding=self._embedding(asking, prediction),
            consultation=consultation,
            answers=answers,
            confidence=confidence,
            entropy=prediction.entropy,
            adapted_version=live if ran == "frozen" else prediction.policy_version,
            begun=begun,
            at=self._clock(),
        )

    def _embedding(self, asking: _Asking, prediction: Prediction) -> Vector | None:
        """As the search has made it, or made now; None where it is refused."""
        retrieval = asking.retrieval
        if retrieval is not None and retrieval.embedding is not None:
            return retrieval.embedding
        try:
            return self._consultant.embedding(prediction.visual_embedding, prediction.text_embedding)
        except ExperienceRefused:
            return None

    def _fail(self, answer: Future[Reply], error: BaseException) -> None:
        self._counts["dropped" if isinstance(error, RequestDropped) else "failed"] += 1
        answer.set_exception(error)
        self._in_flight.leave()

    def _count(self, answered: Answered) -> None:
        request, reply = answered.request, answered.reply
        self._counts["answered"] += 1
        self._counts["read_only"] += request.read_only
        self._counts[f"by:{reply.expert}"] += 1
        self._entropies.append(answered.entropy)
        self._operations.update(operations_called(reply.trajectory, self._batcher.operator.operations))
        for step, elapsed_ms in reply.elapsed_ms.items():
            self._latencies[step].record(elapsed_ms / 1000)
        consultation = answered.consultation
        self._counts["consulted"] += consultation.votes is not None
        if consultation.problem is not None:
            reason, detail = consultation.problem, consultation.detail
            self._troubles.note("policy_only", reason, f"the policy answered alone: {detail}", quiet=request.read_only)


def operations_called(trajectory: Trajectory, known: Collection[str]) -> list[str]:
    """What each call counts as: its operation, or UNKNOWN."""
    return [UNKNOWN if action.operation not in known else str(action.operation) for action in trajectory.operations]


def _ran(prediction: Prediction) -> Expert:
    return "frozen" if prediction.policy_version == FROZEN else "adapted"


def _quantiles(latencies: Latencies) -> Quantiles:
    p50, p95, p99 = (latencies.percentile_ms(percent) for percent in (50, 95, 99))
    return Quantiles(latencies.count, p50, p95, p99)


__all__ = ["MEMORY_UNTIL", "STEPS", "UNKNOWN", "UPDATES_UNTIL", "Answering", "operations_called"]
