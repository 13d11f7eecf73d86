"""Scenes with one object whose mask is known, for measuring and for fitting SEGMENT_OBJECT_AT.

`textured` scenes are drawn from nothing, `painted`, `collage` and `assembled` from pieces of photographs, each from a
generator.
`photographs` holds the five that are measured, with masks drawn by hand (outlines that were clicked on the enlarged
picture, to about two pixels; the coins by the watershed of scikit-image's tutorial); `practice` holds objects of other
photographs, drawn more coarsely, to fit on. Nothing is in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from share.kernel.task.assets import photograph
from share.kernel.task.painting import SHAPES, background, blend, paint_shape, shape_alpha

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from share.kernel.contracts.vision import Mask, Pixels


@dataclass(frozen=True, slots=True)
class Scene:
    """`masks` are the objects of the picture, each bool [height, width]."""

    name: str
    pixels: Pixels
    masks: tuple[Mask, ...]


def textured(rng: np.random.Generator, height: int = 240, width: int = 320) -> Scene:
    """A shape with one texture on a ground with another, both noisy, at least 90 apart in RGB."""
    while True:
        ground, colour = rng.uniform(30, 225, (2, 3))
        if np.linalg.norm(ground - colour) > 90:
            break
    center = rng.uniform(0.3, 0.7, 2) * (width, height)
    angle, kind, radius = rng.uniform(0, 2 * np.pi), int(rng.integers(4)), rng.uniform(30, 70)
    turns = np.linspace(0, 2 * np.pi, (200, int(rng.integers(3, 7)), 10, 200)[kind], endpoint=False)
    radii = np.full(len(turns), radius)
    if kind == 2:
        radii[::2] /= 2
    elif kind == 3:
        radii *= 0.8 * (1 + 0.2 * np.sin(3 * turns + angle) + 0.1 * np.sin(5 * turns))
    squeeze = rng.uniform(0.6, 1) if kind == 0 else 1.0
    points = center + radii[:, None] * np.stack([np.cos(turns + angle), squeeze * np.sin(turns + angle)], axis=1)
    large = np.zeros((height * 4, width * 4), np.uint8)
    cv2.fillPoly(large, [np.rint(points * 64).astype(np.int32)], 255, shift=4)
    alpha = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)[..., None] / 255.0
    pixels = _texture(rng, height, width, ground) * (1 - alpha) + _texture(rng, height, width, colour) * alpha
    return Scene("textured", np.clip(pixels, 0, 255).astype(np.uint8), (alpha[..., 0] >= 0.5,))


def painted(rng: np.random.Generator, height: int = 300, width: int = 400) -> Scene:
    """A shape with the grain of a photograph in one colour, on a calmed photograph."""
    pixels = background(rng, "train", height, width, float(rng.uniform(0.3, 1)))
    radius = float(rng.uniform(20, 80))
    center = float(rng.uniform(radius + 4, width - radius - 4)), float(rng.uniform(radius + 4, height - radius - 4))
    shape = paint_shape(pixels, rng, "train", str(rng.choice(SHAPES)), center, radius, rng.uniform(40, 215, 3))
    return Scene("painted", pixels, (shape.mask,))


def collage(rng: np.random.Generator, height: int = 300, width: int = 400) -> Scene:
    """Up to four shapes cut from photographs, one over the other, on a photograph; the uppermost is the object."""
    pixels = np.array(photograph(rng, "train", height, width))
    mask = np.zeros((height, width), np.bool_)
    for _ in range(int(rng.integers(1, 5))):
        radius = float(rng.uniform(20, 80))
        side = 2 * int(np.ceil(radius)) + 2
        alpha = shape_alpha(str(rng.choice(SHAPES)), side, radius, float(rng.uniform(0, 2 * np.pi)))
        left, top = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
        grain = photograph(rng, "train", side, side)
        if rng.random() < 0.5:
            grain = np.asarray(cv2.GaussianBlur(grain, (0, 0), 1.5), dtype=np.uint8)
        blend(pixels[top : top + side, left : left + side], grain, alpha)
        mask[:] = False
        mask[top : top + side, left : left + side] = alpha >= 0.5
    return Scene("collage", pixels, (mask,))


def assembled(rng: np.random.Generator, height: int = 300, width: int = 400) -> Scene:
    """A thing of two to four parts along an axis, as bottles, lamps and towers are, on a calmed photograph.

    The parts have one colour or each its own, a shading across the axis, and marks; the whole is the first mask, the
    parts follow.
    """
    pixels = background(rng, "train", height, width, float(rng.uniform(0.3, 1)))
    num, half = int(rng.integers(2, 5)), rng.uniform(4, 30)
    lengths = rng.uniform(0.3, 1, num) * rng.uniform(70, 260) / num
    halves = half * rng.uniform(0.6, 1.3, num)
    turned = float(rng.choice([0, 0, 90, rng.uniform(0, 180)]))
    colours = rng.uniform(40, 215, 3) + rng.normal(0, rng.choice([0, 12, 60]), (num, 3))
    along = np.concatenate([[0], np.cumsum(lengths)]) - lengths.sum() / 2
    radians = np.radians(turned)
    axis, across = np.array([np.sin(radians), np.cos(radians)]), np.array([np.cos(radians), -np.sin(radians)])
    reach = np.abs(axis) * lengths.sum() / 2 + np.abs(across) * halves.max()
    room = np.maximum(np.array([width, height]) / 2 - reach - 3, 0)
    center = np.array([width, height]) / 2 + rng.uniform(-room, room)
    y, x = np.mgrid[:height, :width] - center[::-1, None, None]
    depth, side = x * axis[0] + y * axis[1], x * across[0] + y * across[1]
    parts = []
    for index in range(num):
        taper = 1 - rng.choice([0, 0, 0.5, 1]) * (depth - along[index]) / lengths[index] * rng.uniform(0.2, 0.9)
        inside = (depth >= along[index]) & (depth < along[index + 1]) & (np.abs(side) < halves[index] * taper)
        grain = photograph(rng, "train", height, width).astype(np.float64)
        grain = (grain - cv2.GaussianBlur(grain, (0, 0), 8)) * rng.uniform(0.1, 0.6)
        shade = rng.uniform(0, 40) * np.clip(side / halves[index] + rng.choice([-0.5, 0, 0.5]), -1, 1)
        mark = rng.random(2) * (lengths[index], halves[index])
        spot = np.hypot(depth - along[index] - mark[0], side - mark[1]) < rng.uniform(0, 0.4) * halves[index]
        shown = colours[index] - shade[..., None] + grain + spot[..., None] * rng.uniform(-90, 90, 3)
        pixels[inside] = np.clip(shown, 0, 255).astype(np.uint8)[inside]
        parts.append(inside)
    soft = np.asarray(cv2.GaussianBlur(pixels, (3, 3), 0.6), dtype=np.uint8)
    return Scene("assembled", soft, (np.logical_or.reduce(parts), *(part for part in parts if part.sum() >= 150)))


def photographs() -> list[Scene]:
    """The five that are measured: a dahlia, the mouth of a cup, a mission patch, a rocket, 24 coins."""
    flower, coffee, astronaut = read("sklearn/flower"), read("skimage/coffee"), read("skimage/astronaut")
    rocket, coins = read("skimage/rocket"), read("skimage/coins")
    return [
        Scene("flower", flower, (polygon(flower, _FLOWER),)),
        Scene("coffee", coffee, (ellipse(coffee, 290, 113, 117, 95, 3),)),
        Scene("patch", astronaut, (ellipse(astronaut, 170.8, 385.5, 37.3, 36.8),)),
        Scene("rocket", rocket, (polygon(rocket, _ROCKET),)),
        Scene("coins", coins, _coins(coins)),
    ]


def practice() -> list[Scene]:
    """Eleven objects of three other photographs."""
    cat, motorcycle, china = read("skimage/chelsea"), read("skimage/motorcycle_left"), read("sklearn/china")
    eyes = ellipse(cat, 170, 115, 34, 31, 10), ellipse(cat, 318, 135, 24, 27)
    return [
        Scene("cat", cat, (*eyes, polygon(cat, _NOSE))),
        Scene(
            "motorcycle",
            motorcycle,
            (*(polygon(motorcycle, points) for points in _GARAGE), ellipse(motorcycle, 571.5, 130, 9, 12)),
        ),
        Scene("china", china, (polygon(china, [(197, 30), (214, 30), (214, 45), (216, 60), (194, 60), (197, 47)]),)),
    ]


def clicks(mask: Mask, rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """Points (x, y) of an object: its deepest pixel, then random ones at least half as deep."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    rows, columns = np.nonzero(depth >= depth.max() / 2)
    drawn = rng.integers(rows.size, size=count - 1)
    return [(int(x), int(y)), *((int(columns[index]), int(rows[index])) for index in drawn)]


def iou(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def read(name: str) -> Pixels:
    """A photograph that scikit-image or scikit-learn ships, by `package/stem`, at its own size."""
    from share.kernel.task.assets import PHOTOGRAPHS, data_file

    file = next(path for path in PHOTOGRAPHS if path.startswith(name.split("/")[0]) and name.split("/")[1] in path)
    bgr = cv2.imdecode(np.frombuffer(data_file(file).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None, file
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def polygon(pixels: Pixels, points: Sequence[tuple[float, float]]) -> Mask:
    mask = np.zeros(pixels.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.rint(np.array(points) * 16).astype(np.int32)], 1, shift=4)
    return mask > 0


def ellipse(pixels: Pixels, x: float, y: float, half_width: float, half_height: float, degrees: float = 0) -> Mask:
    mask = np.zeros(pixels.shape[:2], np.uint8)
    center, axes = (round(x * 16), round(y * 16)), (round(half_width * 16), round(half_height * 16))
    cv2.ellipse(mask, center, axes, degrees, 0, 360, (1,), -1, shift=4)
    return mask > 0


def _coins(pixels: Pixels) -> tuple[Mask, ...]:
    from scipy import ndimage
    from skimage.filters import sobel
    from skimage.segmentation import watershed

    grey = pixels[..., 0]
    markers = np.where(grey < 30, 1, np.where(grey > 150, 2, 0))
    filled = watershed(sobel(grey), markers)  # type: ignore[no-untyped-call]
    labels, _ = ndimage.label(ndimage.binary_fill_holes(filled - 1))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return tuple(labels == label for label in np.argsort(sizes)[::-1][:24])


def _texture(rng: np.random.Generator, height: int, width: int, colour: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stripes, a checkerboard or clouds around a colour, with noise: [height, width, 3]."""
    y, x = np.mgrid[:height, :width]
    kind, period, angle = int(rng.integers(3)), rng.uniform(4, 16), rng.uniform(0, np.pi)
    if kind == 0:
        pattern = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    elif kind == 1:
        pattern = np.sign(np.sin(x * 2 * np.pi / period) * np.sin(y * 2 * np.pi / period))
    else:
        pattern = np.asarray(cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), rng.uniform(0.8, 3)))
        pattern /= pattern.std() * 1.5
    noise = rng.normal(0, rng.uniform(2, 8), (height, width, 3))
    return np.asarray(colour + rng.uniform(8, 25) * pattern[..., None] * rng.uniform(0.6, 1, 3) + noise)


# fmt: off
_FLOWER = [
    (316, 85), (330, 90), (340, 93), (352, 94), (362, 99), (373, 100), (385, 108), (388, 113), (400, 113), (409, 120),
    (412, 131), (422, 137), (428, 148), (428, 158), (432, 167), (431, 177), (437, 186), (442, 195), (445, 208),
    (445, 222), (443, 235), (441, 245), (436, 258), (434, 268), (427, 278), (422, 290), (416, 300), (409, 309),
    (407, 318), (400, 327), (392, 332), (383, 334), (374, 342), (362, 346), (349, 350), (340, 356), (328, 359),
    (317, 358), (305, 357), (297, 359), (285, 357), (270, 354), (262, 351), (250, 351), (240, 346), (234, 338),
    (225, 334), (213, 327), (204, 318), (195, 309), (190, 298), (185, 288), (183, 282), (179, 275), (175, 266),
    (171, 255), (173, 243), (169, 230), (169, 215), (170, 203), (178, 194), (175, 181), (178, 170), (188, 169),
    (187, 160), (190, 147), (195, 138), (205, 132), (207, 122), (214, 115), (226, 114), (233, 106), (241, 103),
    (250, 98), (262, 95), (273, 96), (284, 92), (297, 89), (304, 86),
]
_ROCKET = [
    (322, 126.5), (327, 130), (331, 137), (333.5, 146), (333.7, 174), (331, 178), (331, 181), (331, 300), (331.5, 406),
    (313, 406), (314, 300), (314, 240), (314.5, 181), (313, 178), (311.5, 174), (311, 146), (313.5, 137), (318, 130),
]
_NOSE = [
    (243, 230), (250, 228), (265, 231), (282, 228), (291, 230), (288, 238), (275, 247), (266, 256), (257, 260),
    (250, 250), (248, 243),
]
_GARAGE = [
    [(615, 197), (682, 203), (679, 275), (612, 270)],
    [(402, 60), (406, 52), (415, 52), (418, 60), (418, 92), (402, 92)],
    [(538, 183), (618, 181), (612, 240), (603, 253), (525, 250), (540, 215)],
    [(565, 141), (623, 141), (617, 167), (568, 167)],
    [(532, 32), (588, 30), (588, 102), (530, 97)],
    [
        (150, 163), (175, 165), (200, 170), (240, 165), (260, 175), (280, 190), (310, 193), (340, 187), (357, 193),
        (350, 205), (325, 222), (298, 242), (276, 257), (260, 250), (240, 225), (215, 213), (170, 205), (155, 190),
    ],
]
# fmt: on
