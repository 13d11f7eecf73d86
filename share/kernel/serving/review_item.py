"""What a reviewer is shown, and what became of what they said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from share.kernel.adaptation.review import Cause
from share.kernel.contracts.trajectory import Trajectory
from share.kernel.contracts.voting import Opinion

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels

Effect = Literal["update", "remembered", "no_images", "deferred"]
"""What follows from a decision: an update on its way to the worker; only what is remembered, as nothing can be learned
from it, or because the images that the update needs are not held any more; or all of it later, because a part that it
needs is not there now."""


@dataclass(frozen=True, slots=True, eq=False)
class ReviewItem:
    """An answered request that waits for a person. All texts are redacted.

    `confidence` is as it was stated, `votes` are those that were cast, the policy's first (empty without a vote). The
    request had `num_images`; `images` (uint8 HWC RGB) are there only while the engine holds them. `suggested` is the
    answer that the client said to be right, None if it said none. Times are in seconds since 1970.
    """

    task_id: str
    cause: Cause
    question: str
    answer: str
    confidence: float
    votes: tuple[Opinion, ...]
    trajectory: Trajectory
    num_images: int
    images: tuple[Pixels, ...]
    suggested: str | None
    created_at: float
    leased_until: float

    @property
    def lacks_images(self) -> bool:
        """Whether no update can be made of it any more, whatever is decided."""
        return len(self.images) < self.num_images


@dataclass(frozen=True, slots=True)
class ReviewOutcome:
    """What a decision came to. `repeated` when the same had been decided before: it has no second effect."""

    task_id: str
    approved: bool
    reviewer: str
    effect: Effect
    repeated: bool


__all__ = ["Effect", "ReviewItem", "ReviewOutcome"]
