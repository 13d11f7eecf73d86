"""Attention over shared prefixes: one token stream whose branches see their own past, and kept keys while decoding.

Registered with transformers as the attention implementations `pixelis` of language models (a forward that is given a
`plan` runs it; one without is transformers' own `sdpa`) and `pixelis_flash_images` of vision towers, which computes
images of equal size together, where `sdpa` computes them one by one.

Legend: T tokens of the stream, N branches, Q and K the longest own part and the longest path of a branch, H heads,
V key-value heads, D head dimension.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "pixelis"
"""The name under which transformers finds the attention of language models."""

NAME_IMAGES = "pixelis_flash_images"
"""That of vision towers. Only an attention with "flash" in its name is handed all images at once."""

_SIZES = (8, 32, 64, 128)
"""Branches are computed together with others whose own part has a similar length: up to so many tokens, or more."""


class Plan(Protocol):
    """How the queries of a forward attend. `attend` takes and returns what transformers' attention functions do."""

    def attend(
        self, query_BHTD: torch.Tensor, key_BVTD: torch.Tensor, value_BVTD: torch.Tensor, scaling: float | None
    ) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class Branch:
    """Tokens `start` to `stop` of the stream, which see the tokens `past` (in order) and each other causally."""

    start: int
    stop: int
    past: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Branches computed together. Indexes are flat, `num` branches of equal padded lengths.

    `query_index` [N*Q] and `key_index` [N*K] into the stream; `own` the places in N*Q that are tokens; `mask`
    [1, N, Q, K] additive, None when plain causal attention over equal queries and keys.
    """

    num: int
    query_index: torch.Tensor
    key_index: torch.Tensor
    own: torch.Tensor
    mask: torch.Tensor | None


class TreePlan:
    """Attention of a stream [prefix | S_1 … S_G | prefix | …]: each token sees its path from the root, nothing else.

    The work is that of the branches alone: G * S * (P + S) for G completions of one prefix, where a square mask over
    the stream would pay (P + G * S) squared.
    """

    def __init__(self, branches: Sequence[Branch], device: torch.device, dtype: torch.dtype) -> None:
        sized: dict[tuple[bool, int], list[Branch]] = {}
        for branch in branches:
            length = branch.stop - branch.start
            key = (not branch.past, sum(length > size for size in _SIZES) if branch.past else 0)
            sized.setdefault(key, []).append(branch)
        self.buckets = [_bucket(group, device, dtype) for group in sized.values()]
        order = [token for group in sized.values() for branch in group for token in range(branch.start, branch.stop)]
        assert sorted(order) == list(range(len(order))), "every token of the stream belongs to one branch"
        inverse = torch.empty(len(order), dtype=torch.long)
        inverse[torch.tensor(order)] = torch.arange(len(order))
        self.inverse = inverse.to(device)

    def attend(
        self, query_BHTD: torch.Tensor, key_BVTD: torch.Tensor, value_BVTD: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        query, key, value = query_BHTD[0], key_BVTD[0], value_BVTD[0]
        attended = [_attend(bucket, query, key, value, scaling) for bucket in self.buckets]
        return torch.cat(attended).index_select(0, self.inverse)[None]


@dataclass(frozen=True, slots=True)
class CachePlan:
    """Attention of new tokens over kept keys and values, which the cache returns: `mask` [rows, 1, new, kept] additive.

    None is plain causal attention over the new tokens alone.
    """

    mask: torch.Tensor | None

    def attend(
        self, query_BHTD: torch.Tensor, key_BVTD: torch.Tensor, value_BVTD: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        return grouped_attention(query_BHTD, key_BVTD, value_BVTD, self.mask, scaling).transpose(1, 2)


def grouped_attention(
    query_BHTD: torch.Tensor,
    key_BVKD: torch.Tensor,
    value_BVKD: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    """Attention of H heads that share V key-value heads, without copying these: a group's heads become more queries.

    `mask` [B, 1, T, K] is additive; None is causal attention over equally many queries and keys.
    """
    batch, heads, tokens, width = query_BHTD.shape
    shared = heads // key_BVKD.shape[1]
    if mask is None:
        if shared > 1:
            key_BVKD = key_BVKD.repeat_interleave(shared, dim=1)
            value_BVKD = value_BVKD.repeat_interleave(shared, dim=1)
        return scaled_dot_product_attention(query_BHTD, key_BVKD, value_BVKD, is_causal=tokens > 1, scale=scaling)
    folded = query_BHTD.reshape(batch, heads // shared, shared * tokens, width)
    if shared > 1 and mask.shape[2] > 1:
        mask = mask.repeat(1, 1, shared, 1)
    attended = scaled_dot_product_attention(folded, key_BVKD, value_BVKD, attn_mask=mask, scale=scaling)
    return attended.reshape(batch, heads, tokens, width)


def shared_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    plan: Plan | None = None,
    scaling: float | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """The function that transformers calls in every layer."""
    if plan is not None:
        return plan.attend(query, key, value, scaling).contiguous(), None
    attended: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **settings
    )
    return attended


def image_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor,
    scaling: float | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each image (or window of one): all of equal length in one call.

    `query`, `key`, `value` [1, H, T, D]; `cu_seq_lens_q` the boundaries of the images in T.
    """
    bounds = cu_seq_lens_q.tolist()
    by_length: dict[int, list[int]] = {}
    for first, stop in itertools.pairwise(bounds):
        by_length.setdefault(stop - first, []).append(first)
    heads, width = query.shape[1], query.shape[3]
    if len(by_length) == 1:
        length = next(iter(by_length))
        q, k, v = (each[0].view(heads, -1, length, width).transpose(0, 1) for each in (query, key, value))
        attended = scaled_dot_product_attention(q, k, v, scale=scaling)
        return attended.transpose(1, 2).reshape(1, -1, heads, width), None
    pieces, order = [], []
    for length, firsts in by_length.items():
        starts = torch.tensor(firsts, device=query.device)
        places = (starts[:, None] + torch.arange(length, device=query.device)).flatten()
        q, k, v = (
            each[0].index_select(1, places).view(heads, -1, length, width).transpose(0, 1)
            for each in (query, key, value)
        )
        attended = scaled_dot_product_attention(q, k, v, scale=scaling)
        pieces.append(attended.transpose(1, 2).reshape(-1, heads, width))
        order.append(places)
    return torch.cat(pieces).index_select(0, torch.cat(order).argsort())[None], None


def _bucket(branches: Sequence[Branch], device: torch.device, dtype: torch.dtype) -> _Bucket:
    lengths = [branch.stop - branch.start for branch in branches]
    pasts = [len(branch.past) for branch in branches]
    num, queries = len(branches), max(lengths)
    keys = max(length + past for length, past in zip(lengths, pasts, strict=True))
    query_index = torch.zeros(num, queries, dtype=torch.long)
    key_index = torch.zeros(num, keys, dtype=torch.long)
    for row, branch in enumerate(branches):
        own = torch.arange(branch.start, branch.stop)
        query_index[row, : lengths[row]] = own
        key_index[row, : pasts[row]] = torch.tensor(branch.past, dtype=torch.long)
        key_index[row, pasts[row] : pasts[row] + lengths[row]] = own
    length_N, past_N = torch.tensor(lengths)[:, None], torch.tensor(pasts)[:, None]
    own_place = (torch.arange(queries) < length_N).flatten().nonzero()[:, 0]
    mask = None
    if max(pasts):
        seen = torch.arange(keys)[None, None] <= (past_N + torch.arange(queries))[..., None]
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)[None].to(device)
    return _Bucket(num, query_index.flatten().to(device), key_index.flatten().to(device), own_place.to(device), mask)


def _attend(
    bucket: _Bucket, query_HTD: torch.Tensor, key_VTD: torch.Tensor, value_VTD: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """The attended tokens of a bucket, in the order of its branches: [tokens, H, D]."""
    heads, _, width = query_HTD.shape
    groups = key_VTD.shape[0]
    query = query_HTD.index_select(1, bucket.query_index).view(heads, bucket.num, -1, width)
    key = key_VTD.index_select(1, bucket.key_index).view(groups, bucket.num, -1, width)
    value = value_VTD.index_select(1, bucket.key_index).view(groups, bucket.num, -1, width)
    if bucket.mask is None:
        query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
        attended = grouped_attention(query, key, value, None, scaling).permute(0, 2, 1, 3)
    else:
        shared = heads // groups
        folded = query.view(groups, shared, bucket.num, -1, width).transpose(1, 2).flatten(2, 3)
        mask = bucket.mask.repeat(1, 1, shared, 1) if shared > 1 else bucket.mask
        attended = scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scaling)
        attended = attended.view(groups, bucket.num, shared, -1, width).permute(1, 3, 0, 2, 4).flatten(2, 3)
    return attended.reshape(-1, heads, width).index_select(0, bucket.own)


AttentionInterface.register(NAME, shared_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
AttentionInterface.register(NAME_IMAGES, image_attention)

__all__ = [
    "NAME",
    "NAME_IMAGES",
    "Branch",
    "CachePlan",
    "Plan",
    "TreePlan",
    "grouped_attention",
    "image_attention",
    "shared_attention",
]
