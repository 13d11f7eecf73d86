from __future__ import annotations

import math

import numpy as np
import pytest

from share.kernel.contracts.task import Call, Demonstration
from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.contracts.vision import Scene, Transform
from share.kernel.trainer.skills import format_score, grounding_score, reading_score


def scene() -> Scene:
    native = np.zeros((200, 200, 3), np.uint8)
    made = Scene((native,))
    made.add_view(native[::2, ::2], 0, Transform(scale_x=2.0, scale_y=2.0))
    return made


def calls(operation: str, **arguments: object) -> Trajectory:
    return Trajectory("p", (Action("operation", "", operation=operation, arguments=arguments),), "1", "answer")


def demonstration(operation: str, **arguments: object) -> Demonstration:
    return Demonstration((Call(operation, arguments),), "1")


@pytest.mark.parametrize(
    ("written", "score"), [([10, 10, 50, 50], 1.0), ([12, 12, 50, 50], 1.0), ([40, 40, 80, 80], 0.0), ("no box", 0.0)]
)
def test_grounding_is_overlap_with_the_demonstrated_box(written: object, score: float) -> None:
    shown = demonstration("ZOOM_IN", bbox=[10, 10, 50, 50])
    assert grounding_score(calls("ZOOM_IN", bbox=written), shown, scene()) == score


def test_grounding_needs_the_demonstrated_operation() -> None:
    shown = demonstration("ZOOM_IN", bbox=[1, 1, 9, 9])
    assert grounding_score(calls("READ_TEXT", bbox=[1, 1, 9, 9]), shown, scene()) == 0.0


def test_grounding_of_a_point_is_nearness() -> None:
    shown = demonstration("SEGMENT_OBJECT_AT", x=50, y=50)
    assert grounding_score(calls("SEGMENT_OBJECT_AT", x=52, y=51), shown, scene()) == 1.0
    assert grounding_score(calls("SEGMENT_OBJECT_AT", x=70, y=50), shown, scene()) == 0.0
    assert grounding_score(calls("SEGMENT_OBJECT_AT", x="50"), shown, scene()) == 0.0


def test_grounding_without_a_place_compares_arguments() -> None:
    shown = demonstration("GET_PROPERTIES", region="r1")
    assert grounding_score(calls("GET_PROPERTIES", region="r1", bbox=None), shown, scene()) == 1.0
    assert grounding_score(calls("GET_PROPERTIES", region="r2"), shown, scene()) == 0.0


def test_calling_nothing_is_right_where_nothing_is_demonstrated() -> None:
    silent = Trajectory("p", (), "1", "answer")
    assert grounding_score(silent, Demonstration((), "1"), scene()) == 1.0
    assert grounding_score(silent, demonstration("ZOOM_IN", bbox=[0, 0, 9, 9]), scene()) == 0.0


def test_format_needs_an_answer_and_no_invalid_turn() -> None:
    assert format_score(calls("ZOOM_IN")) == 1.0
    assert format_score(Trajectory("p", (), None, "turns_max")) == 0.0
    assert format_score(Trajectory("p", (Action("invalid", "x"),), "1", "answer")) == 0.0


def test_reading_is_the_probability_of_the_answer() -> None:
    assert reading_score([math.log(0.5), math.log(0.5)]) == pytest.approx(0.25)
