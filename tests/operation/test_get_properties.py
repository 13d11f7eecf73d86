from __future__ import annotations

import json
import time

import cv2
import numpy as np
import pytest
from skimage.measure import regionprops

from share.kernel.contracts.vision import Region, Scene, Transform
from share.kernel.media.mask import encode_mask, mask_box
from share.kernel.media.operator import Operator, Outcome
from share.kernel.operation.get_properties import GetProperties, GetPropertiesArguments, GetPropertiesConfig

OPERATOR = Operator({"GET_PROPERTIES": GetProperties(GetPropertiesConfig())})


def ellipse(center: tuple[int, int], axes: tuple[int, int], angle: float) -> np.ndarray:
    mask = np.zeros((240, 320), np.uint8)
    cv2.ellipse(mask, center, axes, angle, 0, 360, 1, -1)
    return mask > 0


DESCRIPTORS = (
    "area",
    "perimeter",
    "axis_major_length",
    "axis_minor_length",
    "eccentricity",
    "orientation",
    "solidity",
    "extent",
    "area_convex",
    "euler_number",
)
RED, BLUE = ellipse((80, 60), (40, 20), 30), ellipse((220, 160), (30, 30), 0)


def region_of(mask: np.ndarray, name: str, source: int = 0) -> Region:
    height, width = mask.shape
    return Region(name, source, (height, width), encode_mask(mask), mask_box(mask), int(mask.sum()), 1.0)


@pytest.fixture
def scene() -> Scene:
    """A red ellipse r1 and a larger blue disc r2 on grey, shown at half of the native size."""
    native = np.full((240, 320, 3), 128, np.uint8)
    native[RED], native[BLUE] = (220, 20, 20), (30, 60, 230)
    scene = Scene((native,))
    scene.add_view(cv2.resize(native, (160, 120), interpolation=cv2.INTER_AREA), 0, Transform(2, 2))
    for mask in (RED, BLUE):
        region = Region(
            scene.next_region_name(), 0, (240, 320), encode_mask(mask), mask_box(mask), int(mask.sum()), 1.0
        )
        scene.add_region(region)
    return scene


def ask(scene: Scene, **arguments: object) -> Outcome:
    outcome = OPERATOR.run("GET_PROPERTIES", arguments, scene)
    assert outcome.status in ("ok", "refused"), outcome.error
    return outcome


def data_of(outcome: Outcome) -> dict[str, object]:
    assert outcome.result is not None, outcome.error
    return json.loads(json.dumps(outcome.result.data))  # type: ignore[no-any-return]


def test_shape_is_that_of_regionprops_on_the_native_pixels(scene: Scene) -> None:
    native = data_of(ask(scene, region="r1"))["native"]
    expected = regionprops(RED.astype(np.uint8))[0]
    for name in DESCRIPTORS:
        assert native[name] == pytest.approx(getattr(expected, name), rel=1e-6), name  # type: ignore[index]
    row, column = expected.centroid
    assert (native["centroid_x"], native["centroid_y"]) == pytest.approx((column + 0.5, row + 0.5))  # type: ignore[index]


def test_places_are_told_in_pixels_of_the_view(scene: Scene) -> None:
    told = data_of(ask(scene, region="r2"))
    assert told["image"] == "image_1"
    assert told["centroid"] == pytest.approx([110.25, 80.25], abs=0.01)
    assert told["bbox"] == [value / 2 for value in mask_box(BLUE)]
    assert told["area"] == pytest.approx(BLUE.sum() / 4)
    assert told["area_share"] == pytest.approx(BLUE.mean())


def test_a_region_is_told_in_the_view_that_is_named(scene: Scene) -> None:
    scene.add_view(np.zeros((100, 100, 3), np.uint8), 0, Transform(1, 1, 150, 100))
    told = data_of(ask(scene, region="r2", image="image_2"))
    assert told["image"] == "image_2"
    assert told["centroid"] == pytest.approx([70.5, 60.5], abs=0.01)
    assert told["area"] == BLUE.sum()


def test_colours_are_named(scene: Scene) -> None:
    outcome = ask(scene, region="r1")
    assert data_of(outcome)["dominant_color"]["name"] == "red"  # type: ignore[index]
    assert outcome.result is not None
    assert "colour red rgb(220, 20, 20)" in outcome.result.text
    mixed = data_of(ask(scene, bbox=[0, 0, 160, 120]))
    assert mixed["dominant_color"]["name"] == "gray"  # type: ignore[index]


def test_the_direction_is_that_of_the_longer_axis(scene: Scene) -> None:
    assert data_of(ask(scene, region="r1"))["orientation_degrees"] == pytest.approx(-30, abs=1)
    upright = ellipse((100, 100), (10, 50), 0)
    scene.add_region(region_of(upright, "r3"))
    assert data_of(ask(scene, region="r3"))["orientation_degrees"] == pytest.approx(90)
    assert data_of(ask(scene, bbox=[0, 0, 100, 20]))["orientation_degrees"] == pytest.approx(0)


def test_two_regions_are_compared(scene: Scene) -> None:
    outcome = ask(scene, region="r1", other_region="r2")
    compared = data_of(outcome)["comparison"]
    assert compared["area_ratio"] == pytest.approx(RED.sum() / BLUE.sum())  # type: ignore[index]
    assert compared["size"] == "smaller than"  # type: ignore[index]
    assert compared["position"] == "above and to the left"  # type: ignore[index]
    assert compared["overlap"] == 0  # type: ignore[index]
    assert compared["color_distance"] > 50  # type: ignore[index]
    assert outcome.result is not None
    assert "r1 is smaller than r2" in outcome.result.text


def test_a_region_and_a_box_overlap_as_their_pixels_do(scene: Scene) -> None:
    x1, y1, x2, y2 = (value / 2 for value in mask_box(BLUE))
    compared = data_of(ask(scene, region="r2", other_bbox=[x1, y1, x2, y2]))["comparison"]
    assert compared["inside"] == 1  # type: ignore[index]
    assert compared["overlap"] == pytest.approx(BLUE.sum() / ((x2 - x1) * (y2 - y1) * 4))  # type: ignore[index]
    same = data_of(ask(scene, region="r2", other_region="r2"))["comparison"]
    assert (same["overlap"], same["size"], same["color_distance"]) == (1, "as large as", 0)  # type: ignore[index]
    assert same["position"] == "at the same place"  # type: ignore[index]


@pytest.mark.parametrize(
    ("offset", "words"),
    [((0, 30), "below"), ((30, 0), "to the right"), ((-30, -2), "to the left"), ((20, -20), "above and to the right")],
)
def test_positions_are_told_in_words(scene: Scene, offset: tuple[int, int], words: str) -> None:
    x, y = 60 + offset[0], 60 + offset[1]
    compared = data_of(ask(scene, bbox=[x, y, x + 10, y + 10], other_bbox=[60, 60, 70, 70]))["comparison"]
    assert compared["position"] == words  # type: ignore[index]


def test_regions_of_different_images_are_compared_without_place(scene: Scene) -> None:
    other = Scene((scene.natives[0], scene.natives[0] // 2), views=scene.views, regions=dict(scene.regions))
    other.add_region(region_of(BLUE, "r3", source=1))
    outcome = ask(other, region="r2", other_region="r3")
    compared = data_of(outcome)["comparison"]
    assert (compared["size"], compared["brightness"]) == ("as large as", "brighter")  # type: ignore[index]
    assert compared["position"] is None  # type: ignore[index]
    assert data_of(ask(other, region="r3"))["image"] == "frame 1"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "region, bbox: give one of the two"),
        ({"region": "r1", "bbox": [0, 0, 9, 9]}, "region, bbox: give one of the two"),
        ({"region": "r1", "other_region": "r2", "other_bbox": [0, 0, 9, 9]}, "other_region, other_bbox: give one"),
        ({"region": "r9"}, "region: no region 'r9'; there are r1, r2"),
        ({"region": "r1", "other_region": "r9"}, "region: no region 'r9'"),
        ({"region": 1}, "region: Input should be a valid string"),
        ({"region": "r1", "image": "image_2"}, "image: no image 'image_2'"),
        ({"bbox": [0, 0, 999, 9]}, "bbox: [0, 0, 999, 9] is not inside image_1"),
        ({"region": "r1", "other_bbox": [9, 9, 1, 1]}, "other_bbox: [9, 9, 1, 1] holds no pixel"),
    ],
)
def test_bad_arguments_are_refused_by_name(scene: Scene, arguments: dict[str, object], reason: str) -> None:
    assert reason in (ask(scene, **arguments).error or "")


def test_a_view_of_another_image_does_not_show_the_region(scene: Scene) -> None:
    other = Scene((scene.natives[0], scene.natives[0]), views=scene.views, regions=scene.regions)
    other.add_view(other.natives[1], 1, Transform())
    assert "image_2 does not show the image that r1 lies in" in (ask(other, region="r1", image="image_2").error or "")


def test_one_pixel_has_properties() -> None:
    scene = Scene((np.full((5, 5, 3), 200, np.uint8),))
    scene.add_view(scene.natives[0], 0, Transform())
    told = data_of(ask(scene, bbox=[2, 2, 3, 3]))
    assert told["area"] == 1
    assert told["native"]["eccentricity"] == 0  # type: ignore[index]


def test_typical_regions_take_a_few_milliseconds_of_cpu(scene: Scene) -> None:
    operation = GetProperties(GetPropertiesConfig())
    arguments = GetPropertiesArguments(region="r2")
    operation.run(scene, arguments)
    begin = time.process_time()
    for _ in range(20):
        operation.run(scene, arguments)
    assert (time.process_time() - begin) / 20 < 0.02  # 1.5 ms on a quiet core; the margin is for busy machines
