"""The generated sources: pure, measured on their own pixels, and without a shortcut."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from share.kernel.contracts.kinds import Task
from share.kernel.contracts.task import Prompt
from share.kernel.contracts.vision import Scene, Transform
from share.kernel.errors import TaskError
from share.kernel.task.compare_objects import CompareObjects, CompareObjectsConfig
from share.kernel.task.count import Count, CountConfig
from share.kernel.task.follow_object import FollowObject, FollowObjectConfig
from share.kernel.task.generated import box_in_view, generator, point_in_view, view_of
from share.kernel.task.painting import places
from share.kernel.task.read_text import ReadText, ReadTextConfig

SOURCES = {
    "read_text": (ReadText, ReadTextConfig),
    "compare_objects": (CompareObjects, CompareObjectsConfig),
    "count": (Count, CountConfig),
    "follow_object": (FollowObject, FollowObjectConfig),
}


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> Task:
    target, config = SOURCES[request.param]
    built = target(config())
    assert isinstance(built, Task)
    return built


def _scene(prompt: Prompt, scale: float = 1.0) -> Scene:
    """A scene whose views show what the policy is shown, `scale` times smaller."""
    scene = Scene(natives=prompt.images, is_video=prompt.is_video)
    for index in prompt.shown if prompt.shown is not None else range(len(prompt.images)):
        native = prompt.images[index]
        height, width = (math.ceil(side / scale) for side in native.shape[:2])
        small = np.zeros((height, width, 3), dtype=np.uint8)
        scene.add_view(small, index, Transform(native.shape[1] / width, native.shape[0] / height))
    return scene


def test_a_prompt_is_a_pure_function_of_split_and_index(source: Task) -> None:
    first, second = source.prompt("train", 5), source.prompt("train", 5)
    assert first.question == second.question
    assert first.answer == second.answer
    assert all((a == b).all() for a, b in zip(first.images, second.images, strict=True))
    for other in (source.prompt("train", 9), source.prompt("held_out", 5)):
        assert (other.images[0] != first.images[0]).any()
        assert other.prompt_id != first.prompt_id


def test_difficulties_are_taken_in_turn(source: Task) -> None:
    assert [source.prompt("train", index).difficulty for index in range(8)] == [0, 1, 2, 3] * 2
    target, config = SOURCES[source.prompt("train", 0).task]
    assert [target(config(difficulties=(2,))).prompt("held_out", index).difficulty for index in range(3)] == [2] * 3


def test_another_seed_gives_other_prompts(source: Task) -> None:
    target, config = SOURCES[source.prompt("train", 0).task]
    other = target(config(seed=1)).prompt("train", 5)
    assert (other.images[0] != source.prompt("train", 5).images[0]).any()


def test_the_true_answer_is_judged_right_and_nothing_is_judged_wrong(source: Task) -> None:
    for index in range(8):
        prompt = source.prompt("held_out", index)
        assert source.check(prompt, prompt.answer) == 1.0
        assert source.check(prompt, "") == 0.0


def test_a_demonstration_points_inside_the_views_whatever_their_scale(source: Task) -> None:
    for index in range(8):
        prompt = source.prompt("train", index)
        for scale in (1.0, 2.7, 8.0):
            scene = _scene(prompt, scale)
            view = scene.view(None)
            demonstration = source.demonstrate(prompt, scene)
            assert demonstration is not None
            assert demonstration.answer == prompt.answer
            for call in demonstration.calls:
                box: Any = call.arguments.get("bbox")
                if box is not None:
                    assert 0 <= box[0] < box[2] <= view.width
                    assert 0 <= box[1] < box[3] <= view.height
                    assert all(isinstance(number, int) for number in box)
                if "x" in call.arguments:
                    assert 0 <= call.arguments["x"] < view.width  # type: ignore[operator]
                    assert 0 <= call.arguments["y"] < view.height  # type: ignore[operator]


def test_a_setting_that_cannot_be_is_refused() -> None:
    for wrong in ({"difficulties": (4,)}, {"difficulties": ()}, {"seed": -1}):
        with pytest.raises(ValidationError):
            CountConfig.model_validate(wrong)


def test_a_demonstration_needs_a_view_of_its_image() -> None:
    source = Count(CountConfig(difficulties=(3,)))
    prompt = source.prompt("train", 0)
    with pytest.raises(TaskError, match="shows it in no view"):
        source.demonstrate(prompt, Scene(natives=prompt.images))


def test_native_boxes_and_points_cover_the_same_pixels_in_a_view() -> None:
    scene = Scene(natives=(np.zeros((100, 200, 3), dtype=np.uint8),))
    scene.add_view(np.zeros((50, 100, 3), dtype=np.uint8), 0, Transform(2.0, 2.0))
    view = view_of(scene, 0)
    assert box_in_view(view, (11.0, 20.0, 31.0, 41.0)) == [5, 10, 16, 21]
    assert box_in_view(view, (190.0, 90.0, 500.0, 500.0), margin=10) == [90, 40, 100, 50]
    assert box_in_view(view, (300.0, 300.0, 400.0, 400.0)) == [99, 49, 100, 50]
    assert point_in_view(view, 199.9, 0.0) == (99, 0)


def test_generators_of_neighbouring_prompts_are_independent() -> None:
    drawn = {
        generator(task, seed, split, index).integers(2**62)
        for task in ("count", "read_text")
        for seed in (0, 1)
        for split in ("train", "held_out")
        for index in range(50)
    }
    assert len(drawn) == 400


def test_no_word_of_the_held_out_signs_occurs_in_training() -> None:
    source = ReadText(ReadTextConfig(height=448, width=448, difficulties=(3,)))
    words = {
        split: {
            word.lower()
            for index in range(40)
            for sign in source.prompt(split, index).truth["signs"]  # type: ignore[attr-defined]
            for word in sign["text"].split()
            if word.isalpha()
        }
        for split in ("train", "held_out")
    }
    assert len(words["train"]) > 60
    assert len(words["held_out"]) > 30
    assert not words["train"] & words["held_out"]


def test_a_sign_changes_the_pixels_of_its_box_alone() -> None:
    source = ReadText(ReadTextConfig())
    prompt = source.prompt("train", 3)
    x1, y1, x2, y2 = (int(number) for number in prompt.truth["box"])  # type: ignore[attr-defined]
    inside = prompt.images[0][y1:y2, x1:x2]
    height = prompt.truth["text_height_px"]
    assert isinstance(height, int)
    assert height <= inside.shape[0] <= 8 * height
    assert 0 <= x1 < x2 <= 896
    assert 0 <= y1 < y2 <= 672


def test_the_named_object_wins_on_the_painted_pixels_by_a_margin() -> None:
    source = CompareObjects(CompareObjectsConfig())
    for index in range(24):
        prompt = source.prompt("train", index)
        objects: Any = prompt.truth["objects"]
        least = prompt.truth["attribute"] in ("smaller", "darker")
        ranked = sorted(objects, key=lambda measured: measured["value"], reverse=not least)
        assert ranked[0]["shape"] == prompt.answer
        gap = abs(ranked[0]["value"] - ranked[1]["value"])
        if prompt.truth["attribute"] in ("larger", "smaller"):
            assert gap > 0.1 * min(ranked[0]["value"], ranked[1]["value"])
        else:
            assert gap > 10
        for measured in objects:
            assert measured["shape"] in prompt.question


def test_the_measured_colour_is_that_of_the_pixels_of_the_object() -> None:
    prompt = CompareObjects(CompareObjectsConfig()).prompt("held_out", 1)
    objects: Any = prompt.truth["objects"]
    for measured in objects:
        x, y = measured["point"]
        around = prompt.images[0][y - 4 : y + 5, x - 4 : x + 5].mean(axis=(0, 1))
        assert np.abs(around - measured["mean_rgb"]).max() < 40


def test_as_many_objects_are_counted_as_there_are_and_none_lies_across_the_middle() -> None:
    source = Count(CountConfig())
    for index in range(12):
        prompt = source.prompt("train", index)
        boxes: Any = prompt.truth["boxes"]
        assert len(boxes) == int(prompt.answer)
        assert not any(box[0] < 224 < box[2] for box in boxes)
        for first in range(len(boxes)):
            for second in range(first):
                a, b = boxes[first], boxes[second]
                assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


def test_the_smallest_scenes_that_may_be_set_hold_every_prompt() -> None:
    smallest: list[Task] = [
        ReadText(ReadTextConfig(height=448, width=448)),
        CompareObjects(CompareObjectsConfig(height=224, width=224)),
        Count(CountConfig(height=224, width=224)),
        FollowObject(FollowObjectConfig(height=160, width=160, frames=8)),
    ]
    for source in smallest:
        for index in range(24):
            prompt = source.prompt("train", index)
            assert source.check(prompt, prompt.answer) == 1.0


def test_objects_that_cannot_fit_are_refused_with_a_remedy() -> None:
    with pytest.raises(TaskError, match="9 objects do not fit into 100 x 100 px; make the scene larger"):
        places(np.random.default_rng(0), [(40.0, 40.0)] * 9, 100, 100, gap=0)


def test_the_followed_object_keeps_its_distance_in_every_frame() -> None:
    source = FollowObject(FollowObjectConfig())
    for index in range(8):
        prompt = source.prompt("train", index)
        boxes: Any = prompt.truth["boxes"]
        ends: Any = prompt.truth["ends"]
        assert len(boxes) == len(prompt.images) == 48
        assert ends[prompt.answer] == boxes[-1]
        assert len(ends) == (2, 3, 3, 4)[prompt.difficulty]
        for x1, y1, x2, y2 in boxes:
            assert 0 <= x1 < x2 <= 320
            assert 0 <= y1 < y2 <= 240


def test_the_policy_is_shown_the_first_and_the_last_frame_alone() -> None:
    source = FollowObject(FollowObjectConfig(difficulties=(3,)))
    for index in range(6):
        prompt = source.prompt("train", index)
        assert "you see its first and its last frame" in prompt.question
        assert prompt.shown == (0, 47)
        assert prompt.is_video


def test_guessing_the_nearest_end_earns_no_more_than_chance() -> None:
    source = FollowObject(FollowObjectConfig(difficulties=(1,), frames=8, height=160, width=240))
    right = 0
    for index in range(300):
        prompt = source.prompt("train", index)
        boxes: Any = prompt.truth["boxes"]
        ends: Any = prompt.truth["ends"]
        nearest = min(ends, key=lambda letter: math.dist(ends[letter][:2], boxes[0][:2]))
        right += nearest == prompt.answer
    assert right / 300 == pytest.approx(1 / 3, abs=0.08)  # three standard deviations


def test_no_letter_or_shape_or_number_is_favoured() -> None:
    answers = Counter(
        FollowObject(FollowObjectConfig(difficulties=(3,), frames=8, height=160, width=240)).prompt("train", n).answer
        for n in range(120)
    )
    assert set(answers) == set("ABCD")
    assert max(answers.values()) < 50
