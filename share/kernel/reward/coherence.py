"""Reward component `coherence`: do the operations of a rollout follow from one another?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from pydantic import Field

from share.kernel.config import ConfigModel
from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.contracts.vision import Scene
from share.kernel.policy.pointing import intersection_over_union, native_box, native_point

GOOD_PAIRS = (
    ("SEGMENT_OBJECT_AT", "GET_PROPERTIES"),
    ("SEGMENT_OBJECT_AT", "TRACK_OBJECT"),
    ("SEGMENT_OBJECT_AT", "ZOOM_IN"),
    ("ZOOM_IN", "READ_TEXT"),
    ("ZOOM_IN", "SEGMENT_OBJECT_AT"),
    ("TRACK_OBJECT", "GET_PROPERTIES"),
)
BAD_PAIRS = (
    ("GET_PROPERTIES", "SEGMENT_OBJECT_AT"),
    ("READ_TEXT", "SEGMENT_OBJECT_AT"),
    ("READ_TEXT", "TRACK_OBJECT"),
)


class CoherenceConfig(ConfigModel):
    good_pairs: tuple[tuple[str, str], ...] = GOOD_PAIRS
    """Consecutive operations of which the second uses what the first found."""
    bad_pairs: tuple[tuple[str, str], ...] = BAD_PAIRS
    """Consecutive operations of which the second throws away what the first found."""
    pair_bonus: float = Field(default=0.2, ge=0.0)
    """Reward of a good pair. Paid once per distinct pair, so that a loop earns nothing."""
    pair_penalty: float = Field(default=0.2, ge=0.0)
    """Cost of a bad pair."""
    repeat_penalty: float = Field(default=0.5, ge=0.0)
    """Cost of an operation that repeats an earlier one of the rollout."""
    repeat_iou: float = Field(default=0.9, gt=0.0, lt=1.0)
    """Two boxes of one operation repeat each other above this intersection over union. A deeper zoom has less, and is
    never penalised."""
    repeat_distance_px: float = Field(default=2.0, ge=0.0)
    """Two points of one operation on one view repeat each other within this distance, in pixels of the native image."""


class Coherence:
    """Good pairs of consecutive successful operations less bad pairs and repetitions.

    None when the rollout called no operation: there is nothing to judge, and 0.0 would make silence pay.
    """

    def __init__(self, config: CoherenceConfig) -> None:
        self.config = config
        self._good = frozenset(config.good_pairs)
        self._bad = frozenset(config.bad_pairs)

    def score(
        self,
        prompt: Prompt,
        trajectories: Sequence[Trajectory],
        scenes: Sequence[Scene],
        correctness: Sequence[float],
    ) -> list[float | None]:
        return [
            self._score(trajectory.operations, scene) for trajectory, scene in zip(trajectories, scenes, strict=True)
        ]

    def _score(self, operations: Sequence[Action], scene: Scene) -> float | None:
        if not operations:
            return None
        pairs = [
            (str(first.operation), str(second.operation))
            for first, second in pairwise(operations)
            if first.error is None and second.error is None
        ]
        repeats = sum(
            any(self._repeats(action, earlier, scene) for earlier in operations[:index])
            for index, action in enumerate(operations)
        )
        return (
            self.config.pair_bonus * len(self._good.intersection(pairs))
            - self.config.pair_penalty * sum(pair in self._bad for pair in pairs)
            - self.config.repeat_penalty * repeats
        )

    def _repeats(self, action: Action, earlier: Action, scene: Scene) -> bool:
        """True when both ask the same of the same place: boxes and points are compared in native pixels."""
        if action.operation != earlier.operation:
            return False
        arguments, others = action.arguments or {}, earlier.arguments or {}
        if arguments == others:
            return True
        if _rest(arguments) != _rest(others):
            return False
        box, other_box = native_box(arguments, scene), native_box(others, scene)
        if box is not None and other_box is not None:
            return box[0] == other_box[0] and intersection_over_union(box[1], other_box[1]) > self.config.repeat_iou
        point, other_point = native_point(arguments, scene), native_point(others, scene)
        if point is not None and other_point is not None:
            distance = ((point[1] - other_point[1]) ** 2 + (point[2] - other_point[2]) ** 2) ** 0.5
            return point[0] == other_point[0] and distance <= self.config.repeat_distance_px
        return False


def _rest(arguments: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in arguments.items() if name not in ("bbox", "x", "y", "image")}


__all__ = ["BAD_PAIRS", "GOOD_PAIRS", "Coherence", "CoherenceConfig"]
