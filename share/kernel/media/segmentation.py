"""The object under a point, without learned weights: candidates from two trees of merged regions, ranked.

Small regions of the picture are merged two by two until one is left (binary partition trees: Salembier and Garrido,
IEEE Transactions on Image Processing 9(4), 2000; see `regions`), and the regions on the way from the point's own to the
whole picture are the candidates: part, object, group. A linear ranker says for each how well it looks like an object:
strong edge around, weak edges inside, colours that are rare outside, the point not off its middle. It predicts the
candidate's IoU, and was fitted by `benchmarks/fit_segmentation.py`. What it does not know is what things are: an object
of several colours on a ground that has one of them is beyond it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from share.kernel.media.regions import Regions, Tree, merged, small_regions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from share.kernel.contracts.vision import Mask, Pixels

SIDE_MAX = 320
"""Longer side, in pixels, at which candidates are found; their outlines are then drawn on all pixels."""

SAME = 0.75
"""IoU from which two candidates count as one."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """`mask` bool [height, width] of the pixels that were given; `confidence` its predicted IoU, in [0, 1]."""

    mask: Mask
    confidence: float


def segment(pixels: Pixels, x: int, y: int, count: int = 3) -> list[Candidate]:
    """At most `count` candidates for the object at column x, row y of uint8 [height, width, 3] RGB, the best first.

    There is always one, possibly the whole picture, and each holds the point. A picture that has to be reduced is also
    looked at through a window of its own pixels around the point, where small and thin things are not yet gone.
    """
    found = _candidates(pixels, x, y, count)
    if max(pixels.shape[:2]) > SIDE_MAX:
        left, top = (_begin(at, size) for at, size in ((x, pixels.shape[1]), (y, pixels.shape[0])))
        window = np.ascontiguousarray(pixels[top : top + SIDE_MAX, left : left + SIDE_MAX])
        for candidate in _candidates(window, x - left, y - top, count):
            mask = np.zeros(pixels.shape[:2], np.bool_)
            mask[top : top + SIDE_MAX, left : left + SIDE_MAX] = candidate.mask
            found.append(Candidate(mask, candidate.confidence))
        found.sort(key=lambda candidate: -candidate.confidence)
    chosen: list[Candidate] = []
    for candidate in found:
        if len(chosen) < count and all(_iou(candidate.mask, other.mask) < SAME for other in chosen):
            chosen.append(candidate)
    return chosen


def _begin(at: int, size: int) -> int:
    return min(max(0, at - SIDE_MAX // 2), max(0, size - SIDE_MAX))


def _iou(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


def _candidates(pixels: Pixels, x: int, y: int, count: int) -> list[Candidate]:
    chains = partition(pixels, x, y)
    scores = [predicted_iou(features(chain)) for chain in chains]
    best_first = sorted(
        ((float(score), number, level) for number, each in enumerate(scores) for level, score in enumerate(each)),
        key=lambda region: -region[0],
    )
    chosen: list[tuple[float, Mask, float]] = []
    for score, number, level in best_first:
        region, area = chains[number].joins <= level, float(chains[number].areas[level])
        if all(_differ(region, area, other, size) for _, other, size in chosen):
            chosen.append((score, region, area))
        if len(chosen) == count:
            break
    return [Candidate(_outlined(pixels, region, x, y), float(np.clip(score, 0, 1))) for score, region, _ in chosen]


def _differ(one: Mask, area: float, other: Mask, size: float) -> bool:
    """Whether the IoU of two regions is below `SAME`; it is at most the quotient of their areas."""
    return min(area, size) < SAME * max(area, size) or _iou(one, other) < SAME


@dataclass(frozen=True, slots=True)
class Chain:
    """The nested regions around a point at working resolution, from the smallest; the last is the whole picture.

    `joins` int [h, w] is the level from which a pixel belongs, so that level k is `joins <= k`; `areas` its pixels;
    `heights` its merging cost. `lab` uint8 [h, w, 3]; `point` (x, y). `inner` and `outer` [E] are the levels at
    which the two sides of each border between small regions join, `lengths` [E] its pixel edges, `steps` [E] the mean
    colour step across them, `gaps` [E] the distance of the two regions' mean colours.
    """

    joins: NDArray[np.int64]
    areas: NDArray[np.float64]
    heights: NDArray[np.float64]
    lab: NDArray[np.uint8]
    point: tuple[int, int]
    inner: NDArray[np.int64]
    outer: NDArray[np.int64]
    lengths: NDArray[np.float64]
    steps: NDArray[np.float64]
    gaps: NDArray[np.float64]


def partition(pixels: Pixels, x: int, y: int) -> tuple[Chain, Chain]:
    """The chains of nested regions around a point of uint8 [height, width, 3] RGB: by colours, and by borders."""
    small = _reduced(pixels)
    height, width = small.shape[:2]
    column = min(width - 1, int((x + 0.5) * width / pixels.shape[1]))
    row = min(height - 1, int((y + 0.5) * height / pixels.shape[0]))
    regions = small_regions(small)
    by_colours, by_borders = merged(regions)
    return _chain(regions, by_colours, (column, row)), _chain(regions, by_borders, (column, row))


def _chain(regions: Regions, tree: Tree, point: tuple[int, int]) -> Chain:
    first, second, means = regions.first, regions.second, regions.means
    levels, nodes = tree.way(int(regions.labels[point[1], point[0]]), len(means))
    joins = levels[regions.labels]
    return Chain(
        joins=joins,
        areas=np.bincount(joins.ravel(), minlength=len(nodes)).cumsum().astype(np.float64),
        heights=np.asarray(tree.heights)[nodes],
        lab=regions.lab,
        point=point,
        inner=np.minimum(levels[first], levels[second]),
        outer=np.maximum(levels[first], levels[second]),
        lengths=regions.lengths,
        steps=regions.steps / regions.lengths,
        gaps=np.sqrt(((means[first] - means[second]) ** 2).sum(axis=1)),
    )


# What a candidate looks like -> weight in the predicted IoU; `python -m benchmarks.fit_segmentation` prints them.
WEIGHTS: dict[str, float] = {
    "one": 0.9415,
    "step around": 0.0179,
    "gap around": -0.0124,
    "least step around": 0.0441,
    "least gap around": -0.0136,
    "step around to within": 0.0512,
    "gap around to within": -0.0332,
    "share": 0.0102,
    "share squared": -0.0122,
    "cut by the picture's edge": -0.3965,
    "touches the picture's edge": -0.1661,
    "compact": 0.1441,
    "point off its middle": -0.1541,
    "colours shared with outside": -0.1717,
    "lasts": 0.0259,
    "side": -0.0274,
    "whole": 0.1672,
}


def predicted_iou(features_KF: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(features_KF @ np.array(list(WEIGHTS.values())))


def features(chain: Chain) -> NDArray[np.float64]:
    """What each of the K regions of a chain looks like: float64 [K, F], the columns named as `WEIGHTS`."""
    num = len(chain.areas)
    height, width = chain.joins.shape
    lengths, pixels = chain.lengths, float(height * width)

    def around(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum over the borders that surround a region: one side has joined, the other has not."""
        opened = np.bincount(chain.inner, values, num + 1) - np.bincount(chain.outer, values, num + 1)
        return np.asarray(opened.cumsum()[:num])

    def within(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(chain.outer, values, num).cumsum()[:num])

    outline = np.maximum(around(lengths), 1.0)
    inside = within(lengths) + 1.0
    step, gap = around(chain.steps * lengths) / outline, around(chain.gaps * lengths) / outline
    edge = np.concatenate([chain.joins[0], chain.joins[-1], chain.joins[:, 0], chain.joins[:, -1]])
    cut = np.bincount(edge, minlength=num).cumsum()
    share = np.log(chain.areas / pixels + 1e-4)
    after = np.append(chain.heights[1:], chain.heights[-1])
    columns_KF = {
        "one": np.ones(num),
        "step around": np.log(step + 2),
        "gap around": np.log(gap + 2),
        "least step around": around(np.log(chain.steps + 2) * lengths) / outline,
        "least gap around": around(np.log(chain.gaps + 2) * lengths) / outline,
        "step around to within": np.log((step + 1) / ((within(chain.steps * lengths) + 5) / inside)),
        "gap around to within": np.log((gap + 1) / ((within(chain.gaps * lengths) + 5) / inside)),
        "share": share,
        "share squared": share**2,
        "cut by the picture's edge": cut / (outline + cut),
        "touches the picture's edge": (cut > 0).astype(np.float64),
        "compact": np.log(16 * chain.areas / (outline + cut) ** 2),
        "point off its middle": _off_middle(chain),
        "colours shared with outside": _shared_colours(chain),
        "lasts": np.minimum(np.log((after + 1) / (chain.heights + 1)), 10.0),
        "side": np.sqrt(chain.areas) / 20,
        "whole": (chain.areas > 0.95 * pixels).astype(np.float64),
    }
    return np.stack(list(columns_KF.values()), axis=1)


def _off_middle(chain: Chain) -> NDArray[np.float64]:
    """Mahalanobis distance of the point from each region's pixels, [K]: an end of a long thing is not far off."""
    num = len(chain.areas)
    height, width = chain.joins.shape
    x, y = np.arange(width) - chain.point[0], np.arange(height) - chain.point[1]
    by_column = np.bincount((chain.joins * width + np.arange(width)).ravel(), minlength=num * width)
    by_row = np.bincount((chain.joins * height + np.arange(height)[:, None]).ravel(), minlength=num * height)
    by_column, by_row = by_column.reshape(num, width), by_row.reshape(num, height)
    products = np.bincount(chain.joins.ravel(), (y[:, None] * x).ravel().astype(np.float64), num)
    sums = np.stack([by_column @ x, by_row @ y, by_column @ x**2, by_row @ y**2, products])
    mean_x, mean_y, square_x, square_y, product = sums.cumsum(axis=1) / chain.areas
    spread_x = square_x - mean_x**2 + 1 / 12  # a pixel is a square, not a point
    spread_y = square_y - mean_y**2 + 1 / 12
    joint = product - mean_x * mean_y
    squared = spread_y * mean_x**2 - 2 * joint * mean_x * mean_y + spread_x * mean_y**2
    return np.asarray(np.sqrt(np.maximum(squared, 0) / (spread_x * spread_y - joint**2)))


def _shared_colours(chain: Chain) -> NDArray[np.float64]:
    """Intersection of the colour histograms inside and outside each region, 512 bins of Lab: [K], 0 when disjoint."""
    num = len(chain.areas)
    bins = _LIGHTNESS_BIN[chain.lab[..., 0]] + _COLOUR_BIN[chain.lab[..., 1]] * 8 + _COLOUR_BIN[chain.lab[..., 2]]
    counts = np.bincount((chain.joins * 512 + bins).ravel(), minlength=num * 512).reshape(num, 512)
    inside = counts[:, counts.any(axis=0)].cumsum(axis=0).astype(np.float64)
    outside = inside[-1] - inside
    shares = inside / inside.sum(axis=1, keepdims=True), outside / np.maximum(outside.sum(axis=1, keepdims=True), 1.0)
    return np.asarray(np.minimum(*shares).sum(axis=1))


_LIGHTNESS_BIN = np.arange(256) // 32 * 64
_COLOUR_BIN = np.clip((np.arange(256) - 64) // 16, 0, 7)


def _reduced(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    factor = SIDE_MAX / max(height, width)
    if factor >= 1:
        return pixels
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _outlined(pixels: Pixels, small: Mask, x: int, y: int) -> Mask:
    """A mask at working resolution, redrawn on all pixels: a watershed decides those near its enlarged outline."""
    height, width = pixels.shape[:2]
    if small.shape == (height, width):
        return small
    factor = max(height / small.shape[0], width / small.shape[1])
    soft = cv2.resize(small.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    rough = soft > 0.5
    reach = 2 * math.ceil(factor) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    filled = rough.astype(np.uint8)
    sure = cv2.erode(filled, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    never = cv2.dilate(filled, kernel) == 0
    markers = np.zeros((height + 2, width + 2), np.int32)
    markers[1:-1, 1:-1] = np.where(sure > 0, 1, np.where(never, 2, 0))
    markers[y + 1, x + 1] = 1
    cv2.watershed(cv2.copyMakeBorder(pixels, 1, 1, 1, 1, cv2.BORDER_REPLICATE), markers)
    decided = markers[1:-1, 1:-1]
    mask = np.where(decided > 0, decided == 1, rough)
    mask[y, x] = True
    return np.asarray(mask, dtype=np.bool_)


__all__ = ["SIDE_MAX", "Candidate", "Chain", "features", "partition", "predicted_iou", "segment"]
