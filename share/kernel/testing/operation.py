"""The contract of an operation: it describes itself, is pure, repeats itself, and refuses nonsense politely."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from share.kernel.contracts.kinds import Operation
from share.kernel.contracts.vision import OperationResult, Scene
from share.kernel.errors import OperationError
from share.kernel.media.operator import Limits, Operator, tool_schema
from share.kernel.testing.scene import example_scene

NONSENSE: tuple[Any, ...] = (
    None,
    True,
    -1,
    1e308,
    float("nan"),
    "",
    "r99",
    [],
    [0, 0, 0, 0],
    [-5, 9, 1e9, 2],
    {},
    "\0",
)
"""Values that a policy may write for any argument."""


def check_operation(
    operation: Operation, *examples: Mapping[str, object], scene: Callable[[], Scene] = example_scene
) -> None:
    """An operation describes itself, does the examples, is pure, repeats itself, and refuses nonsense politely.

    `examples` are arguments that must succeed on a fresh `scene()`. Nonsense in place of each argument must succeed or
    be refused with an OperationError; any other exception, a wrong type and a hang break the contract.
    """
    assert isinstance(operation, Operation), "an operation has `Arguments` and `run(scene, arguments)`"
    schema = tool_schema("OPERATION", operation)["function"]
    assert schema["description"], "the docstring of the operation's class tells the policy what it does"
    json.dumps(schema)
    for name, argument in schema["parameters"]["properties"].items():
        assert argument.get("description"), f"argument {name!r} needs a docstring: the policy reads it"

    for arguments in examples:
        outcomes = []
        for _ in range(2):
            stage = scene()
            natives = [native.copy() for native in stage.natives]
            before = (len(stage.views), len(stage.regions))
            parsed = operation.Arguments.model_validate(dict(arguments))
            operation.run(stage, parsed)
            assert before == (len(stage.views), len(stage.regions)), "run() must not change the scene; the caller does"
            outcome = Operator({"OPERATION": operation}).run("OPERATION", arguments, stage)
            assert outcome.result is not None, f"{dict(arguments)}: {outcome.status}: {outcome.error}"
            assert all(map(np.array_equal, natives, stage.natives)), "the native pixels must not be written to"
            outcomes.append(outcome.result)
        first, second = outcomes
        assert (first.text, dict(first.data)) == (second.text, dict(second.data)), "the same call gives the same result"

    operator = Operator({"OPERATION": operation}, Limits(timeout_s=30))
    for arguments in _nonsense(schema["parameters"]["properties"], examples):
        outcome = operator.run("OPERATION", arguments, scene())
        assert outcome.status in ("ok", "refused"), f"{arguments}: {outcome.status}: {outcome.error}"
        assert outcome.error is None or "\n" not in outcome.error, "an observation of an error is one line"


def run_operation(operation: Operation, arguments: Mapping[str, object], scene: Scene) -> OperationResult:
    """Call an operation as a policy would. Raises OperationError with the observation that the policy would read."""
    outcome = Operator({"OPERATION": operation}).run("OPERATION", arguments, scene)
    if outcome.result is None:
        raise OperationError(outcome.error)
    return outcome.result


def _nonsense(properties: Mapping[str, Any], examples: Sequence[Mapping[str, object]]) -> Iterator[dict[str, object]]:
    """Each example, and no arguments at all, with one argument replaced by something that makes no sense."""
    yield {"no_such_argument": 1}
    for base in [{}, *examples]:
        for name in properties:
            for value in NONSENSE:
                yield {**copy.deepcopy(dict(base)), name: value}


__all__ = ["NONSENSE", "check_operation", "run_operation"]
