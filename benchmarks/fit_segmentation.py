"""Fit the ranker of `share/kernel/media/segmentation.py`, and print its weights.

    python -m benchmarks.fit_segmentation

A ridge regression of each candidate's IoU on what it looks like, over generated scenes and over objects of photographs
that no benchmark measures; each click weighs the same, a click on a photograph three times. About a minute on one core.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np

from benchmarks.segmentation_scenes import Scene, assembled, clicks, collage, painted, practice, textured
from share.kernel.media.segmentation import WEIGHTS, Chain, features, partition

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from share.kernel.contracts.vision import Mask

RIDGE = 1e-2


def main() -> None:
    cv2.setNumThreads(1)
    rng = np.random.default_rng(20_000)
    columns, targets, weights = [], [], []
    for scene, weight, count in training_scenes(rng):
        for mask in scene.masks:
            for x, y in clicks(mask, rng, count) if mask.sum() >= 150 else []:
                chains = partition(scene.pixels, x, y)
                columns.append(np.concatenate([features(chain) for chain in chains]))
                targets.append(np.concatenate([candidate_ious(chain, mask) for chain in chains]))
                weights.append(np.full(len(targets[-1]), weight / len(targets[-1])))
    found = ridge(np.concatenate(columns), np.concatenate(targets), np.concatenate(weights))
    best = np.mean([target[np.argmax(column @ found)] for column, target in zip(columns, targets, strict=True)])
    print(
        f"# {len(columns)} clicks; IoU of the first candidate {best:.3f}, of the best there is "
        f"{np.mean([target.max() for target in targets]):.3f}"
    )
    for name, value in zip(WEIGHTS, found, strict=True):
        print(f'    "{name}": {value:.4f},')


def training_scenes(rng: np.random.Generator) -> Iterator[tuple[Scene, float, int]]:
    """Scenes, the weight of each click on them, and the clicks on each object."""
    for draw, num, weight, count in (
        (textured, 60, 1.0, 2), (painted, 100, 1.0, 2), (collage, 200, 1.0, 2), (assembled, 80, 0.5, 1)
    ):  # fmt: skip
        for _ in range(num):
            yield draw(rng), weight, count
    for scene in practice():
        yield scene, 3.0, 10


def candidate_ious(chain: Chain, mask: Mask) -> NDArray[np.float64]:
    """IoU of every candidate with the object, [K], at working resolution."""
    size = chain.joins.shape
    small = cv2.resize(mask.astype(np.uint8) * 255, (size[1], size[0]), interpolation=cv2.INTER_AREA) > 127
    shared = np.bincount(chain.joins[small], minlength=len(chain.areas)).cumsum()
    return np.asarray(shared / (chain.areas + small.sum() - shared))


def ridge(
    columns: NDArray[np.float64], target: NDArray[np.float64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted ridge regression; the first column, all ones, is not shrunk."""
    spread = np.maximum(columns.std(axis=0), 1e-9)
    spread[0] = 1.0
    scaled = columns / spread
    shrink = np.diag([0.0, *([RIDGE * weight.sum()] * (columns.shape[1] - 1))])
    normal = scaled.T @ (scaled * weight[:, None]) + shrink
    return np.asarray(np.linalg.solve(normal, scaled.T @ (target * weight)) / spread)


if __name__ == "__main__":
    main()
