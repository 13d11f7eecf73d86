from __future__ import annotations

import cv2
import numpy as np
import pytest

from benchmarks.read_text import picture, turned
from share.kernel.contracts.vision import Scene, Transform
from share.kernel.media.operator import Operator, Outcome
from share.kernel.operation.read_text import ReadText, ReadTextConfig


@pytest.fixture(scope="module")
def operator() -> Operator:
    return Operator({"READ_TEXT": ReadText(ReadTextConfig())})


@pytest.fixture
def scene() -> Scene:
    """A sign of 96 x 30 in a large image, shown at a quarter of its size, where nobody can read it."""
    native = np.full((800, 1200, 3), 90, np.uint8)
    sign = picture("Gate 42", 22)
    native[400 : 400 + sign.shape[0], 600 : 600 + sign.shape[1]] = sign
    scene = Scene((native,))
    scene.add_view(cv2.resize(native, (300, 200), interpolation=cv2.INTER_AREA), 0, Transform(4, 4))
    return scene


def read(operator: Operator, scene: Scene, **arguments: object) -> Outcome:
    outcome = operator.run("READ_TEXT", arguments, scene)
    assert outcome.status in ("ok", "refused"), outcome.error
    return outcome


def test_text_is_read_from_the_native_pixels_and_placed_in_the_view(operator: Operator, scene: Scene) -> None:
    result = read(operator, scene, bbox=[140, 90, 190, 120]).result
    assert result is not None
    assert result.text == "Gate 42"
    (line,) = result.data["lines"]  # type: ignore[misc]
    x1, y1, x2, y2 = line["bbox"]
    assert 150 < x1 < x2 < 178
    assert 100 < y1 < y2 < 112
    assert line["confidence"] > 0.9
    assert [word["text"] for word in line["words"]] == ["Gate", "42"]
    assert result.data["image"] == "image_1"


def test_the_whole_image_is_read_without_a_box(operator: Operator, scene: Scene) -> None:
    result = read(operator, scene).result
    assert result is not None
    assert result.text == "Gate 42"


def test_text_is_placed_in_the_view_that_is_named(operator: Operator, scene: Scene) -> None:
    scene.add_view(np.zeros((400, 400, 3), np.uint8), 0, Transform(0.5, 0.5, 580, 380))
    result = read(operator, scene, image="image_2").result
    assert result is not None
    (line,) = result.data["lines"]  # type: ignore[misc]
    x1, y1, _, y2 = line["bbox"]
    assert 40 < x1 < 80
    assert 40 < y1 < y2 < 160


def test_boxes_stay_inside_the_view(operator: Operator) -> None:
    pixels = turned(picture("Platform 12", 24, margin=0.0), 15)
    scene = Scene((pixels,))
    view = scene.add_view(pixels, 0, Transform())
    result = read(operator, scene).result
    assert result is not None
    for line in result.data["lines"]:  # type: ignore[attr-defined]
        for x, y in line["corners"]:
            assert 0 <= x <= view.width
            assert 0 <= y <= view.height


def test_where_no_text_is_it_says_so(operator: Operator, scene: Scene) -> None:
    result = read(operator, scene, bbox=[0, 0, 60, 60]).result
    assert result is not None
    assert (result.text, result.data["lines"]) == ("no text found", [])


def test_bad_arguments_are_refused_by_name(operator: Operator, scene: Scene) -> None:
    assert "bbox: [0, 0, 301.5, 9] is not inside" in (read(operator, scene, bbox=[0, 0, 301.5, 9]).error or "")
    assert "image: no image 'image_9'" in (read(operator, scene, image="image_9").error or "")
    assert "region: no such key" in (read(operator, scene, region="r1").error or "")
