"""Where one of several objects that look the same ends in a short video.

The policy is shown the first and the last frame. The last one carries a letter beside every object; which letter is
right is told by the frames between alone. The end that lies nearest to the asked start is the right one exactly as
often as any other, so guessing by distance earns no more than chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from share.kernel.contracts.task import Call, Demonstration, Prompt, Split
from share.kernel.contracts.vision import Box, Scene
from share.kernel.errors import TaskError
from share.kernel.task.assets import photograph
from share.kernel.task.checkers import choice
from share.kernel.task.generated import GeneratedConfig, box_in_view, generator, view_of
from share.kernel.task.painting import COLORS, background, blend, grain, shape_alpha, text_alpha

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from share.kernel.contracts.vision import Pixels


class FollowObjectConfig(GeneratedConfig):
    """Settings of the follow_object source."""

    height: int = Field(default=240, ge=160, le=1000)
    """Height of a frame, native pixels; the objects grow with the shorter side."""

    width: int = Field(default=320, ge=160, le=1000)
    """Width of a frame, native pixels."""

    frames: int = Field(default=32, ge=8, le=256)
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
        diameter = round(min(height, width) * _DIAMETER)
        paths, word = _paths(rng, level, height, width, frames, diameter)
        letters = [str(letter) for letter in rng.permutation(list("ABCD"[: level.objects]))]
        still = background(rng, split, height, width, level.contrast)
        color = COLORS[str(rng.choice(list(COLORS)))]
        patch = grain(photograph(rng, split, diameter, diameter), color)
        light = np.linspace(1.0, 1.0 - level.dimming, frames)
        video = [_frame(still, patch, paths[:, number], light[number]) for number in range(frames)]
        tags = _write_letters(video[-1], letters, paths[:, -1], diameter)
        boxes = [_box(centre, diameter) for centre in paths[0]]
        return Prompt(
            prompt_id=f"follow_object-{self.config.seed}-{split}-{index}",
            task="follow_object",
            question=(
                f"The video shows {level.objects} discs that look the same; you see its first and its last frame. "
                f"Which letter stands in the last frame beside the disc that is {word} in the first frame?"
            ),
            images=tuple(video),
            answer=letters[0],
            difficulty=difficulty,
            is_video=True,
            frames_per_second=12.0,
            shown=(0, frames - 1),
            truth={
                "boxes": boxes,
                "ends": {letter: _box(path[-1], diameter) for letter, path in zip(letters, paths, strict=True)},
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
    """`apart` is the least distance of two objects in diameters, at any time; `dimming` the share of light lost."""

    objects: int
    apart: float
    contrast: float
    dimming: float


_LEVELS = (
    _Level(objects=2, apart=2.5, contrast=0.4, dimming=0.0),
    _Level(objects=3, apart=2.0, contrast=0.6, dimming=0.0),
    _Level(objects=3, apart=1.6, contrast=0.8, dimming=0.15),
    _Level(objects=4, apart=1.3, contrast=1.0, dimming=0.3),
)

_DIAMETER = 0.1  # of the frame's shorter side

_TAG_GAP = 3.0  # least distance of two ends in diameters, so that each letter has one neighbour

_TRIES = 20_000
_BENDS = 10  # tries per pair of starts and ends

_EXTREMES = {
    "farthest to the left": (0, 1),
    "farthest to the right": (0, -1),
    "nearest to the top": (1, 1),
    "nearest to the bottom": (1, -1),
}
"""How the asked object is named: the axis along which it starts first, and the direction."""


def _paths(
    rng: np.random.Generator, level: _Level, height: int, width: int, frames: int, diameter: int
) -> tuple[NDArray[np.float64], str]:
    """Centres (x, y) float64 [objects, frames, 2] of smooth paths, the asked object first, and how it is named.

    Starts, ends and bends are drawn until the objects stay apart, the asked start is extreme by a diameter, and the
    nearest end is the right one or not, as a fair die of `objects` sides said beforehand.
    """
    nearest_is_right = rng.random() < 1 / level.objects
    word = str(rng.choice(list(_EXTREMES)))
    axis, direction = _EXTREMES[word]
    time = np.linspace(0.0, 1.0, frames)[None, :, None]
    low, high = np.array([diameter, diameter]), np.array([width - diameter, height - diameter])
    for _ in range(_TRIES):
        start = rng.uniform(low, high, (level.objects, 2))
        start = start[np.argsort(direction * start[:, axis])]
        end = rng.uniform(low, high, (level.objects, 2))
        if (
            direction * (start[1, axis] - start[0, axis]) < diameter
            or _closest(start) < level.apart * diameter
            or _closest(end) < _TAG_GAP * diameter
            or bool(np.linalg.norm(end - start[0], axis=-1).argmin() == 0) != nearest_is_right
        ):
            continue
        for _ in range(_BENDS):
            bend = rng.uniform(low, high, (level.objects, 1, 2))
            paths = (1 - time) ** 2 * start[:, None] + 2 * time * (1 - time) * bend + time**2 * end[:, None]
            if _closest(paths) >= level.apart * diameter:
                return paths, word
    raise TaskError(f"{level.objects} objects find no paths in {width} x {height} px; make the frames larger")


def _closest(centres: NDArray[np.float64]) -> float:
    """The least distance of two of the centres [N, ..., 2] at any time."""
    first, second = np.triu_indices(len(centres), 1)
    return float(np.linalg.norm(centres[first] - centres[second], axis=-1).min())


def _frame(still: Pixels, patch: Pixels, centres: NDArray[np.float64], light: float) -> Pixels:
    frame = still.copy()
    diameter = patch.shape[0]
    alpha = shape_alpha("circle", diameter, diameter / 2 - 0.5, 0.0)
    for centre in centres:
        left, top, right, bottom = (int(value) for value in _box(centre, diameter))
        blend(frame[top:bottom, left:right], patch, alpha)
    return frame if light == 1.0 else np.round(frame * light).astype(np.uint8)


def _box(centre: NDArray[np.float64], diameter: int) -> Box:
    left, top = round(centre[0] - diameter / 2), round(centre[1] - diameter / 2)
    return (float(left), float(top), float(left + diameter), float(top + diameter))


def _write_letters(frame: Pixels, letters: list[str], centres: NDArray[np.float64], diameter: int) -> list[Box]:
    """Write a black letter on a white tag beside each object, in place, on the side that is nearer to the middle."""
    height = frame.shape[0]
    tags = []
    for letter, (x, y) in zip(letters, centres, strict=True):
        ink = text_alpha(letter, "DejaVuSans-Bold", diameter * 0.55)
        side = max(round(diameter * 0.8), *ink.shape)
        tag = np.zeros((side, side), dtype=np.float32)
        top, left = (side - ink.shape[0]) // 2, (side - ink.shape[1]) // 2
        tag[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
        offset = math.ceil(diameter / 2) + 1
        tag_top = round(y) + offset if y < height / 2 else round(y) - offset - side
        tag_left = min(max(round(x - side / 2), 0), frame.shape[1] - side)
        place = frame[tag_top : tag_top + side, tag_left : tag_left + side]
        place[...] = np.round(255 * (1 - tag[..., None])).astype(np.uint8)
        tags.append((float(tag_left), float(tag_top), float(tag_left + side), float(tag_top + side)))
    return tags


__all__ = ["FollowObject", "FollowObjectConfig"]
