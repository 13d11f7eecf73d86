"""What an engine says of itself, sent to the trackers that trainings use: TensorBoard, Weights & Biases."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping

from share.kernel.events import StructuredLogger, whereabouts
from share.kernel.report.trackers import Tracking
from share.kernel.serving.statistics import Statistics

BUFFER = ("experiences", "log_bytes", "add_ms_p99", "search_ms_p99", "recall")
"""What is tracked of the experience buffer's metrics."""


def figures_of(told: Statistics) -> dict[str, float]:
    """The numbers among it that are known, by the names that they have in the trackers. A pure function."""
    requests, learning, releases, last = told.requests, told.learning, told.releases, told.learning.last
    found: dict[str, float | None] = {
        "requests/answered": requests.answered,
        "requests/failed": requests.failed,
        "requests/waiting": requests.waiting,
        "requests/entropy_nats": requests.entropy,
        "memory/recorded": told.memory.recorded,
        "memory/trust": told.memory.trust,
        "evidence/audits": told.evidence.audits,
        "evidence/calibration_error": told.evidence.calibration_error,
        "updates/sent": learning.sent,
        "updates/confirmed": learning.confirmed,
        "updates/kl_frozen": last.kl_frozen if last is not None else None,
        "updates/kl_served": last.kl_served if last is not None else None,
        "updates/beta": last.beta if last is not None else None,
        "updates/reward": last.reward if last is not None else None,
        "updates/label_accuracy": last.label_accuracy if last is not None else None,
        "updates/reward_accuracy": last.reward_accuracy if last is not None else None,
        "updates/majority_ratio": last.majority_ratio if last is not None else None,
        "worker/deaths": learning.worker.deaths if learning.worker is not None else None,
        "releases/qualified": releases.qualified,
        "releases/refused": releases.refused,
        "releases/published": releases.published,
        "releases/rollbacks": releases.rollbacks,
        "releases/resets": releases.resets,
    }
    for expert, each in told.evidence.experts.items():
        found |= {f"accuracy/{expert}": each.accuracy, f"weight/{expert}": each.weight}
        found[f"answers/{expert}"] = requests.by_expert.get(expert, 0)
    for step, quantiles in requests.latency.items():
        found |= {f"latency/{step}_p50_ms": quantiles.p50_ms, f"latency/{step}_p99_ms": quantiles.p99_ms}
    for name in BUFFER:
        value = told.memory.buffer.get(name)
        found[f"buffer/{name}"] = float(value) if isinstance(value, int | float) else None
    counted: dict[str, Mapping[str, int]] = {
        "gate": learning.gate,
        "outcomes": learning.outcomes,
        "operations": requests.operations,
        "reviews": told.reviews,
    }
    for group, counts in counted.items():
        found |= {f"{group}/{name}": count for name, count in counts.items()}
    return {name: float(value) for name, value in found.items() if value is not None}


class Tracker:
    """Tracks an engine every few seconds, by whole seconds since the start, until it is closed; then once more.

    `tracking` is whoever's made it, and stays open."""

    def __init__(
        self, tracking: Tracking, statistics: Callable[[], Statistics], logger: StructuredLogger, *, every_s: float
    ) -> None:
        self._tracking = tracking
        self._statistics = statistics
        self._logger = logger
        self._every_s = every_s
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stop.wait(self._every_s)
            try:
                self._tracking.log(int(time.monotonic() - self._began), figures_of(self._statistics()))
            except Exception as error:  # the thread is the boundary: a tracker's program has errors of its own
                with contextlib.suppress(OSError):  # the disk of the log may be what is full
                    self._logger.warn("not_tracked", f"the trackers could not be told: {whereabouts(error)}")


__all__ = ["BUFFER", "Tracker", "figures_of"]
