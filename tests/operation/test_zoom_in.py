from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from share.kernel.contracts.vision import Scene, Transform
from share.kernel.errors import OperationError
from share.kernel.media.operator import Operator
from share.kernel.operation.zoom_in import ZoomIn, ZoomInArguments, ZoomInConfig

DEFAULT = ZoomIn(ZoomInConfig())


def places(height: int, width: int) -> np.ndarray:
    """An image in which every pixel says where it is: red is x / 8, green is y / 8."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x // 8, y // 8, np.zeros_like(x)], axis=-1).astype(np.uint8)


def scene_of(native: np.ndarray, scale: float = 1.0) -> Scene:
    scene = Scene((native,))
    height, width = native.shape[:2]
    shown = cv2.resize(native, (max(1, round(width / scale)), max(1, round(height / scale))))
    scene.add_view(shown, 0, Transform(width / shown.shape[1], height / shown.shape[0]))
    return scene


@st.composite
def zooms(draw: st.DrawFn) -> tuple[int, int, float, tuple[float, ...], ZoomInConfig]:
    width, height = draw(st.integers(8, 700)), draw(st.integers(8, 700))
    scale = draw(st.floats(0.5, 4))
    shown = (max(1, round(width / scale)), max(1, round(height / scale)))
    x = sorted(draw(st.tuples(st.floats(0, shown[0]), st.floats(0, shown[0]))))
    y = sorted(draw(st.tuples(st.floats(0, shown[1]), st.floats(0, shown[1]))))
    multiple = draw(st.sampled_from([1, 14, 28]))
    side_min = draw(st.integers(multiple, 300))
    config = ZoomInConfig(side_multiple=multiple, side_min=side_min, side_max=draw(st.integers(side_min, 600)))
    return width, height, scale, (x[0], y[0], x[1], y[1]), config


@given(zooms())
@settings(max_examples=250, deadline=None)
def test_coordinates_go_to_native_pixels_and_back(
    zoom: tuple[int, int, float, tuple[float, float, float, float], ZoomInConfig],
) -> None:
    width, height, scale, bbox, config = zoom
    scene = scene_of(np.zeros((height, width, 3), np.uint8), scale)
    try:
        result = ZoomIn(config).run(scene, ZoomInArguments(bbox=bbox))
    except OperationError as error:
        assert min(bbox[2] - bbox[0], bbox[3] - bbox[1]) < 1, error  # noqa: PT017
        return
    assert result.image is not None
    assert result.transform is not None
    view = scene.add_view(result.image, result.source, result.transform)

    # Bounded, and what the encoder takes.
    assert max(view.width, view.height) <= config.side_max
    assert view.width % config.side_multiple == view.height % config.side_multiple == 0

    # The view covers whole native pixels, inside the image.
    x1, y1, x2, y2 = view.transform.box_to_native((0, 0, view.width, view.height))
    assert (x1, y1, x2, y2) == pytest.approx([round(value) for value in (x1, y1, x2, y2)], abs=1e-9)
    assert 0 <= x1 < x2 <= width + 1e-9
    assert 0 <= y1 < y2 <= height + 1e-9

    # It shows what was asked for, but for less than one of its own pixels (or of the native ones).
    asked = scene.views["image_1"].transform.box_to_native(bbox)
    slack_x, slack_y = max(1.0, view.transform.scale_x), max(1.0, view.transform.scale_y)
    assert abs(x1 - asked[0]) < slack_x + 1e-5
    assert abs(x2 - asked[2]) < slack_x + 1e-5
    assert abs(y1 - asked[1]) < slack_y + 1e-5
    assert abs(y2 - asked[3]) < slack_y + 1e-5

    # Any point comes back from where it went.
    for point in ((0.0, 0.0), (view.width / 3, view.height / 7), (float(view.width), float(view.height))):
        assert view.transform.point_from_native(*view.transform.point_to_native(*point)) == pytest.approx(
            point, abs=1e-9
        )


def test_a_crop_is_cut_from_the_native_pixels_however_small_the_view() -> None:
    native = places(1024, 1024)
    scene = scene_of(native, scale=8)  # shown at 128 x 128
    result = ZoomIn(ZoomInConfig(side_min=64, side_max=64, side_multiple=1)).run(
        scene, ZoomInArguments(bbox=(32, 16, 40, 24))
    )
    assert result.image is not None
    assert np.array_equal(result.image, native[128:192, 256:320])


def test_a_crop_of_a_crop_is_cut_from_the_native_pixels() -> None:
    native = places(1024, 1024)
    scene = scene_of(native, scale=8)
    operator = Operator({"ZOOM_IN": ZoomIn(ZoomInConfig(side_min=256, side_max=256, side_multiple=1))})
    operator.run("ZOOM_IN", {"bbox": [32, 16, 96, 80]}, scene)
    outcome = operator.run("ZOOM_IN", {"bbox": [64, 64, 192, 192], "image": "image_2"}, scene)
    assert outcome.result is not None
    assert outcome.result.text == "image_3: [64, 64, 192, 192] of image_2"
    assert outcome.view is not None
    assert np.array_equal(outcome.view.pixels, native[256:512, 384:640])
    assert outcome.view.transform == Transform(1, 1, 384, 256)


@pytest.mark.parametrize("side_max", [84, 168, 784])
def test_pixels_lie_where_the_transform_says(side_max: int) -> None:
    native = places(1080, 1920)
    scene = scene_of(native, scale=2)
    config = ZoomInConfig(side_min=84, side_max=side_max, side_multiple=28)
    result = ZoomIn(config).run(scene, ZoomInArguments(bbox=(101, 53, 803, 491)))
    assert result.image is not None
    assert result.transform is not None
    height, width = result.image.shape[:2]
    for column in (2, width // 2, width - 3):
        for row in (2, height // 2, height - 3):
            x, y = result.transform.point_to_native(column + 0.5, row + 0.5)
            red, green, _ = result.image[row, column]
            # 0.5 for the steps of `places`, and up to 0.25 for the rounding of each of three halvings.
            assert abs(float(red) - (x / 8 - 0.5)) < 1.3
            assert abs(float(green) - (y / 8 - 0.5)) < 1.3


def test_small_crops_are_enlarged_smoothly_and_large_ones_reduced_without_skipping_pixels() -> None:
    dot = np.zeros((64, 64, 3), np.uint8)
    dot[32, 32] = 255
    enlarged = DEFAULT.run(scene_of(dot), ZoomInArguments(bbox=(30, 30, 35, 35))).image
    assert enlarged is not None
    assert enlarged.shape == (448, 448, 3)
    assert len(np.unique(enlarged)) > 20
    lines = np.zeros((1600, 1600, 3), np.uint8)
    lines[:, ::8] = 255  # every eighth column: a filter that skips pixels would lose them or see nothing else
    reduced = ZoomIn(ZoomInConfig(side_min=100, side_max=100, side_multiple=1)).run(
        scene_of(lines), ZoomInArguments(bbox=(0, 0, 1600, 1600))
    )
    assert reduced.image is not None
    assert reduced.image.mean() == pytest.approx(255 / 8, abs=3)


def test_the_view_is_not_the_native_array_itself() -> None:
    native = places(64, 64)
    config = ZoomInConfig(side_min=16, side_max=64, side_multiple=1)
    image = ZoomIn(config).run(scene_of(native), ZoomInArguments(bbox=(8, 8, 40, 40))).image
    assert image is not None
    assert image.flags.owndata
    assert not np.shares_memory(image, native)


def test_a_frame_of_a_video_is_cut_from_that_frame() -> None:
    frames = tuple(np.full((40, 60, 3), 10 * index, np.uint8) for index in range(4))
    scene = Scene(frames, is_video=True)
    scene.add_view(frames[0], 0, Transform())
    scene.add_view(frames[3], 3, Transform())
    result = DEFAULT.run(scene, ZoomInArguments(bbox=(0, 0, 20, 20), image="image_2"))
    assert result.source == 3
    assert result.image is not None
    assert result.image.max() == result.image.min() == 30


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"bbox": [0, 0, 500, 10]}, "bbox: [0, 0, 500, 10] is not inside image_1, which is 60 x 40 pixels"),
        ({"bbox": [20, 0, 10, 10]}, "bbox: [20, 0, 10, 10] holds no pixel of image_1"),
        ({"bbox": [5, 5, 5, 5]}, "bbox: [5, 5, 5, 5] holds no pixel"),
        ({"bbox": [0, 0, float("nan"), 10]}, "bbox.2: Input should be a finite number"),
        ({"bbox": [0, 0, 1e300, 10]}, "bbox: [0, 0, 1e+300, 10] is not inside"),
        ({"bbox": [0, 0, "10", 10]}, "bbox.2: Input should be a valid number"),
        ({"bbox": [0, 0, True, 10]}, "bbox.2: Input should be a valid number"),
        ({"bbox": [0, 0, 10]}, "bbox.3: Field required"),
        ({"bbox": "0,0,10,10"}, "bbox: Input should be a valid tuple"),
        ({}, "bbox: Field required"),
        ({"bbox": [0, 0, 10, 10], "image": "image_5"}, "image: no image 'image_5'; there are image_1"),
        ({"bbox": [0, 0, 10, 10], "image": 5}, "image: Input should be a valid string"),
        ({"box": [0, 0, 10, 10]}, "box: no such key; did you mean 'bbox'?"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments: dict[str, object], reason: str) -> None:
    outcome = Operator({"ZOOM_IN": DEFAULT}).run("ZOOM_IN", arguments, scene_of(places(40, 60)))
    assert outcome.status == "refused"
    assert outcome.error is not None
    assert reason in outcome.error


def test_sides_out_of_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="side_multiple <= side_min <= side_max"):
        ZoomInConfig(side_min=500, side_max=400)
