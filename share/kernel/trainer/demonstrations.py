"""Whether there is anything to imitate, and whether it can be: asked before a run directory exists."""

from __future__ import annotations

from share.kernel.contracts.kinds import Task
from share.kernel.contracts.task import Demonstration, Prompt, Split
from share.kernel.contracts.vision import Scene, Transform
from share.kernel.errors import ConfigError
from share.kernel.media.operator import Operator


def check_demonstrations(task: Task, split: Split, limit: int, key: str, operator: Operator) -> None:
    """Find a demonstration among the first `limit` prompts of a split, and play it in native pixels.

    `key` is where the configuration chooses the task. Raises ConfigError that says what to do, and what the task raises
    of a prompt that it cannot yield.
    """
    size = task.size(split)
    if size == 0:
        raise ConfigError(
            f"{key}: its split {split!r} holds no prompt, and SFT trains on one split and is judged on the other; of "
            "your own data hold some out: task.held_out_fraction=0.1"
        )
    looked_at = limit if size is None else min(limit, size)
    for index in range(looked_at):
        prompt = task.prompt(split, index)
        scene = _native_scene(prompt)  # no policy is loaded yet, which would be shown less
        demonstration = task.demonstrate(prompt, scene)
        if demonstration is not None:
            _play(demonstration, prompt, scene, key, operator)
            return
    raise ConfigError(
        f"{key}: none of {looked_at} prompts of its split {split!r}, from {task.prompt(split, 0).prompt_id} on, is "
        "demonstrated, so nothing can be imitated; give more lines of a JSONL file their `calls`, hold out others "
        "(task.held_out_path), or name another task"
    )


def _native_scene(prompt: Prompt) -> Scene:
    scene = Scene(prompt.images, prompt.is_video, prompt.frames_per_second)
    for source in prompt.shown if prompt.shown is not None else range(len(prompt.images)):
        scene.add_view(prompt.images[source], source, Transform())
    return scene


def _play(demonstration: Demonstration, prompt: Prompt, scene: Scene, key: str, operator: Operator) -> None:
    for call in demonstration.calls:
        if call.operation not in operator.operations:
            raise ConfigError(
                f"operations: the demonstration of prompt {prompt.prompt_id} calls {call.operation}, which is not "
                f"among {', '.join(operator.operations) or 'them'}; add it"
            )
        outcome = operator.run(call.operation, call.arguments, scene)
        if outcome.error is not None:
            raise ConfigError(
                f"{key}: the demonstration of prompt {prompt.prompt_id} fails: {call.operation}: {outcome.error}"
            )


__all__ = ["check_demonstrations"]
