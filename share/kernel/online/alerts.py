"""Alerts: thresholds on what the engine says of itself, and on how many are turned away at the door before it; told to
the log, the metrics and a webhook.

An alert is told when it begins and when it ends, not in between. What it says are figures; nothing of a user is in it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from share.kernel.config import ConfigModel
from share.kernel.events import StructuredLogger, whereabouts
from share.kernel.online.webhook import Webhook, is_address
from share.kernel.serving.statistics import Statistics

AlertName = Literal[
    "kl",
    "update_rate",
    "queue",
    "error_rate",
    "refused_rate",
    "entropy",
    "operation_use",
    "quarantine",
    "suspended",
    "not_recorded",
    "audit_log",
]

HISTORY_MAX = 360
"""Looks that are remembered for the pages: half an hour of them, at one in five seconds."""

WINDOW_S = 60.0
"""Seconds that rates are taken over."""

ANSWERS_MIN = 20
"""Answers, or calls, in that time below which a rate says nothing."""

BASELINE_ANSWERS = 200
"""Answers after which what is usual counts as known."""

CLOSE_S = 5.0
"""Seconds that a look may take to end."""


class AlertsConfig(ConfigModel):
    """When somebody should look."""

    every_s: float = Field(default=5.0, gt=0.0)
    """Seconds between two looks."""
    kl_max: float = Field(default=0.2, gt=0.0)
    """Divergence from the frozen policy, in nats per token."""
    updates_per_minute_max: float = Field(default=240.0, gt=0.0)
    """Updates that the worker confirmed in the last minute."""
    waiting_max: int = Field(default=12, ge=1)
    """Questions that wait for a batch."""
    error_rate_max: float = Field(default=0.05, gt=0.0, le=1.0)
    """Part of the questions that failed, of those of the last minute."""
    refused_rate_max: float = Field(default=0.2, gt=0.0, le=1.0)
    """Part of the calls of /v1/… that were turned away with 401, 429 or 503, of those of the last minute: too much is
    asked, or with keys that are not known."""
    entropy_ratio_min: float = Field(default=0.4, ge=0.0, le=1.0)
    """Entropy of recent answers, as a part of what it was over the first 200: below it, it is too sure."""
    operation_ratio_min: float = Field(default=0.3, ge=0.0, le=1.0)
    """Operations called per answer in the last minute, as a part of what it was over the first 200 answers."""
    webhook: str | None = None
    """http or https address that every beginning and end of an alert is posted to, as JSON; again and again for an
    hour, at growing intervals, until it is taken."""

    @field_validator("webhook")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and not is_address(value):
            raise ValueError("must begin with http:// or https:// and name a host, as https://example.org:8443/alerts")
        return value


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls of /v1/… since the start, and how many of them were turned away at the door: with 401, 429 or 503."""

    made: int
    refused: int


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one moment, `at` in seconds of a clock that never goes back."""

    at: float
    statistics: Statistics
    calls: Calls


@dataclass(frozen=True, slots=True)
class Usual:
    """How it was over the first answers: entropy in nats, operations per answer."""

    entropy: float | None
    operations: float


@dataclass(frozen=True, slots=True)
class Alert:
    """A threshold that is passed: `value` against `threshold`, and what that is."""

    name: AlertName
    value: float
    threshold: float
    message: str


def alerts_of(config: AlertsConfig, before: Look, now: Look, usual: Usual | None) -> list[Alert]:
    """What should be looked at, by what changed from one look to another. A pure function."""
    was, told = before.statistics, now.statistics
    elapsed_s = max(now.at - before.at, 1e-9)
    answered = told.requests.answered - was.requests.answered
    failed = told.requests.failed - was.requests.failed
    made, refused = now.calls.made - before.calls.made, now.calls.refused - before.calls.refused
    found: list[Alert] = []

    def check(name: AlertName, value: float | None, threshold: float, what: str, *, below: bool = False) -> None:
        if value is not None and (value < threshold if below else value > threshold):
            side = "below" if below else "above"
            found.append(Alert(name, value, threshold, f"{what} is {value:.4g}, {side} {threshold:.4g}"))

    last = told.learning.last
    check(
        "kl",
        last.kl_frozen if last is not None else None,
        config.kl_max,
        "divergence from the frozen policy, nats per token,",
    )
    rate = (told.learning.confirmed - was.learning.confirmed) * 60 / elapsed_s
    check("update_rate", rate, config.updates_per_minute_max, "updates per minute")
    worker = told.learning.worker
    check("quarantine", len(worker.quarantined) if worker is not None else None, 0, "number of updates in quarantine")
    check("suspended", int(told.learning.state == "suspended"), 0, "1 while learning is suspended; it")
    check("audit_log", int(told.learning.state == "no_audit_log"), 0, "1 while nothing can be audited; it")
    lost = sum(told.memory.not_recorded.values()) - sum(was.memory.not_recorded.values())
    if told.memory.recorded == was.memory.recorded:
        check("not_recorded", lost, 0, "number of answers that were not recorded, while no other was,")
    check("queue", told.requests.waiting, config.waiting_max, "number of questions that wait")
    if answered + failed >= ANSWERS_MIN:
        check("error_rate", failed / (answered + failed), config.error_rate_max, "part of questions that failed")
    if made >= ANSWERS_MIN:
        check("refused_rate", refused / made, config.refused_rate_max, "part of calls that were turned away")
    if usual is not None:
        if usual.entropy and told.requests.entropy is not None:
            ratio = told.requests.entropy / usual.entropy
            check("entropy", ratio, config.entropy_ratio_min, "entropy against what was usual", below=True)
        if usual.operations and answered >= ANSWERS_MIN:
            calls = sum(told.requests.operations.values()) - sum(was.requests.operations.values())
            ratio = calls / answered / usual.operations
            what = "operations per answer against what was usual"
            check("operation_use", ratio, config.operation_ratio_min, what, below=True)
    return found


class Watch:
    """Looks at an engine and its door every few seconds, remembers what it saw, and tells what should be looked at.

    `clock` gives seconds of a clock that never goes back; `show` is told which alerts fire after every look.
    """

    def __init__(
        self,
        config: AlertsConfig,
        statistics: Callable[[], Statistics],
        calls: Callable[[], Calls],
        logger: StructuredLogger,
        show: Callable[[Mapping[AlertName, Alert]], None],
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._statistics = statistics
        self._calls = calls
        self._logger = logger
        self._show = show
        self._clock = clock
        self._webhook = Webhook(config.webhook, logger) if config.webhook is not None else None
        self._usual: Usual | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.history: deque[Look] = deque(maxlen=HISTORY_MAX)
        self.firing: dict[AlertName, Alert] = {}

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
        if self._webhook is not None:
            self._webhook.close()

    def look(self) -> None:
        """One look. What begins and what ends is told."""
        now = Look(self._clock(), self._statistics(), self._calls())
        before = next((look for look in self.history if look.at >= now.at - WINDOW_S), now)
        requests = now.statistics.requests
        if self._usual is None and requests.answered >= BASELINE_ANSWERS:
            self._usual = Usual(requests.entropy, sum(requests.operations.values()) / requests.answered)
        found = {alert.name: alert for alert in alerts_of(self._config, before, now, self._usual)}
        self.history.append(now)
        begun = [alert for name, alert in found.items() if name not in self.firing]
        ended = [alert for name, alert in self.firing.items() if name not in found]
        self.firing = found
        self._show(found)
        for alert in begun:
            self._tell(alert, "firing")
        for alert in ended:
            self._tell(alert, "resolved")

    def _run(self) -> None:
        while not self._stop.wait(self._config.every_s):
            try:
                self.look()
            except Exception as error:  # the thread is the boundary: a look that fails must not be the last
                with contextlib.suppress(OSError):  # the disk of the log may be what is wrong
                    self._logger.warn("watch_failed", f"the engine could not be looked at: {whereabouts(error)}")

    def _tell(self, alert: Alert, state: Literal["firing", "resolved"]) -> None:
        figures = {"alert": alert.name, "state": state, "value": alert.value, "threshold": alert.threshold}
        if self._webhook is not None:
            self._webhook.post(alert.name, {**figures, "message": alert.message, "run_id": self._logger.run_id})
        if state == "firing":
            self._logger.warn("alert", alert.message, **figures)
        else:
            self._logger.info("alert", f"{alert.name}: is over", **figures)


__all__ = [
    "ANSWERS_MIN",
    "BASELINE_ANSWERS",
    "CLOSE_S",
    "HISTORY_MAX",
    "WINDOW_S",
    "Alert",
    "AlertName",
    "AlertsConfig",
    "Calls",
    "Look",
    "Usual",
    "Watch",
    "alerts_of",
]
