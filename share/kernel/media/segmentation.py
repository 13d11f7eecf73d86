"""The object under a point, without learned weights: nested candidates from a tree of merged regions, ranked.

The pixels are cut into small regions by a watershed, the regions merged two by two until one is left (a binary
partition tree: Salembier and Garrido, IEEE Transactions on Image Processing 9(4), 2000), and the regions on the way
from the point's own to the whole picture are the candidates: part, object, group. A linear ranker says for each how
well it looks like an object: strong edge around, weak edges inside, colours that are rare outside, the point in its
middle. It predicts the candidate's IoU, and was fitted by `benchmarks/fit_segmentation.py`. What it does not know is
what things are: an object of several colours on a ground that has one of them is beyond it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from share.kernel.contracts.vision import Mask, Pixels

SIDE_MAX = 320
"""Longer side, in pixels, at which candidates are found; their outlines are then drawn on all pixels."""

CELL = 8
"""Side, in pixels, of the squares that each start one region."""

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
    chain = partition(pixels, x, y)
    scores = predicted_iou(features(chain))
    chosen: list[int] = []
    for level in np.argsort(-scores, kind="stable"):
        area = chain.areas[level]
        if all(min(area, chain.areas[other]) < SAME * max(area, chain.areas[other]) for other in chosen):
            chosen.append(int(level))
        if len(chosen) == count:
            break
    return [
        Candidate(_outlined(pixels, chain.joins <= level, x, y), float(np.clip(scores[level], 0, 1)))
        for level in chosen
    ]


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


def partition(pixels: Pixels, x: int, y: int) -> Chain:
    """The chain of nested regions around a point of uint8 [height, width, 3] RGB."""
    small = _reduced(pixels)
    height, width = small.shape[:2]
    column = min(width - 1, int((x + 0.5) * width / pixels.shape[1]))
    row = min(height - 1, int((y + 0.5) * height / pixels.shape[0]))
    smooth = np.asarray(cv2.bilateralFilter(cv2.medianBlur(small, 3), 7, 40, 5), dtype=np.uint8)
    lab = np.asarray(cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB), dtype=np.uint8)
    labels = _regions(smooth)
    sizes = np.bincount(labels.ravel()).astype(np.float64)
    means = np.stack([np.bincount(labels.ravel(), lab[..., k].ravel()) for k in range(3)], axis=1) / sizes[:, None]
    first, second, lengths, steps = _borders(labels, lab, len(sizes))
    parents, heights = _merged(sizes, means, first, second, lengths, steps)
    levels, chain = _levels(parents, len(sizes), int(labels[row, column]))
    joins = levels[labels]
    inner, outer = np.minimum(levels[first], levels[second]), np.maximum(levels[first], levels[second])
    return Chain(
        joins=joins,
        areas=np.bincount(joins.ravel(), minlength=len(chain)).cumsum().astype(np.float64),
        heights=np.asarray(heights)[chain],
        lab=lab,
        point=(column, row),
        inner=inner,
        outer=outer,
        lengths=lengths,
        steps=steps / lengths,
        gaps=np.sqrt(((means[first] - means[second]) ** 2).sum(axis=1)),
    )


# What a candidate looks like -> weight in the predicted IoU; `python -m benchmarks.fit_segmentation` prints them.
WEIGHTS: dict[str, float] = {
    "one": 0.9559,
    "step around": 0.0102,
    "gap around": -0.0212,
    "least step around": 0.0696,
    "least gap around": -0.0245,
    "step around to within": 0.0523,
    "gap around to within": -0.0337,
    "share": 0.0143,
    "share squared": -0.0129,
    "cut by the picture's edge": -0.4624,
    "touches the picture's edge": -0.1453,
    "compact": 0.1268,
    "point off its middle": -0.3787,
    "colours shared with outside": -0.2099,
    "lasts": 0.0281,
    "side": -0.0302,
    "whole": 0.2041,
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
    by_column = np.bincount((chain.joins * width + np.arange(width)).ravel(), minlength=num * width)
    by_row = np.bincount((chain.joins * height + np.arange(height)[:, None]).ravel(), minlength=num * height)
    center_x = (by_column.reshape(num, width) @ np.arange(width)).cumsum() / chain.areas
    center_y = (by_row.reshape(num, height) @ np.arange(height)).cumsum() / chain.areas
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
        "point off its middle": np.hypot(center_x - chain.point[0], center_y - chain.point[1]) / np.sqrt(chain.areas),
        "colours shared with outside": _shared_colours(chain),
        "lasts": np.minimum(np.log((after + 1) / (chain.heights + 1)), 10.0),
        "side": np.sqrt(chain.areas) / 20,
        "whole": (chain.areas > 0.95 * pixels).astype(np.float64),
    }
    return np.stack(list(columns_KF.values()), axis=1)


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


def _regions(smooth: Pixels) -> NDArray[np.int64]:
    """Labels [h, w] from 0 of a watershed that starts at the calmest pixel of each cell, and leaves no line."""
    height, width = smooth.shape[:2]
    contrast = cv2.morphologyEx(smooth, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).max(axis=2)
    rows, columns = -(-height // CELL), -(-width // CELL)
    padded = np.full((rows * CELL, columns * CELL), 10_000, np.int32)
    y, x = np.mgrid[:CELL, :CELL]
    off_centre = np.tile(np.hypot(y - CELL / 2, x - CELL / 2).astype(np.int32), (rows, columns))[:height, :width]
    padded[:height, :width] = contrast.astype(np.int32) * 8 + off_centre
    cells = padded.reshape(rows, CELL, columns, CELL).transpose(0, 2, 1, 3).reshape(rows * columns, -1)
    calmest = cells.argmin(axis=1)
    seed_y = np.repeat(np.arange(rows), columns) * CELL + calmest // CELL
    seed_x = np.tile(np.arange(columns), rows) * CELL + calmest % CELL
    markers = np.zeros((height + 2, width + 2), np.int32)  # a frame, which the watershed leaves unlabelled
    markers[seed_y + 1, seed_x + 1] = np.arange(1, len(seed_y) + 1)
    framed = cv2.copyMakeBorder(smooth, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    cv2.watershed(framed, markers)
    labels = _without_lines(markers[1:-1, 1:-1], smooth)
    number = np.cumsum(np.bincount(labels.ravel()) > 0) - 1  # a seed on a line may have lost its region
    return np.asarray(number[labels])


def _without_lines(labels: NDArray[np.int32], pixels: Pixels) -> NDArray[np.int32]:
    """Give each pixel of a watershed's lines to the neighbour whose pixel is most like it."""
    labels = labels.copy()
    height, width = labels.shape
    colours = pixels.astype(np.int16)
    for _ in range(4):  # a line is one or two pixels wide; a junction of many lines a little wider
        rows, columns = np.nonzero(labels <= 0)
        if rows.size == 0:
            break
        taken = np.zeros(rows.size, np.int32)
        least = np.full(rows.size, np.iinfo(np.int32).max, np.int64)
        for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            y, x = np.clip(rows + down, 0, height - 1), np.clip(columns + right, 0, width - 1)
            label = labels[y, x]
            distance = np.abs(colours[y, x] - colours[rows, columns]).sum(axis=1)
            nearer = (label > 0) & (distance < least)
            taken[nearer], least[nearer] = label[nearer], distance[nearer]
        labels[rows, columns] = taken
    return np.maximum(labels, 1)


def _borders(
    labels: NDArray[np.int64], lab: NDArray[np.uint8], num: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Of every two regions that touch: both labels, the pixel edges between them, the summed colour step over them."""
    here = np.concatenate([labels[:, :-1].ravel(), labels[:-1].ravel()])
    there = np.concatenate([labels[:, 1:].ravel(), labels[1:].ravel()])
    apart = np.flatnonzero(here != there)
    here, there = here[apart], there[apart]
    places = np.arange(labels.size).reshape(labels.shape)
    one = np.concatenate([places[:, :-1].ravel(), places[:-1].ravel()])[apart]
    other = np.concatenate([places[:, 1:].ravel(), places[1:].ravel()])[apart]
    colours = lab.reshape(-1, 3).astype(np.int32)
    step = np.abs(colours[one] - colours[other]).sum(axis=1).astype(np.float64)
    pairs = np.minimum(here, there) * num + np.maximum(here, there)
    keys, index = np.unique(pairs.astype(np.int64), return_inverse=True)
    lengths = np.bincount(index, minlength=len(keys)).astype(np.float64)
    return keys // num, keys % num, lengths, np.asarray(np.bincount(index, step, len(keys)), dtype=np.float64)


def _merged(
    sizes: NDArray[np.float64],
    means: NDArray[np.float64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    lengths: NDArray[np.float64],
    steps: NDArray[np.float64],
) -> tuple[list[int], list[float]]:
    """Merge the cheapest two regions until one is left. The parent of each node (-1: none) and its merging cost.

    Two regions cost the more, the farther their mean colours, the stronger the border between them, the larger the
    smaller of the two, and the shorter their common border. Plain Python on plain numbers: the heap holds some
    thousand entries, where an array call per entry would take most of the time.
    """
    size = sizes.tolist()
    mean: list[Any] = [tuple(colour) for colour in means.tolist()]
    num = len(size)
    neighbours: list[dict[int, tuple[float, float]]] = [{} for _ in range(num)]
    parents = [-1] * num
    heights = [0.0] * num
    sqrt = math.sqrt
    heap: list[tuple[float, int, int]] = []

    def cost(one: int, other: int, length: float, step: float) -> float:
        (l0, a0, b0), (l1, a1, b1) = mean[one], mean[other]
        gap = sqrt((l0 - l1) ** 2 + (a0 - a1) ** 2 + (b0 - b1) ** 2)
        joint = size[one] * size[other] / (size[one] + size[other])
        return float((gap + 0.5 * step / length) * sqrt(joint / sqrt(length)))

    for one, other, length, step in zip(first.tolist(), second.tolist(), lengths.tolist(), steps.tolist(), strict=True):
        neighbours[one][other] = neighbours[other][one] = (length, step)
        heap.append((cost(one, other, length, step), one, other))
    heapify(heap)
    while heap:
        height, one, other = heappop(heap)
        if parents[one] >= 0 or parents[other] >= 0:
            continue
        node = len(size)
        parents[one] = parents[other] = node
        parents.append(-1)
        heights.append(height)
        total = size[one] + size[other]
        share = size[one] / total
        size.append(total)
        mean.append(tuple(p * share + q * (1 - share) for p, q in zip(mean[one], mean[other], strict=True)))
        around = {key: border for key, border in neighbours[one].items() if key != other}
        for key, (length, step) in neighbours[other].items():
            if key != one:
                known = around.get(key)
                around[key] = (length, step) if known is None else (known[0] + length, known[1] + step)
        neighbours.append(around)
        for key, (length, step) in around.items():
            theirs = neighbours[key]
            theirs.pop(one, None)
            theirs.pop(other, None)
            theirs[node] = (length, step)
            heappush(heap, (cost(key, node, length, step), key, node))
        neighbours[one] = neighbours[other] = {}
    return parents, heights


def _levels(parents: list[int], num_leaves: int, leaf: int) -> tuple[NDArray[np.int64], list[int]]:
    """The step of the way from `leaf` to the root at which each leaf joins, int [num_leaves], and that way's nodes."""
    way = [leaf]
    while parents[way[-1]] >= 0:
        way.append(parents[way[-1]])
    place = {node: step for step, node in enumerate(way)}
    joined = [0] * len(parents)
    for node in range(len(parents) - 1, -1, -1):
        joined[node] = place[node] if node in place else joined[parents[node]]
    return np.array(joined[:num_leaves], dtype=np.int64), way


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
