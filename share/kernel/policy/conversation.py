"""A rollout in the making: what the policy has written and read so far, and what its last turn means.

What is said is token ids and images from beginning to end: nothing is ever tokenised twice. Who writes when, and what
computes the logits, is the engine's and the plain path's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from share.kernel.contracts.trajectory import Action, FinishReason, Trajectory
from share.kernel.contracts.vision import Scene
from share.kernel.errors import ImageTokenMismatch
from share.kernel.policy.chat import Invalid, ParsedAnswer, ParsedCall, parse_turn
from share.kernel.policy.images import EncodedImage
from share.kernel.policy.sampling import Draws, certainty, sample_tokens

if TYPE_CHECKING:
    from share.kernel.media.operator import Operator, Outcome
    from share.kernel.policy.loading import Policy
    from share.kernel.policy.rollout import OpenedPrompt, RolloutConfig


@dataclass(slots=True, eq=False)
class Conversation:
    """A rollout in the making. `draws` are the random numbers of what it samples; a demonstration samples nothing.

    `config` says how this one is sampled; rollouts that are decoded together may differ in it. `finish` is None until
    it ends, and for ever when its watcher was gone and it was dropped.
    """

    opened: OpenedPrompt
    sample: int
    scene: Scene
    draws: Draws
    config: RolloutConfig
    watcher: Watcher | None = None
    ids: list[int] = field(default_factory=list)
    written: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    images: list[EncodedImage] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    answer: str | None = None
    finish: FinishReason | None = None
    turn_start: int = 0

    @property
    def name(self) -> str:
        return f"rollout {self.sample} of prompt {self.opened.prompt.prompt_id}"

    @property
    def turn_ids(self) -> list[int]:
        """What was written since the last observation."""
        return self.ids[self.turn_start :]

    @property
    def is_gone(self) -> bool:
        return self.watcher is not None and self.watcher.is_gone

    def write(self, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        self.ids += ids
        self.logprobs += logprobs
        self.written += [True] * len(ids)

    def act(self, action: Action) -> None:
        self.actions.append(action)
        if self.watcher is not None:
            self.watcher.acted(action)

    def read(self, ids: Sequence[int], image: EncodedImage | None) -> None:
        self.ids += ids
        self.logprobs += [0.0] * len(ids)
        self.written += [False] * len(ids)
        if image is not None:
            self.images.append(image)
        self.turn_start = len(self.ids)

    def trajectory(self) -> Trajectory:
        """What was done, when it has ended."""
        assert self.finish is not None
        return Trajectory(self.opened.prompt.prompt_id, tuple(self.actions), self.answer, self.finish)


class Watcher(Protocol):
    """Follows one rollout while it is made. Called by the thread that decodes, so it returns at once."""

    def wrote(self, token: int, logprob: float, entropy: float, /) -> None:
        """A token was written; the one that ends a turn is among them.

        `logprob` and `entropy` (nats) are those of the distribution at temperature 1, whatever it was sampled at.
        """
        ...

    def acted(self, action: Action, /) -> None:
        """A turn is over: what it was, with what the policy reads about it."""
        ...

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for the rollout any more: it is dropped at its next token, and leaves no result."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What the policy reads next: ids with every image token in place, and the image."""

    ids: tuple[int, ...]
    image: EncodedImage | None


def write_next(conversations: Sequence[Conversation], logits_RV: torch.Tensor) -> list[int]:
    """Sample the next token of each conversation, and write it."""
    numbers = np.array([each.draws.at(len(each.actions), len(each.ids) - each.turn_start) for each in conversations])
    tokens, logprobs = [0] * len(conversations), [0.0] * len(conversations)
    by_sampling: dict[tuple[float, float], list[int]] = {}
    for row, each in enumerate(conversations):
        by_sampling.setdefault((each.config.temperature, each.config.top_p), []).append(row)
    for (temperature, top_p), rows in by_sampling.items():
        logits = logits_RV if len(rows) == len(conversations) else logits_RV[rows]
        sampled = sample_tokens(logits, temperature, top_p, numbers[rows])
        for row, token, logprob in zip(rows, *(each.tolist() for each in sampled), strict=True):
            tokens[row], logprobs[row] = token, logprob
    for each, token, logprob in zip(conversations, tokens, logprobs, strict=True):
        each.write((token,), (logprob,))
    watched = [row for row, each in enumerate(conversations) if each.watcher is not None]
    if watched:
        _tell(conversations, logits_RV, watched, tokens)
    return tokens


def _tell(
    conversations: Sequence[Conversation], logits_RV: torch.Tensor, watched: Sequence[int], tokens: Sequence[int]
) -> None:
    """Tell the watchers which token was written, and how sure of it the policy was."""
    logits = logits_RV if len(watched) == len(conversations) else logits_RV[watched]
    logprobs, entropies = certainty(logits, torch.tensor([tokens[row] for row in watched], device=logits.device))
    for row, logprob, entropy in zip(watched, logprobs.tolist(), entropies.tolist(), strict=True):
        watcher = conversations[row].watcher
        assert watcher is not None
        watcher.wrote(tokens[row], logprob, entropy)


def cut(policy: Policy, conversation: Conversation, token: int, forbidden: frozenset[int]) -> bool:
    """End a rollout in the middle of a turn, if it must be after `token` was written. Whether it was."""
    finish: FinishReason
    tokens_max = conversation.config.tokens_max
    if token in forbidden:
        error, finish = "cut: it wrote an image token, which only an observation may hold", "invalid"
    elif len(conversation.ids) >= tokens_max:
        error, finish = f"cut: the rollout had {tokens_max} tokens", "tokens_max"
    else:
        return False
    conversation.finish = finish
    conversation.act(Action("invalid", policy.chat.text(conversation.turn_ids), error=error))
    return True


def end_turn(policy: Policy, conversation: Conversation) -> ParsedCall | Invalid | None:
    """Settle what the turn that just ended means. What remains to be acted on is returned; None: it is over."""
    text, turns_max = policy.chat.text(conversation.turn_ids), conversation.config.turns_max
    decision = parse_turn(text)
    if isinstance(decision, ParsedAnswer):
        conversation.answer, conversation.finish = decision.text, "answer"
        conversation.act(Action("answer", text))
        return None
    if len(conversation.actions) + 1 < turns_max:
        return decision
    if isinstance(decision, Invalid):
        conversation.finish = "invalid"
        conversation.act(Action("invalid", text, error=decision.error))
    else:
        error = f"not run: the rollout had {turns_max} turns"
        conversation.finish = "turns_max"
        conversation.act(Action("operation", text, decision.operation, decision.arguments, error=error))
    return None


def perform(
    policy: Policy, operator: Operator, scene: Scene, decision: ParsedCall | Invalid
) -> tuple[Outcome | None, EncodedImage | None]:
    """Run the operation that was called, and encode what it shows. Safe to run in a thread of its own."""
    if isinstance(decision, Invalid):
        return None, None
    outcome = operator.run(decision.operation, decision.arguments, scene)
    return outcome, policy.images.encode(outcome.view.pixels) if outcome.view is not None else None


def settle(
    policy: Policy,
    conversation: Conversation,
    decision: ParsedCall | Invalid,
    outcome: Outcome | None,
    image: EncodedImage | None,
) -> tuple[Action, Observation]:
    """The action that was taken, and what the policy reads about it."""
    text = policy.chat.text(conversation.turn_ids)
    if isinstance(decision, Invalid):
        observed = Observation(tuple(policy.chat.observation(decision.error, False)), None)
        return Action("invalid", text, observation=decision.error, error=decision.error), observed
    assert outcome is not None
    shown = outcome.result.text if outcome.result is not None else f"error: {outcome.error}"
    ids = policy.chat.observation(shown, image is not None)
    images = () if image is None else (image,)
    observed = Observation(tuple(with_image_tokens(ids, images, policy.chat.image_token_id)), image)
    action = Action(
        kind="operation",
        text=text,
        operation=decision.operation,
        arguments=decision.arguments,
        observation=shown,
        view=outcome.view.name if outcome.view is not None else None,
        region=outcome.region.name if outcome.region is not None else None,
        error=outcome.error,
        elapsed_ms=outcome.elapsed_ms,
    )
    return action, observed


def observe(conversation: Conversation, action: Action, observation: Observation) -> bool:
    """Let the policy read an observation, whole with its image or not at all. False when it did not fit."""
    conversation.act(action)
    if len(conversation.ids) + len(observation.ids) >= conversation.config.tokens_max:
        conversation.finish = "tokens_max"
        return False
    conversation.read(observation.ids, observation.image)
    return True


def copy_scene(scene: Scene) -> Scene:
    """A scene that grows on its own; pixels are shared."""
    views, regions, pictures = dict(scene.views), dict(scene.regions), list(scene.pictures)
    return Scene(scene.natives, scene.is_video, scene.frames_per_second, views, regions, pictures)


def with_image_tokens(ids: Sequence[int], images: Sequence[EncodedImage], image_token_id: int) -> list[int]:
    """The ids with each single image token repeated as often as its image has features."""
    counts = iter(images)
    expanded: list[int] = []
    for token in ids:
        expanded += [token] * next(counts).num_tokens if token == image_token_id else [token]
    return expanded


def audit_image_tokens(name: str, ids: Sequence[int], images: Sequence[EncodedImage], image_token_id: int) -> None:
    """Raises ImageTokenMismatch, naming the rollout, unless the image tokens of `ids` are exactly those of `images`."""
    runs: list[int] = []
    before = None
    for token in ids:
        if token == image_token_id:
            if before == image_token_id:
                runs[-1] += 1
            else:
                runs.append(1)
        before = token
    wanted = [image.num_tokens for image in images]
    if runs != wanted:
        raise ImageTokenMismatch(f"{name}: its ids hold images of {runs} tokens, its images are of {wanted}")


__all__ = [
    "Conversation",
    "Observation",
    "Watcher",
    "audit_image_tokens",
    "copy_scene",
    "cut",
    "end_turn",
    "observe",
    "perform",
    "settle",
    "with_image_tokens",
    "write_next",
]
