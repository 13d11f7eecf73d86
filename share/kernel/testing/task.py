"""The contract of a task source: equal prompts for equal arguments, splits that differ, known answers."""

from __future__ import annotations

import numpy as np

from share.kernel.contracts.kinds import Task
from share.kernel.contracts.task import Demonstration, Prompt, Split
from share.kernel.contracts.vision import PIXELS_MAX, Scene, Transform


def check_task(task: Task) -> None:
    """A task source yields equal prompts for equal arguments, splits that differ, and knows its own answers."""
    splits: tuple[Split, Split] = ("train", "held_out")
    for split in splits:
        size = task.size(split)
        assert size is None or size >= 0, "a size is a number of prompts, or None without end"
        for index in range(min(3, 3 if size is None else size)):
            prompt, again = task.prompt(split, index), task.prompt(split, index)
            assert _same_prompt(prompt, again), f"{split} {index}: the same arguments give the same prompt"
            assert prompt.images, "a prompt has an image or the frames of a video"
            for image in prompt.images:
                assert image.dtype == np.uint8, "images are uint8 [height, width, 3] RGB"
                assert image.ndim == 3, "images are uint8 [height, width, 3] RGB"
                assert image.shape[2] == 3, "images are uint8 [height, width, 3] RGB"
                assert image.shape[0] * image.shape[1] <= PIXELS_MAX, f"at most {PIXELS_MAX:,} pixels"
            assert task.check(prompt, prompt.answer) == 1.0, f"{split} {index}: the ground truth must be right"
            assert 0.0 <= task.check(prompt, "no such answer \0") <= 1.0, "a check is within [0, 1]"
            assert 0.0 <= task.check(prompt, "") < 1.0, "no answer is not a right answer"
            shown = prompt.shown if prompt.shown is not None else tuple(range(len(prompt.images)))
            scene = Scene(prompt.images, prompt.is_video, prompt.frames_per_second)
            for source in shown:
                scene.add_view(prompt.images[source], source, Transform())
            demonstration = task.demonstrate(prompt, scene)
            assert demonstration is None or isinstance(demonstration, Demonstration), "a Demonstration or None"
            if demonstration is not None:
                assert task.check(prompt, demonstration.answer) == 1.0, "an expert answers rightly"
    if all(task.size(split) is None for split in splits):
        assert not _same_prompt(task.prompt("train", 0), task.prompt("held_out", 0)), "the splits share no prompt"


def _same_prompt(prompt: Prompt, other: Prompt) -> bool:
    same_images = len(prompt.images) == len(other.images) and all(map(np.array_equal, prompt.images, other.images))
    return same_images and (prompt.prompt_id, prompt.question, prompt.answer, prompt.difficulty) == (
        other.prompt_id,
        other.question,
        other.answer,
        other.difficulty,
    )


__all__ = ["check_task"]
