"""Shape descriptors of a mask, equal to `skimage.measure.regionprops` of the same pixels and ten times as fast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from share.kernel.errors import MediaError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from share.kernel.contracts.vision import Mask


@dataclass(frozen=True, slots=True)
class Shape:
    """Lengths in pixels of the mask, areas in square pixels, angles in radians; names and values as in regionprops.

    `centroid_x` and `centroid_y` count from the mask's corner, so that the centre of its first pixel is (0.5, 0.5);
    regionprops counts from the centre of that pixel. `orientation` is the angle from the y axis (down) to the longer
    axis, in (-pi/2, pi/2], counter-clockwise.
    """

    area: int
    centroid_x: float
    centroid_y: float
    perimeter: float
    axis_major_length: float
    axis_minor_length: float
    eccentricity: float
    orientation: float
    area_convex: int
    solidity: float
    extent: float
    equivalent_diameter: float
    euler_number: int


def describe_shape(mask: Mask) -> Shape:
    """The descriptors of all set pixels of a bool mask [height, width] together. Raises MediaError if none is set."""
    image = np.ascontiguousarray(mask).view(np.uint8)
    in_row = cv2.reduce(image, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    in_column = cv2.reduce(image, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    rows, columns = np.flatnonzero(in_row), np.flatnonzero(in_column)
    if rows.size == 0:
        raise MediaError("mask: no pixel is set")
    left, top = int(columns[0]), int(rows[0])
    image = np.ascontiguousarray(image[top : rows[-1] + 1, left : columns[-1] + 1])
    in_row, in_column = in_row[top : rows[-1] + 1], in_column[left : columns[-1] + 1]

    # Sums over whole numbers are exact, so that symmetric shapes come out symmetric.
    x, y = np.arange(image.shape[1]), np.arange(image.shape[0])
    area = int(in_row.sum())
    sum_x, sum_y = int(in_column @ x), int(in_row @ y)
    variance_x = (area * int(in_column @ x**2) - sum_x**2) / area**2
    variance_y = (area * int(in_row @ y**2) - sum_y**2) / area**2
    covariance = (area * round(cv2.moments(image, binaryImage=True)["m11"]) - sum_x * sum_y) / area**2
    middle, spread = (variance_x + variance_y) / 2, math.hypot((variance_x - variance_y) / 2, covariance)
    longest, shortest = middle + spread, max(middle - spread, 0.0)
    area_convex = _area_convex(image)
    return Shape(
        area=area,
        centroid_x=left + sum_x / area + 0.5,
        centroid_y=top + sum_y / area + 0.5,
        perimeter=_perimeter(image),
        axis_major_length=4 * math.sqrt(longest),
        axis_minor_length=4 * math.sqrt(shortest),
        eccentricity=math.sqrt(1 - shortest / longest) if longest > 0 else 0.0,
        orientation=_orientation(variance_x, variance_y, covariance),
        area_convex=area_convex,
        solidity=area / area_convex,
        extent=area / image.size,
        equivalent_diameter=math.sqrt(4 * area / math.pi),
        euler_number=_euler_number(image),
    )


def describe_rectangle(width: int, height: int) -> Shape:
    """What `describe_shape` says of a mask of `width` x `height` pixels that are all set, without making it."""
    # The perimeter grows evenly once a side is longer than its two ends.
    columns, rows = min(width, 4), min(height, 4)
    small, wider, higher = (
        _perimeter(np.ones(size, np.uint8)) for size in ((rows, columns), (rows, columns + 1), (rows + 1, columns))
    )
    perimeter = small + (width - columns) * (wider - small) + (height - rows) * (higher - small)
    variance_x, variance_y = (width**2 - 1) / 12, (height**2 - 1) / 12
    longest, shortest = max(variance_x, variance_y), min(variance_x, variance_y)
    return Shape(
        area=width * height,
        centroid_x=width / 2,
        centroid_y=height / 2,
        perimeter=perimeter,
        axis_major_length=4 * math.sqrt(longest),
        axis_minor_length=4 * math.sqrt(shortest),
        eccentricity=math.sqrt(1 - shortest / longest) if longest > 0 else 0.0,
        orientation=_orientation(variance_x, variance_y, 0.0),
        area_convex=width * height,
        solidity=1.0,
        extent=1.0,
        equivalent_diameter=math.sqrt(4 * width * height / math.pi),
        euler_number=1,
    )


def _orientation(variance_x: float, variance_y: float, covariance: float) -> float:
    if variance_x == variance_y:
        return math.pi / 4 if covariance > 0 else -math.pi / 4
    return 0.5 * math.atan2(2 * covariance, variance_y - variance_x)


_PERIMETER = np.zeros(50)
_PERIMETER[[5, 7, 15, 17, 25, 27]] = 1
_PERIMETER[[21, 33]] = math.sqrt(2)
_PERIMETER[[13, 23]] = (1 + math.sqrt(2)) / 2


def _perimeter(image: NDArray[np.uint8]) -> float:
    """Benkrid and Crookes, «Design and FPGA Implementation of a Perimeter Estimator», 2000: border pixels by kind."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(image, cross, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    pattern = np.array([[10, 2, 10], [2, 1, 2], [10, 2, 10]], np.float32)
    kinds = cv2.filter2D(cv2.subtract(image, inner), cv2.CV_8U, pattern, borderType=cv2.BORDER_CONSTANT)
    return float(_histogram(kinds)[:50] @ _PERIMETER)


def _euler_number(image: NDArray[np.uint8]) -> int:
    """Objects minus holes, 8-connected: Gray 1971, «Local properties of binary images in two dimensions»."""
    padded = cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    quads = padded[:-1, :-1] + 2 * padded[:-1, 1:] + 4 * padded[1:, :-1] + 8 * padded[1:, 1:]
    count = _histogram(quads)
    one, three, diagonal = count[[1, 2, 4, 8]].sum(), count[[7, 11, 13, 14]].sum(), count[[6, 9]].sum()
    return int(one - three - 2 * diagonal) // 4


def _area_convex(image: NDArray[np.uint8]) -> int:
    """Pixels whose centre is in or on the convex hull of the middles of all pixel edges.

    Coordinates are doubled, so that those middles are whole numbers and every comparison is exact.
    """
    height, width = image.shape
    set_pixels = image.view(bool)
    rows, columns = np.arange(height), np.arange(width)
    row_used, column_used = set_pixels.any(axis=1), set_pixels.any(axis=0)
    first_x, last_x = set_pixels.argmax(axis=1), width - 1 - set_pixels[:, ::-1].argmax(axis=1)
    first_y, last_y = set_pixels.argmax(axis=0), height - 1 - set_pixels[::-1].argmax(axis=0)
    points = np.concatenate(
        [
            np.stack([2 * first_x - 1, 2 * rows], axis=1)[row_used],
            np.stack([2 * last_x + 1, 2 * rows], axis=1)[row_used],
            np.stack([2 * columns, 2 * first_y - 1], axis=1)[column_used],
            np.stack([2 * columns, 2 * last_y + 1], axis=1)[column_used],
        ]
    )
    corners = cv2.convexHull(points.astype(np.int32)).reshape(-1, 2).astype(np.int64)
    ends = np.roll(corners, -1, axis=0)
    # Around a convex polygon, y falls along one side and rises along the other; level edges bound no row.
    one = _crossings(ends, corners, 2 * rows, ends[:, 1] < corners[:, 1])
    other = _crossings(corners, ends, 2 * rows, corners[:, 1] < ends[:, 1])
    left, right = (one, other) if (one[0] * other[1] <= other[0] * one[1]).all() else (other, one)
    first, last = -(-left[0] // (2 * left[1])), right[0] // (2 * right[1])
    return int((last - first + 1).sum())


def _crossings(
    begins: NDArray[np.int64], ends: NDArray[np.int64], rows: NDArray[np.int64], chosen: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the chosen edges, of which one crosses each row, do so: x as (numerator, denominator)."""
    order = np.argsort(begins[chosen, 1])
    begins, ends = begins[chosen][order], ends[chosen][order]
    edge = np.searchsorted(begins[:, 1], rows, side="right") - 1
    rise = (ends - begins)[edge, 1]
    return begins[edge, 0] * rise + (ends - begins)[edge, 0] * (rows - begins[edge, 1]), rise


def _histogram(values: NDArray[Any]) -> NDArray[np.float64]:
    return cv2.calcHist([np.ascontiguousarray(values)], [0], None, [256], [0, 256]).ravel().astype(np.float64)


__all__ = ["Shape", "describe_rectangle", "describe_shape"]
