"""Rollouts: the policy writes, operations answer, and every token and image is kept as it was.

`rollout` samples groups; `teacher_forced` makes the same object from a demonstration. What the policy was given and
what it wrote are token ids from beginning to end: nothing is ever tokenised twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field

from share.kernel.config import ConfigModel
from share.kernel.contracts.trajectory import Action, FinishReason, Trajectory
from share.kernel.contracts.vision import Scene, Transform
from share.kernel.errors import ImageTokenMismatch, PolicyError
from share.kernel.media.operator import refitted
from share.kernel.policy.chat import Invalid, ParsedAnswer, ParsedCall, parse_turn
from share.kernel.policy.images import EncodedImage
from share.kernel.policy.sampling import Draws, RolloutKey, certainty, row_key, sample_tokens

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from share.kernel.contracts.task import Demonstration, Prompt
    from share.kernel.media.operator import Operator, Outcome
    from share.kernel.policy.loading import Policy


class RolloutConfig(ConfigModel):
    """How a policy is sampled."""

    group_size: int = Field(default=8, ge=1)
    """Rollouts per prompt; a trainer with a `group_size` of its own sets this."""
    turns_max: int = Field(default=4, ge=1)
    """Turns that the policy may take: operation calls and the answer."""
    tokens_max: int = Field(default=512, ge=1)
    """Tokens of a completion, those of observations included."""
    temperature: float = Field(default=1.0, ge=0.0)
    """Temperature of sampling; 0 takes the likeliest token."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of probability that is sampled from, likeliest tokens first."""
    rows_max: int = Field(default=256, ge=1)
    """Rollouts that are decoded together; bounds the memory of kept keys."""
    operation_threads: int = Field(default=4, ge=1, le=64)
    """Operations that run at the same time, while other rollouts are decoded."""


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One rollout as the update needs it. All tensors are on the CPU.

    `prompt_ids` int64[P]; `completion_ids` int64[S], what the policy wrote and what it read, in order; `action_mask`
    bool[S], True where the policy wrote; `behavior_logprobs` float32[S] at `temperature`, 0 where it did not write
    (all 0 for a demonstration). An image stands in the ids as `num_tokens` image tokens, in the order of
    `prompt_images` and `completion_images`. `sample` is its number in the group.
    """

    trajectory: Trajectory
    scene: Scene
    prompt_ids: torch.Tensor
    completion_ids: torch.Tensor
    action_mask: torch.Tensor
    behavior_logprobs: torch.Tensor
    prompt_images: tuple[EncodedImage, ...]
    completion_images: tuple[EncodedImage, ...]
    temperature: float = 1.0
    sample: int = 0

    @property
    def num_actions(self) -> int:
        """Tokens that the policy wrote."""
        return int(self.action_mask.sum())

    @property
    def name(self) -> str:
        return f"rollout {self.sample} of prompt {self.trajectory.prompt_id}"


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The rollouts of one prompt."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, slots=True, eq=False)
class OpenedPrompt:
    """A prompt as token ids and images, before anything was written. `scene` holds the views as they are shown."""

    prompt: Prompt
    scene: Scene
    ids: tuple[int, ...]
    images: tuple[EncodedImage, ...]


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

    def done(self) -> Rollout:
        return Rollout(
            trajectory=self.trajectory(),
            scene=self.scene,
            prompt_ids=torch.tensor(self.opened.ids),
            completion_ids=torch.tensor(self.ids, dtype=torch.long),
            action_mask=torch.tensor(self.written, dtype=torch.bool),
            behavior_logprobs=torch.tensor(self.logprobs, dtype=torch.float32),
            prompt_images=self.opened.images,
            completion_images=tuple(self.images),
            temperature=self.config.temperature or 1.0,
            sample=self.sample,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What the policy reads next: ids with every image token in place, and the image."""

    ids: tuple[int, ...]
    image: EncodedImage | None


def rollout(
    policy: Policy, prompts: Sequence[Prompt], operator: Operator, config: RolloutConfig, key: RolloutKey
) -> list[Group]:
    """Sample `group_size` rollouts of every prompt, with operations in the loop.

    A pure function of weights, prompts and key: the samples depend on neither the batch nor on time.
    """
    rows_max = max(1, config.rows_max // config.group_size)
    schemas = operator.schemas()
    groups: list[Group] = []
    for first in range(0, len(prompts), rows_max):
        opened = [open_prompt(policy, prompt, schemas) for prompt in prompts[first : first + rows_max]]
        groups += rollout_opened(policy, opened, operator, config, key)
    return groups


def rollout_opened(
    policy: Policy, opened: Sequence[OpenedPrompt], operator: Operator, config: RolloutConfig, key: RolloutKey
) -> list[Group]:
    """The same of prompts that were opened before, by any policy that is shown images alike; all at one time."""
    from share.kernel.policy.engine import run_shared
    from share.kernel.policy.plain import run_plain

    run = run_plain if how_rollouts_run(policy) == "plain" else run_shared
    with torch.no_grad():
        return run(policy, opened, operator, config, key)


class Flight(Protocol):
    """Rollouts of one set of weights that are decoded together, and that may join while others are decoded.

    It must not outlive a change of the weights. Not thread-safe: one thread joins and steps, without gradients.
    """

    @property
    def num_rows(self) -> int:
        """Rollouts that have not ended."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether a step would do nothing: all rows wait for operations."""
        ...

    def join(self, conversations: Sequence[Conversation], /) -> None:
        """Take in rollouts that have not begun; those of one prompt side by side, equally many of each."""
        ...

    def step(self) -> list[Conversation]:
        """Let every rollout write: a token, or a turn where no keys are kept. Returns those that ended or were dropped.

        A rollout that was dropped has no `finish`.
        """
        ...

    def image_features(self, images: Sequence[EncodedImage], /) -> torch.Tensor:
        """What the vision tower makes of the images, [tokens, width]."""
        ...


def open_flight(policy: Policy, operator: Operator, threads: ThreadPoolExecutor, wake: Callable[[], None]) -> Flight:
    """A flight without rollouts. `threads` run the operations; `wake` is called from them when one has returned."""
    from share.kernel.policy.engine import SharedFlight
    from share.kernel.policy.plain import PlainFlight

    if how_rollouts_run(policy) == "plain":
        return PlainFlight(policy, operator, threads)
    return SharedFlight(policy, operator, threads, wake)


def how_rollouts_run(policy: Policy) -> Literal["direct", "shared", "plain"]:
    """What the structure of the model allows.

    `shared`: prefixes are computed once and keys are kept; `direct`: so, and layers are computed from their weights;
    `plain`: neither, transformers generates turn by turn.
    """
    from share.kernel.policy.decoder import Decoder

    if policy.backbone is None:
        return "plain"
    return "direct" if Decoder.fits(policy.backbone) else "shared"


def teacher_forced(policy: Policy, prompt: Prompt, demonstration: Demonstration, operator: Operator) -> Rollout:
    """The rollout that a demonstration describes, its operations really run.

    Raises PolicyError when one of its calls fails: a demonstration must not teach a mistake.
    """
    opened = open_prompt(policy, prompt, operator.schemas())
    conversation = Conversation(opened, 0, copy_scene(opened.scene), Draws(0), RolloutConfig())
    for call in demonstration.calls:
        ids = policy.chat.call(call.operation, call.arguments)
        conversation.write(ids, [0.0] * len(ids))
        decision = ParsedCall(call.operation, call.arguments)
        outcome, image = perform(policy, operator, conversation.scene, decision)
        action, observation = settle(policy, conversation, decision, outcome, image)
        if action.error is not None:
            raise PolicyError(f"the demonstration of prompt {prompt.prompt_id} fails: {call.operation}: {action.error}")
        conversation.act(action)
        conversation.read(observation.ids, observation.image)
    ids = policy.chat.answer(demonstration.answer)
    conversation.write(ids, [0.0] * len(ids))
    conversation.act(Action("answer", policy.chat.text(ids)))
    conversation.answer, conversation.finish = demonstration.answer, "answer"
    return conversation.done()


def open_scene(policy: Policy, prompt: Prompt) -> Scene:
    """The scene of a prompt with the views that the policy is shown; what `Task.demonstrate` wants."""
    scene = Scene(prompt.images, prompt.is_video, prompt.frames_per_second)
    for source in prompt.shown if prompt.shown is not None else range(len(prompt.images)):
        native = prompt.images[source]
        pixels = policy.fit(native)
        scene.add_view(pixels, source, refitted(Transform(), native, pixels))
    return scene


def open_prompt(policy: Policy, prompt: Prompt, schemas: Sequence[Mapping[str, Any]]) -> OpenedPrompt:
    scene = open_scene(policy, prompt)
    images = tuple(policy.images.encode(view.pixels) for view in scene.views.values())
    ids = policy.chat.prompt(prompt.question, len(images), schemas)
    return OpenedPrompt(prompt, scene, tuple(with_image_tokens(ids, images, policy.chat.image_token_id)), images)


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


def observe(conversation: Conversation, action: Action, observation: Observation) -> bool:
    """Let the policy read an observation, whole with its image or not at all. False when it did not fit."""
    conversation.act(action)
    if len(conversation.ids) + len(observation.ids) >= conversation.config.tokens_max:
        conversation.finish = "tokens_max"
        return False
    conversation.read(observation.ids, observation.image)
    return True


def start(opened: Sequence[OpenedPrompt], config: RolloutConfig, key: RolloutKey) -> list[Conversation]:
    """The groups of these prompts, one behind the other."""
    return [
        Conversation(
            prompt, sample, copy_scene(prompt.scene), Draws(row_key(key, prompt.prompt.prompt_id, sample)), config
        )
        for prompt in opened
        for sample in range(config.group_size)
    ]


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


def gathered(opened: Sequence[OpenedPrompt], conversations: Sequence[Conversation], size: int) -> list[Group]:
    """The groups of `size` that `start` began."""
    return [
        Group(prompt.prompt, tuple(each.done() for each in conversations[number * size : (number + 1) * size]))
        for number, prompt in enumerate(opened)
    ]


def end_ids(policy: Policy) -> frozenset[int]:
    """The tokens that end a turn."""
    configured: Any = getattr(policy.base.generation_config, "eos_token_id", None)
    more = configured if isinstance(configured, list) else [configured]
    return frozenset([policy.chat.end_id, *(int(token) for token in more if token is not None)])


def forbidden_ids(policy: Policy) -> frozenset[int]:
    """Tokens that stand for pixels: a policy that writes one ends its rollout."""
    config = policy.base.config
    tokens = (getattr(config, name, None) for name in ("image_token_id", "video_token_id"))
    return frozenset(int(token) for token in tokens if token is not None)


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
    "Flight",
    "Group",
    "Observation",
    "OpenedPrompt",
    "Rollout",
    "RolloutConfig",
    "RolloutKey",
    "Watcher",
    "audit_image_tokens",
    "copy_scene",
    "cut",
    "end_ids",
    "end_turn",
    "forbidden_ids",
    "gathered",
    "how_rollouts_run",
    "observe",
    "open_flight",
    "open_prompt",
    "open_scene",
    "perform",
    "rollout",
    "rollout_opened",
    "settle",
    "start",
    "teacher_forced",
    "with_image_tokens",
    "write_next",
]
