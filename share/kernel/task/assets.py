"""Real pixels for generated tasks: handwritten digits and photographs that ship inside the wheels of scikit-learn and
scikit-image. Nothing is downloaded and neither library is imported; their data files are read where they lie.

The splits share nothing: no digit image (nor an exact duplicate of one) is in both, and each photograph is cut by a
line into a train and a held-out rectangle before anything is cropped from it.
"""

from __future__ import annotations

import gzip
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from share.kernel.contracts.task import Split
from share.kernel.errors import TaskError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from share.kernel.contracts.vision import Pixels

DIGITS_HELD_OUT = 1 / 4
"""Share of the digits of each class that only the held-out split sees."""

PHOTOGRAPH_HELD_OUT = 1 / 3
"""Share of the longer side of each photograph that only the held-out split sees."""

PHOTOGRAPHS = (
    "skimage/data/astronaut.png",
    "skimage/data/brick.png",
    "skimage/data/camera.png",
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "skimage/data/coins.png",
    "skimage/data/grass.png",
    "skimage/data/gravel.png",
    "skimage/data/hubble_deep_field.jpg",
    "skimage/data/ihc.png",
    "skimage/data/moon.png",
    "skimage/data/motorcycle_left.png",
    "skimage/data/retina.jpg",
    "skimage/data/rocket.jpg",
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
)
"""Photographs without text on them. Sixteen of at most 1000 x 1411 px: all of them decoded take 24 MB."""

_SIDE_MAX = 1000
"""Longer side, in pixels, to which a photograph is reduced when decoded; it bounds the cache."""

_ZOOM_MAX = 2.0
"""A crop shows at least `1 / _ZOOM_MAX` of the widest view that fits its rectangle."""


@lru_cache(maxsize=2)
def digits(split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Handwritten digits of the UCI set: images uint8 [N, 8, 8] (0 paper, 255 ink), labels int64 [N].

    Stratified by class, fixed by the images' content alone. Exact duplicates are dropped. Both arrays are read-only.
    Raises TaskError when scikit-learn's data file is missing.
    """
    path = data_file("sklearn/datasets/data/digits.csv.gz")
    with gzip.open(path, "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    unique = {row.tobytes(): row for row in table}
    rows: list[NDArray[np.int64]] = []
    for label in range(10):
        of_label = sorted(
            (row for row in unique.values() if row[-1] == label), key=lambda row: sha256(row.tobytes()).digest()
        )
        border = round(len(of_label) * DIGITS_HELD_OUT)
        rows.extend(of_label[:border] if split == "held_out" else of_label[border:])
    chosen = np.stack(rows)
    images = np.round(chosen[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    labels = chosen[:, -1].copy()
    images.setflags(write=False)
    labels.setflags(write=False)
    return images, labels


def photograph(rng: np.random.Generator, split: Split, height: int, width: int) -> Pixels:
    """A random crop of a random photograph, mirrored half of the time: uint8 [height, width, 3] RGB, writable.

    The crop comes from the split's own rectangle of the photograph and is enlarged where that is too small. About
    0.5 ms for 448 x 448 px after the first decoding (0.1 s for all). Raises TaskError when a photograph is missing.
    """
    rectangle = _rectangle(PHOTOGRAPHS[int(rng.integers(len(PHOTOGRAPHS)))], split)
    rows, columns = rectangle.shape[:2]
    fit = min(rows / height, columns / width)
    scale = fit * float(rng.uniform(1 / _ZOOM_MAX, 1.0))
    crop_height, crop_width = max(1, int(height * scale)), max(1, int(width * scale))
    top = int(rng.integers(rows - crop_height + 1))
    left = int(rng.integers(columns - crop_width + 1))
    crop = rectangle[top : top + crop_height, left : left + crop_width]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    interpolation = cv2.INTER_LINEAR if scale <= 1 else cv2.INTER_AREA
    pixels = cv2.resize(np.ascontiguousarray(crop), (width, height), interpolation=interpolation)
    return np.asarray(pixels, dtype=np.uint8)


@lru_cache(maxsize=2 * len(PHOTOGRAPHS))
def _rectangle(name: str, split: Split) -> Pixels:
    """The split's part of a photograph, cut across its longer side."""
    pixels = _decode(name)
    longer = 0 if pixels.shape[0] >= pixels.shape[1] else 1
    border = round(pixels.shape[longer] * (1 - PHOTOGRAPH_HELD_OUT))
    train, held_out = np.split(pixels, [border], axis=longer)
    return held_out if split == "held_out" else train


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _decode(name: str) -> Pixels:
    path = data_file(name)
    encoded = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    bgr = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    if bgr is None:
        raise TaskError(f"{path}: not a readable photograph; reinstall {name.split('/')[0]}")
    pixels = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    reduction = _SIDE_MAX / max(pixels.shape[:2])
    if reduction < 1:
        pixels = cv2.resize(pixels, None, fx=reduction, fy=reduction, interpolation=cv2.INTER_AREA)
    pixels.setflags(write=False)
    return np.asarray(pixels, dtype=np.uint8)


def data_file(name: str) -> Path:
    """The file of an installed package, without importing the package."""
    package, _, inside = name.partition("/")
    distribution = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise TaskError(f"{name}: package {package!r} is not installed; pip install {distribution}")
    path = Path(spec.submodule_search_locations[0]) / inside
    if not path.is_file():
        raise TaskError(f"{path}: the installed {distribution} does not ship this file; see constraints.txt")
    return path


__all__ = ["DIGITS_HELD_OUT", "PHOTOGRAPHS", "PHOTOGRAPH_HELD_OUT", "data_file", "digits", "photograph"]
