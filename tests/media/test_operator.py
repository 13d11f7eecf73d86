from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from share.kernel.config import Choice, ConfigModel
from share.kernel.contracts.vision import OperationResult, Region, Scene, Transform
from share.kernel.errors import OperationError
from share.kernel.media.operator import Limits, Operator, load_operator, parse_arguments, refitted
from share.kernel.registry import Registry


class Numbers(ConfigModel):
    count: int = 1
    """How many"""
    label: str | None = None
    """What to call it"""


class Scripted:
    """Do what the test says."""

    Arguments: ClassVar[type[Numbers]] = Numbers

    def __init__(self, act: Callable[[Scene, Numbers], Any]) -> None:
        self.act = act

    def run(self, scene: Scene, arguments: Numbers, /) -> OperationResult:
        return self.act(scene, arguments)  # type: ignore[no-any-return]


def returning(result: Any) -> Scripted:
    return Scripted(lambda scene, arguments: result)


def raising(error: BaseException) -> Scripted:
    def act(scene: Scene, arguments: Numbers) -> Any:
        raise error

    return Scripted(act)


def operator_of(operation: Any, **limits: Any) -> Operator:
    return Operator({"ACT": operation}, Limits(**limits), origins={"ACT": "strange-wheel 1.2"})


def scene_of(width: int = 32, height: int = 24) -> Scene:
    scene = Scene((np.zeros((height, width, 3), np.uint8),))
    scene.add_view(scene.natives[0], 0, Transform())
    return scene


def image_of(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def whole_region(name: str = "r1", height: int = 24, width: int = 32) -> Region:
    return Region(name, 0, (height, width), (0, height * width), (0, 0, width, height), height * width, 1.0)


def test_a_result_is_registered_as_view_and_region() -> None:
    scene = scene_of()
    result = OperationResult("seen", image_of(8, 8), {"n": 1}, whole_region(), 0, Transform(0.5, 0.5, 4, 4))
    outcome = operator_of(returning(result)).run("ACT", "{}", scene)
    assert (outcome.status, outcome.error) == ("ok", None)
    assert outcome.view is scene.views["image_2"]
    assert outcome.view.transform == Transform(0.5, 0.5, 4, 4)
    assert outcome.region is scene.regions["r1"]
    assert outcome.elapsed_ms > 0


def test_arguments_may_be_json_text_a_mapping_or_nothing() -> None:
    operator = operator_of(Scripted(lambda scene, arguments: OperationResult(f"{arguments.count} {arguments.label}")))
    for given_, text in (('{"count": 3}', "3 None"), ({"label": "x"}, "1 x"), ("", "1 None"), (None, "1 None")):
        outcome = operator.run("ACT", given_, scene_of())
        assert outcome.result is not None
        assert outcome.result.text == text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("{", "arguments: not JSON: "),
        ("[1]", "arguments: must be a JSON object, not list"),
        ('{"count": "many"}', "count: Input should be a valid integer"),
        ('{"counts": 1}', "counts: no such key; did you mean 'count'"),
        ('{"count": ' + "9" * 5000 + "}", "arguments: not JSON that can be read"),
        ("[" * 19_000, "arguments: not JSON"),
        ('{"label": "' + "x" * 20_000 + '"}', "arguments: 20,013 characters; at most 20,000"),
    ],
)
def test_a_policys_mistake_is_one_line_that_names_the_argument(arguments: str, reason: str) -> None:
    outcome = operator_of(returning(OperationResult(""))).run("ACT", arguments, scene_of())
    assert outcome.status == "refused"
    assert outcome.error is not None
    assert outcome.error.startswith(reason)
    assert "\n" not in outcome.error


def test_an_unknown_operation_is_refused_with_what_was_meant() -> None:
    operator = operator_of(returning(OperationResult("")))
    assert operator.run("act", "{}", scene_of()).error == "no operation 'act'; did you mean ACT? there are ACT"
    assert len(operator.run("Z" * 5000, "{}", scene_of()).error or "") < 300
    assert operator.run(["ACT"], "{}", scene_of()).status == "refused"  # type: ignore[arg-type]
    assert "there are none" in (Operator({}).run("ACT", "{}", scene_of()).error or "")


def test_a_refusal_of_the_operation_reaches_the_policy_as_it_is() -> None:
    outcome = operator_of(raising(OperationError("bbox: too dark"))).run("ACT", "{}", scene_of())
    assert (outcome.status, outcome.error) == ("refused", "bbox: too dark")


@pytest.mark.parametrize("error", [KeyError("x"), SystemExit(3), KeyboardInterrupt(), RecursionError(), MemoryError()])
def test_an_operation_that_raises_is_named_with_its_distribution_and_line(error: BaseException) -> None:
    outcome = operator_of(raising(error)).run("ACT", "{}", scene_of())
    assert outcome.status == "fault"
    assert outcome.error is not None
    assert outcome.error.startswith(f"ACT (strange-wheel 1.2) is faulty: raised {type(error).__name__}")
    assert "test_operator.py:" in outcome.error


def wrong_results() -> dict[str, Any]:
    plain = OperationResult("text")
    shown = replace(plain, image=image_of(4, 4), transform=Transform())
    region = whole_region()
    return {
        "returned NoneType, not OperationResult": None,
        "returned str": "text",
        "its text is a bytes": replace(plain, text=b"text"),
        "its data is a list": replace(plain, data=[1]),
        "its data is not JSON": replace(plain, data={"image": np.zeros(3)}),
        "its data is not JSON: Out of range": replace(plain, data={"value": float("nan")}),
        "its data takes 1,000": replace(plain, data={"text": "x" * 1_000_000}),
        "its image is list": replace(shown, image=[[1]]),
        r"its image is float64\[4, 4, 3\]": replace(shown, image=np.zeros((4, 4, 3))),
        r"its image is uint8\[4, 4\]": replace(shown, image=np.zeros((4, 4), np.uint8)),
        "its image has 0 pixels": replace(shown, image=image_of(0, 4)),
        "its image has 4,002,000 pixels": replace(shown, image=image_of(2000, 2001)),
        "its transform is a tuple": replace(shown, transform=(1, 1, 0, 0)),
        r"its transform is Transform\(scale_x=0": replace(shown, transform=Transform(0, 1)),
        r"its transform is Transform\(scale_x=nan": replace(shown, transform=Transform(float("nan"), 1)),
        "its source is 1; the scene has 1": replace(shown, source=1),
        "its source is -1": replace(shown, source=-1),
        "its region is a str": replace(plain, region="r1"),
        "its region is named 'r7', not 'r1'": replace(plain, region=replace(region, name="r7")),
        "its region's source": replace(plain, region=replace(region, source=5)),
        "its region has the shape": replace(plain, region=replace(region, shape=(24, 31))),
        "its region's counts do not fill": replace(plain, region=replace(region, counts=(0, 5))),
        "its region's counts are no integers": replace(plain, region=replace(region, counts=("a",))),
        "its region's area is 5": replace(plain, region=replace(region, area=5)),
        "its region's box is": replace(plain, region=replace(region, box=(0, 0, float("inf"), 1))),
    }


@pytest.mark.parametrize("reason", wrong_results())
def test_a_wrong_result_is_a_fault_that_names_the_operation(reason: str) -> None:
    scene = scene_of()
    outcome = operator_of(returning(wrong_results()[reason])).run("ACT", "{}", scene)
    assert outcome.status == "fault"
    assert outcome.error is not None
    assert outcome.error.startswith("ACT (strange-wheel 1.2) is faulty: ")
    assert re.search(reason, outcome.error)
    assert (len(scene.views), len(scene.regions)) == (1, 0)


def test_text_is_cut_at_its_limit_and_says_how_much() -> None:
    outcome = operator_of(returning(OperationResult("x" * 5000)), text_length=100).run("ACT", "{}", scene_of())
    assert outcome.result is not None
    assert len(outcome.result.text) <= 100
    assert outcome.result.text.endswith("(4,940 characters cut)")
    outcome = operator_of(raising(OperationError("y" * 5000)), text_length=100).run("ACT", "{}", scene_of())
    assert len(outcome.error or "") <= 100


def test_a_result_at_the_limits_is_accepted() -> None:
    length = len(json.dumps({"t": "x" * 100}))
    result = OperationResult("x" * 2000, image_of(2000, 2000), {"t": "x" * 100})
    outcome = operator_of(returning(result), data_length=length).run("ACT", "{}", scene_of())
    assert outcome.status == "ok"
    assert outcome.result is not None
    assert outcome.result.text == "x" * 2000
    assert operator_of(returning(result), data_length=length - 1).run("ACT", "{}", scene_of()).status == "fault"


def test_an_operation_that_exceeds_its_time_is_left_behind_and_after_three_times_switched_off() -> None:
    release, started = threading.Event(), []

    def act(scene: Scene, arguments: Numbers) -> OperationResult:
        started.append(arguments.count)
        release.wait(20)
        return OperationResult("late")

    operator = operator_of(Scripted(act), timeout_s=0.05)
    begin = time.perf_counter()
    errors = [operator.run("ACT", {"count": count}, scene_of()) for count in range(5)]
    assert time.perf_counter() - begin < 2
    release.set()
    assert started == [0, 1, 2]
    assert {outcome.status for outcome in errors} == {"timeout"}
    assert errors[0].error == "ACT (strange-wheel 1.2) did not return within 0.05 s"
    assert errors[4].error == "ACT (strange-wheel 1.2) is switched off: it exceeded 0.05 s 3 times"


def test_what_a_late_operation_returns_does_not_reach_the_scene() -> None:
    release, done = threading.Event(), threading.Event()

    def act(scene: Scene, arguments: Numbers) -> OperationResult:
        release.wait(20)
        done.set()
        return OperationResult("late", image_of(4, 4))

    scene = scene_of()
    assert operator_of(Scripted(act), timeout_s=0.02).run("ACT", "{}", scene).status == "timeout"
    release.set()
    assert done.wait(5)
    assert list(scene.views) == ["image_1"]


def test_views_and_regions_of_a_scene_are_bounded() -> None:
    scene = scene_of()
    operator = operator_of(returning(OperationResult("", image_of(2, 2), transform=Transform())), views=3)
    assert [operator.run("ACT", "{}", scene).status for _ in range(4)] == ["ok", "ok", "refused", "refused"]
    assert len(scene.views) == 3
    operator = operator_of(
        Scripted(lambda scene, arguments: OperationResult("", region=whole_region(scene.next_region_name()))), regions=2
    )
    assert [operator.run("ACT", "{}", scene).status for _ in range(3)] == ["ok", "ok", "refused"]


def test_a_picture_that_maps_to_no_native_becomes_a_source_of_its_own() -> None:
    scene = scene_of()
    plot = np.full((6, 9, 3), 77, np.uint8)
    outcome = operator_of(returning(OperationResult("a plot", plot))).run("ACT", "{}", scene)
    assert outcome.view is not None
    assert outcome.view.source == 1
    assert np.array_equal(scene.native(1), plot)
    assert len(scene.natives) == 1


def test_a_view_has_the_pixels_that_the_policy_is_shown_and_maps_to_the_same_place() -> None:
    scene = scene_of()
    result = OperationResult("", image_of(10, 20), transform=Transform(0.5, 0.5, 3, 4))
    operator = Operator({"ACT": returning(result)}, fit=lambda pixels: np.zeros((20, 50, 3), np.uint8))
    view = operator.run("ACT", "{}", scene).view
    assert view is not None
    assert (view.width, view.height) == (50, 20)
    assert view.transform.box_to_native((0, 0, 50, 20)) == pytest.approx((3, 4, 13, 9))


def test_the_tool_schema_says_what_a_policy_needs_and_no_more() -> None:
    (schema,) = operator_of(returning(None)).schemas()
    assert schema == {
        "type": "function",
        "function": {
            "name": "ACT",
            "description": "Do what the test says.",
            "parameters": {
                "type": "object",
                "properties": {
                    "count": {"type": "integer", "default": 1, "description": "How many"},
                    "label": {"type": "string", "description": "What to call it"},
                },
            },
        },
    }


def test_a_validator_that_breaks_is_the_operations_fault() -> None:
    class Breaking(ConfigModel):
        def model_post_init(self, context: Any, /) -> None:
            raise ZeroDivisionError("no")

    operation = returning(OperationResult(""))
    operation.Arguments = Breaking  # type: ignore[misc,assignment]
    outcome = operator_of(operation).run("ACT", "{}", scene_of())
    assert outcome.status == "fault"
    assert "Arguments raised ZeroDivisionError" in (outcome.error or "")


def test_calls_of_several_threads_do_not_mix() -> None:
    def act(scene: Scene, arguments: Numbers) -> OperationResult:
        time.sleep(0.001)
        return OperationResult(str(arguments.count))

    operator, texts = operator_of(Scripted(act)), {}

    def call(count: int) -> None:
        outcome = operator.run("ACT", {"count": count}, scene_of())
        texts[count] = outcome.result and outcome.result.text

    threads = [threading.Thread(target=call, args=(count,)) for count in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {count: str(count) for count in range(24)}


@given(st.text(max_size=60) | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
@settings(max_examples=150, deadline=None)
def test_arguments_of_any_text_are_an_object_or_refused(text: str) -> None:
    is_object = not text.strip()
    with contextlib.suppress(ValueError):
        is_object = isinstance(json.loads(text), dict)
    if is_object:
        assert isinstance(parse_arguments(text, 1000), dict)
    else:
        with pytest.raises(OperationError, match=r"^arguments: "):
            parse_arguments(text, 1000)


def test_a_resized_view_keeps_its_place() -> None:
    assert refitted(Transform(2, 2, 5, 5), image_of(10, 20), image_of(5, 40)) == Transform(1, 4, 5, 5)
    assert refitted(Transform(2, 2, 5, 5), image_of(10, 20), image_of(10, 20)) == Transform(2, 2, 5, 5)


def test_operations_are_loaded_by_name_and_know_their_distribution(registry: Registry) -> None:
    operator = load_operator(registry, [Choice("operation", "ZOOM_IN")])
    assert operator.origins["ZOOM_IN"].startswith("pixelis ")
    assert [schema["function"]["name"] for schema in operator.schemas()] == ["ZOOM_IN"]
