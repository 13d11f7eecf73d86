"""The recorded actions of a rollout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ActionKind = Literal["operation", "answer", "invalid"]
FinishReason = Literal["answer", "turns_max", "tokens_max", "invalid"]


@dataclass(frozen=True, slots=True)
class Action:
    """One decision of the policy: a call of an operation, an answer, or a completion that is neither.

    `text` is what the policy wrote in this turn. For an operation, `observation` is the text it returned, `view` the
    name of the image it returned (None without one), `region` the region's name, `error` the error's text when it
    failed, `elapsed_ms` its duration.
    """

    kind: ActionKind
    text: str
    operation: str | None = None
    arguments: Mapping[str, object] | None = None
    observation: str | None = None
    view: str | None = None
    region: str | None = None
    error: str | None = None
    elapsed_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The actions of one rollout in order. `answer` is None when the rollout ended without one."""

    prompt_id: str
    actions: tuple[Action, ...]
    answer: str | None
    finish: FinishReason

    @property
    def operations(self) -> tuple[Action, ...]:
        return tuple(action for action in self.actions if action.kind == "operation")


__all__ = ["Action", "ActionKind", "FinishReason", "Trajectory"]
