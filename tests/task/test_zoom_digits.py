from __future__ import annotations

import cv2
import numpy as np
import pytest

from share.kernel.config import validate
from share.kernel.contracts.vision import Scene, Transform
from share.kernel.errors import ConfigError
from share.kernel.registry import load_registry
from share.kernel.task import zoom_digits
from share.kernel.task.assets import digits
from share.kernel.task.zoom_digits import COLORS, LEVELS, OVERVIEW_SCALE, SCENE_SIDE, ZoomDigits, ZoomDigitsConfig


@pytest.fixture
def task() -> ZoomDigits:
    return ZoomDigits(ZoomDigitsConfig())


def scene_of(prompt, scale=OVERVIEW_SCALE) -> Scene:
    side = SCENE_SIDE // scale
    scene = Scene(prompt.images)
    scene.add_view(cv2.resize(prompt.images[0], (side, side), interpolation=cv2.INTER_AREA), 0, Transform(scale, scale))
    return scene


def test_a_prompt_is_a_function_of_seed_split_and_index(task):
    first, again = task.prompt("train", 7), ZoomDigits(ZoomDigitsConfig()).prompt("train", 7)
    assert np.array_equal(first.images[0], again.images[0])
    assert (first.question, first.answer, first.truth) == (again.question, again.answer, again.truth)
    others = [task.prompt("train", 8), task.prompt("held_out", 7)]
    others.append(ZoomDigits(ZoomDigitsConfig(seed=1)).prompt("train", 7))
    assert all(not np.array_equal(first.images[0], other.images[0]) for other in others)


def test_splits_draw_from_digits_that_are_not_shared(monkeypatch, task):
    drawn = {}

    def recorded(split):
        drawn.setdefault(split, 0)
        drawn[split] += 1
        return digits(split)

    monkeypatch.setattr(zoom_digits, "digits", recorded)
    task.prompt("held_out", 0)
    assert set(drawn) == {"held_out"}
    train, held_out = ({image.tobytes() for image in digits(split)[0]} for split in ("train", "held_out"))
    assert not train & held_out


@pytest.mark.parametrize("difficulty", range(len(LEVELS)))
def test_cards_lie_inside_the_scene_apart_from_each_other_and_differ_in_colour(difficulty):
    prompt = ZoomDigits(ZoomDigitsConfig(difficulties=(difficulty,))).prompt("train", 3)
    boxes = prompt.truth["boxes"]
    assert len(boxes) == LEVELS[difficulty][0]
    assert set(boxes) <= set(COLORS)
    assert prompt.truth["color"] in prompt.question
    assert prompt.answer == str(prompt.truth["digits"][prompt.truth["color"]])
    covered = np.zeros((SCENE_SIDE, SCENE_SIDE), int)
    for x1, y1, x2, y2 in boxes.values():
        assert 0 <= x1 < x2 <= SCENE_SIDE
        assert 0 <= y1 < y2 <= SCENE_SIDE
        covered[int(y1) : int(y2), int(x1) : int(x2)] += 1
    assert covered.max() == 1


def test_a_card_shows_its_colour_in_the_overview(task):
    for index in range(10):
        prompt = task.prompt("train", index)
        overview = scene_of(prompt).views["image_1"].pixels.astype(float)
        for color, box in prompt.truth["boxes"].items():
            x, y = (int((box[i] + box[i + 2]) / 2 // OVERVIEW_SCALE) for i in (0, 1))
            patch = overview[y - 1 : y + 2, x - 1 : x + 2].mean(axis=(0, 1))
            nearest = min(COLORS, key=lambda name: float(np.abs(np.array(COLORS[name]) - patch).sum()))
            assert nearest == color


def test_strokes_add_nothing_to_the_brightness_of_the_overview():
    """Whatever digit a card carries, it is as bright as the next: the means per digit differ by a grey level or two."""
    brightness: dict[int, list[float]] = {}
    for seed in range(400):
        card, label = zoom_digits.draw_card(np.random.default_rng(seed), "train", (128, 128, 128))
        brightness.setdefault(label, []).append(float(card.mean()))
    assert np.ptp([np.mean(means) for means in brightness.values()]) < 4.0
    assert abs(np.mean([mean for means in brightness.values() for mean in means]) - 128) < 1.0


def test_strokes_are_legible_in_native_pixels():
    """Against the same card without a digit, the strokes stand out by many times the noise of the last bit."""
    card, _ = zoom_digits.draw_card(np.random.default_rng(0), "train", (128, 128, 128))
    grey = card.mean(axis=2).astype(np.float32)
    strokes = grey - cv2.GaussianBlur(grey, (0, 0), 3.0)
    assert np.abs(strokes).max() > 40
    assert np.abs(strokes[:12]).max() < 15


def test_the_demonstration_zooms_on_the_card_that_was_asked_for_and_answers(task):
    for index in range(20):
        prompt = task.prompt("held_out", index)
        scene = scene_of(prompt)
        demonstration = task.demonstrate(prompt, scene)
        (call,) = demonstration.calls
        assert call.operation == "ZOOM_IN"
        x1, y1, x2, y2 = scene.views["image_1"].transform.box_to_native(tuple(call.arguments["bbox"]))
        bx1, by1, bx2, by2 = prompt.truth["box"]
        assert x1 <= bx1 + 8
        assert y1 <= by1 + 8
        assert x2 >= bx2 - 8
        assert y2 >= by2 - 8
        assert task.check(prompt, demonstration.answer) == 1.0


def test_only_the_digit_itself_is_right(task):
    prompt = task.prompt("train", 0)
    assert task.check(prompt, f" {prompt.answer}\n") == 1.0
    wrong = str((int(prompt.answer) + 1) % 10)
    assert [task.check(prompt, answer) for answer in (wrong, "", f"{prompt.answer}{prompt.answer}", "a 3")] == [0.0] * 4


@pytest.mark.parametrize(("difficulties", "said"), [([0, 3], "less than or equal to 2"), ([], "at least 1 item")])
def test_a_difficulty_that_does_not_exist_is_refused(difficulties, said):
    settings = {"task": {"name": "zoom_digits", "difficulties": difficulties}}
    registry = load_registry()
    with pytest.raises(ConfigError, match=rf"^task\.difficulties.*{said}"):
        validate(registry.config_model("trainer", "grpo"), settings, registry)
