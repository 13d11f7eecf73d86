"""Objects with the grain of real photographs, painted on photographs: the scenes of the generated sources."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from share.kernel.contracts.task import Split
from share.kernel.contracts.vision import Box
from share.kernel.errors import TaskError
from share.kernel.task.assets import photograph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from share.kernel.contracts.vision import Mask, Pixels

Color = tuple[int, int, int]

COLORS: dict[str, Color] = {
    "red": (205, 45, 40),
    "green": (45, 150, 60),
    "blue": (45, 85, 205),
    "yellow": (230, 200, 45),
    "purple": (135, 55, 165),
}
"""Named colours, RGB, far enough apart to be told from each other on every background."""

SHAPES = ("circle", "square", "triangle", "star", "hexagon")

_STAR_INNER = 0.45
_AREA_OF_UNIT_RADIUS = {
    "circle": math.pi,
    "square": 2.0,
    "triangle": 3 * math.sqrt(3) / 4,
    "star": 5 * _STAR_INNER * math.sin(math.pi / 5),
    "hexagon": 3 * math.sqrt(3) / 2,
}
_SUPERSAMPLING = 4
_GRAIN = 9.0
_CAP_HEIGHT_PER_EM = 0.729  # of the DejaVu fonts


@dataclass(frozen=True, slots=True)
class Painted:
    """An object in a scene, measured on the pixels it covers.

    `box` and `point` (the pixel farthest from the outline) are native; `mask` is H x W of the whole image.
    """

    shape: str
    box: Box
    point: tuple[int, int]
    area: int
    mean_rgb: tuple[float, float, float]
    mask: Mask


def radius_of_area(shape: str, area: float) -> float:
    """The circumscribed radius, in pixels, at which a shape covers `area` pixels."""
    return math.sqrt(area / _AREA_OF_UNIT_RADIUS[shape])


def background(rng: np.random.Generator, split: Split, height: int, width: int, contrast: float) -> Pixels:
    """A photograph's crop, uint8 [height, width, 3], made calm so that saturated objects stand out on it.

    Its saturation is halved and its contrast reduced towards its mean; a `contrast` of 1.0 keeps all of that.
    """
    pixels = photograph(rng, split, height, width)
    grey = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    calm = cv2.addWeighted(pixels, contrast / 2, grey, contrast / 2, float(grey.mean()) * (1 - contrast))
    return np.asarray(calm, dtype=np.uint8)


def paint_shape(
    pixels: Pixels,
    rng: np.random.Generator,
    split: Split,
    shape: str,
    centre: tuple[float, float],
    radius: float,
    color: Sequence[float] | NDArray[np.float64],
) -> Painted:
    """Paint a randomly turned shape in place, filled with a photograph's grain around `color`, and measure it."""
    height, width = pixels.shape[:2]
    side = 2 * math.ceil(radius) + 2
    left, top = round(centre[0] - side / 2), round(centre[1] - side / 2)
    assert 0 <= left <= width - side
    assert 0 <= top <= height - side
    alpha = shape_alpha(shape, side, radius, float(rng.uniform(0, 2 * math.pi)))
    texture = grain(photograph(rng, split, side, side), color)
    patch = pixels[top : top + side, left : left + side]
    blend(patch, texture, alpha)
    inside = alpha >= 0.5
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[top : top + side, left : left + side] = inside
    ys, xs = np.nonzero(inside)
    distance = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 3)
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    mean = patch[inside].mean(axis=0)
    return Painted(
        shape=shape,
        box=(float(left + xs.min()), float(top + ys.min()), float(left + xs.max() + 1), float(top + ys.max() + 1)),
        point=(left + int(x), top + int(y)),
        area=int(inside.sum()),
        mean_rgb=(float(mean[0]), float(mean[1]), float(mean[2])),
        mask=mask,
    )


def shape_alpha(shape: str, side: int, radius: float, angle: float) -> NDArray[np.float32]:
    """Antialiased coverage float32 [side, side] in [0, 1] of a shape of that circumscribed radius, turned."""
    corners = {"circle": 96, "square": 4, "triangle": 3, "hexagon": 6, "star": 10}[shape]
    turns = angle + np.arange(corners) * (2 * math.pi / corners)
    radii = np.full(corners, radius)
    if shape == "star":
        radii[1::2] *= _STAR_INNER
    points = np.stack([side / 2 + radii * np.cos(turns), side / 2 + radii * np.sin(turns)], axis=1)
    large = np.zeros((side * _SUPERSAMPLING, side * _SUPERSAMPLING), dtype=np.uint8)
    cv2.fillPoly(large, [np.round(points * _SUPERSAMPLING).astype(np.int32)], 255)
    small = cv2.resize(large, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(small / np.float32(255), dtype=np.float32)


def grain(texture: Pixels, color: Sequence[float] | NDArray[np.float64], deviation: float = _GRAIN) -> Pixels:
    """The texture's brightness variation, with that standard deviation in grey levels, around one colour."""
    brightness = texture.mean(axis=2, dtype=np.float32)
    variation = (brightness - brightness.mean()) * (deviation / max(float(brightness.std()), 1.0))
    tinted = np.asarray(color, dtype=np.float32) + np.clip(variation, -2.5 * deviation, 2.5 * deviation)[..., None]
    return np.asarray(np.clip(tinted, 0, 255), dtype=np.uint8)


def blend(patch: Pixels, texture: Pixels, alpha: NDArray[np.float32]) -> None:
    """Lay a texture over a patch, in place, with coverage `alpha` [H, W] in [0, 1]."""
    weight = alpha[..., None]
    patch[...] = np.round(patch * (1 - weight) + texture * weight).astype(np.uint8)


def places(
    rng: np.random.Generator, sizes: Sequence[tuple[float, float]], height: int, width: int, gap: float
) -> list[tuple[float, float]]:
    """Random centres (x, y), in the order of `sizes` (width, height), of boxes inside the image and `gap` px apart.

    The large ones are placed first. Raises TaskError when they do not fit in 20 times 200 tries a box.
    """
    order = sorted(range(len(sizes)), key=lambda number: -sizes[number][0] * sizes[number][1])
    for _ in range(20):
        placed: dict[int, tuple[float, float]] = {}
        for number in order:
            others = [(placed[other], sizes[other]) for other in placed]
            centre = _free_place(rng, sizes[number], others, height, width, gap)
            if centre is None:
                break
            placed[number] = centre
        else:
            return [placed[number] for number in range(len(sizes))]
    raise TaskError(f"{len(sizes)} objects do not fit into {width} x {height} px; make the scene larger")


def _free_place(
    rng: np.random.Generator,
    size: tuple[float, float],
    others: list[tuple[tuple[float, float], tuple[float, float]]],
    height: int,
    width: int,
    gap: float,
) -> tuple[float, float] | None:
    edge_x, edge_y = size[0] / 2 + 3, size[1] / 2 + 3
    if 2 * edge_x >= width or 2 * edge_y >= height:
        return None
    for _ in range(200):
        x, y = float(rng.uniform(edge_x, width - edge_x)), float(rng.uniform(edge_y, height - edge_y))
        if all(
            abs(x - other_x) >= (size[0] + other_width) / 2 + gap
            or abs(y - other_y) >= (size[1] + other_height) / 2 + gap
            for (other_x, other_y), (other_width, other_height) in others
        ):
            return x, y
    return None


def text_alpha(text: str, font: str, cap_height: float) -> NDArray[np.float32]:
    """Coverage float32 [H, W] in [0, 1] of a line of text, cut to its ink. `font` names a DejaVu file."""
    face = _font(font, max(1, round(cap_height / _CAP_HEIGHT_PER_EM)))
    left, top, right, bottom = face.getbbox(text)
    canvas = Image.new("L", (math.ceil(right - left) + 2, math.ceil(bottom - top) + 2), 0)
    ImageDraw.Draw(canvas).text((1 - left, 1 - top), text, fill=255, font=face)
    return np.asarray(np.asarray(canvas) / np.float32(255), dtype=np.float32)


@lru_cache(maxsize=128)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that ships inside matplotlib's wheel, which is not imported for it."""
    spec = find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise TaskError("fonts: package 'matplotlib' is not installed; pip install matplotlib")
    path = Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf"
    if not path.is_file():
        raise TaskError(f"{path}: the installed matplotlib does not ship this font; see constraints.txt")
    return ImageFont.truetype(str(path), size)


__all__ = [
    "COLORS",
    "SHAPES",
    "Color",
    "Painted",
    "background",
    "blend",
    "grain",
    "paint_shape",
    "places",
    "radius_of_area",
    "shape_alpha",
    "text_alpha",
]
