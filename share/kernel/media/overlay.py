"""Drawing on copies of pixels: boxes, masks and points, each readable on dark and on bright ground."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Box, Mask, Pixels

RGB = tuple[int, int, int]

COLORS: tuple[RGB, ...] = ((230, 60, 40), (40, 130, 230), (50, 170, 70), (240, 170, 20), (160, 70, 200), (20, 180, 180))
"""Colours that tell objects apart, in the order of use."""


def draw_box(pixels: Pixels, box: Box, color: RGB = COLORS[0], label: str = "") -> Pixels:
    """A copy with the outline of `box` (pixels of the image, x2 and y2 exclusive) and a label above or inside it."""
    drawn = np.array(pixels)
    thickness = _thickness(pixels)
    x1, y1, x2, y2 = (round(value) for value in _clipped(box, pixels))
    cv2.rectangle(drawn, (x1, y1), (x2 - 1, y2 - 1), color, thickness)
    if label:
        _draw_label(drawn, label, (x1, y1), color)
    return drawn


def draw_mask(pixels: Pixels, mask: Mask, color: RGB = COLORS[0], opacity: float = 0.45) -> Pixels:
    """A copy with the pixels of `mask` (bool, of the image's size) tinted and outlined."""
    drawn = np.array(pixels)
    tint = pixels[mask].astype(np.float32) * (1 - opacity) + np.asarray(color, np.float32) * opacity
    drawn[mask] = np.rint(tint).astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, color, _thickness(pixels))
    return drawn


def draw_point(pixels: Pixels, x: float, y: float, color: RGB = COLORS[0]) -> Pixels:
    """A copy with a ringed dot at (x, y), pixels of the image."""
    drawn = np.array(pixels)
    height, width = pixels.shape[:2]
    center = (int(np.clip(x, 0, width - 1)), int(np.clip(y, 0, height - 1)))
    radius = 2 + _thickness(pixels)
    cv2.circle(drawn, center, radius + 1, (255, 255, 255), -1, cv2.LINE_AA)
    cv2.circle(drawn, center, radius, color, -1, cv2.LINE_AA)
    return drawn


def _thickness(pixels: Pixels) -> int:
    height, width = pixels.shape[:2]
    return 1 + int(max(height, width)) // 600


def _clipped(box: Box, pixels: Pixels) -> Box:
    height, width = pixels.shape[:2]
    x1, y1 = min(max(box[0], 0), width - 1), min(max(box[1], 0), height - 1)
    return x1, y1, min(max(box[2], x1 + 1), width), min(max(box[3], y1 + 1), height)


def _draw_label(drawn: Pixels, label: str, corner: tuple[int, int], color: RGB) -> None:
    """OpenCV's font has no letters beyond ASCII; others are drawn as `?`."""
    text = label.encode("ascii", "replace").decode()
    scale = max(0.4, max(drawn.shape[:2]) / 1600)
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x = min(corner[0], max(0, drawn.shape[1] - width - 2))
    y = corner[1] - below - 1 if corner[1] >= height + below + 2 else corner[1] + height + 2
    cv2.rectangle(drawn, (x, y - height - 2), (x + width + 2, y + below), color, -1)
    cv2.putText(drawn, text, (x + 1, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)


__all__ = ["COLORS", "RGB", "draw_box", "draw_mask", "draw_point"]
