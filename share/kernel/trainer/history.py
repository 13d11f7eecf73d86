"""What a training has measured so far: enough to judge it, to compare it bit by bit, and to go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

RECENT = 20
"""Steps over which the final training numbers are averaged."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step was. `numbers` are the same in every run of one seed; `times` are seconds and rates."""

    numbers: dict[str, float]
    times: dict[str, float]


class History:
    """A running hash over every number of every step, and the numbers of the last steps.

    Times do not belong here: two runs that computed the same have the same hash, however long they took.
    """

    def __init__(self) -> None:
        self.digest = hashlib.sha256(b"pixelis history").hexdigest()
        self.recent: list[dict[str, float]] = []
        self.evaluations: list[dict[str, float]] = []
        self.alarms: dict[str, int] = {}
        self.totals: dict[str, int] = {}

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        self._chain("step", step, numbers)
        self.recent = [*self.recent, dict(numbers)][-RECENT:]

    def add_evaluation(self, step: int, numbers: Mapping[str, float]) -> None:
        self._chain("evaluation", step, numbers)
        self.evaluations.append({"step": step, **numbers})

    def add_alarm(self, name: str) -> None:
        self.alarms[name] = self.alarms.get(name, 0) + 1

    def count(self, **numbers: int) -> None:
        for name, number in numbers.items():
            self.totals[name] = self.totals.get(name, 0) + number

    def mean(self, name: str) -> float | None:
        values = [numbers[name] for numbers in self.recent if name in numbers]
        return sum(values) / len(values) if values else None

    def _chain(self, what: str, step: int, numbers: Mapping[str, float]) -> None:
        text = json.dumps([self.digest, what, step, sorted(numbers.items())])
        self.digest = hashlib.sha256(text.encode()).hexdigest()

    def state_dict(self) -> dict[str, object]:
        return {
            "digest": self.digest,
            "recent": self.recent,
            "evaluations": self.evaluations,
            "alarms": self.alarms,
            "totals": self.totals,
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        for name in self.state_dict():
            setattr(self, name, state[name])


__all__ = ["RECENT", "History", "StepReport"]
