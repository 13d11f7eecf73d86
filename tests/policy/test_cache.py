"""Kept keys: rows of their own lengths, moved whole, and nothing of who was there before."""

from __future__ import annotations

import torch

from share.kernel.policy.cache import RolloutCache

WIDTH, HEADS = 4, 2


def tokens(rows: int, length: int, value: float) -> torch.Tensor:
    """Keys and values [rows, 2 * heads, length, width]."""
    return torch.full((rows, 2 * HEADS, length, WIDTH), value)


def cache_of(rows: int, length: int) -> RolloutCache:
    return RolloutCache(rows, length, torch.device("cpu"), torch.float32)


def test_whoever_comes_later_sees_nothing_of_who_was_there_before() -> None:
    """Not even what is hidden from it: a value that is not finite, times no weight, is not finite."""
    cache = cache_of(2, 100)
    cache.fill([60, 60], 1)
    cache.keep(tokens(2, 60, float("nan")), 0)
    cache.fill([10, 10], 1)
    cache.keep(tokens(2, 10, 1.0), 0)
    cache.extend(0, [10, 70], [1, 1])
    keys, values = cache.keep(tokens(2, 1, 2.0), 0)
    assert keys.shape == values.shape == (2, HEADS, 71, WIDTH)
    assert torch.isfinite(keys).all()
    assert torch.isfinite(values).all()
    assert keys[0, 0, :12, 0].tolist() == [1.0] * 10 + [2.0, 0.0]


def test_rows_are_moved_with_all_that_was_written() -> None:
    cache = cache_of(4, 100)
    cache.fill([3, 3, 3], 1)
    cache.keep(torch.cat([tokens(1, 3, float(row)) for row in range(3)]), 0)
    cache.extend(0, [3, 3, 3], [2, 5, 1])
    cache.keep(torch.cat([tokens(1, 5, 10.0 + row) for row in range(3)]), 0)
    before, seen = cache.kept[0].clone(), cache.seen.clone()
    cache.move([1, 2, 0], [0, 1, 3])
    assert torch.equal(cache.kept[0][[0, 1, 3]], before[[1, 2, 0]])
    assert torch.equal(cache.seen[[0, 1, 3]], seen[[1, 2, 0]])
    assert cache.kept[0][0, 0, :9, 0].tolist() == [1.0] * 3 + [11.0] * 5 + [0.0]
    assert (cache.seen[0] == 0.0).sum() == 8
