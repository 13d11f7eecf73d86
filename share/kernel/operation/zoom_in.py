"""ZOOM_IN: a box of a view, cut from the native pixels that the view was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
from pydantic import Field, model_validator

from share.kernel.config import ConfigModel
from share.kernel.contracts.vision import OperationResult, Scene, Transform
from share.kernel.media.geometry import BoxArgument, ImageName, NativeBox, box_in_view, native_box, show_box

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels

_HALVE_FROM = 3.0
"""Reduction from which pixels are averaged in pairs first: a linear filter's two taps would skip a third of them."""


class ZoomInConfig(ConfigModel):
    side_min: int = Field(default=448, ge=1, le=2000)
    """A crop whose longer side is below this, in pixels, is enlarged to it."""
    side_max: int = Field(default=644, ge=1, le=2000)
    """A crop whose longer side is above this, in pixels, is reduced to it; 644 is at most 529 tokens of Qwen2.5-VL."""
    side_multiple: int = Field(default=28, ge=1, le=112)
    """Both sides are rounded to a multiple of this, in pixels: the patch of a vision encoder times its merge size."""

    @model_validator(mode="after")
    def _sides_in_order(self) -> ZoomInConfig:
        if not self.side_multiple <= self.side_min <= self.side_max:
            raise ValueError("side_multiple <= side_min <= side_max is needed")
        return self


class ZoomInArguments(ConfigModel):
    bbox: BoxArgument
    """[x1, y1, x2, y2] in pixels of the image"""
    image: ImageName | None = None
    """Name of the image, the first if omitted"""


class ZoomIn:
    """Look closer: cut out a box of an image and show it enlarged, with all the detail there is."""

    Arguments: ClassVar[type[ZoomInArguments]] = ZoomInArguments

    def __init__(self, config: ZoomInConfig) -> None:
        self.config = config

    def run(self, scene: Scene, arguments: ZoomInArguments, /) -> OperationResult:
        view = scene.view(arguments.image)
        asked = box_in_view(view, arguments.bbox)
        native = scene.native(view.source)
        cut = native_box(scene, view, asked)
        width, height = self._size(cut)
        pixels, cut = resized(native, cut, width, height)
        transform = Transform(
            scale_x=(cut[2] - cut[0]) / width, scale_y=(cut[3] - cut[1]) / height, offset_x=cut[0], offset_y=cut[1]
        )
        name = scene.next_view_name()
        return OperationResult(
            text=f"{name}: {show_box(asked)} of {view.name}",
            image=pixels,
            data={"image": name, "of": view.name, "bbox": asked, "native_bbox": cut},
            source=view.source,
            transform=transform,
        )

    def _size(self, cut: NativeBox) -> tuple[int, int]:
        """(width, height) of the picture: aspect kept as far as the multiples allow."""
        width, height = cut[2] - cut[0], cut[3] - cut[1]
        longer = max(width, height)
        factor = min(max(longer, self.config.side_min), self.config.side_max) / longer
        return self._multiple(width * factor), self._multiple(height * factor)

    def _multiple(self, side: float) -> int:
        step = self.config.side_multiple
        return min(max(step, round(side / step) * step), max(step, self.config.side_max // step * step))


def resized(native: Pixels, cut: NativeBox, width: int, height: int) -> tuple[Pixels, NativeBox]:
    """The pixels of a native box at width x height, and the box they were taken from.

    Enlarges with a cubic filter. Reduces by halves, then linearly: an area filter of any ratio takes 6 to 9 ms on
    1920 x 1080 pixels, this takes 1 (one core, OpenCV 5.0). Halves need even sides, so the box may lose some pixels at
    its right and lower edge, fewer than one pixel of the picture.
    """
    x1, y1, x2, y2 = cut
    halvings = 0
    while min((x2 - x1) / width, (y2 - y1) / height) / 2**halvings >= _HALVE_FROM:
        halvings += 1
    x2, y2 = x2 - (x2 - x1) % 2**halvings, y2 - (y2 - y1) % 2**halvings
    pixels: Any = native[y1:y2, x1:x2]
    for _ in range(halvings):
        half = (pixels.shape[1] // 2, pixels.shape[0] // 2)
        pixels = cv2.resize(pixels, half, interpolation=cv2.INTER_AREA)
    enlarges = width >= pixels.shape[1] and height >= pixels.shape[0]
    if pixels.shape[:2] == (height, width):
        pixels = np.array(pixels)
    else:
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC if enlarges else cv2.INTER_LINEAR)
    return pixels, (x1, y1, x2, y2)


__all__ = ["ZoomIn", "ZoomInArguments", "ZoomInConfig", "resized"]
