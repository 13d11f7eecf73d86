"""Metrics for Prometheus, in the shapes that vLLM's have, with the prefix `pixelis_`.

What happens at the door is counted here as it happens; what the engine knows is asked of it when it is scraped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from share.kernel.contracts.serving import Reply
from share.kernel.online.alerts import Alert, AlertName, Calls
from share.kernel.serving.statistics import Statistics

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
Name = TypeVar("Name", bound=str)

_INTERFACE, _REFUSED = "/v1/", ("401", "429", "503")
"""Whose calls are counted as made, and which of them as turned away at the door."""

_UNKNOWN = "(none)"
"""The route of a call that no route is for: a path that a caller made up must not become a label."""


class Metrics:
    """The metrics of one service. Thread-safe. `num_open` questions were taken and are not yet answered."""

    def __init__(self, statistics: Callable[[], Statistics]) -> None:
        self._registry = registry = CollectorRegistry()
        called = ["method", "route", "status"]
        self.calls = Counter("pixelis_http_requests", "Calls by route and status.", called, registry=registry)
        self.latency = _histogram("pixelis_e2e_request_latency_seconds", "From admission to the answer.", registry)
        self.queued = _histogram("pixelis_request_queue_time_seconds", "Waiting for a batch.", registry)
        self.predicted = _histogram("pixelis_request_predict_time_seconds", "In the policy.", registry)
        self.prompt_tokens = Counter("pixelis_prompt_tokens", "Tokens of prompts.", registry=registry)
        self.generation_tokens = Counter("pixelis_generation_tokens", "Tokens of completions.", registry=registry)
        ended = ["finished_reason"]
        self.answers = Counter("pixelis_request_success", "Answers by how they ended.", ended, registry=registry)
        self._alerts = Gauge("pixelis_alert", "1 while the alert fires.", ["alert"], registry=registry)
        self._lock = threading.Lock()
        self.num_open = 0
        registry.register(_OfEngine(statistics, self.at_the_door, lambda: self.num_open))

    def begun(self, future: Future[Reply]) -> None:
        """A question was taken; what becomes of it is counted."""
        with self._lock:
            self.num_open += 1
        future.add_done_callback(self._ended)

    def at_the_door(self) -> Calls:
        """How many called and were turned away. Summed up when it is asked: who is turned away waits for no sum."""
        made = refused = 0
        for sample in (sample for family in self.calls.collect() for sample in family.samples):
            if sample.name.endswith("_total") and sample.labels["route"].startswith(_INTERFACE):
                made += int(sample.value)
                refused += int(sample.value) if sample.labels["status"] in _REFUSED else 0
        return Calls(made, refused)

    def show(self, firing: Mapping[AlertName, Alert]) -> None:
        """Which alerts fire now."""
        for name in get_args(AlertName):
            self._alerts.labels(name).set(float(name in firing))

    def text(self) -> bytes:
        """All of them, in Prometheus's text format."""
        return generate_latest(self._registry)

    def _ended(self, future: Future[Reply]) -> None:
        with self._lock:
            self.num_open -= 1
        if future.cancelled() or future.exception() is not None:
            return
        reply = future.result()
        steps = reply.elapsed_ms
        for histogram, step in ((self.latency, "total"), (self.queued, "queue"), (self.predicted, "predict")):
            if step in steps:
                histogram.observe(steps[step] / 1000)
        self.prompt_tokens.inc(reply.prompt_tokens)
        self.generation_tokens.inc(reply.completion_tokens)
        self.answers.labels(reply.trajectory.finish).inc()


class Counted:
    """ASGI middleware that counts every call by its route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", _UNKNOWN)
            method = scope["method"] if route != _UNKNOWN else _UNKNOWN
            self._metrics.calls.labels(method, route, str(status)).inc()


class _OfEngine(Collector):
    """What an engine says of itself, when it is asked."""

    def __init__(
        self, statistics: Callable[[], Statistics], at_the_door: Callable[[], Calls], num_open: Callable[[], int]
    ) -> None:
        self._statistics = statistics
        self._at_the_door = at_the_door
        self._num_open = num_open

    def describe(self) -> Iterable[Metric]:
        """Nothing: asking the engine before it is scraped is not needed."""
        return ()

    def collect(self) -> Iterator[Metric]:
        told = self._statistics()
        requests, learning, releases, evidence = told.requests, told.learning, told.releases, told.evidence
        waiting = requests.waiting
        running = max(0, self._num_open() - waiting)
        yield GaugeMetricFamily("pixelis_num_requests_running", "Questions that are being answered.", running)
        yield GaugeMetricFamily("pixelis_num_requests_waiting", "Questions that wait for a batch.", waiting)
        calls = self._at_the_door()
        by_result = {"let_in": calls.made - calls.refused, "refused": calls.refused}
        yield _counters("pixelis_door", "Calls of /v1/… by whether they were turned away.", "result", by_result)
        yield _counter("pixelis_failed_requests", "Questions that failed.", requests.failed)
        yield _counter("pixelis_dropped_requests", "Questions whose client went away.", requests.dropped)
        yield _counters("pixelis_answers", "Answers by whose it is.", "expert", requests.by_expert)
        yield _counters("pixelis_operations", "Operations called.", "operation", requests.operations)
        yield from _known("pixelis_answer_entropy_nats", "Mean entropy of recent answers.", requests.entropy)
        yield GaugeMetricFamily("pixelis_memory_trust", "How far the memory counts, by its size.", told.memory.trust)
        yield _counter("pixelis_recorded_experiences", "Experiences recorded.", told.memory.recorded)
        yield _gauges("pixelis_buffer", "The experience buffer.", "figure", _numbers(told.memory.buffer))
        yield _gauges(
            "pixelis_expert_weight",
            "Weight of each expert.",
            "expert",
            {name: expert.weight for name, expert in evidence.experts.items()},
        )
        yield _gauges(
            "pixelis_expert_accuracy",
            "Accuracy on recent audited items.",
            "expert",
            {name: expert.accuracy for name, expert in evidence.experts.items() if expert.accuracy is not None},
        )
        yield _counter("pixelis_audits", "Audited items that moved the weights.", evidence.audits)
        yield from _known("pixelis_calibration_error", "Expected calibration error.", evidence.calibration_error)
        yield _counters(
            "pixelis_updates", "Updates.", "result", {"sent": learning.sent, "confirmed": learning.confirmed}
        )
        yield _counters("pixelis_gate_decisions", "What the gate decided.", "decision", learning.gate)
        yield _gauges("pixelis_learning", "1 for the state that learning is in.", "state", {learning.state: 1})
        if learning.worker is not None:
            quarantined = len(learning.worker.quarantined)
            yield GaugeMetricFamily("pixelis_quarantined_updates", "Updates that workers died over.", quarantined)
        yield _counters("pixelis_update_outcomes", "Updates by what came of them.", "outcome", learning.outcomes)
        if learning.last is not None:
            last = learning.last
            yield from _known("pixelis_kl_nats_per_token", "Divergence from the frozen policy.", last.kl_frozen)
            yield GaugeMetricFamily("pixelis_kl_coefficient", "Coefficient of the divergence.", last.beta)
            yield from _known("pixelis_label_accuracy", "Majorities of samples that are right.", last.label_accuracy)
            yield from _known("pixelis_reward_accuracy", "Samples rewarded as the truth does.", last.reward_accuracy)
            yield from _known("pixelis_majority_ratio", "Samples that agree with their majority.", last.majority_ratio)
        yield _counters(
            "pixelis_candidates",
            "Candidates by what became of them.",
            "result",
            {"qualified": releases.qualified, "refused": releases.refused, "published": releases.published},
        )
        yield _counter("pixelis_rollbacks", "Rollbacks.", releases.rollbacks)
        yield _counter("pixelis_resets", "Resets to the frozen policy.", releases.resets)
        yield _gauges("pixelis_reviews", "Review tasks by state.", "state", told.reviews)
        yield _counters("pixelis_feedback", "What clients said of answers.", "said", told.feedback)
        troubles = {f"{part}:{why}": count for part, whys in told.troubles.items() for why, count in whys.items()}
        yield _counters("pixelis_troubles", "What went wrong behind the answers.", "trouble", troubles)
        yield GaugeMetricFamily("pixelis_behind", "What waits to be recorded behind the answers.", told.behind)
        yield GaugeMetricFamily("pixelis_uptime_seconds", "Since the engine started.", time.time() - told.started_at)


def _histogram(name: str, what: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, what, buckets=LATENCY_BUCKETS_S, registry=registry)


def _counter(name: str, what: str, value: float) -> Metric:
    return CounterMetricFamily(name, what, value)


def _counters(name: str, what: str, label: str, values: Mapping[Name, float]) -> Metric:
    family = CounterMetricFamily(name, what, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _gauges(name: str, what: str, label: str, values: Mapping[Name, float]) -> Metric:
    family = GaugeMetricFamily(name, what, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _known(name: str, what: str, value: float | None) -> Iterator[Metric]:
    """A gauge that is left out while there is nothing to say."""
    if value is not None:
        yield GaugeMetricFamily(name, what, value)


def _numbers(values: Mapping[str, object]) -> dict[str, float]:
    return {key: value for key, value in values.items() if isinstance(value, int | float)}


__all__ = ["LATENCY_BUCKETS_S", "Counted", "Metrics"]
