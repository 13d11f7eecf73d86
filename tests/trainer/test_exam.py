"""The exam is taken on prompts that the task can demonstrate."""

from __future__ import annotations

import pytest

from share.kernel.contracts.task import Demonstration, Prompt, Split
from share.kernel.contracts.vision import Scene
from share.kernel.errors import TaskError
from share.kernel.media.operator import Operator
from share.kernel.policy.loading import PolicyConfig, load_policy
from share.kernel.testing import example_scene
from share.kernel.trainer.exam import Exam


class Undemonstrated:
    """One prompt, and nobody who knows how to answer it."""

    def size(self, split: Split) -> int | None:
        return 1

    def prompt(self, split: Split, index: int) -> Prompt:
        return Prompt("prompt-1", "example", "How bright is it?", example_scene().natives, "bright")

    def check(self, prompt: Prompt, answer: str) -> float:
        return float(answer == prompt.answer)

    def demonstrate(self, prompt: Prompt, scene: Scene) -> Demonstration | None:
        return None


def test_a_task_that_demonstrates_nothing_is_refused_with_what_to_do() -> None:
    with pytest.raises(TaskError, match=r"Undemonstrated demonstrates none .* lines of a JSONL file their `calls`"):
        Exam(load_policy(PolicyConfig()), Undemonstrated(), Operator({}), 4)
