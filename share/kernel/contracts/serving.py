"""What a client asks of a service and what it gets: the nouns between the HTTP door and the engine behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.contracts.voting import AnswerType, VotingResult

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels

Path = Literal["policy", "consensus"]
"""How an answer came about: the policy alone, or the vote of the policy and its memory."""

Expert = Literal["frozen", "adapted", "memory"]
"""Whom the arbiter weighs: the policy as it was shipped, as it has learned, and the k-NN answers."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A question about images, admitted.

    `trace_id` names it everywhere. `images` are native pixels (uint8 HWC RGB), decoded and within limits. `client` is
    the id of the key that it came with, `subject` the person it is about, for erasure. A `read_only` request leaves no
    trace at all. `deadline` is on the clock of `time.monotonic`: what has not begun by then is not begun.
    `temperature` 0 takes the likeliest token; `tokens_max` None means the service's own.
    """

    trace_id: str
    question: str
    images: tuple[Pixels, ...]
    client: str
    subject: str | None = None
    read_only: bool = False
    answer_type: AnswerType = "text"
    is_video: bool = False
    deadline: float | None = None
    temperature: float = 0.0
    tokens_max: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """The answer to a request and where it comes from.

    `answer` may be empty when the rollout ended without one (`trajectory.finish` says why). `confidence` in [0, 1] is
    calibrated on audited items. `policy_version` is the one version that wrote every token of it. `expert` is whose
    answer it is, `votes` None where there was no vote. `elapsed_ms` is by step (`queue`, `predict`, `consult`,
    `total`).
    """

    trace_id: str
    answer: str
    confidence: float
    path: Path
    expert: Expert
    policy_version: str
    trajectory: Trajectory
    votes: VotingResult | None
    prompt_tokens: int
    completion_tokens: int
    elapsed_ms: Mapping[str, float] = field(default_factory=dict)


class Listener(Protocol):
    """Follows one request while it is answered; called from the engine's thread, so it returns at once."""

    def wrote(self, text: str, /) -> None:
        """The policy wrote this much more; only of turns that are shown, the answer's among them."""
        ...

    def acted(self, action: Action, /) -> None:
        """An operation was called and has answered."""
        ...

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for the answer any more: the request is dropped at the next token."""
        ...


__all__ = ["Expert", "Listener", "Path", "Reply", "Request"]
