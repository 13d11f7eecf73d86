from __future__ import annotations

from dataclasses import asdict

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from skimage.measure import regionprops

from share.kernel.errors import MediaError
from share.kernel.media.shape import describe_rectangle, describe_shape


def assert_as_regionprops(mask: np.ndarray) -> None:
    shape = asdict(describe_shape(mask))
    region = regionprops(mask.astype(np.uint8))[0]
    if shape["eccentricity"] < 0.05:  # nearly round: rounding decides its direction
        shape.pop("orientation")
    else:  # a line may point either way
        turned = (shape.pop("orientation") - region.orientation + np.pi / 2) % np.pi - np.pi / 2
        assert turned == pytest.approx(0, abs=1e-6)
    assert shape.pop("centroid_y") - 0.5 == pytest.approx(region.centroid[0], rel=1e-6)
    assert shape.pop("centroid_x") - 0.5 == pytest.approx(region.centroid[1], rel=1e-6)
    assert shape.pop("equivalent_diameter") == pytest.approx(region.equivalent_diameter_area, rel=1e-6)
    for name, value in shape.items():
        assert value == pytest.approx(getattr(region, name), rel=1e-6, abs=1e-6), name


@given(arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=25)))
@settings(max_examples=150, deadline=None)
def test_any_mask_is_described_as_regionprops_does(mask: np.ndarray) -> None:
    if mask.any():
        assert_as_regionprops(mask)


@given(st.integers(1, 70), st.integers(1, 70), st.floats(0, 180), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_ellipses_are_described_as_regionprops_does(width: int, height: int, angle: float, hole: int) -> None:
    image = np.zeros((200, 220), np.uint8)
    cv2.ellipse(image, (110, 100), (width, height), angle, 0, 360, 1, -1)
    cv2.circle(image, (100, 95), hole, 0, -1)
    if image.any():
        assert_as_regionprops(image > 0)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 17, 60])
@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 40])
def test_a_rectangle_needs_no_mask(width: int, height: int) -> None:
    expected = asdict(describe_shape(np.ones((height, width), bool)))
    assert asdict(describe_rectangle(width, height)) == pytest.approx(expected, rel=1e-12)


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(MediaError, match="no pixel"):
        describe_shape(np.zeros((3, 3), bool))
