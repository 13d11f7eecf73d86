"""The vision tower of Qwen2.5-VL without gradients: transformers' blocks, computed from their weights.

Of a small image most of the time would go into the modules around a few dozen operations, and into places and rotations
that depend on its size alone; those are made once for each size. The numbers are those of the model's own forward; a
test compares them bit by bit.

Nothing is copied, so a change of the weights is seen. A tower of another family, or whose modules were hooked or
replaced, goes through transformers: `Tower.fits` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear, rms_norm, silu
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from share.kernel.policy.attention import image_attention

_TOWER, _BLOCK = "Qwen2_5_VisionTransformerPretrainedModel", "Qwen2_5_VLVisionBlock"
_SIZES_MAX = 64
"""Sizes of images whose places and rotations are kept."""

Grid = Sequence[int]
"""Frames, rows and columns of an image in patches."""


class Tower:
    """Computes what `visual` makes of images."""

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        self.heads = int(visual.config.num_heads)
        self.whole = frozenset(visual.fullatt_block_indexes)
        self._sizes: dict[tuple[int, ...], _Size] = {}
        self._modules = [each for each in visual.modules() if each is not visual.rotary_pos_emb]

    @staticmethod
    def fits(visual: Any) -> bool:
        """Whether the tower is exactly what is computed here."""
        if type(visual).__name__ != _TOWER or visual.config.hidden_act != "silu":
            return False
        if any(type(block).__name__ != _BLOCK for block in visual.blocks):
            return False
        linears = [each for block in visual.blocks for each in _linears(block)] + [*visual.merger.mlp[::2]]
        return all(type(each) is torch.nn.Linear for each in linears)

    @property
    def is_plain(self) -> bool:
        """Whether nobody listens to its modules or has replaced what they compute."""
        return not any(
            each._forward_hooks or each._forward_pre_hooks or "forward" in vars(each) for each in self._modules
        )

    def features(self, patches_NP: torch.Tensor, grids: Sequence[Grid]) -> list[torch.Tensor]:
        """Features [tokens, width] of each image, whose patches stand in `patches_NP` one behind the other."""
        visual, sizes = self.visual, [self._size(grid) for grid in grids]
        places, counts, start = [], [], 0
        for size in sizes:
            places.append(size.order + start)
            counts.append(len(size.back))
            start += len(size.order)
        cos, sin = torch.cat([each.cos for each in sizes]), torch.cat([each.sin for each in sizes])
        windows, images = _bounds([each.windows for each in sizes]), _bounds([each.frames for each in sizes])
        patch = visual.patch_embed.proj
        projected = linear(patches_NP.to(patch.weight.dtype), patch.weight.flatten(1), patch.bias)
        states = projected[torch.cat(places)]
        for number, block in enumerate(visual.blocks):
            attention, mlp = block.attn, block.mlp
            projected = _linear(attention.qkv, _normed(block.norm1, states)).view(len(states), 3 * self.heads, -1)
            rotated = projected[:, : 2 * self.heads].float()
            swapped = rotated.roll(rotated.shape[-1] // 2, -1).mul_(sin)
            rotated = rotated.mul_(cos).add_(swapped).to(projected.dtype)
            attended, _ = image_attention(
                attention,
                rotated[:, : self.heads].transpose(0, 1)[None],
                rotated[:, self.heads :].transpose(0, 1)[None],
                projected[:, 2 * self.heads :].transpose(0, 1)[None],
                None,
                images if number in self.whole else windows,
                attention.scaling,
            )
            states = states + _linear(attention.proj, attended.reshape(len(states), -1))
            inner = _normed(block.norm2, states)
            gated = silu(_linear(mlp.gate_proj, inner)).mul_(_linear(mlp.up_proj, inner))
            states = states + _linear(mlp.down_proj, gated)
        first, act, second = visual.merger.mlp
        merged = _normed(visual.merger.ln_q, states).view(-1, first.in_features)
        features = _linear(second, act(_linear(first, merged)))
        return [each[size.back] for each, size in zip(torch.split(features, counts), sizes, strict=True)]

    def _size(self, grid: Grid) -> _Size:
        known = self._sizes.get(tuple(grid))
        if known is None:
            known = _Size.of(self.visual, grid)
            if len(self._sizes) >= _SIZES_MAX:
                self._sizes = {}
            self._sizes[tuple(grid)] = known
        return known


@dataclass(frozen=True, slots=True, eq=False)
class _Size:
    """What the tower needs to know of an image of some size.

    `order` int64[patches] puts patches into the order of their windows, `back` int64[tokens] puts tokens back; `cos`
    and `sin` float32[patches, 1, head width] in that order, the sines with the sign that the half they meet is rotated
    by; `windows` and `frames` are the numbers of patches of each.
    """

    order: torch.Tensor
    back: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    windows: tuple[int, ...]
    frames: tuple[int, ...]

    @classmethod
    def of(cls, visual: Any, grid: Grid) -> _Size:
        device = visual.patch_embed.proj.weight.device
        grid_thw, merge = torch.tensor([grid], device=device), visual.spatial_merge_size
        index, bounds = get_vision_window_index(grid_thw, merge, visual.window_size, visual.patch_size)
        index = index.to(device)
        unit = merge * merge
        order = (index[:, None] * unit + torch.arange(unit, device=device)).flatten()
        positions = get_vision_position_ids(grid_thw, merge)
        cos, sin = (each[order][:, None].float() for each in visual.rotary_pos_emb(grid_thw, positions))
        half = cos.shape[-1] // 2
        signed = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        frames, rows, columns = grid
        return cls(order, index.argsort(), cos, signed, tuple(bounds.diff().tolist()), (rows * columns,) * frames)


def _bounds(lengths: Sequence[Sequence[int]]) -> torch.Tensor:
    """The boundaries of segments of these lengths, from 0 on."""
    return torch.tensor([0, *(each for some in lengths for each in some)]).cumsum(0)


def _linears(block: Any) -> tuple[Any, ...]:
    return block.attn.qkv, block.attn.proj, block.mlp.gate_proj, block.mlp.up_proj, block.mlp.down_proj


def _normed(norm: Any, states: torch.Tensor) -> torch.Tensor:
    """Rounded before the weight as well as after, as the model does it in half precision."""
    return rms_norm(states, norm.weight.shape, None, norm.variance_epsilon).mul_(norm.weight)


def _linear(module: Any, states: torch.Tensor) -> torch.Tensor:
    return linear(states, module.weight, module.bias)


__all__ = ["Grid", "Tower"]
