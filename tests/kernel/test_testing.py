"""The contract suite says what was broken, and lets pass what keeps the contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from share.kernel import ConfigModel, OperationError, OperationResult, Scene, hookimpl
from share.kernel.errors import ConfigError
from share.kernel.hookspecs import KINDS
from share.kernel.registry import load_registry
from share.kernel.testing import (
    CHECKS,
    build,
    check_operation,
    check_plugin,
    check_reward,
    check_run,
    check_task,
    example_scene,
)
from tests.kernel.wheels import install_counting


class Size(ConfigModel):
    size: int = 1
    """A size, in pixels"""


class Good:
    """Tell the size back."""

    Arguments: ClassVar[type[Size]] = Size

    def __init__(self, config: Size) -> None:
        self.config = config

    def run(self, scene: Scene, arguments: Size, /) -> OperationResult:
        if not 0 < arguments.size < 100:
            raise OperationError("size: must be 1 to 99")
        return OperationResult(text=str(arguments.size))


class Raises(Good):
    """Raises when asked for nothing."""

    def run(self, scene: Scene, arguments: Size, /) -> OperationResult:
        return OperationResult(text=str(1 / (arguments.size + 1)))


class Undescribed(Good):
    __doc__ = ""


class Draws(Good):
    """Writes on the native pixels."""

    def run(self, scene: Scene, arguments: Size, /) -> OperationResult:
        scene.natives[0][:2] = 255
        return OperationResult(text="")


class Registers(Good):
    """Adds to the scene what the caller adds."""

    def run(self, scene: Scene, arguments: Size, /) -> OperationResult:
        scene.add_view(scene.natives[0], 0, scene.view(None).transform)
        return OperationResult(text="")


class Gambles(Good):
    """Answers by chance."""

    random = np.random.default_rng(0)

    def run(self, scene: Scene, arguments: Size, /) -> OperationResult:
        return OperationResult(text=str(self.random.random()))


def test_an_operation_that_keeps_the_contract_passes() -> None:
    check_operation(Good(Size()), {"size": 3}, {})


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (Raises, "ZeroDivisionError"),
        (Undescribed, "the docstring of the operation's class"),
        (Draws, "native pixels must not be written to"),
        (Registers, r"run\(\) must not change the scene"),
        (Gambles, "the same call gives the same result"),
    ],
)
def test_an_operation_that_breaks_the_contract_is_told_how(operation: type[Good], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_operation(operation(Size()), {"size": 3})


class Scores:
    def __init__(self, *scores: Any) -> None:
        self.scores = scores

    def score(self, prompt: object, trajectories: Sequence[object], scenes: object, correctness: object, /) -> Any:
        return [self.scores[0]] * len(trajectories) if len(self.scores) == 1 else list(self.scores)


def test_a_reward_scores_every_trajectory_with_a_finite_number_or_none() -> None:
    check_reward(Scores(0.5))
    check_reward(Scores(None))
    with pytest.raises(AssertionError, match="nan is no score"):
        check_reward(Scores(float("nan")))
    with pytest.raises(AssertionError, match="one score per trajectory"):
        check_reward(Scores(0.5, 0.5))


def test_a_task_whose_prompts_change_is_told_so() -> None:
    task = build(load_registry(), "task", "count")
    check_task(task)

    class Drifts:
        calls = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(task, name)

        def prompt(self, split: Any, index: int, /) -> Any:
            self.calls += 1
            return task.prompt(split, index + self.calls)

    with pytest.raises(AssertionError, match="the same arguments give the same prompt"):
        check_task(Drifts())


def test_a_backend_that_is_run_is_held_to_dry_run_stop_and_resume(site: Path, tmp_path: Path) -> None:
    install_counting(site)
    check_run(load_registry(), "train", "counting", {"steps": 2}, tmp_path)
    with pytest.raises(AssertionError, match="dry run: failed"):
        check_run(load_registry(), "train", "counting", {"fail_at": 0}, tmp_path)


def test_a_plugin_module_is_checked_without_being_installed() -> None:
    def plugin(target: str, summary: str) -> ModuleType:
        module = ModuleType("a_plugin")

        @hookimpl
        def register_operations(register: Any) -> None:
            register("GOOD", target, summary=summary)

        module.register_operations = register_operations  # type: ignore[attr-defined]
        return module

    assert check_plugin(plugin(f"{__name__}:Good", "Good.")) == [("operation", "GOOD")]
    with pytest.raises(AssertionError, match="needs a summary"):
        check_plugin(plugin(f"{__name__}:Good", ""))
    with pytest.raises(AssertionError, match="is broken"):
        check_plugin(ModuleType("empty"))


def test_what_cannot_be_had_without_settings_is_named() -> None:
    with pytest.raises(ConfigError, match="task 'jsonl' needs path"):
        build(load_registry(), "task", "jsonl")


def test_every_kind_has_a_check_and_the_example_has_a_moving_disc() -> None:
    assert set(CHECKS) == set(KINDS)
    video = example_scene(is_video=True)
    assert len(video.natives) == 12
    assert video.natives[5][48, 55, 0] > 150 > video.natives[0][48, 70, 0]
