"""The language model of a rollout: transformers' layers, computed from their weights instead of through their modules.

A decoded token is many small operations, and most of its time would go into the modules around them. So what depends
on weights alone is prepared once per round (projections that read the same input are joined, rotations stand in a
table), and a layer is a dozen operations. The numbers are those of the model's own forward; tests hold the logits to
1e-5 in float32.

A projection that is not a plain linear layer, such as an adapter's or a quantised one, is called as the module it is.
A model with other layers, or whose modules were hooked, goes through transformers: `Decoder.fits` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear, rms_norm, silu

from share.kernel.policy.attention import Plan
from share.kernel.policy.backbone import Backbone
from share.kernel.policy.cache import RolloutCache

_LAYERS = ("Qwen2VLDecoderLayer", "Qwen2_5_VLDecoderLayer", "Qwen3VLTextDecoderLayer")
_GROWING_ROTATIONS = ("dynamic", "longrope")
"""Rotary embeddings whose frequencies depend on the length, so that no table holds them."""


class Decoder:
    """Hidden states of new tokens over kept keys. It must not outlive a change of the weights.

    `positions_max` bounds the positions of tokens without images beside them; `joined_bytes_max` the weights that are
    copied to be joined. A larger model's are used where they are.
    """

    def __init__(self, backbone: Backbone, positions_max: int, joined_bytes_max: int = 1 << 28) -> None:
        language, config = backbone.language, backbone.language.config
        self.backbone = backbone
        self.rotary = language.rotary_emb
        self.eps = float(config.rms_norm_eps)
        self.norm = language.norm.weight
        self.heads = int(config.num_attention_heads)
        self.key_value_heads = int(config.num_key_value_heads)
        self.head_width = int(language.layers[0].self_attn.head_dim)
        self.scaling = float(language.layers[0].self_attn.scaling)
        joinable = [each for layer in language.layers for each in _inputs(layer)]
        joins = all(map(_is_plain, joinable)) and sum(map(_size, joinable)) <= joined_bytes_max
        self.layers = [_Layer.of(layer, joins) for layer in language.layers]
        self.reserve(positions_max)

    def reserve(self, positions_max: int) -> None:
        """Be ready for that many positions."""
        self.positions_max = positions_max
        everywhere = torch.arange(positions_max, device=self.backbone.device).expand(3, 1, -1)
        self.table = self._rotations(self.norm, everywhere)

    @staticmethod
    def fits(backbone: Backbone) -> bool:
        """Whether the model's layers are exactly those that are computed here, and nobody listens to them."""
        language = backbone.language
        if any(type(layer).__name__ not in _LAYERS for layer in language.layers):
            return False
        if language.config.hidden_act != "silu" or language.rotary_emb.rope_type in _GROWING_ROTATIONS:
            return False
        return all(not _is_changed(module) for module in _modules(language)) and all(
            norm.weight.dtype == backbone.dtype
            for norm in _modules(language)
            if type(norm).__name__.endswith("RMSNorm")
        )

    def hidden(
        self,
        ids_BT: torch.Tensor,
        features: torch.Tensor | None,
        positions_3BT: torch.Tensor,
        plan: Plan,
        cache: RolloutCache,
    ) -> torch.Tensor:
        """Last hidden states [B, T, width], as `Backbone.hidden`; their keys and values are kept in `cache`."""
        batch, tokens = ids_BT.shape
        embedded = self.backbone.embed(ids_BT, features)
        if features is None:
            # Without an image the three positions of a token are the same.
            cos, sin = (each.index_select(0, positions_3BT[0].flatten()) for each in self.table)
        else:
            cos, sin = self._rotations(embedded.states, positions_3BT)
        rotated = self.heads + self.key_value_heads
        states = embedded.states.flatten(0, 1)
        for number, layer in enumerate(self.layers):
            projected = layer.query_key_value(self._normed(states, layer.before_attention))
            projected = projected.view(batch * tokens, rotated + self.key_value_heads, self.head_width)
            query_key = projected[:, :rotated]
            if layer.query_key_norm is not None:
                query_key.copy_(rms_norm(query_key, (self.head_width,), None, self.eps).mul_(layer.query_key_norm))
            swapped = query_key.roll(self.head_width // 2, -1).mul_(sin)
            query_key.mul_(cos).add_(swapped)
            projected_BHTD = projected.view(batch, tokens, -1, self.head_width).transpose(1, 2)
            keys, values = cache.keep(projected_BHTD[:, self.heads :], number)
            attended = plan.attend(projected_BHTD[:, : self.heads], keys, values, self.scaling)
            states = layer.attended(states, attended.reshape(batch * tokens, -1))
            gate, up = layer.gate_up(self._normed(states, layer.before_mlp)).chunk(2, dim=-1)
            states = layer.down(states, silu(gate).mul_(up))
            if number < len(embedded.deep):
                states[embedded.is_image.flatten()] += embedded.deep[number]
        return self._normed(states, self.norm).view(batch, tokens, -1)

    def _normed(self, states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Rounded before the weight as well as after, as the model does it in half precision."""
        return rms_norm(states, weight.shape, None, self.eps).mul_(weight)

    def _rotations(self, like: torch.Tensor, positions_3BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines [B * T, 1, head width], the sines with the sign that the half they meet is rotated by."""
        cos, sin = (each.flatten(0, 1)[:, None] for each in self.rotary(like, positions_3BT))
        half = self.head_width // 2
        return cos, torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)


@dataclass(frozen=True, slots=True)
class _Layer:
    """The weights of norms, and the projections as functions of what they read (and what they add to).

    `query_key_norm` [heads + key-value heads, head width] where queries and keys are normed, as in Qwen3-VL.
    """

    before_attention: torch.Tensor
    query_key_value: Callable[[torch.Tensor], torch.Tensor]
    query_key_norm: torch.Tensor | None
    attended: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    before_mlp: torch.Tensor
    gate_up: Callable[[torch.Tensor], torch.Tensor]
    down: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    @classmethod
    def of(cls, layer: Any, joins: bool) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        return cls(
            before_attention=layer.input_layernorm.weight,
            query_key_value=_joined([attention.q_proj, attention.k_proj, attention.v_proj], joins),
            query_key_norm=_query_key_norm(attention),
            attended=_added(attention.o_proj),
            before_mlp=layer.post_attention_layernorm.weight,
            gate_up=_joined([mlp.gate_proj, mlp.up_proj], joins),
            down=_added(mlp.down_proj),
        )


def _query_key_norm(attention: Any) -> torch.Tensor | None:
    if not hasattr(attention, "q_norm"):
        return None
    heads, key_value_heads = attention.config.num_attention_heads, attention.config.num_key_value_heads
    return torch.cat([attention.q_norm.weight.expand(heads, -1), attention.k_norm.weight.expand(key_value_heads, -1)])


def _joined(modules: Sequence[Any], joins: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """Several projections of the same input, side by side."""
    if not joins:
        return lambda states: torch.cat([module(states) for module in modules], dim=-1)
    weight = torch.cat([module.weight for module in modules])
    bias = torch.cat([module.bias for module in modules]) if modules[0].bias is not None else None
    return lambda states: linear(states, weight, bias)


def _added(module: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A projection whose result is added to the states."""
    if not _is_plain(module):
        return lambda states, inner: states.add_(module(inner))
    weight, bias = module.weight, module.bias
    return lambda states, inner: states.add_(linear(inner, weight, bias))


def _modules(language: Any) -> list[Any]:
    """The modules that are read here and not called; projections are called where they are not plain."""
    modules = [language, language.norm]
    for layer in language.layers:
        modules += [layer, layer.self_attn, layer.mlp, layer.input_layernorm, layer.post_attention_layernorm]
        modules += [getattr(layer.self_attn, name) for name in ("q_norm", "k_norm") if hasattr(layer.self_attn, name)]
    return modules


def _inputs(layer: Any) -> tuple[Any, ...]:
    attention, mlp = layer.self_attn, layer.mlp
    return attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj


def _is_plain(module: Any) -> bool:
    return type(module) is torch.nn.Linear and not _is_changed(module)


def _is_changed(module: Any) -> bool:
    """Whether somebody listens to the module, or replaced what it computes."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _size(module: Any) -> int:
    return int(module.weight.numel() * module.weight.element_size())


__all__ = ["Decoder"]
