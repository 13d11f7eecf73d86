"""Packing: a group becomes one stream of tokens in which whatever its rollouts share stands once.

The rollouts of a prompt share the prompt; many also share the beginning of what they wrote, and those that made the
same call share the observation with its image. A stream [prompt | own part of each rollout] with the attention of
`TreePlan` computes each of those tokens once, exactly: a token depends on nothing but its path from the root, and a
shared token collects the gradients of all that share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from share.kernel.policy.attention import Branch
from share.kernel.policy.backbone import Backbone
from share.kernel.policy.conversation import audit_image_tokens
from share.kernel.policy.images import EncodedImage
from share.kernel.policy.rollout import Group, Rollout


@dataclass(frozen=True, slots=True)
class Packed:
    """Several groups in one stream of T tokens.

    `ids` int64[T] and `positions` int64[3, T]; `images` those of the image tokens in the order of the stream;
    `branches` who sees whom; `places`: for each rollout, in order, the tokens of the stream that predict what its
    policy wrote, int64[actions]; `num_padded` the tokens that one row per rollout would have had.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    images: tuple[EncodedImage, ...]
    branches: tuple[Branch, ...]
    places: tuple[torch.Tensor, ...]
    num_padded: int


def pack(backbone: Backbone, groups: Sequence[Group]) -> Packed:
    """Pack groups. Raises ImageTokenMismatch when the images of a rollout do not fit its tokens."""
    stream = _Stream(backbone)
    places = [place for group in groups for place in stream.add(group.rollouts)]
    return Packed(
        ids=torch.tensor(stream.ids),
        positions=torch.cat(stream.positions, dim=1),
        images=tuple(stream.images),
        branches=tuple(stream.branches),
        places=tuple(places),
        num_padded=stream.num_padded,
    )


def read_ids(rollout: Rollout) -> list[int]:
    """The completion up to the last token that predicts one: its last written token is predicted, never read."""
    written = rollout.action_mask.nonzero()
    last = int(written[-1]) if len(written) else 0
    return [int(token) for token in rollout.completion_ids[:last].tolist()]


def read_images(rollout: Rollout, image_token_id: int) -> list[EncodedImage]:
    """The images of `read_ids`: those of a last observation that predicts nothing are left out with it."""
    left, images = sum(token == image_token_id for token in read_ids(rollout)), list[EncodedImage]()
    for image in rollout.completion_images:
        if left <= 0:
            break
        images.append(image)
        left -= image.num_tokens
    return images


class _Stream:
    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.ids: list[int] = []
        self.positions: list[torch.Tensor] = []
        self.images: list[EncodedImage] = []
        self.branches: list[Branch] = []
        self.num_padded = 0

    def add(self, rollouts: Sequence[Rollout]) -> list[torch.Tensor]:
        """Append the rollouts of one prompt; returns their `places`."""
        root = rollouts[0]
        prompt = [int(token) for token in root.prompt_ids.tolist()]
        audit_image_tokens(root.name, prompt, root.prompt_images, self.backbone.image_token_id)
        positions, next_position = self.backbone.positions(prompt, root.prompt_images, 0)
        prefix = self._append(prompt, positions, root.prompt_images, ())
        paths = [_Path(rollout, self.backbone) for rollout in rollouts]
        places: list[torch.Tensor] = [torch.empty(0, dtype=torch.long)] * len(paths)
        before: _Path | None = None
        tokens: list[int] = []
        # In lexicographic order the longest beginning that a path shares with any other, it shares with a neighbour.
        for number in sorted(range(len(paths)), key=lambda number: paths[number].symbols):
            path = paths[number]
            shared = before.shared(path) if before is not None else 0
            positions, _ = self.backbone.positions(path.ids, path.images, next_position)
            images = path.images[path.images_before(shared) :]
            seen = tokens[:shared]
            own = self._append(path.ids[shared:], positions[:, shared:], images, (*prefix, *seen))
            tokens, before = [*seen, *own], path
            stream = torch.tensor([prefix[-1], *tokens])
            places[number] = stream[path.rollout.action_mask.nonzero()[:, 0]]
            self.num_padded += len(prompt) + len(path.ids)
        return places

    def _append(
        self, ids: Sequence[int], positions: torch.Tensor, images: Sequence[EncodedImage], past: tuple[int, ...]
    ) -> list[int]:
        start = len(self.ids)
        self.ids += ids
        self.positions.append(positions)
        self.images += images
        if ids:
            self.branches.append(Branch(start, len(self.ids), past))
        return list(range(start, len(self.ids)))


class _Path:
    """What a rollout reads after its prompt. `symbols` are its tokens, an image's with the number of its pixels."""

    def __init__(self, rollout: Rollout, backbone: Backbone) -> None:
        self.rollout = rollout
        self.ids = read_ids(rollout)
        self.image_token_id = backbone.image_token_id
        self.images = read_images(rollout, backbone.image_token_id)
        audit_image_tokens(rollout.name, self.ids, self.images, self.image_token_id)
        digests = iter([image.digest for image in self.images for _ in range(image.num_tokens)])
        self.symbols = [(token, next(digests) if token == self.image_token_id else b"") for token in self.ids]

    def shared(self, other: _Path) -> int:
        """How many first tokens are the same in both, images whole or not at all."""
        length = 0
        for mine, theirs in zip(self.symbols, other.symbols, strict=False):
            if mine != theirs:
                break
            length += 1
        return length

    def images_before(self, length: int) -> int:
        """Images whose tokens lie before `length`."""
        left, count = sum(token == self.image_token_id for token in self.ids[:length]), 0
        while left > 0:
            left -= self.images[count].num_tokens
            count += 1
        assert left == 0, "equal images are equally long, so that a path never parts inside of one"
        return count


__all__ = ["Packed", "pack", "read_ids", "read_images"]
