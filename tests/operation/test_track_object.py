from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from share.kernel.contracts.vision import Box, Scene, Transform
from share.kernel.media.operator import Limits, Operator
from share.kernel.operation.track_object import TrackObject, TrackObjectArguments, TrackObjectConfig
from share.kernel.task.assets import photograph

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels

TRACK = TrackObject(TrackObjectConfig())
WIDTH, HEIGHT, SIDE = 200, 150, 40


@lru_cache(maxsize=1)
def pieces() -> tuple[Pixels, Pixels]:
    """A piece of one photograph, and another as the ground."""
    rng = np.random.default_rng(11)
    return photograph(rng, "train", SIDE, SIDE), photograph(rng, "train", HEIGHT, WIDTH)


def place(index: int) -> tuple[int, int]:
    return 20 + 4 * index, 50 + index


def film(num: int = 24, hidden: range = range(0), width: int = WIDTH, height: int = HEIGHT) -> tuple[Pixels, ...]:
    """The piece moves 4 pixels right and 1 down each frame; in `hidden` frames it is not there."""
    patch, ground = pieces()
    frames = []
    for index in range(num):
        frame = ground.copy()
        x, y = place(index)
        if index not in hidden:
            frame[y : y + SIDE, x : x + SIDE] = patch
        frames.append(np.asarray(cv2.resize(frame, (width, height)), dtype=np.uint8))
    return tuple(frames)


def shown(frames: tuple[Pixels, ...], *sources: int, reduction: float = 1.0) -> Scene:
    scene = Scene(frames, is_video=True, frames_per_second=12.0)
    for source in sources or (0, len(frames) - 1):
        height, width = frames[source].shape[:2]
        size = (round(width / reduction), round(height / reduction))
        pixels = np.asarray(cv2.resize(frames[source], size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        scene.add_view(pixels, source, Transform(scale_x=width / size[0], scale_y=height / size[1]))
    return scene


def box_at(index: int) -> Box:
    x, y = place(index)
    return (x, y, x + SIDE, y + SIDE)


def iou(one: object, other: Box) -> float:
    assert isinstance(one, list)
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0, width) * max(0, height)
    return float(shared / ((one[2] - one[0]) * (one[3] - one[1]) + SIDE * SIDE - shared))


def told(result_data: object) -> list[dict[str, object]]:
    assert isinstance(result_data, list)
    return result_data


def test_an_object_is_followed_to_the_last_frame() -> None:
    scene = shown(film())
    result = TRACK.run(scene, TrackObjectArguments(bbox=box_at(0)))
    frames = told(result.data["frames"])
    assert [entry["frame"] for entry in frames] == list(range(24))
    assert np.mean([iou(entry["bbox"], box_at(index)) for index, entry in enumerate(frames)]) > 0.9
    assert not any(entry["lost"] for entry in frames)
    assert "never lost of 0 to 23; image_3 shows frame 23 with the box" in result.text
    json.dumps(result.data, allow_nan=False)


def test_an_object_is_followed_both_ways_from_the_frame_that_is_named() -> None:
    scene = shown(film())
    result = TRACK.run(scene, TrackObjectArguments(bbox=box_at(12), frame=12))
    frames = told(result.data["frames"])
    assert frames[12]["bbox"] == list(box_at(12))
    assert min(iou(frames[index]["bbox"], box_at(index)) for index in (0, 6, 18, 23)) > 0.85


def test_the_frame_is_the_one_that_the_image_shows() -> None:
    result = TRACK.run(shown(film(), 0, 20), TrackObjectArguments(bbox=box_at(20), image="image_2"))
    assert result.data["frame"] == 20
    assert iou(told(result.data["frames"])[0]["bbox"], box_at(0)) > 0.85


def test_boxes_are_pixels_of_a_reduced_view() -> None:
    scene = shown(film(12, width=400, height=300), reduction=4.0)
    x1, y1, x2, y2 = box_at(0)
    result = TRACK.run(scene, TrackObjectArguments(bbox=(x1 / 2, y1 / 2, x2 / 2, y2 / 2)))
    last = told(result.data["frames"])[-1]["bbox"]
    assert last == pytest.approx([value / 2 for value in box_at(11)], abs=1.5)


def test_the_picture_is_the_last_frame_seen_with_the_box_in_it() -> None:
    frames = film()
    result = TRACK.run(shown(frames), TrackObjectArguments(bbox=box_at(0)))
    assert result.image is not None
    assert result.source == 23
    assert result.transform == Transform()
    changed = np.argwhere((result.image != frames[23]).any(axis=2))
    left, _, _, bottom = box_at(23)
    assert changed[:, 1].min() == pytest.approx(left, abs=3)
    assert changed[:, 0].max() == pytest.approx(bottom, abs=3)


def test_a_hidden_object_is_lost_and_found_again() -> None:
    frames = told(TRACK.run(shown(film(28, range(9, 15))), TrackObjectArguments(bbox=box_at(0))).data["frames"])
    assert all(entry["lost"] and entry["bbox"] is None for entry in frames[9:15])
    assert not any(entry["lost"] for entry in frames[:9])
    assert iou(frames[27]["bbox"], box_at(27)) > 0.8


def test_an_object_that_leaves_for_good_stays_lost() -> None:
    result = TRACK.run(shown(film(24, range(8, 24))), TrackObjectArguments(bbox=box_at(0)))
    assert [entry["lost"] for entry in told(result.data["frames"])] == [False] * 8 + [True] * 16
    assert "lost in frames 8-23" in result.text
    assert result.data["shown_frame"] == 7


def test_no_more_frames_are_followed_than_allowed() -> None:
    operation = TrackObject(TrackObjectConfig(frames_max=6))
    result = operation.run(shown(film()), TrackObjectArguments(bbox=box_at(12), frame=12))
    assert [entry["frame"] for entry in told(result.data["frames"])] == [9, 10, 11, 12, 13, 14]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"bbox": [20, 50, 300, 90]}, "bbox: [20, 50, 300, 90] is not inside image_1"),
        ({"bbox": [20, 50, 20, 90]}, "bbox: "),
        ({"bbox": [20, 50, 23, 90]}, "bbox: [20, 50, 23, 90] is smaller than 6 x 6"),
        ({"bbox": [float("nan"), 50, 60, 90]}, "bbox"),
        ({"bbox": "all"}, "bbox"),
        ({}, "bbox: "),
        ({"bbox": [20, 50, 60, 90], "frame": 24}, "frame: 24 is not a frame of the video, which has 0 to 23"),
        ({"bbox": [20, 50, 60, 90], "frame": -1}, "frame: "),
        ({"bbox": [20, 50, 60, 90], "frame": True}, "frame: "),
        ({"bbox": [20, 50, 60, 90], "image": "image_9"}, "image: no image 'image_9'"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, object], said: str) -> None:
    outcome = Operator({"TRACK_OBJECT": TRACK}).run("TRACK_OBJECT", arguments, shown(film()))
    assert outcome.status == "refused"
    assert outcome.error is not None
    assert outcome.error.startswith(said)


def test_still_images_are_refused() -> None:
    scene = shown(film(2))
    scene.is_video = False
    outcome = Operator({"TRACK_OBJECT": TRACK}).run("TRACK_OBJECT", {"bbox": [20, 50, 60, 90]}, scene)
    assert outcome.error == "image: TRACK_OBJECT needs a video, and these are still images"


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(8, 60),
    width=st.integers(8, 60),
    num=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
    flat=st.booleans(),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
    frame=st.integers(0, 4),
)
def test_any_film_and_box_end_in_a_track_or_a_refusal(
    height: int, width: int, num: int, seed: int, flat: bool, corners: tuple[float, ...], frame: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = (num, height, width, 3)
    pixels = np.full(shape, 90, np.uint8) if flat else rng.integers(0, 256, shape, dtype=np.uint8)
    (x1, x2), (y1, y2) = sorted((corners[0], corners[1])), sorted((corners[2], corners[3]))
    arguments = {"bbox": [x1 * width, y1 * height, x2 * width, y2 * height], "frame": frame}
    outcome = Operator({"T": TRACK}, Limits(timeout_s=60)).run("T", arguments, shown(tuple(pixels), 0))
    assert outcome.status in ("ok", "refused"), outcome.error
    if outcome.result is not None:
        for entry in told(outcome.result.data["frames"]):
            box = entry["bbox"]
            assert (box is None) == entry["lost"]
            assert box is None or (isinstance(box, list) and box[0] < box[2] and box[1] < box[3])
