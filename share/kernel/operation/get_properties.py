"""GET_PROPERTIES: what can be measured of a region or a box, and how two of them compare.

Where things lie is told in pixels of the view; shape is measured on the native pixels (data: `native`), because a
resized view has neither their number nor, quite, their aspect.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from share.kernel.config import ConfigModel
from share.kernel.contracts.vision import Box, OperationResult, Scene, Transform, View
from share.kernel.errors import OperationError
from share.kernel.media.color import Color, Texture, color_distance, dominant_color, mean_color, texture
from share.kernel.media.geometry import BoxArgument, ImageName, NativeBox, native_box, show_box
from share.kernel.media.mask import decode_part
from share.kernel.media.shape import Shape, describe_rectangle, describe_shape

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Mask, Pixels


class GetPropertiesConfig(ConfigModel):
    alike: float = Field(default=0.05, ge=0, lt=1)
    """Relative difference of areas up to which two regions count as equally large."""


class GetPropertiesArguments(ConfigModel):
    region: str | None = Field(default=None, max_length=100)
    """Name of a region, e.g. r1; or give bbox"""
    bbox: BoxArgument | None = None
    """[x1, y1, x2, y2] in pixels of the image; or give region"""
    other_region: str | None = Field(default=None, max_length=100)
    """A second region to compare with"""
    other_bbox: BoxArgument | None = None
    """A second box to compare with"""
    image: ImageName | None = None
    """Name of the image, the first if omitted"""


class GetProperties:
    """Measure a region or a box: area, place, colour, shape, texture; or compare two."""

    Arguments: ClassVar[type[GetPropertiesArguments]] = GetPropertiesArguments

    def __init__(self, config: GetPropertiesConfig) -> None:
        self.config = config

    def run(self, scene: Scene, arguments: GetPropertiesArguments, /) -> OperationResult:
        given = arguments
        if given.other_region is not None and given.other_bbox is not None:
            raise OperationError("other_region, other_bbox: give one of the two")
        one = _measured(_selected(scene, given.region, given.bbox, given.image, ("region", "bbox")))
        if given.other_region is None and given.other_bbox is None:
            return OperationResult(text=one.text(), data=one.data(), source=one.at.source)
        names = ("other_region", "other_bbox")
        other = _measured(_selected(scene, given.other_region, given.other_bbox, given.image, names))
        comparison = compared(one, other, self.config.alike)
        text = "\n".join([one.text(), other.text(), comparison.text(one.at.name, other.at.name)])
        data = {**one.data(), "other": other.data(), "comparison": asdict(comparison)}
        return OperationResult(text=text, data=data, source=one.at.source)


@dataclass(frozen=True, slots=True)
class Selection:
    """The pixels that are meant: bool `mask` over the native box `box` of `source`; `view` is None if none shows it."""

    name: str
    source: int
    view: View | None
    box: NativeBox
    mask: Mask
    is_box: bool
    pixels: Pixels
    image_area: int
    """Native pixels of the whole image."""

    @property
    def transform(self) -> Transform:
        return self.view.transform if self.view else Transform()

    @property
    def image(self) -> str:
        return self.view.name if self.view else f"frame {self.source}"


@dataclass(frozen=True, slots=True)
class Properties:
    """`box` and `centroid` in pixels of the view, `area` in square pixels of the view, `share` of the native image."""

    at: Selection
    box: Box
    centroid: tuple[float, float]
    area: float
    share: float
    shape: Shape
    mean: Color
    dominant: Color
    texture: Texture

    @property
    def degrees(self) -> float:
        """Direction of the longer axis in (-90, 90]: 0 lies along x, positive turns towards the upper right."""
        degrees = math.degrees(self.shape.orientation) + 90
        return degrees - 180 if degrees > 90 else degrees

    def text(self) -> str:
        shape, mean, dominant = self.shape, self.mean, self.dominant
        x, y = self.centroid
        return (
            f"{self.at.name} in {self.at.image}: area {self.area:.0f} px ({100 * self.share:.3g} % of the image), "
            f"box {show_box(self.box)}, centre ({x:.1f}, {y:.1f}); "
            f"colour {dominant.name} rgb{dominant.rgb}, "
            f"mean {mean.name} rgb{mean.rgb}, lightness {mean.lightness:.0f}; "
            f"shape: length {shape.axis_major_length:.4g}, width {shape.axis_minor_length:.4g} native px, "
            f"direction {self.degrees:.0f} degrees, eccentricity {shape.eccentricity:.2f}, "
            f"solidity {shape.solidity:.2f}, extent {shape.extent:.2f}; "
            f"texture: contrast {self.texture.contrast:.0f}, entropy {self.texture.entropy:.1f} bits"
        )

    def data(self) -> dict[str, object]:
        """`native` holds the descriptors of regionprops in native pixels; everything else is in pixels of `image`."""
        return {
            "name": self.at.name,
            "image": self.at.image,
            "bbox": self.box,
            "centroid": self.centroid,
            "area": self.area,
            "area_share": self.share,
            "orientation_degrees": self.degrees,
            "mean_color": asdict(self.mean),
            "dominant_color": asdict(self.dominant),
            "texture": asdict(self.texture),
            "native": {**_about_native(self.shape, self.at.box), "bbox": self.at.box},
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """The first against the second. Place and overlap are None when they lie in different images.

    `area_ratio` is first / second in native pixels; `offset` the way from the second's centroid to the first's, in
    pixels of the view; `overlap` intersection over union; `inside` the share of the first that lies in the second.
    """

    area_ratio: float
    size: str
    brightness: str
    color_distance: float
    position: str | None
    offset: tuple[float, float] | None
    distance: float | None
    overlap: float | None
    inside: float | None

    def text(self, one: str, other: str) -> str:
        said = f"{one} is {self.size} {other} (area ratio {self.area_ratio:.3g}), {self.brightness}"
        said += f", colour distance {self.color_distance:.0f}"
        if self.position is not None:
            said += f", {self.position}, {self.distance:.0f} px apart, overlap {self.overlap:.2f}"
        return said


def compared(one: Properties, other: Properties, alike: float) -> Comparison:
    ratio = one.shape.area / other.shape.area
    size = "larger than" if ratio > 1 + alike else "smaller than" if ratio < 1 / (1 + alike) else "as large as"
    lighter = one.mean.lightness - other.mean.lightness
    brightness = "equally bright" if abs(lighter) < 1 else "brighter" if lighter > 0 else "darker"
    distance = color_distance(one.mean.rgb, other.mean.rgb)
    if one.at.source != other.at.source:
        return Comparison(ratio, size, brightness, distance, None, None, None, None, None)
    shared = _shared(one.at, other.at)
    offset = (one.centroid[0] - other.centroid[0], one.centroid[1] - other.centroid[1])
    return Comparison(
        area_ratio=ratio,
        size=size,
        brightness=brightness,
        color_distance=distance,
        position=_position(*offset),
        offset=offset,
        distance=math.hypot(*offset),
        overlap=shared / (one.shape.area + other.shape.area - shared),
        inside=shared / one.shape.area,
    )


def _selected(
    scene: Scene, region: str | None, bbox: Box | None, image: str | None, names: tuple[str, str]
) -> Selection:
    if (region is None) == (bbox is None):
        raise OperationError(f"{names[0]}, {names[1]}: give one of the two")
    if bbox is not None:
        view = scene.view(image)
        x1, y1, x2, y2 = box = native_box(scene, view, bbox, names[1])
        mask = np.ones((y2 - y1, x2 - x1), bool)
        return _selection(scene, f"box {show_box(bbox)}", view.source, view, box, mask, is_box=True)

    assert region is not None
    found = scene.region(region)
    named = scene.view(image) if image is not None else None
    if named is not None and named.source != found.source:
        raise OperationError(f"image: {named.name} does not show the image that {region} lies in")
    view_of = named or next((view for view in scene.views.values() if view.source == found.source), None)
    mask, box = decode_part(found.counts, found.shape)
    return _selection(scene, region, found.source, view_of, box, mask, is_box=False)


def _selection(
    scene: Scene, name: str, source: int, view: View | None, box: NativeBox, mask: Mask, *, is_box: bool
) -> Selection:
    native = scene.native(source)
    pixels = np.ascontiguousarray(native[box[1] : box[3], box[0] : box[2]])
    return Selection(name, source, view, box, mask, is_box, pixels, native.shape[0] * native.shape[1])


def _measured(at: Selection) -> Properties:
    left, top, right, bottom = at.box
    width, height = right - left, bottom - top
    shape = describe_rectangle(width, height) if at.is_box else describe_shape(at.mask)
    return Properties(
        at=at,
        box=at.transform.box_from_native(at.box),
        centroid=at.transform.point_from_native(left + shape.centroid_x, top + shape.centroid_y),
        area=shape.area / (at.transform.scale_x * at.transform.scale_y),
        share=shape.area / at.image_area,
        shape=shape,
        mean=mean_color(at.pixels, at.mask),
        dominant=dominant_color(at.pixels, at.mask),
        texture=texture(at.pixels, at.mask),
    )


def _about_native(shape: Shape, box: NativeBox) -> dict[str, float]:
    """Descriptors of a mask that begins at the corner of `box`, placed in the native image."""
    placed = asdict(shape)
    return {**placed, "centroid_x": shape.centroid_x + box[0], "centroid_y": shape.centroid_y + box[1]}


def _shared(one: Selection, other: Selection) -> int:
    """Native pixels in both."""
    left, top = max(one.box[0], other.box[0]), max(one.box[1], other.box[1])
    right, bottom = min(one.box[2], other.box[2]), min(one.box[3], other.box[3])
    if left >= right or top >= bottom:
        return 0
    first, second = (
        of.mask[top - of.box[1] : bottom - of.box[1], left - of.box[0] : right - of.box[0]] for of in (one, other)
    )
    return int((first & second).sum())


def _position(x: float, y: float) -> str:
    """In words, by the eight directions of 45 degrees each."""
    if math.hypot(x, y) < 1:
        return "at the same place"
    sideways = "" if abs(x) < abs(y) * math.tan(math.pi / 8) else "left" if x < 0 else "right"
    upright = "" if abs(y) < abs(x) * math.tan(math.pi / 8) else "above" if y < 0 else "below"
    if not sideways:
        return upright
    return f"{upright} and to the {sideways}" if upright else f"to the {sideways}"


__all__ = [
    "Comparison",
    "GetProperties",
    "GetPropertiesArguments",
    "GetPropertiesConfig",
    "Properties",
    "Selection",
    "compared",
]
