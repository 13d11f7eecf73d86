"""The plain path that every image-text-to-text model can go: padded inputs, whole conversations, transformers' own
forward and `generate`. Nothing is shared between the rollouts of a prompt and no keys are kept between turns; samples
and numbers are those of the shared path.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig, LogitsProcessor

from share.kernel.policy.chat import Invalid, ParsedCall
from share.kernel.policy.conversation import (
    Conversation,
    audit_image_tokens,
    cut,
    end_turn,
    observe,
    perform,
    settle,
    write_next,
)
from share.kernel.policy.images import EncodedImage
from share.kernel.policy.rollout import Group, OpenedPrompt, RolloutConfig, end_ids, forbidden_ids, gathered, start
from share.kernel.policy.sampling import RolloutKey

if TYPE_CHECKING:
    from share.kernel.media.operator import Operator
    from share.kernel.policy.loading import Policy


def padded_inputs(
    policy: Policy,
    names: Sequence[str],
    rows: Sequence[Sequence[int]],
    images: Sequence[Sequence[EncodedImage]],
    side: str,
) -> dict[str, torch.Tensor]:
    """What the model's forward is given for rows of ids, padded on the `side` "left" or "right".

    Raises ImageTokenMismatch, with the row's name, when its image tokens are not those of its images.
    """
    length = max(len(row) for row in rows)
    ids_BT = torch.full((len(rows), length), policy.tokenizer.pad_token_id or 0)
    mask_BT = torch.zeros(len(rows), length, dtype=torch.long)
    for number, (name, row, shown) in enumerate(zip(names, rows, images, strict=True)):
        audit_image_tokens(name, row, shown, policy.chat.image_token_id)
        place = slice(length - len(row), length) if side == "left" else slice(0, len(row))
        ids_BT[number, place] = torch.tensor(row)
        mask_BT[number, place] = 1
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT}
    inputs |= policy.images.model_inputs([image for shown in images for image in shown])
    is_image = ((ids_BT == policy.chat.image_token_id) & mask_BT.bool()).int()
    inputs |= dict.fromkeys(policy.image_mask_names, is_image)
    device, dtype = policy.device, policy.base.dtype
    return {
        name: tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
        for name, tensor in inputs.items()
    }


def run_plain(
    policy: Policy, opened: Sequence[OpenedPrompt], operator: Operator, config: RolloutConfig, key: RolloutKey
) -> list[Group]:
    """Rollouts turn by turn, all rows of a turn in one `generate`."""
    conversations = start(opened, config, key)
    with ThreadPoolExecutor(config.operation_threads, thread_name_prefix="operation") as threads:
        flight = PlainFlight(policy, operator, threads)
        flight.join(conversations)
        while flight.num_rows:
            flight.step()
    return gathered(opened, conversations, config.group_size)


class PlainFlight:
    """Rollouts of one set of weights that take their turns together; a step is a turn, and they join between turns.

    Not thread-safe: one thread joins and steps, without gradients.
    """

    is_idle = False
    """Whether a step would do nothing; it waits for the operations of its turn itself."""

    def __init__(self, policy: Policy, operator: Operator, threads: ThreadPoolExecutor) -> None:
        self.policy = policy
        self.operator = operator
        self.threads = threads
        self.writing: list[Conversation] = []

    @property
    def num_rows(self) -> int:
        """Rollouts that have not ended."""
        return len(self.writing)

    def join(self, conversations: Sequence[Conversation]) -> None:
        """Take in rollouts that have not begun."""
        self.writing = [*self.writing, *conversations]

    def step(self) -> list[Conversation]:
        """Let every rollout take one turn; returns those that ended, or were dropped."""
        before = self.writing
        _write_turn(self.policy, before)
        acting = [each for each in before if each.finish is None and not each.is_gone]
        decisions = [end_turn(self.policy, each) for each in acting]
        called = [(each, decision) for each, decision in zip(acting, decisions, strict=True) if decision]
        self.writing = _act(self.policy, self.operator, called, self.threads)
        going_on = set(self.writing)
        return [each for each in before if each not in going_on]

    def image_features(self, images: Sequence[EncodedImage]) -> torch.Tensor:
        """What the vision tower makes of the images, [tokens, width]; a forward of its own."""
        device, dtype = self.policy.device, self.policy.base.dtype
        inputs = {
            name: tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
            for name, tensor in self.policy.images.model_inputs(images).items()
        }
        features = self.policy.base.get_image_features(**inputs).pooler_output
        each = features if isinstance(features, list | tuple) else [features]
        return torch.cat([part.flatten(0, -2) for part in each])


def _write_turn(policy: Policy, conversations: Sequence[Conversation]) -> None:
    """Let the policy write one turn of each conversation."""
    sampler = _Writer(policy, conversations)
    inputs = padded_inputs(
        policy,
        [each.name for each in conversations],
        [[*each.opened.ids, *each.ids] for each in conversations],
        [[*each.opened.images, *each.images] for each in conversations],
        "left",
    )
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=max(each.config.tokens_max - len(each.ids) for each in conversations),
        eos_token_id=policy.chat.end_id,
        pad_token_id=policy.tokenizer.pad_token_id or 0,
    )
    policy.base.generate(**inputs, generation_config=settings, logits_processor=[sampler])


def _act(
    policy: Policy,
    operator: Operator,
    called: Sequence[tuple[Conversation, ParsedCall | Invalid]],
    threads: ThreadPoolExecutor,
) -> list[Conversation]:
    """Run the operations; returns the conversations that go on."""
    outcomes = threads.map(lambda each: perform(policy, operator, each[0].scene, each[1]), called)
    going_on = []
    for (conversation, decision), (outcome, image) in zip(called, outcomes, strict=True):
        action, observation = settle(policy, conversation, decision, outcome, image)
        if observe(conversation, action, observation):
            going_on.append(conversation)
    return going_on


class _Writer(LogitsProcessor):
    """Chooses tokens as the shared path does, and leaves `generate` no other choice."""

    def __init__(self, policy: Policy, conversations: Sequence[Conversation]) -> None:
        self.policy = policy
        self.conversations = conversations
        self.writing = list(range(len(conversations)))
        self.ends, self.forbidden = end_ids(policy), forbidden_ids(policy)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = [self.policy.chat.end_id] * len(scores)
        going_on = []
        conversations = [self.conversations[row] for row in self.writing]
        tokens = write_next(conversations, scores[self.writing])
        for row, conversation, token in zip(self.writing, conversations, tokens, strict=True):
            chosen[row] = token
            if token in self.ends or conversation.is_gone:
                continue
            if not cut(self.policy, conversation, token, self.forbidden):
                going_on.append(row)
        self.writing = going_on
        forced = torch.full_like(scores, -torch.inf)
        return forced.scatter_(1, torch.tensor(chosen, device=scores.device)[:, None], 0.0)


__all__ = ["PlainFlight", "padded_inputs", "run_plain"]
