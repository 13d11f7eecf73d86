"""The arguments that operations share, and the way from what a policy wrote to native pixels.

A policy names coordinates in the pixels of a view. A box is (x1, y1, x2, y2) between pixels, x2 and y2 exclusive; a
point names the pixel that it lies in. Every refusal is an OperationError that begins with the argument's name.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, WithJsonSchema

from share.kernel.contracts.vision import Box, Scene, View
from share.kernel.errors import OperationError

Coordinate = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A number: neither a numeral in quotes nor true or false."""

BoxArgument = Annotated[
    tuple[Coordinate, Coordinate, Coordinate, Coordinate],
    WithJsonSchema({"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}),
]
"""The type of an argument that is a box: [x1, y1, x2, y2]."""

ImageName = Annotated[str, Field(max_length=100)]
"""The type of an argument that names a view."""

NativeBox = tuple[int, int, int, int]
"""(x1, y1, x2, y2) in whole native pixels, x2 and y2 exclusive."""

REACH_OUT = 1.0
"""How far a box may reach over the edge of its view, in pixels of the view: it is rounding, and cut off."""


def box_in_view(view: View, box: Box, argument: str = "bbox") -> Box:
    """The box, cut to the view. Raises OperationError for one that is empty, inverted, or not inside the view."""
    if not all(math.isfinite(value) for value in box):
        raise OperationError(f"{argument}: {show_box(box)} is not a box of finite numbers")
    x1, y1, x2, y2 = box
    if x1 < -REACH_OUT or y1 < -REACH_OUT or x2 > view.width + REACH_OUT or y2 > view.height + REACH_OUT:
        raise OperationError(
            f"{argument}: {show_box(box)} is not inside {view.name}, which is {view.width} x {view.height} pixels"
        )
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(view.width)), min(y2, float(view.height))
    if x2 - x1 < 1 or y2 - y1 < 1:
        raise OperationError(
            f"{argument}: {show_box(box)} holds no pixel of {view.name}: it needs x1 + 1 <= x2 and y1 + 1 <= y2"
        )
    return x1, y1, x2, y2


def native_box(scene: Scene, view: View, box: Box, argument: str = "bbox") -> NativeBox:
    """The smallest box of whole native pixels of `view.source` that covers `box`. Raises as `box_in_view`."""
    height, width = scene.native(view.source).shape[:2]
    x1, y1, x2, y2 = view.transform.box_to_native(box_in_view(view, box, argument))
    left, top = min(_floor(x1, width - 1), width - 1), min(_floor(y1, height - 1), height - 1)
    return left, top, max(_ceil(x2, width), left + 1), max(_ceil(y2, height), top + 1)


def native_point(scene: Scene, view: View, x: float, y: float) -> tuple[int, int]:
    """The native pixel (column, row) at the centre of the view's pixel that (x, y) lies in.

    Raises OperationError for a point that is not inside the view.
    """
    for name, value, size in (("x", x, view.width), ("y", y, view.height)):
        if not 0 <= value < size:  # false for NaN as well
            raise OperationError(f"{name}: {value:g} is not inside {view.name}, which has {name} from 0 to {size - 1}")
    height, width = scene.native(view.source).shape[:2]
    native_x, native_y = view.transform.point_to_native(math.floor(x) + 0.5, math.floor(y) + 0.5)
    return _floor(native_x, width - 1), _floor(native_y, height - 1)


def show_box(box: Box) -> str:
    """A box as a policy writes it: [10, 20, 30.5, 40]."""
    return f"[{', '.join(f'{round(value, 2):.10g}' if abs(value) < 1e9 else f'{value:g}' for value in box)}]"


# What arithmetic of transforms is off by; a box that means the edge of a pixel must not take in the next one.
_NOISE = 1e-6


def _floor(value: float, highest: int) -> int:
    return min(max(math.floor(value + _NOISE), 0), highest)


def _ceil(value: float, highest: int) -> int:
    return min(max(math.ceil(value - _NOISE), 0), highest)


__all__ = [
    "REACH_OUT",
    "BoxArgument",
    "Coordinate",
    "ImageName",
    "NativeBox",
    "box_in_view",
    "native_box",
    "native_point",
    "show_box",
]
