"""The rollout engine: prefill once per prompt, decode all rollouts together, keep their keys across turns.

A rollout goes through these states: *decoding* → (turn ended with a call) *acting*, its operation runs in a thread →
*reading*, the observation is appended to the kept keys → decoding again → finished, or dropped because nobody waits
for it any more. Rows that decode lie at the front of the cache, acting rows behind them. Rollouts may join while
others are decoded (continuous batching: Yu et al., "Orca", OSDI 2022); each is computed as it would be alone.

A round of training begins all its rollouts together and reads observations when most rows have stopped: when depends on
counts alone, never on how long an operation took, so a run repeats itself bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from share.kernel.policy.attention import CachePlan
from share.kernel.policy.cache import RolloutCache
from share.kernel.policy.chat import Invalid, ParsedCall
from share.kernel.policy.conversation import (
    Conversation,
    Observation,
    audit_image_tokens,
    cut,
    end_turn,
    observe,
    perform,
    settle,
    write_next,
)
from share.kernel.policy.decoder import Decoder
from share.kernel.policy.images import EncodedImage
from share.kernel.policy.rollout import (
    Group,
    OpenedPrompt,
    RolloutConfig,
    end_ids,
    forbidden_ids,
    gathered,
    how_rollouts_run,
    start,
)

if TYPE_CHECKING:
    from share.kernel.media.operator import Operator, Outcome
    from share.kernel.policy.backbone import Backbone
    from share.kernel.policy.loading import Policy
    from share.kernel.policy.sampling import RolloutKey

_READ_SHARE = 0.25
"""In a round of training, observations are read when at most this share of the unfinished rows still decodes."""

_FEATURES_MAX = 32
"""Images whose features are kept for a further request, beside rollouts that come and go."""


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
    conversations = start(opened, config, key)
    with ThreadPoolExecutor(config.operation_threads, thread_name_prefix="operation") as threads:
        flight = SharedFlight(policy, operator, threads)
        flight.join(conversations)
        while flight.num_rows:
            flight.step()
    return gathered(opened, conversations, config.group_size)


class SharedFlight:
    """Rollouts of one set of weights that are decoded together. It must not outlive a change of the weights.

    `wake` is called from a thread of `threads` whenever an operation has returned; then observations are read by the
    next step. Without it a step waits for operations, when counts alone say so. Not thread-safe: one thread joins and
    steps, without gradients. `beside` is another flight of the same thread, whose features of images are ours as well
    when it has the same vision tower.
    """

    def __init__(
        self,
        policy: Policy,
        operator: Operator,
        threads: ThreadPoolExecutor,
        wake: Callable[[], None] | None = None,
        beside: SharedFlight | None = None,
    ) -> None:
        assert policy.backbone is not None
        self.policy = policy
        self.backbone = policy.backbone
        self.operator = operator
        self.threads = threads
        self.wake = wake
        self.ends = end_ids(policy)
        self.forbidden = forbidden_ids(policy)
        sees_alike = beside is not None and beside.backbone.visual is policy.backbone.visual
        self.features: dict[bytes, torch.Tensor] = beside.features if beside is not None and sees_alike else {}
        self.decoder: Decoder | None = None
        self.is_direct = how_rollouts_run(policy) == "direct"
        self.logits = torch.empty(0)
        self.decoding: list[_Row] = []
        self.acting: list[_Row] = []

    @property
    def num_rows(self) -> int:
        """Rollouts that have not ended."""
        return len(self.decoding) + len(self.acting)

    @property
    def is_idle(self) -> bool:
        """Whether a step would do nothing: all rows wait for operations."""
        return not self.decoding and not any(_has_acted(row) for row in self.acting)

    def join(self, conversations: Sequence[Conversation]) -> None:
        """Take in rollouts that have not begun; the next step writes their first tokens.

        Those of one prompt stand side by side, equally many of each.
        """
        opened = list(dict.fromkeys(each.opened for each in conversations))
        copies = len(conversations) // len(opened)
        longest = max(len(prompt.ids) for prompt in opened)
        tokens_max = max(each.config.tokens_max for each in conversations)
        if not self.num_rows:
            backbone = self.backbone
            self.cache = RolloutCache(
                len(conversations), longest + min(tokens_max, 256), backbone.device, backbone.dtype
            )
        self._reserve(longest + tokens_max)
        self._make_room(len(conversations))
        rows = [_Row(each, 0, 0) for each in conversations]
        logits = self._prefill(opened, rows, copies)
        self.logits = torch.cat([self.logits, logits]) if self.decoding else logits
        self.decoding = self.decoding + rows

    def step(self) -> list[Conversation]:
        """Write one token of every rollout that decodes; returns those that ended, or were dropped."""
        over: list[Conversation] = []
        if self.decoding:
            tokens = write_next([row.conversation for row in self.decoding], self.logits)
            over += self._settle_tokens(tokens)
        reading = self._observations(over)
        logits = [self._read(reading)] if reading else []
        if self.decoding:
            logits.insert(0, self._decode(self.decoding))
        if logits:
            self.logits = torch.cat(logits) if len(logits) > 1 else logits[0]
        self.decoding = self.decoding + reading
        return over

    def image_features(self, images: Sequence[EncodedImage]) -> torch.Tensor:
        """What the vision tower makes of the images, [tokens, width]; those that were just shown are not run again."""
        features = self._features(images)
        assert features is not None
        return features[:, : self.backbone.width]

    def _reserve(self, positions_max: int) -> None:
        if not self.is_direct:
            return
        if self.decoder is None:
            self.decoder = Decoder(self.backbone, positions_max)
        elif positions_max > self.decoder.positions_max:
            self.decoder.reserve(positions_max)

    @property
    def forward(self) -> Decoder | Backbone:
        return self.decoder or self.backbone

    def _make_room(self, num_rows: int) -> None:
        """Free the places behind those that decode."""
        first, acting = len(self.decoding), self.acting
        self.cache.reserve(first + num_rows + len(acting))
        moving = min(num_rows, len(acting))
        target = first + max(num_rows, len(acting))
        self.cache.move(list(range(first, first + moving)), list(range(target, target + moving)))
        self.acting = acting[moving:] + acting[:moving]

    def _prefill(self, opened: Sequence[OpenedPrompt], rows: Sequence[_Row], copies: int) -> torch.Tensor:
        """Compute every prompt once and keep it for each of its rollouts; the logits of each row's first token."""
        images = [image for prompt in opened for image in prompt.images]
        for prompt in opened:
            name = f"prompt {prompt.prompt.prompt_id}"
            audit_image_tokens(name, prompt.ids, prompt.images, self.backbone.image_token_id)
        placed = [self.backbone.positions(prompt.ids, prompt.images, 0) for prompt in opened]
        lengths = [len(prompt.ids) for prompt in opened]
        self.cache.fill(lengths, copies, len(self.decoding))
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
            row.length, row.position = lengths[number // copies], placed[number // copies][1]
        repeated: torch.Tensor = logits.repeat_interleave(copies, dim=0)
        return repeated

    def _settle_tokens(self, tokens: Sequence[int]) -> list[Conversation]:
        """Who goes on and who acts now; the cache's rows follow. Returns those that are over."""
        going_on, acts, over = [], list(self.acting), []
        for row, token in zip(self.decoding, tokens, strict=True):
            conversation = row.conversation
            if conversation.is_gone:
                over.append(conversation)
            elif token in self.ends:
                row.decision = end_turn(self.policy, conversation)
                if row.decision is None:
                    over.append(conversation)
                else:
                    self._perform(row, row.decision)
                    acts.append(row)
            elif cut(self.policy, conversation, token, self.forbidden):
                over.append(conversation)
            else:
                going_on.append(row)
        if len(going_on) < len(self.decoding):
            self.decoding, self.acting = self._arrange([*self.decoding, *self.acting], going_on, acts)
        return over

    def _perform(self, row: _Row, decision: ParsedCall | Invalid) -> None:
        row.performed = self.threads.submit(perform, self.policy, self.operator, row.conversation.scene, decision)
        wake = self.wake
        if wake is not None:
            row.performed.add_done_callback(lambda _: wake())

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

    def _observations(self, over: list[Conversation]) -> list[_Row]:
        """Those that read on, in the places behind `decoding`; rollouts that end here are added to `over`."""
        ready = self.acting
        if self.wake is not None:
            ready = [row for row in self.acting if _has_acted(row)]
        elif len(self.decoding) > _READ_SHARE * self.num_rows:
            return []
        if not ready:
            return []
        reading = []
        for row in ready:
            conversation = row.conversation
            assert row.performed is not None
            assert row.decision is not None
            if conversation.is_gone:
                row.performed.cancel()
                over.append(conversation)
                continue
            outcome, image = row.performed.result()
            action, row.observation = settle(self.policy, conversation, row.decision, outcome, image)
            if observe(conversation, action, row.observation):
                reading.append(row)
            else:
                over.append(conversation)
        done = set(ready)
        waiting = [row for row in self.acting if row not in done]
        before, front = [*self.decoding, *self.acting], [*self.decoding, *reading]
        front, self.acting = self._arrange(before, front, waiting)
        return front[len(self.decoding) :]

    def _read(self, rows: Sequence[_Row]) -> torch.Tensor:
        """Append each row's last written token and its observation to its kept keys; the logits of its next token."""
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
        mask = self.cache.extend(len(self.decoding), [row.length for row in rows], new)
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

    def _decode(self, rows: Sequence[_Row]) -> torch.Tensor:
        """Append each row's last written token to its kept keys; the logits of the next."""
        device = self.policy.device
        mask = self.cache.extend(0, [row.length for row in rows], [1] * len(rows))
        positions = torch.tensor([row.position for row in rows], device=device)
        hidden = self.forward.hidden(
            torch.tensor([row.conversation.ids[-1] for row in rows], device=device)[:, None],
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
        features = torch.cat([self.features[image.digest] for image in images])
        if self.wake is not None:
            for digest in list(self.features)[:-_FEATURES_MAX]:
                del self.features[digest]
        return features


def _has_acted(row: _Row) -> bool:
    """Whether an acting row has something to go on with, or nobody to go on for."""
    return (row.performed is not None and row.performed.done()) or row.conversation.is_gone


def _padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """int64[rows, longest], filled up with 0 on the right, where nothing looks."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def _padded_positions(positions: Sequence[torch.Tensor]) -> torch.Tensor:
    """int64[3, rows, longest] from int64[3, length] each."""
    return torch.nn.utils.rnn.pad_sequence([each.T for each in positions], batch_first=True).permute(2, 0, 1)


__all__ = ["SharedFlight", "run_shared"]
