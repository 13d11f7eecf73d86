"""Pictures for a reviewer: the images of a request with what the policy looked at drawn on them.

The operations of the trajectory are called again on the images, which gives the same views as the first time: nothing
of them has to be kept.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Action
from share.kernel.contracts.vision import Box, Scene, View
from share.kernel.media.image import encode_image
from share.kernel.media.overlay import COLORS, draw_box, draw_point
from share.kernel.policy.rollout import open_scene

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels
    from share.kernel.media.operator import Operator
    from share.kernel.policy.loading import Policy
    from share.kernel.serving.review_item import ReviewItem

SIDE_MAX = 640
"""Longer side of a picture on the page, in pixels; a small image is enlarged by a whole factor up to it."""

PICTURES_MAX = 12
"""Pictures of one request; the frames of a video can be many."""

NUMBER_MAX = 1e6


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture as a data URL. `made_by` is the operation that returned it, empty for an image of the request."""

    caption: str
    made_by: str
    url: str


class Painter:
    """Paints what a policy looked at. Safe to call from several threads."""

    def __init__(self, policy: Policy, operator: Operator) -> None:
        self._policy = policy
        self._operator = operator

    def paint(self, item: ReviewItem) -> list[Picture]:
        """The images that were shown, with boxes, then what the operations returned; empty when no image is held."""
        if not item.images:
            return []
        prompt = Prompt(item.task_id, "review", item.question, item.images, item.answer)
        scene = open_scene(self._policy, prompt)
        shown = list(scene.views.values())[:PICTURES_MAX]
        made = self._again(item.trajectory.operations, scene)
        pictures = [_native(view, scene, item.trajectory.operations) for view in shown]
        for view, action in made[: PICTURES_MAX - len(pictures)]:
            caption = f"{view.name}: {view.width} x {view.height} px"
            pictures.append(Picture(caption, str(action.operation), _url(_scaled(view.pixels)[0])))
        return pictures

    def _again(self, actions: tuple[Action, ...], scene: Scene) -> list[tuple[View, Action]]:
        """Call the operations that succeeded once more, as long as they return what they did then."""
        made = []
        for action in actions:
            if action.error is not None or action.operation is None:
                continue
            outcome = self._operator.run(action.operation, action.arguments, scene)
            if (outcome.view.name if outcome.view else None) != action.view:
                break
            if outcome.view is not None:
                made.append((outcome.view, action))
        return made


def _native(view: View, scene: Scene, actions: tuple[Action, ...]) -> Picture:
    """An image of the request at its own size, with every box that was asked for or found on it."""
    native = scene.native(view.source)
    pixels, scale = _scaled(native)
    for number, action in enumerate(actions, start=1):
        arguments = action.arguments or {}
        on = _view_of(arguments, scene)
        color = COLORS[(number - 1) % len(COLORS)]
        if on is None or on.source != view.source:
            continue
        box = _box(arguments.get("bbox"))
        if box is not None:
            native_box = on.transform.box_to_native(box)
            pixels = draw_box(pixels, _times(native_box, scale), color, f"{number} {action.operation}")
        x, y = arguments.get("x"), arguments.get("y")
        if _is_number(x) and _is_number(y):
            at = on.transform.point_to_native(float(str(x)), float(str(y)))
            pixels = draw_point(pixels, at[0] * scale, at[1] * scale, color)
        region = scene.regions.get(action.region or "")
        if region is not None and region.source == view.source:
            pixels = draw_box(pixels, _times(region.box, scale), color, region.name)
    height, width = native.shape[:2]
    return Picture(f"{view.name}: {width} x {height} px", "", _url(pixels))


def _view_of(arguments: Mapping[str, object], scene: Scene) -> View | None:
    name = arguments.get("image")
    return next(iter(scene.views.values()), None) if name is None else scene.views.get(str(name))


def _scaled(pixels: Pixels) -> tuple[Pixels, float]:
    """The pixels as large as the page shows them, and by how much they were enlarged."""
    side = max(pixels.shape[:2])
    if side > SIDE_MAX:
        scale = SIDE_MAX / side
        return np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8), scale
    factor = SIDE_MAX // side
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1), float(factor)


def _box(value: object) -> Box | None:
    if isinstance(value, list | tuple) and len(value) == 4 and all(_is_number(each) for each in value):
        return float(value[0]), float(value[1]), float(value[2]), float(value[3])
    return None


def _times(box: Box, scale: float) -> Box:
    return box[0] * scale, box[1] * scale, box[2] * scale, box[3] * scale


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < NUMBER_MAX


def _url(pixels: Pixels) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_image(pixels)).decode()


__all__ = ["NUMBER_MAX", "PICTURES_MAX", "SIDE_MAX", "Painter", "Picture"]
