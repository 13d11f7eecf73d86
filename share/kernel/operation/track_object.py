"""TRACK_OBJECT: where an object of a video goes, forwards and backwards from the frame in which it was pointed at."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import cv2
import numpy as np
from pydantic import Field

from share.kernel.config import ConfigModel
from share.kernel.contracts.vision import OperationResult, Scene, View
from share.kernel.errors import OperationError
from share.kernel.media.geometry import BoxArgument, ImageName, box_in_view, native_box, show_box
from share.kernel.media.overlay import COLORS, draw_box
from share.kernel.media.tracking import Track, track

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Box, Pixels

SIDE_MIN = 6
"""Shorter side of the smallest box that can be followed, in native pixels."""


class TrackObjectConfig(ConfigModel):
    frames_max: int = Field(default=600, ge=2, le=10_000)
    """Frames that are followed at most, forwards and backwards together; about 5 ms each at 480 x 360 pixels."""
    side_max: int = Field(default=640, ge=64, le=4000)
    """Longer side, in pixels, to which frames are reduced for tracking."""


class TrackObjectArguments(ConfigModel):
    bbox: BoxArgument
    """[x1, y1, x2, y2] around the object in pixels of the image"""
    frame: int | None = Field(default=None, ge=0, strict=True)
    """Number of the frame, from 0, in which the object is in that box; the frame that the image shows if omitted"""
    image: ImageName | None = None
    """Name of the image, the first if omitted"""


class TrackObject:
    """Follow an object through a video: where it is in every frame, or that it is lost. Shows where it ends."""

    Arguments: ClassVar[type[TrackObjectArguments]] = TrackObjectArguments

    def __init__(self, config: TrackObjectConfig) -> None:
        self.config = config

    def run(self, scene: Scene, arguments: TrackObjectArguments, /) -> OperationResult:
        if not scene.is_video:
            raise OperationError("image: TRACK_OBJECT needs a video, and these are still images")
        view = scene.view(arguments.image)
        start = self._start(scene, view, arguments.frame)
        box = native_box(scene, view, box_in_view(view, arguments.bbox))
        if min(box[2] - box[0], box[3] - box[1]) < SIDE_MIN:
            raise OperationError(
                f"bbox: {show_box(arguments.bbox)} is smaller than {SIDE_MIN} x {SIDE_MIN} native pixels"
            )
        first = max(0, min(start - self.config.frames_max // 2, len(scene.natives) - self.config.frames_max))
        frames = scene.natives[first : first + self.config.frames_max]
        tracks = _tracked(frames, box, start - first, self.config.side_max)
        numbers = range(first, first + len(tracks))
        seen = [number for number, found in zip(numbers, tracks, strict=True) if not found.lost]
        last = seen[-1]
        place = tracks[last - first].box
        assert place is not None
        return OperationResult(
            text=_text(view, tracks, first, start, scene.next_view_name()),
            image=_drawn(scene.natives[last], view, place, f"frame {last}"),
            data={
                "image": view.name,
                "frame": start,
                "shown_frame": last,
                "frames": [_told(found, view, number) for number, found in zip(numbers, tracks, strict=True)],
            },
            source=last,
            transform=view.transform,
        )

    def _start(self, scene: Scene, view: View, frame: int | None) -> int:
        if view.source >= len(scene.natives):
            raise OperationError(f"image: {view.name} shows no frame of the video")
        if frame is not None and frame >= len(scene.natives):
            raise OperationError(f"frame: {frame} is not a frame of the video, which has 0 to {len(scene.natives) - 1}")
        return view.source if frame is None else frame


def _tracked(frames: tuple[Pixels, ...], box: Box, start: int, side_max: int) -> list[Track]:
    """The tracks in native pixels, followed on frames of at most `side_max` pixels a side and of one size."""
    height, width = frames[start].shape[:2]
    factor = min(1.0, side_max / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    reduced = _Reduced(frames, size)
    scale = (size[0] / width, size[1] / height, size[0] / width, size[1] / height)
    tracks = track(reduced, _times(box, scale), start)
    back = (1 / scale[0], 1 / scale[1], 1 / scale[2], 1 / scale[3])
    return [Track(None if found.box is None else _times(found.box, back), found.confidence) for found in tracks]


class _Reduced:
    """The frames at one size, each reduced when it is asked for, so that not all are held at once."""

    def __init__(self, frames: tuple[Pixels, ...], size: tuple[int, int]) -> None:
        self.frames = frames
        self.size = size

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Pixels:
        frame = self.frames[index]
        if frame.shape[1::-1] == self.size:
            return frame
        return np.asarray(cv2.resize(frame, self.size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _times(box: Box, factors: Box) -> Box:
    return (box[0] * factors[0], box[1] * factors[1], box[2] * factors[2], box[3] * factors[3])


def _told(found: Track, view: View, number: int) -> dict[str, object]:
    """One frame's track, its box in pixels of the view that the object was pointed at in."""
    box = None if found.box is None else [round(value, 2) for value in view.transform.box_from_native(found.box)]
    return {"frame": number, "bbox": box, "confidence": round(found.confidence, 3), "lost": found.lost}


def _text(view: View, tracks: list[Track], first: int, start: int, picture: str) -> str:
    """Where it began and where it ended, the frames in which it was lost, and what the picture shows."""
    places = {first + index: found for index, found in enumerate(tracks)}
    seen = [number for number, found in places.items() if not found.lost]
    told = [f"frame {number}: {_show(places[number], view)}" for number in dict.fromkeys((seen[0], start, seen[-1]))]
    lost = _ranges([number for number, found in places.items() if found.lost])
    away = f"lost in frames {lost}" if lost else "never lost"
    return (
        f"{', '.join(told)} in pixels of {view.name}; {away} of {first} to {first + len(tracks) - 1}; "
        f"{picture} shows frame {seen[-1]} with the box"
    )


def _show(found: Track, view: View) -> str:
    assert found.box is not None
    x1, y1, x2, y2 = view.transform.box_from_native(found.box)
    return show_box((round(x1), round(y1), round(x2), round(y2)))


def _ranges(numbers: list[int]) -> str:
    """1, 2, 3, 7 as "1-3, 7"; at most six ranges, then how many frames more."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    told = [str(low) if low == high else f"{low}-{high}" for low, high in ranges[:6]]
    more = sum(high - low + 1 for low, high in ranges[6:])
    return ", ".join(told) + (f" and {more} more" if more else "")


def _drawn(native: Pixels, view: View, box: Box, label: str) -> Pixels:
    """What the view would show of a frame, with the box drawn in."""
    x1, y1, x2, y2 = (round(value) for value in view.transform.box_to_native((0, 0, view.width, view.height)))
    part = native[max(0, y1) : y2, max(0, x1) : x2]
    if part.shape[:2] != view.pixels.shape[:2]:
        part = np.asarray(cv2.resize(part, (view.width, view.height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return draw_box(part, view.transform.box_from_native(box), COLORS[0], label)


__all__ = ["TrackObject", "TrackObjectArguments", "TrackObjectConfig"]
