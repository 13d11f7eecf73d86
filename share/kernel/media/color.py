"""Colours of pixels: mean, dominant, their names, and how far apart two are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from share.kernel.contracts.vision import Mask, Pixels

RGB = tuple[int, int, int]

SHADES: tuple[tuple[str, RGB], ...] = (
    ("black", (0, 0, 0)),
    ("dark gray", (72, 72, 72)),
    ("gray", (128, 128, 128)),
    ("light gray", (200, 200, 200)),
    ("white", (255, 255, 255)),
    ("red", (230, 20, 20)),
    ("red", (200, 60, 60)),
    ("dark red", (130, 10, 10)),
    ("pink", (255, 160, 185)),
    ("pink", (235, 100, 150)),
    ("orange", (255, 140, 0)),
    ("orange", (220, 120, 60)),
    ("brown", (120, 70, 30)),
    ("brown", (110, 80, 60)),
    ("tan", (210, 180, 140)),
    ("beige", (240, 230, 205)),
    ("yellow", (250, 235, 30)),
    ("yellow", (220, 200, 70)),
    ("olive", (128, 128, 0)),
    ("olive", (110, 110, 50)),
    ("lime", (120, 255, 40)),
    ("green", (20, 150, 40)),
    ("green", (80, 170, 80)),
    ("green", (130, 200, 90)),
    ("dark green", (10, 75, 20)),
    ("teal", (0, 128, 128)),
    ("cyan", (0, 235, 235)),
    ("light blue", (150, 200, 240)),
    ("blue", (30, 70, 230)),
    ("blue", (0, 0, 255)),
    ("blue", (70, 115, 190)),
    ("blue", (40, 130, 220)),
    ("dark blue", (10, 15, 110)),
    ("dark blue", (30, 50, 100)),
    ("purple", (120, 30, 150)),
    ("purple", (120, 70, 190)),
    ("lavender", (200, 170, 230)),
    ("magenta", (230, 30, 200)),
)
"""What people call basic colours, those of CSS and common dark and light shades; some names need several examples."""

_SAMPLE_MAX = 5_000
"""Pixels, about, that the dominant colour is taken from: a regular grid of more. The texture: eight times as many."""
_NEAR = 12.0
"""Pixels within this of the fullest cell of the histogram (Delta E) make up the dominant colour."""


@dataclass(frozen=True, slots=True)
class Color:
    """`lightness` is the L* of `rgb` in 0..100; `share` the fraction of pixels that are about that colour."""

    rgb: RGB
    name: str
    lightness: float
    share: float


@dataclass(frozen=True, slots=True)
class Texture:
    """`contrast` is the standard deviation of grey (0..255), `entropy` that of its histogram of 64 cells (0..6 bits),
    `edges` the mean absolute difference of neighbouring greys (0..255)."""

    contrast: float
    entropy: float
    edges: float


def to_lab(rgb: NDArray[Any] | RGB) -> NDArray[np.float32]:
    """CIE L*a*b* (D65) of sRGB values 0..255; float32 of the same shape."""
    values = np.asarray(rgb, np.float32)
    lab = cv2.cvtColor(values.reshape(1, -1, 3) / 255, cv2.COLOR_RGB2LAB)
    return np.asarray(lab, np.float32).reshape(values.shape)


def color_distance(one: RGB, other: RGB) -> float:
    """Delta E of 1976: the distance in CIE L*a*b*. From about 2 people see it, from about 50 colours are opposites."""
    return float(np.linalg.norm(to_lab(one) - to_lab(other)))


def color_name(rgb: RGB) -> str:
    """The name of the shade in `SHADES` that is nearest in CIE L*a*b*."""
    return SHADES[int(np.linalg.norm(_SHADES_LAB - to_lab(rgb), axis=1).argmin())][0]


def mean_color(pixels: Pixels, mask: Mask) -> Color:
    """The mean RGB of the masked pixels. `mask` is bool, of the size of `pixels` and not empty."""
    return _color(np.array(cv2.mean(pixels, mask.view(np.uint8))[:3]), 1.0)


def dominant_color(pixels: Pixels, mask: Mask) -> Color:
    """The colour that most of the masked pixels are close to: the fullest cell of a 16 x 16 x 16 histogram, refined."""
    sample, chosen = _sampled(pixels, mask)
    inside = sample[chosen]
    cells = (inside >> 4).astype(np.int32) @ np.array([256, 16, 1], np.int32)
    fullest = inside[cells == np.bincount(cells).argmax()].mean(axis=0)
    near = np.linalg.norm(to_lab(inside) - to_lab(fullest), axis=1) <= _NEAR
    return _color(inside[near].mean(axis=0) if near.any() else fullest, float(near.mean()))


def texture(pixels: Pixels, mask: Mask) -> Texture:
    """Of neighbours that are both masked. `mask` is bool, of the size of `pixels` and not empty."""
    rows = slice(None, None, max(1, round(mask.size / (8 * _SAMPLE_MAX))))  # whole rows, so that neighbours stay such
    chosen = mask[rows] if mask[rows].any() else mask
    sample = pixels[rows] if chosen is not mask else pixels
    grey = np.asarray(cv2.cvtColor(np.ascontiguousarray(sample), cv2.COLOR_RGB2GRAY), np.uint8)
    signed = grey.astype(np.int16)
    steps = np.abs(signed[:, 1:] - signed[:, :-1])[chosen[:, 1:] & chosen[:, :-1]]
    inside = grey[chosen]
    shares = np.bincount(inside >> 2, minlength=64) / inside.size
    shares = shares[shares > 0]
    entropy = float(-(shares * np.log2(shares)).sum())
    return Texture(float(inside.std()), max(entropy, 0.0), float(steps.mean()) if steps.size else 0.0)


def _color(rgb: NDArray[Any], share: float) -> Color:
    rounded = (round(float(rgb[0])), round(float(rgb[1])), round(float(rgb[2])))
    return Color(rounded, color_name(rounded), float(to_lab(rounded)[0]), share)


def _sampled(pixels: Pixels, mask: Mask) -> tuple[Pixels, Mask]:
    step = max(1, int(np.sqrt(mask.size / _SAMPLE_MAX)))
    part = mask[::step, ::step]
    return (pixels[::step, ::step], part) if part.any() else (pixels, mask)


_SHADES_LAB = to_lab(np.array([rgb for _, rgb in SHADES]))

__all__ = [
    "RGB",
    "SHADES",
    "Color",
    "Texture",
    "color_distance",
    "color_name",
    "dominant_color",
    "mean_color",
    "texture",
    "to_lab",
]
