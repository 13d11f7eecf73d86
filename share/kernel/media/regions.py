"""Small regions of a picture, and how they are merged two by two until one is left: binary partition trees.

The small regions are those of a watershed that starts at the calmest pixel of every cell of a grid. Two regions cost
the more to merge, the stronger the border between them, the farther their mean colours, the larger the smaller of the
two, and the shorter their common border. The last merges decide what can be an object, and no one order of them suits
all: a patch on a coat of several colours is told by its mean colour, a tower in the evening, light at one end and dark
at the other, only by its outline. So there are two trees, equal until `DISPUTED` regions are left: after that, mean
colours go on to count in the first, and in the second borders alone (as in the contour maps of Arbelaez, CVPR
Workshops 2006).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from share.kernel.contracts.vision import Pixels

CELL = 8
"""Side, in pixels, of the squares that each start one region."""

DISPUTED = 200
"""Regions that are left when the two trees part."""


@dataclass(frozen=True, slots=True)
class Regions:
    """N small regions and the E borders between them.

    `labels` int [h, w] from 0; `lab` uint8 [h, w, 3]; `sizes` float [N], in pixels; `means` float [N, 3] of `lab`.
    `first` and `second` int [E] are the two sides of a border, `lengths` float [E] its pixel edges, `steps` float [E]
    the colour steps across them, summed.
    """

    labels: NDArray[np.int64]
    lab: NDArray[np.uint8]
    sizes: NDArray[np.float64]
    means: NDArray[np.float64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    lengths: NDArray[np.float64]
    steps: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tree:
    """The parent of each node (-1: the root) and its merging cost; the first N nodes are the small regions."""

    parents: list[int]
    heights: list[float]

    def way(self, leaf: int, num_leaves: int) -> tuple[NDArray[np.int64], list[int]]:
        """The step of the way from `leaf` to the root at which each leaf joins, int [N], and that way's nodes."""
        way = [leaf]
        while self.parents[way[-1]] >= 0:
            way.append(self.parents[way[-1]])
        place = {node: step for step, node in enumerate(way)}
        joined = [0] * len(self.parents)
        for node in range(len(self.parents) - 1, -1, -1):
            joined[node] = place[node] if node in place else joined[self.parents[node]]
        return np.array(joined[:num_leaves], dtype=np.int64), way


def small_regions(pixels: Pixels) -> Regions:
    """The small regions of uint8 [h, w, 3] RGB, smoothed first."""
    smooth = np.asarray(cv2.bilateralFilter(cv2.medianBlur(pixels, 3), 7, 40, 5), dtype=np.uint8)
    lab = np.asarray(cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB), dtype=np.uint8)
    labels = _watershed(smooth)
    sizes = np.bincount(labels.ravel()).astype(np.float64)
    means = np.stack([np.bincount(labels.ravel(), lab[..., k].ravel()) for k in range(3)], axis=1) / sizes[:, None]
    return Regions(labels, lab, sizes, means, *_borders(labels, lab, len(sizes)))


def merged(regions: Regions) -> tuple[Tree, Tree]:
    """The tree of colours and borders, and that of borders alone in its last merges."""
    merging = _Merging.of(regions)
    merging.run(until=DISPUTED, by_colour=1.0)
    other = merging.copy()
    merging.run(until=1, by_colour=1.0)
    other.run(until=1, by_colour=0.0)
    return Tree(merging.parents, merging.heights), Tree(other.parents, other.heights)


@dataclass(slots=True)
class _Merging:
    """Regions while they are merged. Of each node: its parent (-1: none yet), merging cost, pixels, mean colour and,
    by neighbour, the length of the border and the colour steps across it.

    Plain Python on plain numbers: the heap holds some thousand entries, where an array call per entry would take most
    of the time.
    """

    parents: list[int]
    heights: list[float]
    sizes: list[float]
    means: list[tuple[float, float, float]]
    neighbours: list[dict[int, tuple[float, float]]]

    @classmethod
    def of(cls, regions: Regions) -> _Merging:
        num = len(regions.sizes)
        neighbours: list[dict[int, tuple[float, float]]] = [{} for _ in range(num)]
        borders = (regions.first, regions.second, regions.lengths, regions.steps)
        for one, other, length, step in zip(*(each.tolist() for each in borders), strict=True):
            neighbours[one][other] = neighbours[other][one] = (length, step)
        means = [(float(light), float(a), float(b)) for light, a, b in regions.means.tolist()]
        return cls([-1] * num, [0.0] * num, regions.sizes.tolist(), means, neighbours)

    def copy(self) -> _Merging:
        neighbours = [dict(around) for around in self.neighbours]
        return _Merging(list(self.parents), list(self.heights), list(self.sizes), list(self.means), neighbours)

    def run(self, until: int, by_colour: float) -> None:
        """Merge the cheapest two regions until so many are left."""
        parents, heights, sizes, means = self.parents, self.heights, self.sizes, self.means
        neighbours, sqrt = self.neighbours, math.sqrt
        heap = self._costs(by_colour)
        heapify(heap)
        num = sum(parent < 0 for parent in parents)
        while num > until:
            height, one, other = heappop(heap)
            if parents[one] >= 0 or parents[other] >= 0:
                continue
            node = len(sizes)
            parents[one] = parents[other] = node
            parents.append(-1)
            heights.append(height)
            (l0, a0, b0), (l1, a1, b1) = means[one], means[other]
            size = sizes[one] + sizes[other]
            share = sizes[one] / size
            rest = 1 - share
            light, a, b = l0 * share + l1 * rest, a0 * share + a1 * rest, b0 * share + b1 * rest
            sizes.append(size)
            means.append((light, a, b))
            around = neighbours[one]
            del around[other]
            for key, border in neighbours[other].items():
                if key in around:
                    known = around[key]
                    around[key] = (known[0] + border[0], known[1] + border[1])
                elif key != one:
                    around[key] = border
            neighbours.append(around)
            for key, border in around.items():
                theirs = neighbours[key]
                theirs.pop(one, None)
                theirs.pop(other, None)
                theirs[node] = border
                length, step = border
                l1, a1, b1 = means[key]
                l1, a1, b1 = light - l1, a - a1, b - b1
                gap = sqrt(l1 * l1 + a1 * a1 + b1 * b1)
                joint = size * sizes[key] / (size + sizes[key])
                heappush(heap, ((by_colour * gap + 0.5 * step / length) * sqrt(joint / sqrt(length)), key, node))
            neighbours[one] = neighbours[other] = {}
            num -= 1

    def _costs(self, by_colour: float) -> list[tuple[float, int, int]]:
        """(cost, one, other) of all that can be merged, by the formula that `run` repeats for single pairs."""
        pairs = [
            (one, other, *border)
            for one, around in enumerate(self.neighbours)
            for other, border in around.items()
            if one < other
        ]
        if not pairs:
            return []
        one_P, other_P, length_P, step_P = (np.array(column) for column in zip(*pairs, strict=True))
        means, sizes = np.array(self.means), np.array(self.sizes)
        gap_P = np.sqrt(((means[one_P] - means[other_P]) ** 2).sum(axis=1))
        joint_P = sizes[one_P] * sizes[other_P] / (sizes[one_P] + sizes[other_P])
        cost_P = (by_colour * gap_P + 0.5 * step_P / length_P) * np.sqrt(joint_P / np.sqrt(length_P))
        return list(zip(cost_P.tolist(), one_P.tolist(), other_P.tolist(), strict=True))


def _watershed(smooth: Pixels) -> NDArray[np.int64]:
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
    framed = np.asarray(cv2.copyMakeBorder(smooth, 1, 1, 1, 1, cv2.BORDER_REPLICATE), dtype=np.uint8)
    cv2.watershed(framed, markers)
    labels = _without_lines(markers, framed)
    number = np.cumsum(np.bincount(labels.ravel()) > 0) - 1  # a seed on a line may have lost its region
    return np.asarray(number[labels])


def _without_lines(markers: NDArray[np.int32], framed: Pixels) -> NDArray[np.int32]:
    """Give each pixel of a watershed's lines to the neighbour whose pixel is most like it: labels int [h, w].

    `markers` and `framed` are [h + 2, w + 2], the frame unlabelled.
    """
    height, width = markers.shape
    across, along = np.zeros((2, height, width), np.int32)  # colour step to the right, and down
    for plane in cv2.split(framed):
        across[:, :-1] += np.asarray(cv2.absdiff(plane[:, 1:], plane[:, :-1]), dtype=np.uint8)
        along[:-1] += np.asarray(cv2.absdiff(plane[1:], plane[:-1]), dtype=np.uint8)
    labels, to_right, down = markers.ravel().copy(), across.ravel(), along.ravel()
    inside = np.zeros(markers.shape, np.bool_)
    inside[1:-1, 1:-1] = True
    labels[~inside.ravel()] = 0
    for _ in range(4):  # a line is one or two pixels wide; a junction of many lines a little wider
        line = np.flatnonzero((labels <= 0) & inside.ravel())
        if line.size == 0:
            break
        theirs = labels[np.stack([line + 1, line - 1, line + width, line - width])]
        steps = np.stack([to_right[line], to_right[line - 1], down[line], down[line - width]])
        steps[theirs <= 0] = np.iinfo(np.int32).max
        labels[line] = theirs[steps.argmin(axis=0), np.arange(line.size)]
    return np.maximum(labels.reshape(height, width)[1:-1, 1:-1], 1)


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


__all__ = ["CELL", "DISPUTED", "Regions", "Tree", "merged", "small_regions"]
