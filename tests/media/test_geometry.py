from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from share.kernel.contracts.vision import Scene, Transform, View
from share.kernel.errors import OperationError
from share.kernel.media.geometry import box_in_view, native_box, native_point, show_box


def scene_of(width: int, height: int, scale_x: float = 1.0, scale_y: float = 1.0) -> tuple[Scene, View]:
    scene = Scene((np.zeros((height, width, 3), np.uint8),))
    shown = np.zeros((max(1, round(height / scale_y)), max(1, round(width / scale_x)), 3), np.uint8)
    return scene, scene.add_view(shown, 0, Transform(width / shown.shape[1], height / shown.shape[0]))


coordinate = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-50, 400).map(float)


@given(st.tuples(coordinate, coordinate, coordinate, coordinate), st.floats(0.1, 8), st.floats(0.1, 8))
@settings(max_examples=400, deadline=None)
def test_any_box_is_refused_or_becomes_whole_native_pixels_that_cover_it(
    box: tuple[float, float, float, float], scale_x: float, scale_y: float
) -> None:
    scene, view = scene_of(300, 200, scale_x, scale_y)
    try:
        inside = box_in_view(view, box)
    except OperationError:
        with pytest.raises(OperationError, match=r"^bbox: "):
            native_box(scene, view, box)
        return
    x1, y1, x2, y2 = native_box(scene, view, box)
    assert 0 <= x1 < x2 <= 300
    assert 0 <= y1 < y2 <= 200
    exact = view.transform.box_to_native(inside)
    assert x1 <= exact[0] + 1e-5 < x1 + 1.0001
    assert y1 <= exact[1] + 1e-5 < y1 + 1.0001
    assert x2 >= exact[2] - 1e-5 > x2 - 1.0001
    assert y2 >= exact[3] - 1e-5 > y2 - 1.0001


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((0, 0, 102, 50), "not inside image_1, which is 100 x 80 pixels"),
        ((-2, 0, 50, 50), "not inside"),
        ((0, 0, 1e9, 50), "not inside"),
        ((200, 10, 300, 20), "not inside"),
        ((10, 10, 10, 20), "holds no pixel"),
        ((20, 10, 10, 20), "holds no pixel"),
        ((10, 10, 10.5, 20), "holds no pixel"),
        ((10, math.nan, 20, 20), "finite"),
        ((10, 10, math.inf, 20), "finite"),
    ],
)
def test_a_bad_box_is_refused_with_its_argument_and_reason(box: tuple[float, ...], reason: str) -> None:
    scene, view = scene_of(100, 80)
    with pytest.raises(OperationError, match=f"^other_bbox: .*{reason}"):
        native_box(scene, view, box, "other_bbox")  # type: ignore[arg-type]


def test_a_box_that_reaches_out_by_rounding_is_cut_to_the_view() -> None:
    scene, view = scene_of(100, 80)
    assert box_in_view(view, (-1, -0.5, 101, 80.4)) == (0, 0, 100, 80)
    assert native_box(scene, view, (-1, -0.5, 101, 80.4)) == (0, 0, 100, 80)


def test_whole_view_pixels_do_not_take_in_their_neighbours_by_rounding() -> None:
    scene, view = scene_of(300, 300, 3, 3)
    assert native_box(scene, view, (0.1 + 0.2 + 0.7, 1, 7, 7)) == (3, 3, 21, 21)


def test_a_point_names_the_pixel_that_it_lies_in() -> None:
    scene, view = scene_of(400, 400, 4, 4)
    assert native_point(scene, view, 0, 0) == (2, 2)
    assert native_point(scene, view, 10, 99.9) == (42, 398)
    _, enlarged = scene, View("image_2", 0, Transform(0.25, 0.25, 8, 8), np.zeros((40, 40, 3), np.uint8))
    assert native_point(scene, enlarged, 0, 39) == (8, 17)


@pytest.mark.parametrize(("x", "y", "name"), [(-1, 5, "x"), (100, 5, "x"), (5, math.nan, "y"), (5, 1e300, "y")])
def test_a_point_outside_is_refused_with_its_argument(x: float, y: float, name: str) -> None:
    scene, view = scene_of(100, 100)
    with pytest.raises(OperationError, match=f"^{name}: .* not inside image_1, which has {name} from 0 to 99"):
        native_point(scene, view, x, y)


def test_a_box_is_shown_as_a_policy_writes_it() -> None:
    assert show_box((10.0, 20.25, 30.123456, 1e12)) == "[10, 20.25, 30.12, 1e+12]"
