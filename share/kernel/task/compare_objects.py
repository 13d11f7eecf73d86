"""Which of two or three objects is larger, smaller, darker, brighter, redder or bluer.

The objects are shapes with the grain of photographs on a calmed photograph. Their differences are measured on the
painted pixels, and shrink with difficulty until the eye is unsure and SEGMENT_OBJECT_AT with GET_PROPERTIES is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from share.kernel.contracts.task import Call, Demonstration, Prompt, Split
from share.kernel.contracts.vision import Scene
from share.kernel.data.checkers import exact
from share.kernel.task.generated import GeneratedConfig, generator, point_in_view, view_of
from share.kernel.task.painting import SHAPES, Painted, background, paint_shape, places, radius_of_area


class CompareObjectsConfig(GeneratedConfig):
    """Settings of the compare_objects source."""

    height: int = Field(default=448, ge=224, le=2000)
    """Height of the scene, native pixels; the objects grow with the shorter side."""

    width: int = Field(default=448, ge=224, le=2000)
    """Width of the scene, native pixels."""


class CompareObjects:
    """Kind `task`. The answer is the name of a shape; `truth["objects"]` lists what was measured of each."""

    def __init__(self, config: CompareObjectsConfig) -> None:
        self.config = config

    def size(self, split: Split) -> int | None:
        return None

    def prompt(self, split: Split, index: int) -> Prompt:
        rng = generator("compare_objects", self.config.seed, split, index)
        difficulty = self.config.difficulty(index)
        level = _LEVELS[difficulty]
        attribute = str(rng.choice(list(_ATTRIBUTES)))
        pixels = background(rng, split, self.config.height, self.config.width, level.contrast)
        objects = _paint_objects(pixels, rng, split, attribute, level)
        measure, sign = _ATTRIBUTES[attribute].measure, _ATTRIBUTES[attribute].sign
        best = max(objects, key=lambda painted: sign * measure(painted))
        return Prompt(
            prompt_id=f"compare_objects-{self.config.seed}-{split}-{index}",
            task="compare_objects",
            question=_question(attribute, objects),
            images=(pixels,),
            answer=best.shape,
            difficulty=difficulty,
            truth={
                "attribute": attribute,
                "objects": [
                    {
                        "shape": painted.shape,
                        "box": painted.box,
                        "point": painted.point,
                        "area": painted.area,
                        "mean_rgb": painted.mean_rgb,
                        "value": measure(painted),
                    }
                    for painted in objects
                ],
            },
        )

    def check(self, prompt: Prompt, answer: str) -> float:
        return exact(answer, prompt.answer)

    def demonstrate(self, prompt: Prompt, scene: Scene) -> Demonstration | None:
        """Segment each object, measure the regions (two of them in one call), answer."""
        view = view_of(scene, 0)
        objects = prompt.truth["objects"]
        assert isinstance(objects, list)
        points = [point_in_view(view, painted["point"][0] + 0.5, painted["point"][1] + 0.5) for painted in objects]
        segment = [Call("SEGMENT_OBJECT_AT", {"x": x, "y": y}) for x, y in points]
        regions = [f"r{len(scene.regions) + number}" for number in range(1, len(points) + 1)]
        measure = [Call("GET_PROPERTIES", {"region": regions[0], "other_region": regions[1]})]
        measure += [Call("GET_PROPERTIES", {"region": region}) for region in regions[2:]]
        return Demonstration(calls=(*segment, *measure), answer=prompt.answer)


@dataclass(frozen=True, slots=True)
class _Level:
    """`ratio` of consecutive areas; `step` of consecutive brightness or redness, of 255; background `contrast`."""

    objects: int
    ratio: float
    step: float
    contrast: float


_LEVELS = (
    _Level(objects=2, ratio=2.2, step=60, contrast=0.3),
    _Level(objects=2, ratio=1.6, step=40, contrast=0.4),
    _Level(objects=3, ratio=1.35, step=26, contrast=0.5),
    _Level(objects=3, ratio=1.2, step=16, contrast=0.6),
)


@dataclass(frozen=True, slots=True)
class _Attribute:
    """What is asked: the comparative and superlative, the number measured, and which end of it wins."""

    superlative: str
    measure: Callable[[Painted], float]
    sign: int


def _brightness(painted: Painted) -> float:
    red, green, blue = painted.mean_rgb
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _redness(painted: Painted) -> float:
    red, green, blue = painted.mean_rgb
    return red - (green + blue) / 2


def _blueness(painted: Painted) -> float:
    red, green, blue = painted.mean_rgb
    return blue - (red + green) / 2


_ATTRIBUTES = {
    "larger": _Attribute("largest", lambda painted: float(painted.area), 1),
    "smaller": _Attribute("smallest", lambda painted: float(painted.area), -1),
    "darker": _Attribute("darkest", _brightness, -1),
    "brighter": _Attribute("brightest", _brightness, 1),
    "redder": _Attribute("reddest", _redness, 1),
    "bluer": _Attribute("bluest", _blueness, 1),
}

_HUES = np.array([[60, -20, -40], [-45, 45, -10], [-45, -15, 60], [40, -50, 40], [45, 25, -70]], dtype=np.float64)
"""Offsets from grey, about as bright as it, that keep objects apart from the calmed background."""


def _paint_objects(
    pixels: np.ndarray, rng: np.random.Generator, split: Split, attribute: str, level: _Level
) -> list[Painted]:
    height, width = pixels.shape[:2]
    unit = (min(height, width) / 448) ** 2
    shapes = [str(shape) for shape in rng.permutation(SHAPES)[: level.objects]]
    ranks = rng.permutation(level.objects)
    if attribute in ("larger", "smaller"):
        areas = 3000 * unit * level.ratio**ranks * float(rng.uniform(0.9, 1.3))
        colors = 130 + _HUES[rng.permutation(len(_HUES))[: level.objects]]
    else:
        areas = unit * rng.uniform(2500, 8000, level.objects)
        colors = _colors(attribute, ranks * level.step, rng)
    radii = [radius_of_area(shape, float(area)) for shape, area in zip(shapes, areas, strict=True)]
    centres = places(rng, [(2 * radius, 2 * radius) for radius in radii], height, width, gap=12)
    return [
        paint_shape(pixels, rng, split, shape, centre, radius, color)
        for shape, centre, radius, color in zip(shapes, centres, radii, colors, strict=True)
    ]


def _colors(attribute: str, steps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """RGB [N, 3] of objects that differ by `steps` [N] in the attribute, and in nothing else."""
    if attribute in ("darker", "brighter"):
        return np.asarray(rng.uniform(80, 110) + steps[:, None] + _HUES[int(rng.integers(len(_HUES)))])
    direction = np.array([2, -1, -1]) / 3 if attribute == "redder" else np.array([-1, -1, 2]) / 3
    return np.asarray(rng.uniform(105, 125) + (rng.uniform(55, 70) + steps[:, None]) * direction)


def _question(attribute: str, objects: list[Painted]) -> str:
    names = [f"the {painted.shape}" for painted in objects]
    listed = f"{', '.join(names[:-1])} or {names[-1]}"
    asked = attribute if len(names) == 2 else f"the {_ATTRIBUTES[attribute].superlative}"
    return f"Which is {asked}: {listed}? Answer with the name of the shape."


__all__ = ["CompareObjects", "CompareObjectsConfig"]
