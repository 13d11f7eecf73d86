"""The rollout engine: prefill once per prompt, decode all rollouts together, keep their keys across turns.

A round goes through these states, row by row: *decoding* → (turn ended with a call) *acting*, its operation runs in a
thread → (most others have stopped too) *reading*, the observation is appended to the kept keys → decoding again →
finished. Rows that decode lie at the front of the cache, acting rows behind them, finished rows at the end.

When observations are read depends on counts alone, never on how long an operation took: the same rollouts are computed
in the same batches, so a run repeats itself bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from share.kernel.policy.attention import CachePlan
from share.kernel.policy.cache import RolloutCache
from share.kernel.policy.chat import Invalid, ParsedCall
from share.kernel.policy.decoder import Decoder
from share.kernel.policy.images import EncodedImage
from share.kernel.policy.rollout import (
    Conversation,
    Group,
    Observation,
    OpenedPrompt,
    RolloutConfig,
    audit_image_tokens,
    cut,
    end_ids,
    end_turn,
    forbidden_ids,
    gathered,
    how_rollouts_run,
    observe,
    perform,
    settle,
    start,
    write_next,
)

if TYPE_CHECKING:
    from share.kernel.media.operator import Operator, Outcome
    from share.kernel.policy.backbone import Backbone
    from share.kernel.policy.loading import Policy
    from share.kernel.policy.sampling import RolloutKey

_READ_SHARE = 0.25
"""Observations are read when at most this share of the unfinished rows still decodes."""


@dataclass(slots=True, eq=False)
class _Row:
    """One rollout being decoded. `length` counts the tokens whose keys are kept, `position` is the next M-RoPE one."""

    conversation: Conversation
    length: int
    position: int
    decision: ParsedCall | Invalid | None = None
    performed: Future[tuple[Outcome | None, EncodedImage | None]] | None = None
    observation: Observation | None = None


def run_shared(
    policy: Policy, opened: Sequence[OpenedPrompt], operator: Operator, config: RolloutConfig, key: RolloutKey
) -> list[Group]:
    """Rollouts with shared prefixes and kept keys."""
    assert policy.backbone is not None
    with ThreadPoolExecutor(config.operation_threads, thread_name_prefix="operation") as threads:
        return _Engine(policy, policy.backbone, operator, config, threads).run(opened, key)


class _Engine:
    def __init__(
        self,
        policy: Policy,
        backbone: Backbone,
        operator: Operator,
        config: RolloutConfig,
        threads: ThreadPoolExecutor,
    ) -> None:
        self.policy = policy
        self.backbone = backbone
        self.operator = operator
        self.config = config
        self.threads = threads
        self.ends = end_ids(policy)
        self.forbidden = forbidden_ids(policy)
        self.features: dict[bytes, torch.Tensor] = {}

    def run(self, opened: Sequence[OpenedPrompt], key: RolloutKey) -> list[Group]:
        conversations = start(opened, self.config.group_size, key)
        rows = [_Row(conversation, 0, 0) for conversation in conversations]
        longest, tokens_max = max(len(prompt.ids) for prompt in opened), self.config.tokens_max
        backbone = self.backbone
        self.cache = RolloutCache(len(rows), longest + min(tokens_max, 256), backbone.device, backbone.dtype)
        direct = how_rollouts_run(self.policy) == "direct"
        self.forward: Decoder | Backbone = Decoder(backbone, longest + tokens_max) if direct else backbone
        logits = self._prefill(opened, rows)
        acting: list[_Row] = []
        decoding = rows
        while decoding or acting:
            if decoding:
                tokens = write_next([row.conversation for row in decoding], logits, self.config)
                decoding, acting, kept = self._settle_tokens(decoding, acting, tokens)
            if acting and len(decoding) <= _READ_SHARE * (len(decoding) + len(acting)):
                reading = self._observations(decoding, acting)
                acting = []
                read_logits = self._read(len(decoding), reading)
                logits = torch.cat([self._decode(decoding, kept), read_logits]) if decoding else read_logits
                decoding = decoding + reading
            elif decoding:
                logits = self._decode(decoding, kept)
        return gathered(opened, conversations, self.config)

    def _prefill(self, opened: Sequence[OpenedPrompt], rows: Sequence[_Row]) -> torch.Tensor:
        """Compute every prompt once and keep it for each of its rollouts; the logits of each row's first token."""
        images = [image for prompt in opened for image in prompt.images]
        for prompt in opened:
            name = f"prompt {prompt.prompt.prompt_id}"
            audit_image_tokens(name, prompt.ids, prompt.images, self.backbone.image_token_id)
        placed = [self.backbone.positions(prompt.ids, prompt.images, 0) for prompt in opened]
        lengths = [len(prompt.ids) for prompt in opened]
        self.cache.fill(lengths, self.config.group_size)
        hidden = self.forward.hidden(
            _padded([prompt.ids for prompt in opened]).to(self.policy.device),
            self._features(images),
            _padded_positions([positions for positions, _ in placed]).to(self.policy.device),
            CachePlan(None),
            self.cache,
        )
        last = torch.tensor(lengths, device=hidden.device) - 1
        logits = self.backbone.head(hidden[torch.arange(len(opened), device=hidden.device), last])
        for number, row in enumerate(rows):
            prompt_number = number // self.config.group_size
            row.length, row.position = lengths[prompt_number], placed[prompt_number][1]
        repeated: torch.Tensor = logits.repeat_interleave(self.config.group_size, dim=0)
        return repeated

    def _settle_tokens(
        self, decoding: list[_Row], acting: list[_Row], tokens: list[int]
    ) -> tuple[list[_Row], list[_Row], list[int]]:
        """Who goes on, who acts now, and the tokens of those who go on; the cache's rows follow."""
        config, policy = self.config, self.policy
        going_on, acts = [], list(acting)
        for row, token in zip(decoding, tokens, strict=True):
            conversation = row.conversation
            if token in self.ends:
                row.decision = end_turn(policy, conversation, config)
                if row.decision is not None:
                    scene = conversation.scene
                    row.performed = self.threads.submit(perform, policy, self.operator, scene, row.decision)
                    acts.append(row)
            elif not cut(policy, conversation, token, self.forbidden, config):
                going_on.append(row)
        if len(going_on) == len(decoding):
            return decoding, acting, tokens
        going_on, acts = self._arrange([*decoding, *acting], going_on, acts)
        return going_on, acts, [row.conversation.ids[-1] for row in going_on]

    def _arrange(
        self, before: Sequence[_Row], front: Sequence[_Row], behind: Sequence[_Row]
    ) -> tuple[list[_Row], list[_Row]]:
        """Move rows of the cache until `front` fills its first places and `behind` the next; as few as possible."""
        boundary, total = len(front), len(front) + len(behind)
        after: list[_Row | None] = [None] * total
        for members, first, stop in ((set(front), 0, boundary), (set(behind), boundary, total)):
            for place in range(first, stop):
                if before[place] in members:
                    after[place] = before[place]
                    members.discard(before[place])
            homeless = iter([row for row in before if row in members])
            for place in range(first, stop):
                after[place] = after[place] or next(homeless)
        arranged = [row for row in after if row is not None]
        place_of = {row: place for place, row in enumerate(before)}
        moved = [place for place in range(total) if before[place] is not arranged[place]]
        self.cache.move([place_of[arranged[place]] for place in moved], moved)
        return arranged[:boundary], arranged[boundary:]

    def _observations(self, decoding: list[_Row], acting: list[_Row]) -> list[_Row]:
        """Wait for the operations of all acting rows; returns those that read on, in the places behind `decoding`."""
        reading = []
        for row in acting:
            assert row.performed is not None
            assert row.decision is not None
            outcome, image = row.performed.result()
            action, row.observation = settle(self.policy, row.conversation, row.decision, outcome, image)
            if observe(row.conversation, action, row.observation, self.config):
                reading.append(row)
        return self._arrange([*decoding, *acting], decoding, reading)[1]

    def _read(self, first: int, rows: Sequence[_Row]) -> torch.Tensor:
        """Append each row's last written token and its observation to its kept keys; the logits of its next token."""
        if not rows:
            return torch.empty(0)
        ids, positions, images = [], [], list[EncodedImage]()
        for row in rows:
            observation, conversation = row.observation, row.conversation
            assert observation is not None
            shown = () if observation.image is None else (observation.image,)
            audit_image_tokens(conversation.name, observation.ids, shown, self.backbone.image_token_id)
            images += shown
            read = [conversation.ids[-len(observation.ids) - 1], *observation.ids]
            placed, row.position = self.backbone.positions(read, shown, row.position)
            ids.append(read)
            positions.append(placed)
        new, device = [len(read) for read in ids], self.policy.device
        mask = self.cache.extend(first, [row.length for row in rows], new)
        hidden = self.forward.hidden(
            _padded(ids).to(device),
            self._features(images),
            _padded_positions(positions).to(device),
            CachePlan(mask),
            self.cache,
        )
        for row, added in zip(rows, new, strict=True):
            row.length += added
        last = hidden[torch.arange(len(rows), device=device), torch.tensor(new, device=device) - 1]
        logits: torch.Tensor = self.backbone.head(last)
        return logits

    def _decode(self, rows: Sequence[_Row], tokens: Sequence[int]) -> torch.Tensor:
        """Append one written token to each row; the logits of the next."""
        device = self.policy.device
        mask = self.cache.extend(0, [row.length for row in rows], [1] * len(rows))
        positions = torch.tensor([row.position for row in rows], device=device)
        hidden = self.forward.hidden(
            torch.tensor(tokens, device=device)[:, None],
            None,
            positions.view(1, -1, 1).expand(3, -1, -1),
            CachePlan(mask),
            self.cache,
        )
        for row in rows:
            row.length += 1
            row.position += 1
        logits: torch.Tensor = self.backbone.head(hidden[:, 0])
        return logits

    def _features(self, images: Sequence[EncodedImage]) -> torch.Tensor | None:
        """The features of the images in order; each distinct image goes through the vision tower once a round."""
        if not images:
            return None
        new = {image.digest: image for image in images if image.digest not in self.features}
        self.features |= dict(zip(new, self.backbone.image_features(list(new.values())), strict=True))
        return torch.cat([self.features[image.digest] for image in images])


def _padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """int64[rows, longest], filled up with 0 on the right, where nothing looks."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def _padded_positions(positions: Sequence[torch.Tensor]) -> torch.Tensor:
    """int64[3, rows, longest] from int64[3, length] each."""
    return torch.nn.utils.rnn.pad_sequence([each.T for each in positions], batch_first=True).permute(2, 0, 1)


__all__ = ["run_shared"]
