"""Reviews: what a person is shown, and everything that follows from what they decide, once.

A decision is on disk before anything follows from it, and settled when its update is confirmed and published. In
between it is carried out again after whatever went wrong, a crash among it: each of its steps can be repeated.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast

from share.kernel.adaptation.review import NOTES_CHARACTERS_MAX, ReviewDecision, ReviewQueue
from share.kernel.contracts.experience import Experience, Status
from share.kernel.contracts.serving import Expert
from share.kernel.contracts.trajectory import Trajectory
from share.kernel.contracts.voting import AnswerType
from share.kernel.data.checkers import canonical
from share.kernel.errors import PixelisError, ReviewProblem, UnknownReview
from share.kernel.experience.buffer import ExperienceBuffer
from share.kernel.serving.audit_trail import AuditTrail
from share.kernel.serving.ballots import Ballots
from share.kernel.serving.engine_config import EngineConfig
from share.kernel.serving.evidence import EXPERTS, Audit, Evidence
from share.kernel.serving.pictures import Pictures
from share.kernel.serving.recording import Recorder, opinions_of
from share.kernel.serving.review_item import Effect, ReviewItem, ReviewOutcome
from share.kernel.serving.troubles import Troubles
from share.kernel.serving.update_task import LearnTask
from share.kernel.serving.updates import Updates

PREFIX = "review-"
"""An update's id is its review's behind this."""

SUGGESTIONS_MAX = 1000
ANSWER_CHARACTERS_MAX = 2_000

Verdict = Literal["approved", "rejected", "corrected"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What an experience tells beside its own fields; see `Recorder`."""

    answer_type: AnswerType
    is_video: bool
    num_images: int
    expert: Expert
    raw_confidence: float
    adapted_version: str
    answers: Mapping[Expert, str | None]
    voters: tuple[tuple[str, str], ...]


class Reviews:
    """Leases, decides and carries out. Thread-safe; one decision is carried out at a time."""

    def __init__(
        self,
        config: EngineConfig,
        queue: ReviewQueue,
        buffer: ExperienceBuffer,
        ballots: Ballots,
        recorder: Recorder,
        evidence: Evidence,
        pictures: Pictures,
        trail: AuditTrail,
        updates: Updates,
        troubles: Troubles,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._queue = queue
        self._buffer = buffer
        self._ballots = ballots
        self._recorder = recorder
        self._evidence = evidence
        self._pictures = pictures
        self._trail = trail
        self._updates = updates
        self._troubles = troubles
        self._clock = clock
        self._lock = threading.Lock()
        self._sent: set[str] = set()
        self._suggested: OrderedDict[str, str] = OrderedDict()

    def lease(self, reviewer: str, num_items: int) -> list[ReviewItem]:
        """Items that wait, kept from others for a while. What has left the buffer waits no more."""
        tasks = self._queue.lease(reviewer, num_items)
        if any(task.task_id not in self._buffer for task in tasks):
            self._drop_gone()
            tasks = self._queue.lease(reviewer, num_items)
        items = []
        for task in tasks:
            experience = self._buffer.get(task.task_id)
            if experience is not None:
                items.append(self._item(experience, task.cause, task.created_at, task.leased_until))
        return items

    def item(self, task_id: str) -> ReviewItem:
        """One item, decided or not. Raises UnknownReview."""
        task = self._queue.find(task_id)
        return self._item(self._known(task_id), task.cause, task.created_at, task.leased_until)

    def offer(self, experience: Experience, *, is_unsure: bool) -> bool:
        """Queue it, if it is of the random share or unsure; whether it waits. Raises ReviewProblem."""
        cause = self._queue.offer(experience.id, subject=experience.subject, is_unsure=is_unsure)
        if cause is None:
            return False
        try:
            self._pictures.keep(experience.id)
        except OSError as error:
            self._troubles.note("image_not_kept", "OSError", str(error))
        return True

    def suggest(self, task_id: str, answer: str) -> None:
        """Show this answer beside the item: a client says that it is the right one."""
        with self._lock:
            self._suggested[task_id] = self._recorder.redacted(answer[:ANSWER_CHARACTERS_MAX])
            while len(self._suggested) > SUGGESTIONS_MAX:
                self._suggested.popitem(last=False)

    def decide(
        self, task_id: str, approved: bool, reviewer: str, notes: str = "", answer: str | None = None
    ) -> ReviewOutcome:
        """Keep a decision and carry it out. Raises UnknownReview, ReviewConflict, ReviewProblem: then nothing of it is
        kept, its answer neither."""
        if answer is not None and (approved or not 0 < len(answer.strip()) <= ANSWER_CHARACTERS_MAX):
            raise ReviewProblem(
                f"answer: goes with a rejection, as the right one in 1 to {ANSWER_CHARACTERS_MAX} characters"
            )
        with self._lock:
            before = self._queue.decision(task_id)
            kept = self._recorder.redacted(notes)[:NOTES_CHARACTERS_MAX]  # what is redacted may be longer
            right = None if answer is None else self._recorder.redacted(answer.strip())
            decision = self._queue.decide(task_id, approved, reviewer, kept, right)
            if task_id in self._sent:
                effect: Effect = "update"
            elif before is not None and all(each.task_id != task_id for each in self._queue.unsettled()):
                effect = "update" if self._updates.was_done(PREFIX + task_id) else "remembered"
            else:
                effect = self._carried_out(decision)
        return ReviewOutcome(task_id, decision.approved, decision.reviewer, effect, before is not None)

    def resume(self) -> None:
        """Carry out what was decided and is neither settled nor on its way. Raises ReviewProblem."""
        with self._lock:
            unsettled = self._queue.unsettled()
            self._evidence.keep_only([each.task_id for each in unsettled])
            can_send = self._updates.state in ("on", "no_audit_log")
            for decision in unsettled:
                is_waiting = self._evidence.has(decision.task_id) and not can_send  # only its update is left
                if decision.task_id not in self._sent and not is_waiting:
                    self._carried_out(decision)

    def release_pictures(self) -> None:
        """Of tasks that wait no more: the queue drops by itself what nobody decides, and the engine may have ended
        between a settlement and its release. Raises ReviewProblem, OSError."""
        kept = self._pictures.kept()  # before the queue is asked, in which each was before it was kept
        if kept:
            kept.difference_update(self._queue.waiting())
            kept.difference_update(each.task_id for each in self._queue.unsettled())
        for task_id in kept:
            self._pictures.release(task_id)

    def erase(self, subjects: Collection[str], task_ids: Collection[str]) -> None:
        """Forget all of a person, known by their keys and requests: what waits, what was decided, and updates that
        were sent and not begun. Raises ReviewProblem, OSError."""
        with self._lock:
            for subject in subjects:
                self._queue.erase(subject)
            for task_id in task_ids:
                self._suggested.pop(task_id, None)
            self._evidence.erase(task_ids)
            self._updates.withdraw([PREFIX + task_id for task_id in task_ids])

    def updated(self, update_id: str, *, is_done: bool) -> None:
        """The update of a decision is confirmed and published; or it was not done, and is to be sent again."""
        if not update_id.startswith(PREFIX):
            return
        task_id = update_id.removeprefix(PREFIX)
        with self._lock:
            self._sent.discard(task_id)
            if is_done:
                self._settle(task_id)

    def _drop_gone(self) -> None:
        """All at once, however many there are: those before the first that is there would be leased first again."""
        gone = [task_id for task_id in self._queue.waiting() if task_id not in self._buffer]
        self._queue.drop(gone)
        for task_id in gone:
            self._pictures.release(task_id)

    def _carried_out(self, decision: ReviewDecision) -> Effect:
        """All that follows from a decision, or as much of it as can be done now."""
        try:
            return self._carry_out(decision)
        except (PixelisError, OSError) as error:
            self._troubles.note("review_deferred", type(error).__name__, f"review {decision.task_id}: {error}")
            return "deferred"

    def _carry_out(self, decision: ReviewDecision) -> Effect:
        task_id = decision.task_id
        experience = self._buffer.get(task_id)
        if experience is None:
            self._settle(task_id)
            return "remembered"
        verdict: Verdict = "approved" if decision.approved else "rejected" if decision.answer is None else "corrected"
        truth = experience.answer if decision.approved else decision.answer
        facts = facts_of(experience)
        if not self._evidence.has(task_id):
            version = experience.policy_version
            self._trail.append(decision.reviewer, "review", version=version, reason=verdict, task_id=task_id)
            audit = self._audit(experience, facts, truth) if decision.cause == "audit" else None
            self._evidence.record(task_id, audit)
            self._count_retrievals(experience, facts, truth)
        self._set_status(experience, Status.APPROVED if decision.approved else Status.REJECTED)
        if decision.answer is not None:
            self._remember_right_answer(experience, decision.answer)
        return self._update(experience, facts, verdict, truth)

    def _update(self, experience: Experience, facts: Facts, verdict: Verdict, truth: str | None) -> Effect:
        task_id = experience.id
        answer = truth if truth is not None else experience.answer
        images = self._pictures.of(task_id)
        is_lost = len(images) < facts.num_images and not self._updates.was_done(PREFIX + task_id)
        if not canonical(answer, facts.answer_type) or not experience.question or is_lost:
            if is_lost:
                self._troubles.note("review_without_update", "images", f"review {task_id}: its images are not held")
            self._settle(task_id)
            return "no_images" if is_lost else "remembered"
        # Of one that was committed before, the worker looks at the id alone.
        lesson = LearnTask(
            question=experience.question,
            answer=answer,
            answer_type=facts.answer_type,
            kind=verdict,
            learning_rate=self._learning_rate(experience.confidence if verdict == "approved" else 0.0),
            is_video=facts.is_video,
        )
        self._sent.add(task_id)
        if self._updates.learn(PREFIX + task_id, lesson, images):
            return "update"
        self._sent.discard(task_id)
        return "deferred"

    def _learning_rate(self, confidence: float) -> float:
        """As the gate's, of one who is trusted fully: what a person says needs no memory to vouch for it."""
        gate = self._config.gate
        return min(max(gate.lr_max * (1.0 - confidence), gate.lr_min, gate.lr_max / 1000), gate.lr_max)

    def _settle(self, task_id: str) -> None:
        with contextlib.suppress(UnknownReview):  # erased meanwhile
            self._queue.settle(task_id)
        self._evidence.settled(task_id)
        self._pictures.release(task_id)
        self._suggested.pop(task_id, None)

    def _audit(self, experience: Experience, facts: Facts, truth: str | None) -> Audit:
        given = canonical(experience.answer, facts.answer_type)

        def was_right(expert: Expert) -> bool | None:
            answer = facts.answers[expert]
            if answer is None:
                return None
            said = canonical(answer, facts.answer_type)
            if truth is not None:
                return bool(said) and said == canonical(truth, facts.answer_type)
            return False if said == given else None

        return Audit(
            given=facts.expert,
            confidence=facts.raw_confidence,
            stated=experience.confidence,
            frozen=was_right("frozen"),
            adapted=was_right("adapted"),
            memory=was_right("memory"),
            is_whole=all(facts.answers[expert] is not None for expert in EXPERTS),
            version=facts.adapted_version,
            at=self._clock(),
        )

    def _count_retrievals(self, experience: Experience, facts: Facts, truth: str | None) -> None:
        """Credit those whose own answer was right. Without the right answer only those are counted who were wrong."""
        given = canonical(experience.answer, facts.answer_type)
        succeeded = {}
        for voter, answer in facts.voters:
            said = canonical(answer, facts.answer_type)
            if truth is not None:
                succeeded[voter] = said == canonical(truth, facts.answer_type)
            elif said == given:
                succeeded[voter] = False
        if succeeded:
            self._buffer.record_retrieval(list(succeeded), list(succeeded.values()))
            self._ballots.forget(succeeded)

    def _remember_right_answer(self, experience: Experience, answer: str) -> None:
        """As an experience of its own, in the place of any that was there under its id."""
        id_ = _right_id(experience.id)
        there = self._buffer.get(id_)
        if there is not None and there.status is Status.APPROVED and there.answer == answer:
            return
        if there is not None:
            self._buffer.remove((id_,))
            self._ballots.forget((id_,))
        metadata = {name: experience.metadata[name] for name in ("client", "answer_type")}
        right = replace(
            experience,
            id=id_,
            answer=answer,
            confidence=1.0,
            trajectory=None,
            priority=None,
            retrieval_count=0,
            success_count=0,
            status=Status.APPROVED,
            metadata=metadata,
        )
        self._buffer.add(right)

    def _set_status(self, experience: Experience, status: Status) -> None:
        if experience.status is not status:
            self._buffer.update_status((experience.id,), status)
            self._ballots.forget((experience.id,))

    def _known(self, task_id: str) -> Experience:
        experience = self._buffer.get(task_id)
        if experience is None:
            raise UnknownReview(f"review {task_id}: what it is about has expired or was erased")
        return experience

    def _item(self, experience: Experience, cause: str, created_at: float, leased_until: float) -> ReviewItem:
        with self._lock:
            suggested = self._suggested.get(experience.id)
        return ReviewItem(
            task_id=experience.id,
            cause=cast('Literal["audit", "unsure"]', cause),
            question=experience.question,
            answer=experience.answer,
            confidence=experience.confidence,
            votes=opinions_of(experience),
            trajectory=experience.trajectory or Trajectory(experience.id, (), experience.answer, "answer"),
            num_images=facts_of(experience).num_images,
            images=self._pictures.of(experience.id),
            suggested=suggested,
            created_at=created_at,
            leased_until=leased_until,
        )


def facts_of(experience: Experience) -> Facts:
    """Of an experience that a `Recorder` made."""
    told = experience.metadata
    voters = cast("list[list[str]]", told.get("voters", []))
    return Facts(
        answer_type=cast(AnswerType, told["answer_type"]),
        is_video=bool(told["is_video"]),
        num_images=cast(int, told["num_images"]),
        expert=cast(Expert, told["expert"]),
        raw_confidence=cast(float, told["raw_confidence"]),
        adapted_version=cast(str, told["adapted_version"]),
        answers=cast("Mapping[Expert, str | None]", told["answers"]),
        voters=tuple((voter, answer) for voter, answer in voters),
    )


def _right_id(task_id: str) -> str:
    return f"{task_id}.c"


__all__ = ["ANSWER_CHARACTERS_MAX", "PREFIX", "SUGGESTIONS_MAX", "Facts", "Reviews", "facts_of"]
