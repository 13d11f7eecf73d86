"""`/v1/feedback` and `/v1/reviews…`: what clients and reviewers say of answers."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import Field, model_validator

from share.kernel.adaptation.review import NOTES_CHARACTERS_MAX, Cause
from share.kernel.contracts.trajectory import FinishReason
from share.kernel.media.image import encode_image
from share.kernel.online.access import Guarded, allow, key_of
from share.kernel.online.door import door_of
from share.kernel.online.refusals import ErrorReply
from share.kernel.online.wire import TRACE_ID, Feedback, OperationUsed, Recorded, Wire
from share.kernel.serving.review_item import Effect, ReviewItem

LEASE_MAX = 20
"""Items that a reviewer takes at once."""

ANSWER_CHARACTERS_MAX = 2_000

router = APIRouter(route_class=Guarded, tags=["reviews"])

TaskId = Annotated[str, Path(pattern=TRACE_ID)]

_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply} for status in (401, 403, 404, 409, 413, 415, 422, 429, 503)
}


class Lease(Wire):
    """How many items to take."""

    num_items: int = Field(default=1, ge=1, le=LEASE_MAX)


class OpinionTold(Wire):
    """A vote, and what became of it."""

    source: str
    answer: str
    confidence: float
    similarity: float
    age_s: float
    weight: float
    agrees: bool


class Review(Wire):
    """An answered request that waits for a person. All texts are redacted."""

    task_id: str
    cause: Cause
    """`audit`: drawn at random; `unsure`: the engine was."""
    question: str
    answer: str
    suggested: str | None
    """The answer that the client said to be right."""
    confidence: float
    votes: list[OpinionTold]
    """Where the answer comes from; the policy's vote first."""
    operations: list[OperationUsed]
    finish: FinishReason
    num_images: int
    """How many the request had. With fewer below, it can be decided, and no update is made of it."""
    images: list[str]
    """As data URLs, while they are held."""
    created_at: float
    leased_until: float
    """Seconds since 1970."""


class Reviews(Wire):
    reviews: list[Review]


class Waiting(Wire):
    """How many tasks there are, by state."""

    counts: dict[str, int]


class Verdict(Wire):
    """A reviewer's decision; the first one stands, and the same again has no second effect."""

    approved: bool
    """Whether the answer is right."""
    notes: str = Field(default="", max_length=NOTES_CHARACTERS_MAX)
    answer: str | None = Field(default=None, min_length=1, max_length=ANSWER_CHARACTERS_MAX)
    """Of a rejected one, the right answer, where it is known."""

    @model_validator(mode="after")
    def _right_needs_no_other(self) -> Verdict:
        if self.answer is not None and not self.answer.strip():
            raise ValueError("answer: is blank; leave it out where it is not known")
        if self.approved and self.answer is not None:
            raise ValueError("answer: an approved answer is the right one; leave it out")
        return self


class Outcome(Wire):
    task_id: str
    approved: bool
    reviewer: str
    effect: Effect
    """`update`: it is on its way to the worker; `remembered`: nothing can be learned from it; `no_images`: nor can it
    be, because its images are not held any more; `deferred`: later."""
    repeated: bool


@router.post("/v1/feedback", response_model=Recorded, responses=_REFUSALS)
@allow("client", "admin")
def feedback(said: Feedback, request: Request) -> Recorded:
    """Say whether an answer was right. It is no evidence by itself, but a reason for a person to look at it."""
    door_of(request).engine.record_feedback(said.trace_id, said.correct, client=key_of(request).id, answer=said.answer)
    return Recorded(trace_id=said.trace_id)


@router.get("/v1/reviews", response_model=Waiting, responses=_REFUSALS)
@allow("reviewer", "admin")
def waiting(request: Request) -> Waiting:
    """How many tasks wait and were decided."""
    return Waiting(counts=dict(door_of(request).engine.get_statistics().reviews))


@router.post("/v1/reviews/lease", response_model=Reviews, responses=_REFUSALS)
@allow("reviewer", "admin")
def lease(wanted: Lease, request: Request) -> Reviews:
    """Take items; they are kept from other reviewers for a while, and given to the same one again."""
    items = door_of(request).engine.lease_reviews(key_of(request).id, wanted.num_items)
    return Reviews(reviews=[_told(item) for item in items])


@router.get("/v1/reviews/{task_id}", response_model=Review, responses=_REFUSALS)
@allow("reviewer", "admin")
def review(task_id: TaskId, request: Request) -> Review:
    """One item, waiting or decided."""
    return _told(door_of(request).engine.review_item(task_id))


@router.post("/v1/reviews/{task_id}/decision", response_model=Outcome, responses=_REFUSALS)
@allow("reviewer", "admin")
def decide(task_id: TaskId, verdict: Verdict, request: Request) -> Outcome:
    """Approve: the answer is right, and exactly one update is made of it. Reject: it is wrong."""
    outcome = door_of(request).engine.process_human_review_decision(
        task_id, verdict.approved, verdict.notes, reviewer=key_of(request).id, answer=verdict.answer
    )
    return Outcome(
        task_id=outcome.task_id,
        approved=outcome.approved,
        reviewer=outcome.reviewer,
        effect=outcome.effect,
        repeated=outcome.repeated,
    )


def _told(item: ReviewItem) -> Review:
    return Review(
        task_id=item.task_id,
        cause=item.cause,
        question=item.question,
        answer=item.answer,
        suggested=item.suggested,
        confidence=item.confidence,
        votes=[
            OpinionTold(
                source=opinion.vote.source,
                answer=opinion.vote.answer,
                confidence=opinion.vote.confidence,
                similarity=opinion.vote.similarity,
                age_s=opinion.vote.age_s,
                weight=opinion.weight,
                agrees=opinion.agrees,
            )
            for opinion in item.votes
        ],
        operations=[OperationUsed.of(action) for action in item.trajectory.operations],
        finish=item.trajectory.finish,
        num_images=item.num_images,
        images=["data:image/png;base64," + base64.b64encode(encode_image(pixels)).decode() for pixels in item.images],
        created_at=item.created_at,
        leased_until=item.leased_until,
    )


__all__ = [
    "ANSWER_CHARACTERS_MAX",
    "LEASE_MAX",
    "Lease",
    "OpinionTold",
    "Outcome",
    "Review",
    "Reviews",
    "Verdict",
    "Waiting",
    "decide",
    "feedback",
    "lease",
    "review",
    "router",
    "waiting",
]
