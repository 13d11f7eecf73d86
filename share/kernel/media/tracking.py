"""Following one object through frames: where it is, how sure that is, and an honest word when it is lost.

The object is a small picture of itself (the template, cut from the first box) and a similarity transform that places
it in a frame. Each frame: points of the object are followed by optical flow, forwards and backwards (Lucas and Kanade;
Kalal, Mikolajczyk and Matas, ICPR 2010), and a similarity is fitted to those that return; then the frame is looked at
through that similarity and aligned with the template itself, so that errors do not add up. How many blocks of the
template are seen there is the confidence. When they are too few, the object is looked for by its template at several
sizes and angles in the whole frame; until it is found it is lost, and no box is claimed.

Blocks that do not move with the rest are ground that the first box took in: they stop counting. Whether the corners of
the box belong to the object (a tile) or not (a ball) decides how the box grows as the object turns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from share.kernel.contracts.vision import Box, Pixels

    Grey = NDArray[np.uint8]
    Affine = NDArray[np.float64]  # 2 x 3

SIDE = 48
"""Side of the template, in pixels of its own."""
RIM = 12
"""Ground kept around the template, in the same pixels, so that flow has where to look."""
BLOCKS = 8
"""The template is compared in this many blocks a side."""
POINTS = 80
"""Points of the object that are followed."""
FOUND = 0.40
"""Confidence from which a position counts as found; below, the object is lost."""
FOUND_NEAR = 0.55
"""The same for a place that a search came upon, where the object should be."""
FOUND_AGAIN = 0.60
"""The same for one anywhere else: among many places one is bound to look a little like the object."""
SURE = 0.75
"""Confidence from which the object's present look is learned."""
SEARCH_SIDE = 28
"""Side to which the object is reduced when it is looked for, in pixels."""


@dataclass(frozen=True, slots=True)
class Track:
    """Where the object is in one frame: `box` in the frame's pixels, None when it is lost; `confidence` in [0, 1]."""

    box: Box | None
    confidence: float

    @property
    def lost(self) -> bool:
        return self.box is None


class Frames(Protocol):
    """A list or tuple of frames, or something that makes each when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pixels: ...


def track(frames: Frames, box: Box, start: int = 0) -> list[Track]:
    """The object in `box` of frame `start`, followed to the end and back to the beginning. One Track per frame.

    Frames are uint8 [height, width, 3] RGB of one size.
    """
    tracks: list[Track] = [Track(box, 1.0)] * len(frames)
    for order in (range(start + 1, len(frames)), range(start - 1, -1, -1)):
        if len(order):
            tracker = Tracker(frames[start], box)
            for index in order:
                tracks[index] = tracker.step(frames[index])
    return tracks


class Tracker:
    """Follows one object, frame by frame."""

    def __init__(self, frame: Pixels, box: Box) -> None:
        self._size = (frame.shape[1], frame.shape[0])
        grey = _grey(frame)
        x1, y1, x2, y2 = box
        self._half = np.array([(x2 - x1) / 2, (y2 - y1) / 2])
        # The template is square whatever the box: `_stretch` takes its pixels to those of the object, unturned.
        self._stretch = np.diag([(x2 - x1) / SIDE, (y2 - y1) / SIDE])
        self._pose = np.array([(x1 + x2) / 2 - 0.5, (y1 + y2) / 2 - 0.5, 0.0, 0.0])  # centre x, y, log scale, angle
        self._speed = np.zeros(4)
        self._first = self._seen(grey, self._pose)
        self._present = self._first
        self._support = np.ones((BLOCKS, BLOCKS))
        self._look = self._seen(frame, self._pose)
        self._square = _square(self._look)
        self._points = _points(self._first)
        self._before = grey
        self._away = False
        self._learned = 0

    def step(self, frame: Pixels) -> Track:
        """Where the object is in the next frame."""
        grey = _grey(frame)
        guess = self._pose + self._speed
        pose, confidence = guess, 0.0
        if not self._away:
            flowed = self._flowed(grey, guess)
            pose, confidence = self._aligned(grey, guess if flowed is None else flowed)
        if confidence < FOUND:
            found = [self._aligned(grey, candidate) for candidate in self._searched(grey)]
            found = [(place, sureness * self._verified(frame, grey, place)) for place, sureness in found]
            near = 2 * self._half.mean() * math.exp(guess[2])
            bars = [FOUND_NEAR if np.hypot(*(one[:2] - guess[:2])) < near else FOUND_AGAIN for one, _ in found]
            kept = [item for item, bar in zip(found, bars, strict=True) if item[1] >= bar]
            pose, confidence = max(kept, key=lambda item: item[1], default=(pose, confidence))
        self._before = grey
        if confidence < FOUND or not self._inside(pose):
            self._away = True
            self._pose = np.array([*np.clip(guess[:2], 0, self._size), *self._pose[2:]])
            self._speed = 0.9 * self._speed
            return Track(None, float(np.clip(confidence, 0, 1)))
        moved = pose - self._pose
        if not self._away:
            self._speed = 0.5 * self._speed + 0.5 * np.array([moved[0], moved[1], 0.0, 0.0])
        self._away = False
        self._pose = pose
        self._learn(frame, grey, confidence)
        return Track(self._box(pose), float(np.clip(confidence, 0, 1)))

    def _seen(self, frame: Grey | Pixels, pose: Affine) -> NDArray[np.float32]:
        """A frame through a pose: float32 [SIDE + 2 RIM, SIDE + 2 RIM] or with colours, the template in its middle."""
        side = SIDE + 2 * RIM
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        seen = cv2.warpAffine(frame, self._map(pose), (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(seen, dtype=np.float32)

    def _map(self, pose: Affine) -> Affine:
        """The affine map from template pixels to frame pixels."""
        scale, angle = math.exp(pose[2]), pose[3]
        turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        linear = turn @ self._stretch
        middle = (SIDE + 2 * RIM - 1) / 2
        return np.column_stack([linear, pose[:2] - linear @ (middle, middle)])

    def _flowed(self, grey: Grey, guess: Affine) -> Affine | None:
        """The pose that the object's points moved to, or None when too few were followed."""
        here, there = self._map(self._pose), self._map(guess)
        before = (self._points @ here[:, :2].T + here[:, 2]).astype(np.float32)
        after = (self._points @ there[:, :2].T + there[:, 2]).astype(np.float32)
        after, ok = _follow(self._before, grey, before, after, 2.0)
        if ok.sum() < 6:
            return None
        flat = (self._points - (SIDE + 2 * RIM - 1) / 2) @ self._stretch.T
        return _similarity(flat[ok], after[ok], 2.5)

    def _aligned(self, grey: Grey, pose: Affine) -> tuple[Affine, float]:
        """The pose moved to where the template fits best, and the confidence in it."""
        best, most = pose, -1.0
        for template in (self._first, self._present):
            moved = pose
            for _ in range(2):
                seen = self._seen(grey, moved)
                refined = self._refined(template, seen, moved)
                if refined is None:
                    break
                moved = refined
            confidence = self._confidence(template, self._seen(grey, moved))
            if confidence > most:
                best, most = moved, confidence
            if most >= SURE or self._present is self._first:
                break
        return best, most

    def _refined(self, template: NDArray[np.float32], seen: NDArray[np.float32], pose: Affine) -> Affine | None:
        one, other = template.astype(np.uint8), _levelled(seen, template)
        points = self._points.astype(np.float32)
        after, ok = _follow(one, other, points, points, 1.0, window=11, levels=2)
        if ok.sum() < 8:
            return None
        here = self._map(pose)
        flat = (self._points - (SIDE + 2 * RIM - 1) / 2) @ self._stretch.T
        return _similarity(flat[ok], (after @ here[:, :2].T + here[:, 2])[ok], 2.0 * math.exp(pose[2]))

    def _apart(self, template: NDArray[np.float32], seen: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
        """How far each block is from the template, [BLOCKS, BLOCKS], 0 the same and about 1 anything else, and how
        well the blocks that are near correlate.

        Light is taken out twice: by all blocks, then by the nearer half, so that what covers the rest does not count.
        """
        size = SIDE // BLOCKS
        one, other = _core(template), _core(seen)
        weight = self._support
        for _ in range(2):
            spread_out = np.kron(weight, np.ones((size, size), np.float32)) + 1e-3
            spread_out /= spread_out.sum()
            first, second = one - (one * spread_out).sum(), other - (other * spread_out).sum()
            contrast = math.sqrt((first**2 * spread_out).sum()), math.sqrt((second**2 * spread_out).sum())
            gain = np.clip((contrast[0] + 3) / (contrast[1] + 3), 0.4, 2.5)
            apart = np.abs(first - second * gain).reshape(BLOCKS, size, BLOCKS, size).mean(axis=(1, 3))
            weight = self._support * (apart <= np.median(apart))
        agreement = (first * second * spread_out).sum() / (contrast[0] * contrast[1] + 1e-6)
        overall = float(one.std()) + 3.0
        return np.asarray(apart / overall, dtype=np.float64), float(agreement)

    def _confidence(self, template: NDArray[np.float32], seen: NDArray[np.float32]) -> float:
        """The share of the object's blocks that are seen, weighed by how well the nearer ones correlate."""
        apart, agreement = self._apart(template, seen)
        share = float((self._support * np.clip(1.6 - 2 * apart, 0, 1)).sum() / self._support.sum())
        return share * math.sqrt(max(0.0, agreement))

    def _verified(self, frame: Pixels, grey: Grey, pose: Affine) -> float:
        """1 for a place that has the object's colours and its detail, 0 for one that has only its light and dark."""
        apart = np.abs(_tint(self._seen(frame, pose)) - _tint(self._look))[1:-1, 1:-1].mean()
        one, other = _detail(self._first), _detail(self._seen(grey, pose))
        agreement = float((one * other).sum() / math.sqrt(float((one**2).sum() * (other**2).sum()) + 1e-6))
        return float(np.clip(1.4 - 12 * apart, 0, 1) * np.clip(2 * agreement, 0, 1))

    def _searched(self, grey: Grey) -> list[Affine]:
        """Where the template fits in the frame at some size and angle, the best places first."""
        extent = 2 * self._half.mean() * math.exp(self._pose[2])
        factor = min(1.0, SEARCH_SIDE / extent)
        small = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        variants = [(0.0, 0.0), (0.25, 0.0), (-0.25, 0.0), (0.0, 0.35), (0.0, -0.35)]
        found: list[tuple[float, Affine]] = []
        for grow, turn in variants:
            pose = self._pose + np.array([0.0, 0.0, grow, turn])
            half = np.maximum(np.round(self._half * math.exp(pose[2]) * factor * 0.75), 3)
            width, height = int(2 * half[0]), int(2 * half[1])
            if width >= small.shape[1] or height >= small.shape[0]:
                continue
            inside = np.array([(width - 1) / 2, (height - 1) / 2, pose[2] + math.log(factor), pose[3]])
            back = self._map(inside)
            look = cv2.warpAffine(self._first, back, (width, height), flags=cv2.INTER_LINEAR)
            fits = cv2.matchTemplate(small, look.clip(0, 255).astype(np.uint8), cv2.TM_CCOEFF_NORMED)
            fits = np.nan_to_num(fits, nan=-1, posinf=-1, neginf=-1)
            for _ in range(2):
                _, score, _, (x, y) = cv2.minMaxLoc(fits)
                place = ((np.array([x + (width - 1) / 2, y + (height - 1) / 2]) + 0.5) / factor - 0.5).tolist()
                found.append((score, np.array([*place, pose[2], pose[3]])))
                fits[max(0, y - height // 2) : y + height // 2 + 1, max(0, x - width // 2) : x + width // 2 + 1] = -1
        found.sort(key=lambda item: -item[0])
        return [pose for score, pose in found[:3] if score > 0.4]

    def _learn(self, frame: Pixels, grey: Grey, confidence: float) -> None:
        """The present look, which blocks belong to the object, and whether its box's corners do."""
        if confidence < SURE:
            return
        seen = self._seen(grey, self._pose)
        apart, _ = self._apart(self._first, seen)
        self._support = np.clip(self._support + 0.08 * (np.clip(1.6 - 2 * apart, 0, 1) - self._support), 0.05, 1.0)
        changed = np.abs(_core(self._seen(frame, self._pose)) - _core(self._look)).sum(axis=2)
        ground = changed[_CORNERS].mean() > 2 * changed[_INNER].mean() + 15
        self._square += 0.15 * (0.0 - self._square) if ground else 0.03 * (1.0 - self._square)
        self._learned += 1
        if self._learned % 5 == 0:
            self._present = seen

    def _box(self, pose: Affine) -> Box:
        """The box around the object: between that of a turned ellipse and that of a turned rectangle."""
        cosine, sine = abs(math.cos(pose[3])), abs(math.sin(pose[3]))
        rectangle = np.array([[cosine, sine], [sine, cosine]]) @ self._half
        ellipse = np.sqrt(np.array([[cosine, sine], [sine, cosine]]) ** 2 @ self._half**2)
        half = (self._square * rectangle + (1 - self._square) * ellipse) * math.exp(pose[2])
        width, height = self._size
        x1, y1 = pose[0] + 0.5 - half[0], pose[1] + 0.5 - half[1]
        x2, y2 = pose[0] + 0.5 + half[0], pose[1] + 0.5 + half[1]
        return (
            float(np.clip(x1, 0, width - 1)),
            float(np.clip(y1, 0, height - 1)),
            float(np.clip(x2, 1, width)),
            float(np.clip(y2, 1, height)),
        )

    def _inside(self, pose: Affine) -> bool:
        return bool(
            np.isfinite(pose).all()
            and 0 <= pose[0] < self._size[0]
            and 0 <= pose[1] < self._size[1]
            and abs(pose[2]) < math.log(6)
        )


def _grey(frame: Pixels) -> Grey:
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def _points(template: NDArray[np.float32]) -> NDArray[np.float64]:
    """Corners inside the template, and a grid where there are few: [N, 2] template pixels (x, y)."""
    mask = np.zeros(template.shape, np.uint8)
    middle = template.shape[0] // 2
    cv2.circle(mask, (middle, middle), SIDE // 2, (255,), -1)
    corners = cv2.goodFeaturesToTrack(template.astype(np.uint8), POINTS - 25, 0.005, 3, mask=mask)
    place = np.linspace(middle - SIDE * 0.32, middle + SIDE * 0.32, 5)
    grid = np.stack(np.meshgrid(place, place), axis=-1).reshape(-1, 2)
    return np.concatenate([grid] if corners is None else [corners.reshape(-1, 2), grid]).astype(np.float64)


def _follow(
    before: Grey,
    after: Grey,
    points: NDArray[np.float32],
    guess: NDArray[np.float32],
    tolerance: float,
    window: int = 15,
    levels: int = 3,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Points followed forwards from `guess`; those that return within `tolerance` pixels are ok."""
    settings: dict[str, Any] = {"winSize": (window, window), "maxLevel": levels, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}
    there, seen, _ = cv2.calcOpticalFlowPyrLK(before, after, points, guess.copy(), **settings)
    back, returned, _ = cv2.calcOpticalFlowPyrLK(after, before, there, points.copy(), **settings)
    ok = (seen.ravel() > 0) & (returned.ravel() > 0) & (np.abs(back - points).max(axis=1) < tolerance)
    return np.asarray(there, dtype=np.float32), np.asarray(ok, dtype=np.bool_)


def _similarity(flat: NDArray[np.float64], there: NDArray[np.floating], tolerance: float) -> Affine | None:
    """The pose that takes points around the object's centre to points of the frame, by RANSAC."""
    found, used = cv2.estimateAffinePartial2D(
        flat.astype(np.float32), there.astype(np.float32), method=cv2.RANSAC,
        ransacReprojThreshold=tolerance, maxIters=200, confidence=0.99, refineIters=5,
    )  # fmt: skip
    if found is None or used.sum() < 6 or not np.isfinite(found).all():
        return None
    scale = math.hypot(found[0, 0], found[1, 0])
    if not 0.05 < scale < 20:
        return None
    return np.array([found[0, 2], found[1, 2], math.log(scale), math.atan2(found[1, 0], found[0, 0])])


_Number = TypeVar("_Number", bound=np.generic)


def _core(seen: NDArray[_Number]) -> NDArray[_Number]:
    return seen[RIM:-RIM, RIM:-RIM]


def _radius() -> NDArray[np.float64]:
    """Of each pixel of the template, 1 on the ellipse that its sides touch."""
    place = (np.arange(SIDE) + 0.5) * 2 / SIDE - 1
    return np.asarray(np.hypot(place[:, None], place[None, :]))


_CORNERS = _radius() > 1.02
_INNER = _radius() < 0.8


def _square(look: NDArray[np.float32]) -> float:
    """How likely the corners of the first box belong to the object, by the colours within and around the box."""
    bins = (look / 43).astype(np.int64) @ (36, 6, 1)
    core = _core(bins)
    ring = bins.copy()
    ring[RIM:-RIM, RIM:-RIM] = -1
    within = np.bincount(core[_INNER], minlength=216) / _INNER.sum()
    around = np.bincount(ring[ring >= 0], minlength=216) / (ring >= 0).sum()
    chance = (within + 1e-3) / (within + around + 2e-3)
    return float(np.clip(chance[core[_CORNERS]].mean() * 2 - 0.5, 0, 1))


def _tint(look: NDArray[np.float32]) -> NDArray[np.float64]:
    """The two colour differences of each block, relative to its brightness: [BLOCKS, BLOCKS, 2]."""
    blocks = cv2.resize(_core(look), (BLOCKS, BLOCKS), interpolation=cv2.INTER_AREA)
    return np.asarray(np.diff(blocks, axis=2) / (blocks.sum(axis=2, keepdims=True) + 60), dtype=np.float64)


def _detail(seen: NDArray[np.float32]) -> NDArray[np.float32]:
    """The template's part without what is wider than a quarter of it, and without the finest noise."""
    band = cv2.GaussianBlur(seen, (0, 0), 1.0) - cv2.blur(seen, (SIDE // 4 + 1, SIDE // 4 + 1))
    return _core(np.asarray(band, dtype=np.float32))


def _levelled(seen: NDArray[np.float32], template: NDArray[np.float32]) -> Grey:
    """The picture with the template's mean and spread, so that light does not look like motion."""
    core, target = _core(seen), _core(template)
    gain = np.clip((float(target.std()) + 3) / (float(core.std()) + 3), 0.4, 2.5)
    return np.asarray(np.clip((seen - core.mean()) * gain + target.mean(), 0, 255), dtype=np.uint8)


__all__ = ["FOUND", "Frames", "Track", "Tracker", "track"]
