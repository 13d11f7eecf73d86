"""What a task source yields and how it is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels

Split = Literal["train", "held_out"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question about images or a video, with its ground truth.

    `images` are the native pixels (uint8 HWC RGB): one or more images, or the frames of a video in order when
    `is_video`. `shown` are the indices of those that the policy is shown at the start (all, when None).
    `truth` holds what checkers, demonstrations and reports may use (boxes in native pixels, …); never the policy.
    """

    prompt_id: str
    task: str
    question: str
    images: tuple[Pixels, ...]
    answer: str
    difficulty: int = 0
    is_video: bool = False
    frames_per_second: float | None = None
    shown: tuple[int, ...] | None = None
    truth: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """One operation call of a demonstration.

    Boxes and points in `arguments` are pixels of the view that `image` names (the first, without one).
    """

    operation: str
    arguments: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What an expert would do on a prompt: the calls in order, then the answer. SFT imitates it."""

    calls: tuple[Call, ...]
    answer: str


__all__ = ["Call", "Demonstration", "Prompt", "Split"]
