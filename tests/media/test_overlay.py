from __future__ import annotations

import numpy as np
import pytest

from share.kernel.media.overlay import COLORS, draw_box, draw_mask, draw_point

GROUND = np.full((60, 80, 3), 100, np.uint8)


def test_drawing_leaves_the_pixels_it_was_given() -> None:
    before = GROUND.copy()
    mask = np.zeros((60, 80), bool)
    mask[10:30, 20:50] = True
    for drawn in (draw_box(GROUND, (10, 10, 40, 40), label="ü 1"), draw_mask(GROUND, mask), draw_point(GROUND, 5, 5)):
        assert drawn.shape == GROUND.shape
        assert not np.array_equal(drawn, GROUND)
    assert np.array_equal(GROUND, before)


def test_the_outline_of_a_box_lies_on_its_outer_pixels() -> None:
    drawn = draw_box(GROUND, (10, 20, 40, 50))
    changed = (drawn != GROUND).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == (10, 20, 40, 50)
    assert tuple(drawn[20, 10]) == COLORS[0]


def test_a_mask_is_tinted_where_it_is_set_and_nowhere_far_from_it() -> None:
    mask = np.zeros((60, 80), bool)
    mask[10:30, 20:50] = True
    drawn = draw_mask(GROUND, mask, opacity=0.5)
    assert drawn[20, 35].tolist() == [165, 80, 70]
    assert drawn[50, 70].tolist() == [100, 100, 100]


@pytest.mark.parametrize("box", [(-50, -50, 500, 500), (79, 59, 80, 60), (200, 200, 300, 300), (0, 0, 0, 0)])
def test_boxes_over_the_edge_are_drawn_as_far_as_they_go(box: tuple[float, float, float, float]) -> None:
    assert draw_box(GROUND, box, label="a long label that does not fit").shape == GROUND.shape
    assert draw_point(GROUND, box[0], box[1]).shape == GROUND.shape
