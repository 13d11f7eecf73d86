"""Rollouts: the policy writes, operations answer, and every token and image is kept as it was.

`rollout` samples groups; `teacher_forced` makes the same object from a demonstration. Both record a conversation
(conversation.py) when it is over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from pydantic import Field

from share.kernel.config import ConfigModel
from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.contracts.vision import Scene, Transform
from share.kernel.errors import PolicyError
from share.kernel.media.operator import refitted
from share.kernel.policy.chat import ParsedCall
from share.kernel.policy.conversation import Conversation, copy_scene, perform, settle, with_image_tokens
from share.kernel.policy.images import EncodedImage
from share.kernel.policy.sampling import Draws, RolloutKey, row_key

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from share.kernel.contracts.task import Demonstration, Prompt
    from share.kernel.media.operator import Operator
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


def open_flight(
    policy: Policy,
    operator: Operator,
    threads: ThreadPoolExecutor,
    wake: Callable[[], None],
    beside: Flight | None = None,
) -> Flight:
    """A flight without rollouts. `threads` run the operations; `wake` is called from them when one has returned.

    The features of images are shared with the flight `beside` where the two see through the same vision tower, which no
    update may change then.
    """
    from share.kernel.policy.engine import SharedFlight
    from share.kernel.policy.plain import PlainFlight

    if how_rollouts_run(policy) == "plain":
        return PlainFlight(policy, operator, threads)
    return SharedFlight(policy, operator, threads, wake, beside if isinstance(beside, SharedFlight) else None)


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
    return recorded(conversation)


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


def start(opened: Sequence[OpenedPrompt], config: RolloutConfig, key: RolloutKey) -> list[Conversation]:
    """The groups of these prompts, one behind the other."""
    return [
        Conversation(
            prompt, sample, copy_scene(prompt.scene), Draws(row_key(key, prompt.prompt.prompt_id, sample)), config
        )
        for prompt in opened
        for sample in range(config.group_size)
    ]


def recorded(conversation: Conversation) -> Rollout:
    """A conversation that has ended, as the update needs it."""
    return Rollout(
        trajectory=conversation.trajectory(),
        scene=conversation.scene,
        prompt_ids=torch.tensor(conversation.opened.ids),
        completion_ids=torch.tensor(conversation.ids, dtype=torch.long),
        action_mask=torch.tensor(conversation.written, dtype=torch.bool),
        behavior_logprobs=torch.tensor(conversation.logprobs, dtype=torch.float32),
        prompt_images=conversation.opened.images,
        completion_images=tuple(conversation.images),
        temperature=conversation.config.temperature or 1.0,
        sample=conversation.sample,
    )


def gathered(opened: Sequence[OpenedPrompt], conversations: Sequence[Conversation], size: int) -> list[Group]:
    """The groups of `size` that `start` began."""
    return [
        Group(prompt.prompt, tuple(recorded(each) for each in conversations[number * size : (number + 1) * size]))
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


__all__ = [
    "Flight",
    "Group",
    "OpenedPrompt",
    "Rollout",
    "RolloutConfig",
    "RolloutKey",
    "end_ids",
    "forbidden_ids",
    "gathered",
    "how_rollouts_run",
    "open_flight",
    "open_prompt",
    "open_scene",
    "recorded",
    "rollout",
    "rollout_opened",
    "start",
    "teacher_forced",
]
