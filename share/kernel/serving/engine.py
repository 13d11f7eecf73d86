"""The online engine: answers, remembers, learns, and never gets worse for it.

The path of a request: predict, consult the memory, vote, arbitrate, respond. Everything else is done behind the answer,
by one thread: record, gate, queue for review, send an update, publish. Nothing there can delay an answer or make it
fail: with the worker dead, the disk full, the index broken or the audit log gone, requests are answered.

What serves is believed as far as audited items bear it out: without any, every answer is the shipped policy's.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from share.kernel.adaptation.audit import Action
from share.kernel.adaptation.review import DAY_S, ReviewQueue
from share.kernel.contracts.kinds import Voter
from share.kernel.contracts.serving import Listener, Reply, Request
from share.kernel.errors import PixelisError, ReviewProblem
from share.kernel.events import StructuredLogger
from share.kernel.experience.buffer import ExperienceBuffer
from share.kernel.privacy.redaction import Redactor
from share.kernel.serving.answering import Answering
from share.kernel.serving.audit_trail import AuditTrail
from share.kernel.serving.ballots import Ballots
from share.kernel.serving.batching import Batcher
from share.kernel.serving.behind import Behind
from share.kernel.serving.consultation import Consultant
from share.kernel.serving.engine_config import EngineConfig
from share.kernel.serving.evidence import Evidence
from share.kernel.serving.gate_log import LoggedGate
from share.kernel.serving.in_flight import InFlight
from share.kernel.serving.pictures import Pictures
from share.kernel.serving.recording import Recorder
from share.kernel.serving.releases import ENGINE, Releases
from share.kernel.serving.remembering import Remembering
from share.kernel.serving.review_item import ReviewItem, ReviewOutcome
from share.kernel.serving.reviews import Reviews
from share.kernel.serving.statistics import LearningState, MemoryStatistics, Statistics
from share.kernel.serving.subjects import SECRET, Subjects
from share.kernel.serving.troubles import Troubles
from share.kernel.serving.update_task import RESTORE, UpdateResult
from share.kernel.serving.updates import Updates
from share.kernel.transport.supervisor import WorkerSupervisor

if TYPE_CHECKING:
    from share.kernel.media.operator import Operator
    from share.kernel.policy.loading import Policy

LOCAL = "local"
"""The reviewer where the engine is used as a library and there is but one."""

TEND_S = 10.0
"""Seconds between two looks at what could not be done before."""


class InferenceEngine:
    """Answers requests, and learns behind the answers. All methods may be called from any thread.

    `directory` holds what is durable of it beside the buffer: reviews, evidence, releases, the audit log, gate
    decisions, images, the secret behind the hashes of subjects. The engine owns what it is given, and `close` ends it
    all; `supervisor` is None where nothing is to be learned. `seed` draws the audited share; `clock` gives seconds
    since 1970. Raises ConfigError for a damaged secret, ReviewProblem when the review queue cannot be opened.
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
        self._subjects = Subjects(directory / SECRET)
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
            directory / "images", bytes_max=config.images_bytes_max, writes=config.keep_images, clock=clock
        )
        self._recorder = Recorder(redactor)
        self._ballots = Ballots(buffer)
        self._updates = Updates(
            supervisor, worker_directory, self._trail, self._releases, self._troubles, self._told_of_update
        )
        self._reviews = Reviews(
            config,
            self._queue,
            buffer,
            self._ballots,
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
            self._ballots,
            voter,
            neighbors=config.neighbors,
            similarity_min=config.similarity_min,
            limit_s=config.consult_ms / 1000,
            clock=clock,
        )
        self._behind = Behind(config.behind_max, self._troubles)
        self._in_flight = InFlight()
        self._remembering = Remembering(
            config,
            batcher,
            buffer,
            self._ballots,
            self._queue,
            self._recorder,
            self._subjects,
            self._evidence,
            self._pictures,
            self._gate,
            self._reviews,
            self._updates,
            self._behind,
            self._in_flight,
            self._troubles,
        )
        self._answering = Answering(
            config,
            batcher,
            buffer,
            self._consultant,
            self._evidence,
            self._releases,
            self._in_flight,
            self._troubles,
            self._remembering.follow,
            clock=clock,
        )
        self._num_erasures = 0
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

    @property
    def policy_version(self) -> str:
        """The version that serves."""
        return self._releases.live

    @property
    def learning(self) -> LearningState:
        """Whether updates are sent, as far as that is known without asking anybody."""
        return self._updates.state

    def submit(self, request: Request, listener: Listener | None = None) -> Future[Reply]:
        """Ask for an answer. The future raises ServiceFull, DeadlineExceeded, RequestDropped, EngineClosed, or what the
        policy raised; it cannot be cancelled, the listener says who is gone."""
        return self._answering.submit(request, listener)

    def infer_and_adapt(self, request: Request) -> Reply:
        """Ask for an answer and wait for it. Raises as the future of `submit`."""
        return self.submit(request).result()

    def settle(self) -> None:
        """Wait until everything is recorded that was answered before, and what was confirmed is published."""
        self._in_flight.wait()
        self._behind.ask(lambda: None)

    def process_human_review_decision(
        self,
        task_id: str,
        approved: bool,
        reviewer_notes: str = "",
        *,
        reviewer: str = LOCAL,
        answer: str | None = None,
    ) -> ReviewOutcome:
        """Keep a reviewer's decision and do what follows from it, once however often it is said.

        `reviewer` is who is held to it in the queue and the audit log: the id of a key where there are several.

        Approved, the answer is right: exactly one update is made of it. Rejected, it is wrong, and `answer` is the
        right one if the reviewer knows it. Raises UnknownReview, ReviewConflict, ReviewProblem.
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
        self._remembering.feedback(trace_id, correct, client, answer)

    def erase(self, subject: str, *, actor: str) -> int:
        """Erase everything about a person from memory and every file; says how many experiences went.

        Updates that have not reached the worker are withdrawn; versions that learned from them stay. Raises
        AuditUnavailable, BufferProblem, ReviewProblem, OSError: then it is to be asked for again.
        """
        self._trail.append(actor, "erase", reason="subject")
        count = self._remembering.erase(subject)
        self._buffer.compact()
        self._num_erasures += 1
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
        try:
            reviews = self._queue.counts()
        except ReviewProblem as error:
            self._troubles.note("reviews_unavailable", type(error).__name__, str(error))
            reviews = {}
        done = self._remembering.counts
        return Statistics(
            started_at=self._started_at,
            behind=self._behind.waiting,
            requests=self._answering.statistics(),
            memory=MemoryStatistics(
                consulted=self._answering.num_consulted,
                policy_only=self._troubles.counts("policy_only"),
                recorded=done["recorded"],
                not_recorded=self._troubles.counts("not_recorded"),
                trust=self._answering.trust,
                buffer=self._buffer.metrics(),
            ),
            evidence=self._evidence.statistics(),
            learning=self._updates.statistics(self._remembering.gated),
            releases=self._releases.statistics(),
            reviews=reviews,
            feedback={name: done[name] for name in ("right", "wrong")},
            erasures=self._num_erasures,
            troubles=self._troubles.all(),
        )

    def is_ready(self) -> bool:
        """Whether requests are answered; a dead worker does not change that."""
        return not self._in_flight.is_closed

    def close(self) -> None:
        """Take nothing more, finish what was taken, sync, end the worker."""
        if not self._in_flight.close():
            return
        self._batcher.close()
        self._in_flight.wait()
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

    def sweep(self) -> None:
        """Erase what is older than is kept, each part for itself: one that cannot be cleaned now does not keep the
        others from it."""
        days = self._config.retention_days
        self._try("not_swept", lambda: self._buffer.retain(days))
        self._ballots.forget_all()
        self._try("not_swept", self._queue.expire)
        self._try("not_swept", self._reviews.release_pictures)
        self._try("not_swept", lambda: self._pictures.expire(days))
        self._try("not_swept", lambda: self._gate.expire(days))
        self._try("not_swept", self._evidence.expire)
        self._try("not_swept", lambda: self._updates.forget(self._clock() - days * DAY_S))
        _give_back_memory()

    def _try(self, part: str, work: Callable[[], object]) -> None:
        try:
            work()
        except (PixelisError, OSError) as error:
            self._troubles.note(part, type(error).__name__, str(error))

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

    def _tend(self) -> None:
        """What could not be done before, and what has become too old."""
        sweep_at = time.monotonic()
        while not self._in_flight.is_closed:
            self._try("reviews_not_resumed", self._reviews.resume)
            self._try("harm_not_checked", self._releases.check)
            self._try("worker_not_restored", self._updates.restore)
            if time.monotonic() >= sweep_at:
                sweep_at = time.monotonic() + self._config.sweep_hours * 3600
                self.sweep()
            self._tending.wait(TEND_S)
            self._tending.clear()


def _give_back_memory() -> None:
    """To the system, what is free: glibc keeps the pages of images and weights that lay between what stays."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


__all__ = ["LOCAL", "TEND_S", "InferenceEngine"]
