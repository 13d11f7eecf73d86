"""What the shared-prefix paths need of a model: image features, embeddings, positions, hidden states and a head.

Covers Qwen2-VL, Qwen2.5-VL and Qwen3-VL, whose tokens have three positions each (M-RoPE, arXiv 2409.12191). Every
other family goes through the plain padded path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from share.kernel.policy.attention import NAME, NAME_IMAGES, Plan
from share.kernel.policy.images import EncodedImage
from share.kernel.policy.tower import Tower

_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """What the first layer reads, [B, T, width], features in place of image tokens, bool[B, T].

    `deep`: Qwen3-VL's features [image tokens, width] that are added to the image tokens after each of the first layers.
    """

    states: torch.Tensor
    is_image: torch.Tensor
    deep: tuple[torch.Tensor, ...]


class Backbone:
    """The parts of a Qwen-VL model, called one by one."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.language = model.model.language_model
        self.head = model.get_output_embeddings()
        self.embedding = model.get_input_embeddings()
        self.image_token_id = int(model.config.image_token_id)
        self.merge = int(model.config.vision_config.spatial_merge_size)
        self.width = int(model.config.text_config.hidden_size)
        model.config.text_config._attn_implementation = NAME
        model.config.vision_config._attn_implementation = NAME_IMAGES
        visual = self.visual = model.model.visual
        if type(visual.patch_embed.proj) is torch.nn.Conv3d:
            visual.patch_embed.proj.__class__ = PatchProjection
        self.tower = Tower(visual) if Tower.fits(visual) else None

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether the model is of a family whose prefixes can be shared exactly."""
        config = model.config
        if config.model_type not in _FAMILIES:
            return False
        layer_types = getattr(config.text_config, "layer_types", None) or ["full_attention"]
        return set(layer_types) == {"full_attention"}

    @property
    def device(self) -> torch.device:
        return torch.device(self.embedding.weight.device)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.embedding.weight.dtype
        return dtype

    def image_features(self, images: Sequence[EncodedImage]) -> list[torch.Tensor]:
        """Features of each image, [tokens, width] or, with Qwen3-VL's deep features beside, [tokens, width * (1 + d)].

        Equal images are encoded once.
        """
        distinct = {image.digest: image for image in images}
        if not distinct:
            return []
        pixels = torch.cat([image.pixel_values for image in distinct.values()]).to(self.device, self.dtype)
        grids = torch.stack([image.grid_thw for image in distinct.values()])
        if self.tower is not None and not torch.is_grad_enabled() and self.tower.is_plain:
            features = self.tower.features(pixels, grids.tolist())
        else:
            encoded = self.model.model.get_image_features(pixels, grids.to(self.device), return_dict=True)
            features = list(encoded.pooler_output)
            for deep in getattr(encoded, "deepstack_features", None) or ():
                features = [torch.cat(pair, dim=-1) for pair in zip(features, deep, strict=True)]
        by_digest = dict(zip(distinct, features, strict=True))
        return [by_digest[image.digest] for image in images]

    def positions(self, ids: Sequence[int], images: Sequence[EncodedImage], start: int) -> tuple[torch.Tensor, int]:
        """M-RoPE positions int64[3, tokens] of tokens that follow position `start`, and the next position."""
        parts, next_image, place = [], iter(images), 0
        while place < len(ids):
            if ids[place] == self.image_token_id:
                image = next(next_image)
                _, rows, columns = (int(size) for size in image.grid_thw)
                rows, columns = rows // self.merge, columns // self.merge
                row = torch.arange(rows).repeat_interleave(columns)
                column = torch.arange(columns).repeat(rows)
                parts.append(torch.stack([torch.zeros_like(row), row, column]) + start)
                start += max(rows, columns)
                place += rows * columns
            else:
                stop = place
                while stop < len(ids) and ids[stop] != self.image_token_id:
                    stop += 1
                parts.append(torch.arange(start, start + stop - place).expand(3, -1))
                start += stop - place
                place = stop
        return (torch.cat(parts, dim=1) if parts else torch.zeros(3, 0, dtype=torch.long)), start

    def embed(self, ids_BT: torch.Tensor, features: torch.Tensor | None) -> Embedded:
        """Embeddings of tokens; `features` are those of the image tokens of `ids_BT` in reading order."""
        states = self.embedding(ids_BT)
        is_image = ids_BT == self.image_token_id
        if features is None:
            return Embedded(states, is_image, ())
        first, *deep = torch.split(features.to(states.dtype), self.width, dim=1)
        return Embedded(states.masked_scatter(is_image[..., None], first), is_image, tuple(deep))

    def hidden(
        self,
        ids_BT: torch.Tensor,
        features: torch.Tensor | None,
        positions_3BT: torch.Tensor,
        plan: Plan,
        cache: Any = None,
    ) -> torch.Tensor:
        """Last hidden states [B, T, width], through transformers' layers."""
        embedded = self.embed(ids_BT, features)
        deep: dict[str, Any] = {}
        if embedded.deep:
            deep = {"visual_pos_masks": embedded.is_image, "deepstack_visual_embeds": list(embedded.deep)}
        outputs = self.language(
            inputs_embeds=embedded.states,
            attention_mask=_NO_MASK.to(self.device),
            position_ids=positions_3BT,
            past_key_values=cache,
            use_cache=cache is not None,
            plan=plan,
            **deep,
        )
        hidden: torch.Tensor = outputs.last_hidden_state
        return hidden


class PatchProjection(torch.nn.Conv3d):
    """A convolution over patches of the size of its kernel: one matrix product, which torch's convolution does not see.

    On a CPU the product is six times as fast, forward and backward.
    """

    def forward(self, patches_NCTHW: torch.Tensor) -> torch.Tensor:
        projected = torch.nn.functional.linear(patches_NCTHW.flatten(1), self.weight.flatten(1), self.bias)
        return projected[:, :, None, None, None]


_NO_MASK = torch.zeros(1, 1, 1, 1)
"""Four dimensions keep transformers from making a mask: the plan says who sees whom."""

__all__ = ["Backbone", "Embedded", "PatchProjection"]
