"""The key-value cache of rollouts: preallocated, one row per rollout, every row with a length of its own.

Rows that decode lie side by side at the front, so that a step reads and writes views, not copies; a row that stops is
replaced by one that goes on. transformers' attention calls `update`; everything else is called by the rollout engine.
"""

from __future__ import annotations

import torch

_BLOCK = 64
"""Lengths are reserved in multiples of this, in tokens."""


class RolloutCache:
    """Keys and values per layer: [rows, key-value heads, length, head dimension]."""

    def __init__(self, num_rows: int, length: int) -> None:
        self.num_rows = num_rows
        self.length = -(-length // _BLOCK) * _BLOCK
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self._copies = 0
        self._start = 0
        self._rows = torch.empty(0, dtype=torch.long)
        self._positions = torch.empty(0, dtype=torch.long)
        self._visible = 0

    def fill(self, copies: int) -> None:
        """The next forward computes prefixes; each is kept in `copies` adjacent rows."""
        self._copies = copies

    def extend(self, start: int, positions_RT: torch.Tensor, visible: int) -> None:
        """The next forward adds tokens at `positions_RT` to the rows from `start` on, and sees `visible` tokens."""
        if visible > self.length:
            self._grow(visible)
        self._copies = 0
        self._start = start
        self._rows = torch.arange(start, start + positions_RT.shape[0], device=positions_RT.device)[:, None]
        self._positions = positions_RT
        self._visible = visible

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Copy rows over others that are not needed any more, or that move as well."""
        if sources:
            for tensor in (*self.keys, *self.values):
                tensor[targets] = tensor[sources]

    def update(
        self, key_RVTD: torch.Tensor, value_RVTD: torch.Tensor, layer: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the new keys and values of a layer; returns those that the new tokens may see."""
        if self._copies:
            self._fill_layer(key_RVTD, value_RVTD, layer)
            return key_RVTD, value_RVTD
        stop = self._start + key_RVTD.shape[0]
        seen = []
        for kept, new in ((self.keys[layer], key_RVTD), (self.values[layer], value_RVTD)):
            kept[self._rows, :, self._positions] = new.transpose(1, 2)
            seen.append(kept[self._start : stop, :, : self._visible])
        return seen[0], seen[1]

    def get_seq_length(self, layer: int = 0) -> int:
        """Asked by transformers where it would make a mask; the plan makes ours."""
        return self._visible

    def _fill_layer(self, key: torch.Tensor, value: torch.Tensor, layer: int) -> None:
        assert len(self.keys) == layer, "a cache is filled once, layer by layer"
        for kept, new in ((self.keys, key), (self.values, value)):
            prefixes, heads, length, width = new.shape
            whole = new.new_zeros(self.num_rows, heads, max(self.length, length), width)
            whole.view(prefixes, self._copies, heads, -1, width)[:, :, :, :length] = new[:, None]
            kept.append(whole)
        self.length = max(self.length, key.shape[2])

    def _grow(self, length: int) -> None:
        """Twice the length, or what is needed."""
        length = -(-max(length, 2 * self.length) // _BLOCK) * _BLOCK
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                tensors[layer] = old.new_zeros(old.shape[0], old.shape[1], length, old.shape[3])
                tensors[layer][:, :, : self.length] = old
        self.length = length


__all__ = ["RolloutCache"]
