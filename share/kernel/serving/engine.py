"""The online engine: answers, remembers, learns, and never gets worse for it."""

from __future__ import annotations

from concurrent.futures import Future

from share.kernel.contracts.serving import Listener, Reply, Request
from share.kernel.serving.review_item import ReviewItem, ReviewOutcome
from share.kernel.serving.statistics import Statistics


class InferenceEngine:
    """Answers requests, and learns behind the answers. All methods may be called from any thread."""

    def submit(self, request: Request, listener: Listener | None = None) -> Future[Reply]:
        """Ask for an answer. The future raises QueueFull, DeadlineExceeded, EngineClosed, or what the policy raised."""
        raise NotImplementedError

    def infer_and_adapt(self, request: Request) -> Reply:
        """Ask for an answer and wait for it. Raises as the future of `submit`."""
        return self.submit(request).result()

    def process_human_review_decision(
        self, task_id: str, approved: bool, reviewer_notes: str = "", *, reviewer: str, answer: str | None = None
    ) -> ReviewOutcome:
        """Keep a reviewer's decision and do what follows from it, once however often it is said.

        Approved, the answer is right: exactly one update is made of it. Rejected, it is wrong, and `answer` is the
        right one if the reviewer knows it. Raises UnknownReview, ReviewConflict, ReviewProblem.
        """
        raise NotImplementedError

    def record_feedback(self, trace_id: str, correct: bool, *, client: str, answer: str | None = None) -> None:
        """What a client says of an answer it got: no evidence, but a reason for a person to look at it.

        Raises UnknownTrace.
        """
        raise NotImplementedError

    def lease_reviews(self, reviewer: str, num_items: int = 1) -> list[ReviewItem]:
        """Items for a reviewer, kept from others for a while. Raises ReviewProblem."""
        raise NotImplementedError

    def review_item(self, task_id: str) -> ReviewItem:
        """One item that waits or was decided. Raises UnknownReview."""
        raise NotImplementedError

    def erase(self, subject: str, *, actor: str) -> int:
        """Erase everything about a person from memory and every file; says how many experiences went.

        Raises AuditUnavailable, BufferProblem, ReviewProblem: then it is not done, and to be asked for again.
        """
        raise NotImplementedError

    def roll_back(self, *, actor: str, reason: str) -> str:
        """Serve the version before; returns its name, `frozen` for the shipped policy. Raises AuditUnavailable."""
        raise NotImplementedError

    def reset(self, *, actor: str, reason: str) -> str:
        """Serve the shipped policy again; returns `frozen`. Raises AuditUnavailable."""
        raise NotImplementedError

    def set_learning(self, on: bool, *, actor: str) -> None:
        """Send updates, or none until told otherwise; on also resumes after workers died too often.

        Raises AuditUnavailable.
        """
        raise NotImplementedError

    def get_statistics(self) -> Statistics:
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Whether requests are answered; a dead worker does not change that."""
        raise NotImplementedError

    def close(self) -> None:
        """Take nothing more, finish what was taken, sync, end the worker."""
        raise NotImplementedError


__all__ = ["InferenceEngine"]
