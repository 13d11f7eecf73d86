"""SEGMENT_OBJECT_AT: the object under a point of a view, as a region, a box and a picture with the mask drawn in."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

import cv2
import numpy as np
from pydantic import Field

from share.kernel.config import ConfigModel
from share.kernel.contracts.vision import OperationResult, Region, Scene, View
from share.kernel.media.geometry import Coordinate, ImageName, native_box, native_point, show_box
from share.kernel.media.mask import encode_mask, mask_box
from share.kernel.media.overlay import draw_mask
from share.kernel.media.segmentation import Candidate, segment

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Mask, Pixels

CANDIDATES = 3
"""Candidates that are ranked for one point."""


class SegmentObjectAtConfig(ConfigModel):
    checkpoint: str | None = None
    """Directory of a SAM or SAM2 model in Hugging Face format; without one, regions are found without a model."""
    device: str = "cpu"
    """Device of the model, as torch names it."""
    images_cached: int = Field(default=4, ge=1, le=64)
    """Pictures whose embedding the model keeps, so that a second click on one is cheap."""


class SegmentObjectAtArguments(ConfigModel):
    x: Coordinate
    """Column of a pixel of the object"""
    y: Coordinate
    """Row of a pixel of the object"""
    image: ImageName | None = None
    """Name of the image, the first if omitted"""
    candidate: int = Field(default=1, ge=1, le=CANDIDATES, strict=True)
    """1 for the likeliest object; 2 or 3 for the next, such as a part of it or what it is part of"""


class Segmenter(Protocol):
    """Finds at most `count` candidates for the object at (x, y) of uint8 [height, width, 3] RGB, the best first."""

    def __call__(self, pixels: Pixels, x: int, y: int, count: int, /) -> list[Candidate]: ...


class SegmentObjectAt:
    """Find the object at a point of an image: its mask, box and area, drawn into the image."""

    Arguments: ClassVar[type[SegmentObjectAtArguments]] = SegmentObjectAtArguments

    def __init__(self, config: SegmentObjectAtConfig) -> None:
        self.config = config
        self.segmenter = _segmenter(config)

    def run(self, scene: Scene, arguments: SegmentObjectAtArguments, /) -> OperationResult:
        view = scene.view(arguments.image)
        column, row = native_point(scene, view, arguments.x, arguments.y)
        left, top, right, bottom = native_box(scene, view, (0.0, 0.0, float(view.width), float(view.height)))
        native = scene.native(view.source)
        pixels = np.ascontiguousarray(native[top:bottom, left:right])
        x, y = min(max(column - left, 0), pixels.shape[1] - 1), min(max(row - top, 0), pixels.shape[0] - 1)
        found = self.segmenter(pixels, x, y, CANDIDATES)
        told = [_told(candidate, view, left, top) for candidate in found]
        number = min(arguments.candidate, len(found))
        chosen = found[number - 1]
        mask = np.zeros(native.shape[:2], np.bool_)
        mask[top:bottom, left:right] = chosen.mask
        region = Region(
            name=scene.next_region_name(),
            source=view.source,
            shape=(native.shape[0], native.shape[1]),
            counts=encode_mask(mask),
            box=mask_box(mask),
            area=int(chosen.mask.sum()),
            confidence=chosen.confidence,
        )
        listed = {"image": view.name, "region": region.name, "candidate": number, "candidates": told}
        return OperationResult(
            text=_text(region, told[number - 1], number, len(found), view, scene.next_view_name()),
            image=_overlay(view, chosen.mask),
            data=listed,
            region=region,
            source=view.source,
            transform=view.transform,
        )


def _segmenter(config: SegmentObjectAtConfig) -> Segmenter:
    if config.checkpoint is None:
        return segment
    from share.kernel.media.sam import load_segmenter  # torch and transformers, only for those who ask

    return load_segmenter(config.checkpoint, device=config.device, images_cached=config.images_cached)


def _told(candidate: Candidate, view: View, left: int, top: int) -> dict[str, object]:
    """A candidate in pixels of the view."""
    x1, y1, x2, y2 = mask_box(candidate.mask)
    box = view.transform.box_from_native((x1 + left, y1 + top, x2 + left, y2 + top))
    area = int(candidate.mask.sum()) / (view.transform.scale_x * view.transform.scale_y)
    return {"bbox": list(box), "area": area, "confidence": candidate.confidence}


def _text(region: Region, told: dict[str, object], number: int, count: int, view: View, picture: str) -> str:
    box, area = told["bbox"], told["area"]
    assert isinstance(box, list)
    assert isinstance(area, float)
    return (
        f"{region.name}: {show_box((box[0], box[1], box[2], box[3]))} of {view.name}, area {area:.0f} pixels, "
        f"confidence {region.confidence:.2f}, candidate {number} of {count}, drawn in {picture}"
    )


def _overlay(view: View, mask: Mask) -> Pixels:
    """The view with the mask of the native pixels that it shows."""
    size = (view.width, view.height)
    shown = cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_LINEAR) >= 128
    return draw_mask(view.pixels, shown)


__all__ = ["CANDIDATES", "SegmentObjectAt", "SegmentObjectAtArguments", "SegmentObjectAtConfig", "Segmenter"]
