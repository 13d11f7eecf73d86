"""Where one of several objects that look the same ends in a short video.

Each is the same small square, cut from a photograph. The policy is shown the first and the last frame; the last one
carries a letter beside every object, and which letter is right is told by the frames between alone. The end that lies
nearest to the asked start is the right one exactly as often as any other, so guessing by distance earns no more than
chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from share.kernel.contracts.task import Call, Demonstration, Prompt, Split
from share.kernel.contracts.vision import Box, Scene
from share.kernel.data.checkers import choice
from share.kernel.errors import TaskError
from share.kernel.task.assets import photograph
from share.kernel.task.generated import GeneratedConfig, box_in_view, generator, view_of
from share.kernel.task.painting import COLORS, background, grain, text_alpha

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from share.kernel.contracts.vision import Pixels


class FollowObjectConfig(GeneratedConfig):
    """Settings of the follow_object source."""

    height: int = Field(default=240, ge=160, le=1000)
    """Height of a frame, native pixels; the objects grow with the shorter side."""

    width: int = Field(default=320, ge=160, le=1000)
    """Width of a frame, native pixels."""

    frames: int = Field(default=48, ge=8, le=256)
    """Frames of the video, at 12 frames per second."""


class FollowObject:
    """Kind `task`. The answer is a letter; `truth["boxes"]` holds the asked object's native box in every frame."""

    def __init__(self, config: FollowObjectConfig) -> None:
        self.config = config

    def size(self, split: Split) -> int | None:
        return None

    def prompt(self, split: Split, index: int) -> Prompt:
        rng = generator("follow_object", self.config.seed, split, index)
        difficulty = self.config.difficulty(index)
        level = _LEVELS[difficulty]
        height, width, frames = self.config.height, self.config.width, self.config.frames
        side = round(min(height, width) * _SIDE)
        paths, word = _paths(rng, level, height, width, frames, side)
        letters = [str(letter) for letter in rng.permutation(list("ABCD"[: level.objects]))]
        still = background(rng, split, height, width, level.contrast)
        color = COLORS[str(rng.choice(list(COLORS)))]
        patch = grain(photograph(rng, split, side, side), color, deviation=_DEVIATION)
        light = np.linspace(1.0, 1.0 - level.dimming, frames)
        video = [_frame(still, patch, paths[:, number], light[number]) for number in range(frames)]
        tags = _write_letters(video[-1], letters, paths[:, -1], side)
        boxes = [_box(centre, side) for centre in paths[0]]
        return Prompt(
            prompt_id=f"follow_object-{self.config.seed}-{split}-{index}",
            task="follow_object",
            question=(
                f"The video shows {level.objects} squares that look the same; you see its first and its last frame. "
                f"Which letter stands in the last frame beside the square that is {word} in the first frame?"
            ),
            images=tuple(video),
            answer=letters[0],
            difficulty=difficulty,
            is_video=True,
            frames_per_second=12.0,
            shown=(0, frames - 1),
            truth={
                "boxes": boxes,
                "ends": {letter: _box(path[-1], side) for letter, path in zip(letters, paths, strict=True)},
                "tags": dict(zip(letters, tags, strict=True)),
            },
        )

    def check(self, prompt: Prompt, answer: str) -> float:
        return choice(answer, prompt.answer)

    def demonstrate(self, prompt: Prompt, scene: Scene) -> Demonstration | None:
        """Track the asked object from its box in the first frame."""
        boxes = prompt.truth["boxes"]
        assert isinstance(boxes, list)
        call = Call("TRACK_OBJECT", {"bbox": box_in_view(view_of(scene, 0), boxes[0])})
        return Demonstration(calls=(call,), answer=prompt.answer)


@dataclass(frozen=True, slots=True)
class _Level:
    """`apart` is the least distance of two objects in sides of one, at any time; `dimming` the share of light lost."""

    objects: int
    apart: float
    contrast: float
    dimming: float


_LEVELS = (
    _Level(objects=2, apart=2.5, contrast=0.4, dimming=0.0),
    _Level(objects=3, apart=2.0, contrast=0.6, dimming=0.0),
    _Level(objects=3, apart=1.7, contrast=0.8, dimming=0.15),
    _Level(objects=4, apart=1.5, contrast=1.0, dimming=0.3),
)

_SIDE = 0.12  # of the frame's shorter side
_DEVIATION = 40.0  # grey levels, of the patch: enough texture to be followed by

_TAG_GAP = 2.8  # least distance of two ends in sides, so that each letter has one neighbour

_EDGE = 0.6  # least distance of a centre from the frame's edge, in sides
_TRIES = 2_000  # pairs of starts and ends
_BENDS = 10  # tries per pair
_POINTS_TRIES = 100

_EXTREMES = {
    "farthest to the left": (0, 1),
    "farthest to the right": (0, -1),
    "nearest to the top": (1, 1),
    "nearest to the bottom": (1, -1),
}
"""How the asked object is named: the axis along which it starts first, and the direction."""


def _paths(
    rng: np.random.Generator, level: _Level, height: int, width: int, frames: int, side: int
) -> tuple[NDArray[np.float64], str]:
    """Centres (x, y) float64 [objects, frames, 2] of smooth paths, the asked object first, and how it is named.

    Starts, ends and bends are drawn until the objects stay apart, the asked start is extreme by half a side, and the
    nearest end is the right one or not, as a fair die of `objects` sides said beforehand.
    """
    nearest_is_right = rng.random() < 1 / level.objects
    word = str(rng.choice(list(_EXTREMES)))
    axis, direction = _EXTREMES[word]
    time = np.linspace(0.0, 1.0, frames)[None, :, None]
    low = np.full(2, _EDGE * side)
    high = np.array([width, height]) - low
    for _ in range(_TRIES):
        start = _spread(rng, level.objects, low, high, level.apart * side)
        start = start[np.argsort(direction * start[:, axis])]
        end = _spread(rng, level.objects, low, high, _TAG_GAP * side)
        extreme = direction * (start[1, axis] - start[0, axis]) >= side / 2
        nearest = bool(np.linalg.norm(end - start[0], axis=-1).argmin() == 0)
        if not extreme or nearest != nearest_is_right or _closest(end) < _TAG_GAP * side:
            continue
        for _ in range(_BENDS):
            bend = rng.uniform(low, high, (level.objects, 1, 2))
            paths = (1 - time) ** 2 * start[:, None] + 2 * time * (1 - time) * bend + time**2 * end[:, None]
            if _closest(paths) >= level.apart * side:
                return paths, word
    raise TaskError(f"{level.objects} objects find no paths in {width} x {height} px; make the frames larger")


def _spread(
    rng: np.random.Generator, count: int, low: NDArray[np.float64], high: NDArray[np.float64], apart: float
) -> NDArray[np.float64]:
    """Random points float64 [count, 2] that are `apart` from each other; the best of many tries where none is."""
    tries = rng.uniform(low, high, (_POINTS_TRIES, count, 2))
    first, second = np.triu_indices(count, 1)
    closest = np.linalg.norm(tries[:, first] - tries[:, second], axis=-1).min(axis=1)
    enough = np.flatnonzero(closest >= apart)
    return np.asarray(tries[enough[0] if len(enough) else closest.argmax()])


def _closest(centres: NDArray[np.float64]) -> float:
    """The least distance of two of the centres [N, ..., 2] at any time."""
    first, second = np.triu_indices(len(centres), 1)
    return float(np.linalg.norm(centres[first] - centres[second], axis=-1).min())


def _frame(still: Pixels, patch: Pixels, centres: NDArray[np.float64], light: float) -> Pixels:
    frame = still.copy()
    for centre in centres:
        left, top, right, bottom = (int(value) for value in _box(centre, patch.shape[0]))
        frame[top:bottom, left:right] = patch
    return frame if light == 1.0 else np.round(frame * light).astype(np.uint8)


def _box(centre: NDArray[np.float64], side: int) -> Box:
    left, top = round(centre[0] - side / 2), round(centre[1] - side / 2)
    return (float(left), float(top), float(left + side), float(top + side))


def _write_letters(frame: Pixels, letters: list[str], centres: NDArray[np.float64], side: int) -> list[Box]:
    """Write a black letter on a white tag beside each object, in place, on the side that is nearer to the middle."""
    height = frame.shape[0]
    tags = []
    for letter, (x, y) in zip(letters, centres, strict=True):
        ink = text_alpha(letter, "DejaVuSans-Bold", side * 0.55)
        tag_side = max(round(side * 0.8), *ink.shape)
        tag = np.zeros((tag_side, tag_side), dtype=np.float32)
        top, left = (tag_side - ink.shape[0]) // 2, (tag_side - ink.shape[1]) // 2
        tag[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
        offset = math.ceil(side / 2) + 1
        tag_top = round(y) + offset if y < height / 2 else round(y) - offset - tag_side
        tag_left = min(max(round(x - tag_side / 2), 0), frame.shape[1] - tag_side)
        place = frame[tag_top : tag_top + tag_side, tag_left : tag_left + tag_side]
        place[...] = np.round(255 * (1 - tag[..., None])).astype(np.uint8)
        tags.append((float(tag_left), float(tag_top), float(tag_left + tag_side), float(tag_top + tag_side)))
    return tags


__all__ = ["FollowObject", "FollowObjectConfig"]
