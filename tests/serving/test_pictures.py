"""Images are kept as long as somebody is to look at them, and no longer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from share.kernel.adaptation.review import DAY_S
from share.kernel.contracts.task import Prompt
from share.kernel.serving.pictures import Pictures
from tests.serving.engines import Maker

IMAGE = np.zeros((10, 10, 3), np.uint8)


class Clock:
    """Seconds since 1970 that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def test_images_go_with_a_review_that_nobody_decided(make: Maker, tmp_path: Path, questions: list[Prompt]) -> None:
    clock = Clock()
    parts = make(tmp_path, clock=clock, keep_images=True)
    for number in range(3):
        parts.ask(questions[number], f"trace-{number}")
    parts.engine.process_human_review_decision("trace-0", True, reviewer="anna")  # deferred: there is no worker
    clock.now += 10 * DAY_S
    parts.ask(questions[3], "later")
    clock.now += 5 * DAY_S
    parts.engine.sweep()
    assert parts.engine.get_statistics().reviews["audit"] == 1
    held = sorted(path.parent.name.partition("-")[2] for path in tmp_path.glob("images/*/*.png"))
    assert held == ["later", "trace-0"], "one waits, one is decided and not learned yet"


def test_retention_of_images_goes_by_the_clock_it_is_given(tmp_path: Path) -> None:
    clock = Clock()
    pictures = Pictures(tmp_path / "images", bytes_max=1 << 20, clock=clock)
    pictures.hold("first", (IMAGE,), None)
    pictures.keep("first")
    clock.now += 60 * DAY_S
    pictures.hold("second", (IMAGE,), None)
    pictures.keep("second")
    clock.now += 40 * DAY_S
    pictures.expire(90)
    assert [path.name.partition("-")[2] for path in (tmp_path / "images").iterdir()] == ["second"]


def test_images_that_were_kept_once_go_though_none_are_kept_any_more(tmp_path: Path) -> None:
    before = Pictures(tmp_path / "images", bytes_max=1 << 20)
    before.hold("trace", (IMAGE,), None)
    before.keep("trace")
    pictures = Pictures(tmp_path / "images", bytes_max=1 << 20, writes=False)
    assert len(pictures.of("trace")) == 1
    assert pictures.kept() == {"trace"}
    pictures.release("trace")
    pictures.hold("other", (IMAGE,), None)
    pictures.keep("other")
    assert list((tmp_path / "images").iterdir()) == []
    assert pictures.kept() == {"other"}
