"""Held-out scores of what a policy must be able to do before it can be reinforced, each per prompt in [0, 1].

format: the greedy rollout ends with an answer and every turn could be parsed.
grounding: its first call is the demonstrated operation and points at the demonstrated place.
reading: the probability of the demonstrated answer once the demonstrated calls were made.
accuracy: the answer of the greedy rollout is right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from share.kernel.contracts.task import Call, Demonstration
from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.contracts.vision import Scene
from share.kernel.policy.pointing import intersection_over_union, native_box, native_point

IOU_MIN = 0.5
"""Intersection over union, in native pixels, from which a box is at the demonstrated place."""

DISTANCE_MAX = 0.05
"""Distance, as a share of the native image's longer side, up to which a point is at the demonstrated place."""


def format_score(trajectory: Trajectory) -> float:
    return float(trajectory.finish == "answer" and all(action.kind != "invalid" for action in trajectory.actions))


def grounding_score(trajectory: Trajectory, demonstration: Demonstration, scene: Scene) -> float:
    """1.0 also when neither the demonstration nor the rollout calls an operation."""
    if not demonstration.calls or not trajectory.operations:
        return float(not demonstration.calls and not trajectory.operations)
    return float(_same_place(trajectory.operations[0], demonstration.calls[0], scene))


def reading_score(logprobs: Sequence[float]) -> float:
    """From the log-probabilities of the tokens of the demonstrated answer."""
    return math.exp(math.fsum(logprobs))


def _same_place(action: Action, call: Call, scene: Scene) -> bool:
    if action.operation != call.operation or action.arguments is None:
        return False
    wanted_box, wanted_point = native_box(call.arguments, scene), native_point(call.arguments, scene)
    if wanted_box is not None:
        box = native_box(action.arguments, scene)
        return box is not None and box[0] == wanted_box[0] and intersection_over_union(box[1], wanted_box[1]) >= IOU_MIN
    if wanted_point is not None:
        point = native_point(action.arguments, scene)
        longer = max(scene.native(wanted_point[0]).shape[:2])
        return (
            point is not None
            and point[0] == wanted_point[0]
            and math.dist(point[1:], wanted_point[1:]) <= DISTANCE_MAX * longer
        )
    return _plain(action.arguments) == _plain(call.arguments)


def _plain(arguments: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in arguments.items() if value is not None}


__all__ = ["DISTANCE_MAX", "IOU_MIN", "format_score", "grounding_score", "reading_score"]
