"""What an engine says of itself, all at one moment: the figures of its pages, metrics and alerts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from share.kernel.adaptation.calibration import Calibration
from share.kernel.contracts.run import Metric
from share.kernel.contracts.serving import Expert
from share.kernel.serving.update_task import UpdateResult
from share.kernel.transport.supervisor import SupervisorStatus

LearningState = Literal["on", "off", "suspended", "no_worker", "no_audit_log"]
"""Whether updates are sent: an operator has turned them off, workers died too often, there is no worker, or changes
cannot be written to the audit log."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of the last few thousand durations, in milliseconds; None before the first."""

    count: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class RequestStatistics:
    """Requests since the start; `dropped` are those for whose answer nobody waited any more. `entropy` is the mean over
    the last few thousand answers in nats, `operations` how often each was called, `latency` by step (`queue`,
    `predict`, `consult`, `total`)."""

    answered: int
    failed: int
    read_only: int
    waiting: int
    by_expert: Mapping[Expert, int]
    entropy: float | None
    operations: Mapping[str, int]
    latency: Mapping[str, Quantiles]
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class MemoryStatistics:
    """Consultations of the memory, and what was recorded. `trust` in [0, 1) is how much its say counts by its size.

    `policy_only` counts answers without it by reason, `not_recorded` likewise.
    """

    consulted: int
    policy_only: Mapping[str, int]
    recorded: int
    not_recorded: Mapping[str, int]
    trust: float
    buffer: Mapping[str, Metric]


@dataclass(frozen=True, slots=True)
class ExpertStatistics:
    """An expert on audited items: `weight` of its say, and of the window's items how many it answered, and rightly."""

    weight: float
    audited: int
    right: int

    @property
    def accuracy(self) -> float | None:
        return self.right / self.audited if self.audited else None


@dataclass(frozen=True, slots=True)
class EvidenceStatistics:
    """What audited items say. `audits` counts all that ever moved the weights; calibration errors are over the window,
    of confidences as the experts stated them and as they were given out; None before the first audit."""

    audits: int
    experts: Mapping[Expert, ExpertStatistics]
    calibrations: Mapping[str, Calibration]
    calibration_error_raw: float | None
    calibration_error: float | None


@dataclass(frozen=True, slots=True)
class LearningStatistics:
    """Updates since the start. `outcomes` counts what the worker made of them, `not_sent` and `gate` by reason; `last`
    is what the last update said of itself (divergences, beta, the worker's mode and counters), None before the first;
    `worker` is None where there is none."""

    state: LearningState
    sent: int
    confirmed: int
    outcomes: Mapping[str, int]
    not_sent: Mapping[str, int]
    gate: Mapping[str, int]
    last: UpdateResult | None
    worker: SupervisorStatus | None


@dataclass(frozen=True, slots=True)
class ReleaseStatistics:
    """Versions: the one that serves, those that can be rolled back to at once, and what was done since the start."""

    live: str
    kept: tuple[str, ...]
    qualified: int
    refused: int
    published: int
    rollbacks: int
    resets: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """All of it; `started_at` in seconds since 1970, `behind` what waits to be recorded and done behind the answers.

    `reviews` as `ReviewQueue.counts`; `feedback` of clients (`right`, `wrong`); `troubles` counts by part and reason.
    """

    started_at: float
    behind: int
    requests: RequestStatistics
    memory: MemoryStatistics
    evidence: EvidenceStatistics
    learning: LearningStatistics
    releases: ReleaseStatistics
    reviews: Mapping[str, int]
    feedback: Mapping[str, int]
    erasures: int
    troubles: Mapping[str, Mapping[str, int]]


__all__ = [
    "EvidenceStatistics",
    "ExpertStatistics",
    "LearningState",
    "LearningStatistics",
    "MemoryStatistics",
    "Quantiles",
    "ReleaseStatistics",
    "RequestStatistics",
    "Statistics",
]
