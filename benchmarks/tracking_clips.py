"""Clips of a piece of one photograph moving over another, with its true box in every frame.

Seven motions, each from a generator and from one split of the photographs, so that what is measured on the held-out
rectangles shares no pixel with what the tracker's constants were chosen on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from share.kernel.task.assets import photograph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from share.kernel.contracts.task import Split
    from share.kernel.contracts.vision import Box, Pixels

MOTIONS = ("static", "pan", "scale", "rotate", "fast", "occlusion", "light")


@dataclass(frozen=True, slots=True)
class Clip:
    """`boxes` are native, `visible` the share of the object that nothing covers, both per frame."""

    motion: str
    frames: tuple[Pixels, ...]
    boxes: tuple[Box, ...]
    visible: tuple[float, ...]


def clip(
    motion: str, rng: np.random.Generator, split: Split, *, num: int = 90, height: int = 360, width: int = 480
) -> Clip:
    """All motions wander by about two pixels a frame; each adds what it is named after.

    static: nothing more. pan: the ground moves too. scale: 0.6 to 1.7 times as large. rotate: 3 degrees a frame at
    most. fast: 10 to 24 pixels a frame. occlusion: covered wholly for 8 frames, partly before and after. light: 0.5 to
    1.4 times as bright, and a shadow on one side.
    """
    size = rng.uniform(48, 96, 2)
    size[1] = np.clip(size[1], size[0] / 1.6, size[0] * 1.6)
    side = 2 * int(np.ceil(size.max() * 0.75))
    alpha = _alpha(rng, side, size)
    patch = photograph(rng, split, side, side).astype(np.float32)
    ground = photograph(rng, split, height * 3 // 2, width * 3 // 2)
    time = np.arange(num) / num
    reach = np.array([width, height]) / 2 - size.max() * (0.95 if motion == "scale" else 0.75)
    turns = {"fast": rng.uniform(2.6, 4.0), "occlusion": 0.7}.get(motion, rng.uniform(0.5, 0.8))
    phase = rng.uniform(0, 2 * np.pi, 2)
    wave = np.sin(2 * np.pi * turns * time[:, None] * (1.0, 0.7) + phase)
    paths = np.array([width, height]) / 2 + reach * wave
    scales = np.exp(0.53 * np.sin(2 * np.pi * time * rng.uniform(0.7, 1.3))) if motion == "scale" else np.ones(num)
    angles = np.zeros(num)
    if motion == "rotate":
        angles = np.cumsum(3.0 * np.sin(2 * np.pi * time * rng.uniform(0.5, 1.5) + phase[0]))
    frames, boxes, visible = [], [], []
    for index in range(num):
        slide = np.array([width, height]) / 4
        if motion == "pan":
            slide = slide * (1 + 0.9 * np.sin(2 * np.pi * time[index] * np.array([0.8, 0.6])))
        left, top = (int(value) for value in slide)
        frame = ground[top : top + height, left : left + width].astype(np.float32)
        turn = cv2.getRotationMatrix2D((side / 2 - 0.5, side / 2 - 0.5), float(angles[index]), float(scales[index]))
        turn[:, 2] += paths[index] - (side / 2 - 0.5)
        cover = cv2.warpAffine(alpha, turn, (width, height))
        drawn = cv2.warpAffine(patch, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
        frame = frame * (1 - cover[..., None]) + drawn * cover[..., None]
        mask = cover >= 0.5
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append((float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)))
        share = 1.0
        if motion == "occlusion":
            share = _cover(frame, ground, mask, boxes[-1], index, num)
        if motion == "light":
            shade = 0.95 + 0.45 * np.sin(2 * np.pi * time[index] * 1.5 + phase[1])
            frame *= shade
            frame[:, : width // 2] *= 0.8
        frame += rng.normal(0, 2, frame.shape)
        frames.append(np.clip(frame, 0, 255).astype(np.uint8))
        visible.append(share)
    return Clip(motion, tuple(frames), tuple(boxes), tuple(visible))


def _alpha(rng: np.random.Generator, side: int, size: NDArray[np.float64]) -> NDArray[np.float32]:
    """An ellipse or a rectangle of `size` (width, height) in the middle of a square, its edge one pixel soft."""
    large = np.zeros((side * 4, side * 4), np.uint8)
    half, middle = np.rint(size * 2).astype(int), side * 2
    if rng.random() < 0.5:
        cv2.ellipse(large, (middle, middle), (int(half[0]), int(half[1])), 0, 0, 360, (255,), -1)
    else:
        cv2.rectangle(large, (middle - half[0], middle - half[1]), (middle + half[0], middle + half[1]), (255,), -1)
    return np.asarray(cv2.resize(large, (side, side), interpolation=cv2.INTER_AREA) / 255.0, dtype=np.float32)


def _cover(
    frame: NDArray[np.float32], ground: Pixels, mask: NDArray[np.bool_], box: Box, index: int, num: int
) -> float:
    """Draw a wall that sweeps over the object: whole cover for 8 frames, 10 frames to come and to go. The share left.

    The wall is a piece of the ground turned upside down, so that it has no colour of its own.
    """
    begin = num * 2 // 5
    across = np.clip((index - begin) / 10, 0, 1), np.clip((index - begin - 18) / 10, 0, 1)
    if across[0] <= 0 or across[1] >= 1:
        return 1.0
    margin = 6
    width = box[2] - box[0] + 2 * margin
    left, right = box[0] - margin + width * across[1], box[0] - margin + width * across[0]
    x1, x2 = max(0, int(left)), min(frame.shape[1], int(right))
    y1, y2 = max(0, int(box[1]) - 30), min(frame.shape[0], int(box[3]) + 30)
    if x2 <= x1:
        return 1.0
    frame[y1:y2, x1:x2] = ground[::-1][: y2 - y1, : x2 - x1]
    covered = np.zeros_like(mask)
    covered[y1:y2, x1:x2] = True
    return float(1 - (mask & covered).sum() / mask.sum())


def box_iou(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (sum(areas) - width * height)


__all__ = ["MOTIONS", "Clip", "box_iou", "clip"]
