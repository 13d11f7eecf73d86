"""What the demonstrations call must really tell what the demonstrations answer: they are run through the operations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest

from share.kernel.config import Choice
from share.kernel.contracts.kinds import Task
from share.kernel.contracts.task import Prompt
from share.kernel.contracts.vision import Scene, Transform
from share.kernel.data.checkers import exact
from share.kernel.media.mask import decode_mask
from share.kernel.media.operator import Operator, Outcome, load_operator
from share.kernel.registry import load_registry
from share.kernel.task.compare_objects import CompareObjects, CompareObjectsConfig
from share.kernel.task.count import Count, CountConfig
from share.kernel.task.follow_object import FollowObject, FollowObjectConfig
from share.kernel.task.read_text import ReadText, ReadTextConfig

REGISTRY = load_registry()


def _operator(*names: str) -> Operator:
    return load_operator(REGISTRY, tuple(Choice("operation", name) for name in names))


def _demonstrated(task: Task, prompt: Prompt, operator: Operator, scale: int) -> tuple[Scene, Sequence[Outcome]]:
    """The scene after the demonstrated calls by a policy that is shown everything `scale` times smaller."""
    scene = Scene(prompt.images, prompt.is_video, prompt.frames_per_second)
    for source in prompt.shown if prompt.shown is not None else range(len(prompt.images)):
        native = prompt.images[source]
        size = (native.shape[1] // scale, native.shape[0] // scale)
        small = cv2.resize(native, size, interpolation=cv2.INTER_AREA)
        scene.add_view(np.asarray(small, np.uint8), source, Transform(scale, scale))
    demonstration = task.demonstrate(prompt, scene)
    assert demonstration is not None
    outcomes = [operator.run(call.operation, dict(call.arguments), scene) for call in demonstration.calls]
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    return scene, outcomes


@pytest.mark.parametrize("difficulty", range(4))
def test_the_sign_that_is_read_says_the_answer(difficulty: int) -> None:
    task, operator = ReadText(ReadTextConfig(difficulties=(difficulty,))), _operator("READ_TEXT")
    for index in range(2):
        prompt = task.prompt("held_out", index)
        _, (read,) = _demonstrated(task, prompt, operator, scale=4)
        assert read.result is not None
        assert exact(read.result.text, prompt.answer) == 1.0


@pytest.mark.parametrize("difficulty", range(4))
def test_the_regions_that_are_segmented_are_the_objects_that_are_compared(difficulty: int) -> None:
    task = CompareObjects(CompareObjectsConfig(difficulties=(difficulty,)))
    operator = _operator("SEGMENT_OBJECT_AT", "GET_PROPERTIES")
    prompt = task.prompt("held_out", difficulty)
    scene, _ = _demonstrated(task, prompt, operator, scale=2)
    objects: Any = prompt.truth["objects"]
    for measured, region in zip(objects, scene.regions.values(), strict=True):
        found = decode_mask(region.counts, region.shape)
        assert found.sum() == pytest.approx(measured["area"], rel=0.05)
        assert prompt.images[0][found].mean(axis=0) == pytest.approx(measured["mean_rgb"], abs=4)


@pytest.mark.parametrize("difficulty", range(4))
def test_the_object_that_is_tracked_ends_beside_the_letter_of_the_answer(difficulty: int) -> None:
    task, operator = FollowObject(FollowObjectConfig(difficulties=(difficulty,))), _operator("TRACK_OBJECT")
    prompt = task.prompt("held_out", difficulty)
    _, (tracked,) = _demonstrated(task, prompt, operator, scale=1)
    assert tracked.result is not None
    last: Any = tracked.result.data["frames"]
    ends: Any = prompt.truth["ends"]
    assert not last[-1]["lost"]
    nearest = min(ends, key=lambda letter: math.dist(ends[letter], last[-1]["bbox"]))
    assert nearest == prompt.answer


def test_the_halves_that_are_zoomed_show_every_object_once() -> None:
    task, operator = Count(CountConfig(difficulties=(3,))), _operator("ZOOM_IN")
    prompt = task.prompt("held_out", 0)
    scene, outcomes = _demonstrated(task, prompt, operator, scale=4)
    halves = [outcome.view for outcome in outcomes]
    boxes: Any = prompt.truth["boxes"]
    for box in boxes:
        inside = 0
        for view in halves:
            assert view is not None
            x1, y1, x2, y2 = view.transform.box_from_native(box)
            inside += x1 >= -1 and y1 >= -1 and x2 <= view.width + 1 and y2 <= view.height + 1
        assert inside == 1
    assert len(scene.views) == 3
