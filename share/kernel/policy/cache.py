"""The key-value cache of rollouts: preallocated, one row per rollout, every row with a length of its own.

Rows that decode lie side by side at the front, so that a step reads and writes views, not copies; a row that stops is
replaced by one that goes on. A forward calls `keep` in every layer (transformers' attention calls it `update`);
everything else is called by the rollout engine.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_BLOCK = 64
"""Lengths are reserved in multiples of this, in tokens."""


class RolloutCache:
    """Per layer the keys, then the values: [rows, 2 * key-value heads, length, head dimension].

    `seen` [rows, length] is the additive mask of what a row's next token sees: 0 where the row has a token.
    """

    def __init__(self, num_rows: int, length: int, device: torch.device, dtype: torch.dtype) -> None:
        self.length = -(-length // _BLOCK) * _BLOCK
        self.kept: list[torch.Tensor] = []
        self.unseen = torch.finfo(dtype).min
        self.seen = torch.full((num_rows, self.length), self.unseen, dtype=dtype, device=device)
        self._copies = 0
        self._start = 0
        self._visible = 0
        self._written = 0  # no row holds a token from here on, nor ever has
        self._rows = self._positions = torch.empty(0, dtype=torch.long)

    def reserve(self, num_rows: int) -> None:
        """Have room for that many rows: twice as many as now, or what is needed."""
        if num_rows <= len(self.seen):
            return
        more = max(num_rows, 2 * len(self.seen)) - len(self.seen)
        self.kept = [torch.nn.functional.pad(old, (0, 0, 0, 0, 0, 0, 0, more)) for old in self.kept]
        self.seen = torch.nn.functional.pad(self.seen, (0, 0, 0, more), value=self.unseen)

    def fill(self, lengths: Sequence[int], copies: int, start: int = 0) -> None:
        """The next forward computes prefixes of these lengths; each is kept in `copies` adjacent rows, from `start` on.

        What those rows held before is forgotten.
        """
        stop = start + len(lengths) * copies
        if max(lengths) > self.length:
            self._grow(max(lengths))
        self._copies = copies
        self._start = start
        self._written = max(self._written, *lengths)
        self.seen[start:stop] = self.unseen
        for number, length in enumerate(lengths):
            self.seen[start + number * copies : start + (number + 1) * copies, :length] = 0.0

    def extend(self, start: int, lengths: Sequence[int], new: Sequence[int]) -> torch.Tensor:
        """The next forward adds `new` tokens each to the rows from `start` on, behind the `lengths` they have.

        Returns who sees whom, the additive mask [rows, 1, longest of new, visible].
        """
        device, stop, longest = self.seen.device, start + len(lengths), max(new)
        self._copies = 0
        self._start = start
        self._visible = max(lengths) + longest
        if self._visible > self.length:
            self._grow(self._visible)
        self._written = max(self._written, self._visible)
        self._rows = torch.arange(start, stop, device=device)[:, None]
        self._positions = torch.tensor(lengths, device=device)[:, None]
        if longest == 1:
            self.seen[self._rows, self._positions] = 0.0
            return self.seen[start:stop, None, None, : self._visible]
        self._positions = self._positions + torch.arange(longest, device=device)
        past = torch.arange(self._visible, device=device) <= self._positions[..., None]
        mask = self.seen.new_zeros(past.shape).masked_fill_(~past, self.unseen)
        last = torch.tensor(new, device=device) - 1
        self.seen[start:stop, : self._visible] = mask[torch.arange(len(new), device=device), last]
        return mask[:, None]

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Copy rows over others that are not needed any more, or that move as well."""
        if sources:
            self.seen[targets] = self.seen[sources]
            for tensor in self.kept:
                tensor[targets, :, : self._written] = tensor[sources, :, : self._written]

    def keep(self, new_RKTD: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the new keys and values of a layer, one behind the other; returns those that the new tokens may see."""
        if self._copies:
            self._fill_layer(new_RKTD, layer)
            seen = new_RKTD
        else:
            kept = self.kept[layer]
            kept[self._rows, :, self._positions] = new_RKTD.transpose(1, 2)
            seen = kept[self._start : self._start + new_RKTD.shape[0], :, : self._visible]
        keys, values = seen.chunk(2, dim=1)
        return keys, values

    def update(
        self, key_RVTD: torch.Tensor, value_RVTD: torch.Tensor, layer: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`keep`, as transformers calls it."""
        return self.keep(torch.cat([key_RVTD, value_RVTD], dim=1), layer)

    def get_seq_length(self, layer: int = 0) -> int:
        """Asked by transformers where it would make a mask; the plan makes ours."""
        return self._visible

    def _fill_layer(self, new_PKTD: torch.Tensor, layer: int) -> None:
        prefixes, heads, length, width = new_PKTD.shape
        if len(self.kept) == layer:
            self.kept.append(new_PKTD.new_zeros(len(self.seen), heads, self.length, width))
        rows = self.kept[layer][self._start : self._start + prefixes * self._copies]
        rows.view(prefixes, self._copies, heads, -1, width)[:, :, :, :length] = new_PKTD[:, None]
        # What is hidden counts for nothing, unless it is not finite.
        rows[:, :, length : self._written] = 0.0

    def _grow(self, length: int) -> None:
        """Twice the length, or what is needed."""
        length = -(-max(length, 2 * self.length) // _BLOCK) * _BLOCK
        more = length - self.length
        self.kept = [torch.nn.functional.pad(old, (0, 0, 0, more)) for old in self.kept]
        self.seen = torch.nn.functional.pad(self.seen, (0, more), value=self.unseen)
        self.length = length


__all__ = ["RolloutCache"]
