"""Masks as run lengths: row-major, beginning with a run of zeros (possibly of length 0), as `Region` stores them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from share.kernel.errors import MediaError

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Box, Mask


def encode_mask(mask: Mask) -> tuple[int, ...]:
    """The run lengths of a bool mask [height, width]."""
    flat = np.asarray(mask, dtype=bool).ravel()
    if flat.size == 0:
        return ()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(changes, prepend=0, append=flat.size).tolist()
    return (0, *runs) if flat[0] else tuple(runs)


def decode_mask(counts: Sequence[int], shape: tuple[int, int]) -> Mask:
    """The bool mask [height, width] of run lengths. Raises MediaError when they do not fill `shape`."""
    runs = np.asarray(counts, dtype=np.int64)
    if runs.ndim != 1 or (runs.size and runs.min() < 0) or int(runs.sum()) != shape[0] * shape[1]:
        raise MediaError(f"mask: the run lengths do not fill {shape[0]} x {shape[1]} pixels")
    return np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(shape)


def decode_part(counts: Sequence[int], shape: tuple[int, int]) -> tuple[Mask, tuple[int, int, int, int]]:
    """The smallest part of a mask that holds all set pixels: bool [y2 - y1, x2 - x1], and that box (x1, y1, x2, y2).

    Decodes no row without a set pixel. Raises MediaError when the run lengths do not fill `shape`, or none is set.
    """
    ends = np.cumsum(np.asarray(counts, dtype=np.int64))
    height, width = shape
    if ends.ndim != 1 or ends.size == 0 or (np.diff(ends, prepend=0) < 0).any() or ends[-1] != height * width:
        raise MediaError(f"mask: the run lengths do not fill {height} x {width} pixels")
    ones = np.flatnonzero(np.diff(ends, prepend=0)[1::2]) * 2 + 1
    if ones.size == 0:
        raise MediaError("mask: no pixel is set")
    top, bottom = int(ends[ones[0] - 1]) // width, (int(ends[ones[-1]]) - 1) // width + 1
    runs = np.diff(ends.clip(top * width, bottom * width), prepend=top * width)
    rows = np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(bottom - top, width)
    columns = np.flatnonzero(rows.any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return np.ascontiguousarray(rows[:, left:right]), (left, top, right, bottom)


def mask_box(mask: Mask) -> Box:
    """The smallest box (x1, y1, x2, y2), x2 and y2 exclusive, around a mask. Raises MediaError if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise MediaError("mask: no pixel is set")
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


__all__ = ["decode_mask", "decode_part", "encode_mask", "mask_box"]
