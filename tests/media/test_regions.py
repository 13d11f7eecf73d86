"""Small regions and their two trees: all pixels in one region each, all regions in one root, equal until disputed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from share.kernel.media.regions import DISPUTED, merged, small_regions

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (37, 53), (120, 160)])
def test_every_pixel_is_in_one_region_and_none_is_empty(size: tuple[int, int]) -> None:
    regions = small_regions(noise(*size))
    assert regions.labels.shape == size
    assert (np.bincount(regions.labels.ravel()) == regions.sizes).all()
    assert regions.sizes.min() >= 1
    assert (regions.first < regions.second).all()
    assert (regions.lengths >= 1).all()


@pytest.mark.parametrize("size", [(1, 1), (37, 53), (120, 160)])
def test_a_tree_has_one_root_above_all_regions(size: tuple[int, int]) -> None:
    regions = small_regions(noise(*size))
    num = len(regions.sizes)
    for tree in merged(regions):
        assert len(tree.parents) == len(tree.heights) == 2 * num - 1
        assert [node for node, parent in enumerate(tree.parents) if parent < 0] == [2 * num - 2]
        joins, way = tree.way(0, num)
        assert joins[0] == 0
        assert joins.max() == len(way) - 1


def test_the_trees_are_equal_until_few_regions_are_left_and_then_differ() -> None:
    regions = small_regions(noise(160, 240))
    by_colours, by_borders = merged(regions)
    num = len(regions.sizes)
    shared = num - DISPUTED
    assert shared > 0
    assert by_colours.heights[: num + shared] == by_borders.heights[: num + shared]
    assert by_colours.parents != by_borders.parents


def test_borders_alone_keep_a_shaded_thing_together_that_colours_divide() -> None:
    pixels = np.full((160, 240, 3), 90, np.uint8)
    pixels[60:100, 20:220] = np.linspace(120, 255, 200).astype(np.uint8)[None, :, None]
    regions = small_regions(pixels)
    thing = np.zeros((160, 240), np.bool_)
    thing[60:100, 20:220] = True

    def best(tree_number: int) -> float:
        joins, way = merged(regions)[tree_number].way(int(regions.labels[80, 200]), len(regions.sizes))
        levels = joins[regions.labels]
        masks = [levels <= level for level in range(len(way))]
        return max(float((mask & thing).sum() / (mask | thing).sum()) for mask in masks)

    assert best(1) > 0.95
    assert best(0) < 0.7
