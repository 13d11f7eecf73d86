"""Where a call points: boxes and points in native pixels, whatever view they were written for."""

from __future__ import annotations

from collections.abc import Mapping

from share.kernel.contracts.vision import Box, Scene, View


def intersection_over_union(first: Box, second: Box) -> float:
    """Of two boxes (x1, y1, x2, y2); 0.0 when both are empty."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    intersection = max(width, 0.0) * max(height, 0.0)
    union = _area(first) + _area(second) - intersection
    return intersection / union if union > 0.0 else 0.0


def native_box(arguments: Mapping[str, object], scene: Scene) -> tuple[int, Box] | None:
    """The source and the native box of a call that has a `bbox`; None when it has none or it was malformed."""
    numbers = _numbers(arguments.get("bbox"), 4)
    view = _view(arguments, scene)
    if numbers is None or view is None:
        return None
    return view.source, view.transform.box_to_native((numbers[0], numbers[1], numbers[2], numbers[3]))


def native_point(arguments: Mapping[str, object], scene: Scene) -> tuple[int, float, float] | None:
    """The source and the native point of a call that has `x` and `y`; None when it has none or it was malformed."""
    numbers = _numbers([arguments.get("x"), arguments.get("y")], 2)
    view = _view(arguments, scene)
    if numbers is None or view is None:
        return None
    return view.source, *view.transform.point_to_native(numbers[0], numbers[1])


def _view(arguments: Mapping[str, object], scene: Scene) -> View | None:
    name = arguments.get("image")
    return scene.views.get(str(name)) if name else next(iter(scene.views.values()), None)


def _numbers(value: object, length: int) -> list[float] | None:
    if not isinstance(value, list | tuple) or len(value) != length:
        return None
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in value):
        return None
    return [float(number) for number in value]


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


__all__ = ["intersection_over_union", "native_box", "native_point"]
