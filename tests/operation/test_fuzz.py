"""Whatever a policy writes, to whichever registered operation, on whatever image: an answer or a refusal, in time."""

from __future__ import annotations

import gc
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from share.kernel.config import Choice
from share.kernel.contracts.vision import Region, Scene, Transform
from share.kernel.media.mask import encode_mask, mask_box
from share.kernel.media.operator import Limits, Operator, load_operator
from share.kernel.registry import load_registry

OPERATIONS = load_registry().names("operation")
TIMEOUT_S = 20.0
GROWTH_MAX = 48 * 2**20
"""Memory, in bytes, that the calls of one operation may add after the first; a leaked scene a call would be more."""


@cache
def operator_of(name: str) -> Operator:
    return load_operator(load_registry(), [Choice("operation", name)], Limits(timeout_s=TIMEOUT_S))


@cache
def argument_names(name: str) -> dict[str, bool]:
    """The arguments of an operation, each with whether it is required."""
    (schema,) = operator_of(name).schemas()
    parameters = schema["function"]["parameters"]
    return {argument: argument in parameters.get("required", ()) for argument in parameters["properties"]}


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise with a bright block in it."""
    pixels = np.random.default_rng(seed).integers(0, 120, (height, width, 3)).astype(np.uint8)
    pixels[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] += 120
    return pixels


def scene_of(kind: str) -> Scene:
    shapes = {"image": (72, 96), "pixel": (1, 1), "row": (1, 90), "column": (90, 1), "video": (60, 80)}
    height, width = shapes[kind]
    count = 6 if kind == "video" else 1
    scene = Scene(tuple(textured(height, width, seed) for seed in range(count)), is_video=kind == "video")
    scene.add_view(scene.natives[0], 0, Transform())
    scene.add_view(scene.natives[0][: height // 2 + 1], 0, Transform())
    scene.add_view(np.repeat(np.repeat(scene.natives[-1], 2, axis=0), 2, axis=1), count - 1, Transform(0.5, 0.5))
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = True
    scene.add_region(Region("r1", 0, (height, width), encode_mask(mask), mask_box(mask), int(mask.sum()), 0.9))
    return scene


numbers = st.integers(-5, 100) | st.floats(-5, 100) | st.floats() | st.integers()
boxes = st.lists(st.integers(0, 80) | st.floats(0, 80), min_size=4, max_size=4).map(
    lambda box: [min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])]
)
names = st.sampled_from(["r1", "r2", "image_1", "image_2", "image_3", "image_4", ""])
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def likely_value(argument: str) -> st.SearchStrategy[Any]:
    """What is often right for an argument of that name, so that the fuzz gets past the first check."""
    if "bbox" in argument:
        return boxes
    if argument == "image":
        return st.sampled_from(["image_1", "image_2", "image_3"])
    if "region" in argument:
        return st.just("r1")
    if argument == "frame":
        return st.integers(0, 5)
    return st.integers(0, 60)


@st.composite
def calls(draw: st.DrawFn, name: str) -> str:
    """Arguments as a policy may write them: an object with some keys right and some values right, or any text."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.text(max_size=40) | anything.map(json.dumps))
    given_: dict[str, Any] = {}
    careful = draw(st.booleans())
    for argument, required in argument_names(name).items():
        ways = ["likely", "likely" if required else "absent"] if careful else ["likely", "absent", "any", "any"]
        way = draw(st.sampled_from(ways))
        if way != "absent":
            given_[argument] = draw(likely_value(argument) if way == "likely" else boxes | names | anything)
    return json.dumps(given_)


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("name", OPERATIONS)
def test_any_call_of_any_operation_is_answered_or_refused_and_nothing_is_kept(name: str) -> None:
    operator, statuses, after_first = operator_of(name), [], [0]

    @given(calls(name), st.sampled_from(["image", "video", "video", "pixel", "row", "column"]))
    @settings(max_examples=150, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def call(arguments: str, kind: str) -> None:
        scene = scene_of(kind)
        before = [native.copy() for native in scene.natives]
        outcome = operator.run(name, arguments, scene)
        assert outcome.status in ("ok", "refused"), f"{arguments} on {kind}: {outcome.error}"
        assert outcome.error is None or "\n" not in outcome.error
        assert all(map(np.array_equal, before, scene.natives))
        assert outcome.elapsed_ms < 1000 * TIMEOUT_S
        statuses.append(outcome.status)
        if len(statuses) == 40:
            after_first[0] = resident_bytes()

    call()
    assert operator.timeouts[name] == 0
    assert statuses.count("ok") > 5, "the fuzz did not get past the checks"
    assert resident_bytes() - after_first[0] < GROWTH_MAX


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_largest_image_is_within_the_time_limit(name: str) -> None:
    pixels = textured(2000, 2000)
    scene = Scene((pixels, pixels), is_video=True)
    scene.add_view(pixels, 0, Transform())
    arguments = {"bbox": [400, 400, 1100, 1000], "x": 700, "y": 700}
    known = {argument: value for argument, value in arguments.items() if argument in argument_names(name)}
    outcome = operator_of(name).run(name, known, scene)
    assert outcome.status in ("ok", "refused"), outcome.error
