"""How many objects of one colour and shape a scene holds, among others that share either with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from share.kernel.contracts.task import Call, Demonstration, Prompt, Split
from share.kernel.contracts.vision import Scene
from share.kernel.data.checkers import numeric
from share.kernel.task.generated import GeneratedConfig, box_in_view, generator, view_of
from share.kernel.task.painting import COLORS, SHAPES, background, paint_shape, places


class CountConfig(GeneratedConfig):
    """Settings of the count source."""

    height: int = Field(default=448, ge=224, le=2000)
    """Height of the scene, native pixels; the objects grow with the shorter side."""

    width: int = Field(default=448, ge=224, le=2000)
    """Width of the scene, native pixels."""


class Count:
    """Kind `task`. The answer is a whole number; `truth["boxes"]` are the counted objects in native pixels.

    No object lies across the vertical middle, so that the halves can be looked at one by one.
    """

    def __init__(self, config: CountConfig) -> None:
        self.config = config

    def size(self, split: Split) -> int | None:
        return None

    def prompt(self, split: Split, index: int) -> Prompt:
        rng = generator("count", self.config.seed, split, index)
        difficulty = self.config.difficulty(index)
        level = _LEVELS[difficulty]
        height, width = self.config.height, self.config.width
        pixels = background(rng, split, height, width, level.contrast)
        color, shape = str(rng.choice(list(COLORS))), str(rng.choice(SHAPES))
        counted = int(rng.integers(1, level.counted_max + 1))
        others = int(rng.integers(level.others_max + 1))
        kinds = [(color, shape)] * counted + [_other(rng, color, shape, level.alike) for _ in range(others)]
        radii = rng.uniform(0.8, 1.2, len(kinds)) * level.radius * min(height, width) / 448
        left = rng.random(len(kinds)) < 0.5
        centres = np.empty((len(kinds), 2))
        half = width // 2
        for side, offset in ((left, 0), (~left, width - half)):
            found = places(rng, [(2 * radius, 2 * radius) for radius in radii[side]], height, half, gap=3)
            centres[side] = np.array(found).reshape(-1, 2) + np.array([offset, 0])
        objects = [
            paint_shape(pixels, rng, split, kind, (float(x), float(y)), float(radius), COLORS[name])
            for (name, kind), (x, y), radius in zip(kinds, centres, radii, strict=True)
        ]
        return Prompt(
            prompt_id=f"count-{self.config.seed}-{split}-{index}",
            task="count",
            question=f"How many {color} {shape}s are in the picture? Answer with a number.",
            images=(pixels,),
            answer=str(counted),
            difficulty=difficulty,
            truth={"color": color, "shape": shape, "boxes": [painted.box for painted in objects[:counted]]},
        )

    def check(self, prompt: Prompt, answer: str) -> float:
        return numeric(answer, prompt.answer)

    def demonstrate(self, prompt: Prompt, scene: Scene) -> Demonstration | None:
        """Answer at once where the objects are large; otherwise look at the left and the right half enlarged."""
        if prompt.difficulty < 2:
            return Demonstration(calls=(), answer=prompt.answer)
        view = view_of(scene, 0)
        height, width = prompt.images[0].shape[:2]
        halves = ((0.0, 0.0, width / 2, float(height)), (width / 2, 0.0, float(width), float(height)))
        calls = tuple(Call("ZOOM_IN", {"bbox": box_in_view(view, box)}) for box in halves)
        return Demonstration(calls=calls, answer=prompt.answer)


@dataclass(frozen=True, slots=True)
class _Level:
    """`radius` in pixels of a 448-pixel scene; `alike` is the share of the others with the same colour or shape."""

    counted_max: int
    others_max: int
    radius: float
    alike: float
    contrast: float


_LEVELS = (
    _Level(counted_max=4, others_max=2, radius=34, alike=0.0, contrast=0.3),
    _Level(counted_max=6, others_max=5, radius=24, alike=0.5, contrast=0.4),
    _Level(counted_max=9, others_max=9, radius=15, alike=0.8, contrast=0.5),
    _Level(counted_max=14, others_max=14, radius=10, alike=1.0, contrast=0.6),
)


def _other(rng: np.random.Generator, color: str, shape: str, alike: float) -> tuple[str, str]:
    """Another kind of object: sharing the colour or the shape with probability `alike`, else neither."""
    other_color = str(rng.choice([name for name in COLORS if name != color]))
    other_shape = str(rng.choice([name for name in SHAPES if name != shape]))
    if rng.random() >= alike:
        return other_color, other_shape
    return (color, other_shape) if rng.random() < 0.5 else (other_color, shape)


__all__ = ["Count", "CountConfig"]
