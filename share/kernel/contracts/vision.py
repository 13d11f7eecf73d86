"""What visual operations see and return: a `Scene` of views on native pixels, regions, and results.

Coordinates are absolute pixels of a named view, origin at its top left corner, x to the right, y down; a box is
`(x1, y1, x2, y2)` with x2 and y2 exclusive. A view keeps the transform to the native pixels it was made from, so
that whatever is cut from it is cut from the best pixels there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from share.kernel.errors import OperationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]  # H x W x 3, RGB
    Mask = NDArray[np.bool_]  # H x W

Box = tuple[float, float, float, float]

PIXELS_MAX = 4_000_000
"""The largest image accepted, in pixels; checked on the header before decoding."""


@dataclass(frozen=True, slots=True)
class Transform:
    """Axis-aligned map from the pixels of a view to the native pixels of its source: native = view * scale + offset."""

    scale_x: float = 1.0
    scale_y: float = 1.0
    offset_x: float = 0.0
    offset_y: float = 0.0

    def point_to_native(self, x: float, y: float) -> tuple[float, float]:
        return x * self.scale_x + self.offset_x, y * self.scale_y + self.offset_y

    def point_from_native(self, x: float, y: float) -> tuple[float, float]:
        return (x - self.offset_x) / self.scale_x, (y - self.offset_y) / self.scale_y

    def box_to_native(self, box: Box) -> Box:
        return (*self.point_to_native(box[0], box[1]), *self.point_to_native(box[2], box[3]))

    def box_from_native(self, box: Box) -> Box:
        return (*self.point_from_native(box[0], box[1]), *self.point_from_native(box[2], box[3]))


@dataclass(frozen=True, slots=True)
class View:
    """One image that the policy has been shown: `pixels` as shown, `source` the number that `Scene.native` takes."""

    name: str
    source: int
    transform: Transform
    pixels: Pixels

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


@dataclass(frozen=True, slots=True)
class Region:
    """A set of pixels found by an operation, in the native pixels of `source`.

    `counts` is the run-length encoding of the mask in row-major order, beginning with a run of zeros (possibly 0),
    over `shape` = (height, width) of the native image. `box` is native; `confidence` in [0, 1].
    """

    name: str
    source: int
    shape: tuple[int, int]
    counts: tuple[int, ...]
    box: Box
    area: int
    confidence: float


@dataclass(frozen=True, slots=True)
class OperationResult:
    """What an operation returns.

    `text` goes to the policy as it is; `image` (uint8 HWC RGB), if any, is shown with it and becomes a view under
    `transform` (its pixels to the native pixels of `source`; None for a picture that maps to nothing, e.g. a plot);
    `data` is JSON-serialisable and goes to trajectories and programs; `region` becomes addressable as r1, r2, …
    """

    text: str
    image: Pixels | None = None
    data: Mapping[str, object] = field(default_factory=dict)
    region: Region | None = None
    source: int = 0
    transform: Transform | None = None


@dataclass(slots=True)
class Scene:
    """The visual state of one rollout: native images or video frames, the views shown so far, the regions found so far.

    Views are named image_1, image_2, … in the order in which the policy was shown them; regions r1, r2, …
    `natives` holds uint8 HWC RGB arrays: the images, or all frames of the video in order when `is_video`. `pictures`
    holds images that an operation drew and that map to no native (a plot); a source counts on through them.
    """

    natives: tuple[Pixels, ...]
    is_video: bool = False
    frames_per_second: float | None = None
    views: dict[str, View] = field(default_factory=dict)
    regions: dict[str, Region] = field(default_factory=dict)
    pictures: list[Pixels] = field(default_factory=list)

    def native(self, source: int) -> Pixels:
        """The best pixels there are of a source: a native image or frame, or a picture."""
        return self.natives[source] if source < len(self.natives) else self.pictures[source - len(self.natives)]

    def next_view_name(self) -> str:
        return f"image_{len(self.views) + 1}"

    def add_picture(self, pixels: Pixels) -> int:
        """Keep an image that maps to no native. Returns its source."""
        self.pictures.append(pixels)
        return len(self.natives) + len(self.pictures) - 1

    def add_view(self, pixels: Pixels, source: int, transform: Transform) -> View:
        view = View(self.next_view_name(), source, transform, pixels)
        self.views[view.name] = view
        return view

    def next_region_name(self) -> str:
        return f"r{len(self.regions) + 1}"

    def add_region(self, region: Region) -> Region:
        self.regions[region.name] = region
        return region

    def view(self, name: str | None) -> View:
        """The view of that name; None means the first. Raises OperationError when there is none of that name."""
        if not self.views:
            raise OperationError("image: the scene holds no image")
        if name is None:
            return next(iter(self.views.values()))
        if name not in self.views:
            raise OperationError(f"image: no image {name!r}; there are {', '.join(self.views)}")
        return self.views[name]

    def region(self, name: str) -> Region:
        """The region of that name. Raises OperationError when there is none."""
        if name not in self.regions:
            known = ", ".join(self.regions) or "none yet: SEGMENT_OBJECT_AT returns one"
            raise OperationError(f"region: no region {name!r}; there are {known}")
        return self.regions[name]


@dataclass(frozen=True, slots=True)
class Detections:
    """Detections of one image as a struct of arrays.

    `xyxy` float32 [N, 4] pixels, `class_id` int64 [N], `confidence` float32 [N], `tracker_id` int64 [N] or None.
    """

    xyxy: NDArray[np.float32]
    class_id: NDArray[np.int64]
    confidence: NDArray[np.float32]
    tracker_id: NDArray[np.int64] | None = None


__all__ = [
    "PIXELS_MAX",
    "Box",
    "Detections",
    "OperationResult",
    "Region",
    "Scene",
    "Transform",
    "View",
]
