"""One Protocol per kind of plugin. `share.kernel.testing` holds the contract suite that every backend must pass.

A backend is named by a target "module:attribute": a function or class whose first parameter is annotated with the
`ConfigModel` that configures it. A class is built once per run (`registry.build(choice)`); a trainer is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from share.kernel.contracts.run import RunContext
from share.kernel.contracts.task import Demonstration, Prompt, Split
from share.kernel.contracts.trajectory import Trajectory
from share.kernel.contracts.vision import OperationResult, Scene

if TYPE_CHECKING:
    from pydantic import BaseModel

    from share.kernel.config import ConfigModel


class Trainer(Protocol):
    """Kind `trainer`: trains until done or stopped, writes below `run.run_dir`.

    Reports through `run.metrics` and `run.artifacts`; raises `Interrupted` when `run.stop` made it end early.
    """

    def __call__(self, config: ConfigModel, run: RunContext, /) -> None: ...


@runtime_checkable
class Operation(Protocol):
    """Kind `operation`: a visual operation, named as the policy writes it (`ZOOM_IN`).

    `Arguments` is the pydantic model of the call's arguments; its JSON schema, with the docstring of the operation's
    class, becomes the prompt's tool schema. `run` is pure with respect to the scene: the caller registers the view
    and region of the result. It raises OperationError for arguments or images that it refuses.
    """

    Arguments: ClassVar[type[BaseModel]]

    def run(self, scene: Scene, arguments: Any, /) -> OperationResult:
        """`arguments` is an instance of this operation's own `Arguments`."""
        ...


@runtime_checkable
class Reward(Protocol):
    """Kind `reward`: one reward component over the group of a prompt. None = not scored, 0.0 = scored zero.

    `correctness` is what the task's `check` said of each trajectory's answer, in [0, 1] (0.0 without an answer): the
    trainer asks the task once, and no reward needs to know it. A reward that learns has `state_dict` and
    `load_state_dict` beside `score`; both are kept in checkpoints.
    """

    def score(
        self,
        prompt: Prompt,
        trajectories: Sequence[Trajectory],
        scenes: Sequence[Scene],
        correctness: Sequence[float],
        /,
    ) -> list[float | None]: ...


@runtime_checkable
class Task(Protocol):
    """Kind `task`: a source of prompts.

    `prompt` is a pure function of its arguments, so that a run can be resumed anywhere.
    `size` is the number of distinct prompts of a split, None when they are generated without end.
    `check` judges an answer against the prompt's ground truth in [0, 1].
    `demonstrate` returns what an expert would do on the prompt in a scene that holds the views the policy was shown,
    or None when the source knows none.
    """

    def size(self, split: Split, /) -> int | None: ...

    def prompt(self, split: Split, index: int, /) -> Prompt: ...

    def check(self, prompt: Prompt, answer: str, /) -> float: ...

    def demonstrate(self, prompt: Prompt, scene: Scene, /) -> Demonstration | None: ...


__all__ = ["Operation", "Reward", "Task", "Trainer"]
