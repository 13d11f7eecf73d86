"""Alerts: what passes a threshold, told once when it begins and once when it ends, to log, metrics and webhook."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from share.kernel.config import validate
from share.kernel.errors import ConfigError
from share.kernel.events import StructuredLogger
from share.kernel.online.alerts import (
    ANSWERS_MIN,
    BASELINE_ANSWERS,
    HISTORY_MAX,
    Alert,
    AlertName,
    AlertsConfig,
    Calls,
    Look,
    Usual,
    Watch,
    alerts_of,
)
from share.kernel.online.metrics import Metrics
from share.kernel.online.site import charts
from share.kernel.online.webhook import KEPT_S, WAITING_MAX
from share.kernel.online.webhook import Webhook as Posts
from share.kernel.registry import Registry
from share.kernel.serving.statistics import (
    EvidenceStatistics,
    ExpertStatistics,
    LearningState,
    LearningStatistics,
    MemoryStatistics,
    Quantiles,
    ReleaseStatistics,
    RequestStatistics,
    Statistics,
)
from share.kernel.serving.update_task import Counters, UpdateResult
from share.kernel.transport.memory import SharedMemoryStatus
from share.kernel.transport.supervisor import SupervisorStatus, WorkerState
from tests.online.running import Service, start
from tests.online.webhook import Babbling, Webhook

CONFIG = AlertsConfig()


def told(
    answered: int = 0,
    *,
    failed: int = 0,
    waiting: int = 0,
    operations: int = 0,
    entropy: float | None = None,
    confirmed: int = 0,
    kl: float | None = None,
    quarantined: int | None = None,
    state: LearningState = "on",
    recorded: int = 0,
    not_recorded: int = 0,
) -> Statistics:
    """What an engine says of itself."""
    last = UpdateResult(outcome="learned", parent="frozen", mode="adapted", kl_frozen=kl, beta=0.1, counters=Counters())
    return Statistics(
        started_at=0.0,
        behind=0,
        requests=RequestStatistics(
            answered, failed, 0, waiting, {"frozen": answered}, entropy, {"ZOOM_IN": operations},
            {"total": Quantiles(answered, 10.0, 20.0, 30.0)},
        ),
        memory=MemoryStatistics(0, {}, recorded, {"BufferFull": not_recorded}, 0.0, {}),
        evidence=EvidenceStatistics(0, {"frozen": ExpertStatistics(1.0, 0, 0)}, {}, None, None),
        learning=LearningStatistics(
            state, confirmed, confirmed, {}, {}, {}, last if kl is not None else None,
            worker_with(quarantined) if quarantined is not None else None,
        ),
        releases=ReleaseStatistics("frozen", (), 0, 0, 0, 0, 0),
        reviews={},
        feedback={},
        erasures=0,
        troubles={},
    )  # fmt: skip


def worker_with(quarantined: int) -> SupervisorStatus:
    return SupervisorStatus(
        state=WorkerState.READY,
        generation=1,
        version=None,
        pid=None,
        standby_pid=None,
        nursery_pid=None,
        tasks_on_their_way=0,
        tasks_confirmed=0,
        deaths=2 * quarantined,
        last_death=None,
        quarantined={f"review-{number}": "2 workers died over it" for number in range(quarantined)},
        memory=SharedMemoryStatus(**{each.name: 0 for each in fields(SharedMemoryStatus)}),
    )


NOBODY = Calls(0, 0)


def names(now: Statistics, usual: Usual | None = None, calls: Calls = NOBODY) -> list[AlertName]:
    return [alert.name for alert in alerts_of(CONFIG, Look(0.0, told(), NOBODY), Look(60.0, now, calls), usual)]


@pytest.mark.parametrize(
    ("quiet", "loud", "name"),
    [
        (told(kl=0.2), told(kl=0.21), "kl"),
        (told(confirmed=240), told(confirmed=241), "update_rate"),
        (told(waiting=12), told(waiting=13), "queue"),
        (told(95, failed=5), told(94, failed=6), "error_rate"),
        (told(0, failed=19), told(0, failed=20), "error_rate"),
        (told(quarantined=0), told(quarantined=1), "quarantine"),
        (told(state="off"), told(state="suspended"), "suspended"),
        (told(state="no_worker"), told(state="no_audit_log"), "audit_log"),
        (told(recorded=1, not_recorded=9), told(recorded=0, not_recorded=1), "not_recorded"),
    ],
)
def test_a_threshold_is_passed_or_is_not(quiet: Statistics, loud: Statistics, name: AlertName) -> None:
    assert names(quiet) == []
    assert names(loud) == [name]


@pytest.mark.parametrize(("quiet", "loud"), [(Calls(100, 20), Calls(100, 21)), (Calls(19, 19), Calls(20, 20))])
def test_more_are_turned_away_at_the_door_than_may_be(quiet: Calls, loud: Calls) -> None:
    assert names(told(), calls=quiet) == []
    assert names(told(), calls=loud) == ["refused_rate"]


def test_of_the_calls_only_those_of_the_interface_count_and_as_refused_only_those_at_the_door() -> None:
    metrics = Metrics(told)
    for route, status, times in (
        ("/v1/chat/completions", "200", 5),
        ("/v1/chat/completions", "429", 4),
        ("/v1/feedback", "401", 3),
        ("/v1/reviews/lease", "503", 2),
        ("/v1/feedback", "422", 1),
        ("/health/ready", "503", 7),
        ("/login", "401", 7),
        ("(none)", "404", 7),
    ):
        metrics.calls.labels("POST", route, status).inc(times)
    assert metrics.at_the_door() == Calls(made=15, refused=9)
    lines = metrics.text().decode().splitlines()
    assert 'pixelis_door_total{result="let_in"} 6.0' in lines
    assert 'pixelis_door_total{result="refused"} 9.0' in lines


def test_a_service_that_is_asked_with_a_wrong_key_says_so_where_an_operator_looks(tmp_path: Path) -> None:
    service = start(tmp_path, "read_only=true")
    try:
        service.make_keys()
        num_refused = 0
        while 'pixelis_alert{alert="refused_rate"} 1.0' not in metrics_of(service):
            assert service.call("GET", "/v1/models", key="pixelis-k0-guessed").status == 401
            num_refused += 1
            time.sleep(0.02)
        assert num_refused >= ANSWERS_MIN
        assert f'pixelis_door_total{{result="refused"}} {num_refused}.0' in metrics_of(service)
        seen = service.call("GET", "/", headers={"Cookie": f"pixelis_key={service.keys['viewer']}"})
        assert b"part of calls that were turned away is" in seen.body
    finally:
        assert service.stop() == 0, service.said
    assert "part of calls that were turned away is" in service.said


def metrics_of(service: Service) -> list[str]:
    return service.call("GET", "/metrics", key=service.keys["viewer"]).body.decode().splitlines()


def test_a_policy_that_became_sure_or_stopped_to_look_is_measured_against_what_was_usual() -> None:
    usual = Usual(entropy=0.5, operations=1.0)
    assert names(told(100, entropy=0.2, operations=30), usual=usual) == []
    assert names(told(100, entropy=0.19, operations=29), usual=usual) == ["entropy", "operation_use"]
    assert names(told(100, entropy=0.0, operations=0)) == [], "nothing is usual yet"
    assert names(told(19, entropy=0.5, operations=0), usual=usual) == [], "too few answers to say"
    assert names(told(100, entropy=0.0, operations=0), usual=Usual(0.0, 0.0)) == [], "it never was otherwise"


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class Stream:
    """An engine and a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.statistics = told()

    def clock(self) -> float:
        return self.now

    def look(self, watch: Watch, statistics: Statistics) -> None:
        self.now += 5.0
        self.statistics = statistics
        watch.look()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    listening = Webhook()
    yield listening
    listening.close()


def test_an_alert_is_told_when_it_begins_and_when_it_ends(webhook: Webhook, tmp_path: Path) -> None:
    stream, shown = Stream(), list[Mapping[AlertName, Alert]]()
    logger = StructuredLogger(tmp_path / "events.jsonl", run_id="r-1", backend="pixelis")
    config = with_webhook(webhook.address)
    watch = Watch(config, lambda: stream.statistics, lambda: NOBODY, logger, shown.append, stream.clock)
    for waiting in (0, 13, 70, 12):
        stream.look(watch, told(waiting=waiting))
    watch.close()
    logger.close()
    assert [(each["alert"], each["state"], each["value"]) for each in webhook.received] == [
        ("queue", "firing", 13),
        ("queue", "resolved", 70),
    ]
    assert [list(each) for each in shown] == [[], ["queue"], ["queue"], []]
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(each["level"], each["event"], each["state"]) for each in events] == [
        ("warn", "alert", "firing"),
        ("info", "alert", "resolved"),
    ]


def test_a_webhook_that_is_gone_is_logged_and_harms_nothing(tmp_path: Path) -> None:
    stream = Stream()
    logger = StructuredLogger(tmp_path / "events.jsonl", run_id="r-1", backend="pixelis")
    config = with_webhook("http://127.0.0.1:9/")
    watch = Watch(config, lambda: stream.statistics, lambda: NOBODY, logger, lambda _: None, stream.clock)
    stream.look(watch, told())
    stream.look(watch, told(waiting=1000))
    watch.close()
    logger.close()
    assert '"webhook_given_up"' in (tmp_path / "events.jsonl").read_text()
    assert list(watch.firing) == ["queue"]


def test_rates_are_those_of_the_last_minute_and_history_is_bounded(tmp_path: Path) -> None:
    stream = Stream()
    logger = StructuredLogger(None, run_id="", backend="")
    watch = Watch(CONFIG, lambda: stream.statistics, lambda: NOBODY, logger, lambda _: None, stream.clock)
    for number in range(HISTORY_MAX + 20):
        stream.look(watch, told(100 * number, failed=10 * min(number, 20), operations=100 * number, entropy=0.5))
        assert ("error_rate" in watch.firing) == (0 < number < 26), number
    assert len(watch.history) == HISTORY_MAX
    stream.look(watch, told(100_000, failed=200, operations=36_000, entropy=0.1))
    assert set(watch.firing) == {"entropy", "operation_use"}
    assert watch.history[0].statistics.requests.answered > BASELINE_ANSWERS
    assert [title for title, _, _ in charts(list(watch.history))] == ["latency", "weight of the experts"]


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "example.org/alerts",
        "http://",
        "https://:443/",
        "http://a b/",
        "http://[::1/",
        "https://x:notaport/",
        "https://x:0/",
        "https://x:65536/",
        "https://x/\r\nX: y",
        "https://ä/",
    ],
)
def test_a_webhook_must_be_an_address(registry: Registry, address: str) -> None:
    with pytest.raises(ConfigError, match=r"webhook: must begin with http:// or https:// and name a host"):
        validate(AlertsConfig, {"webhook": address}, registry)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/", "https://user:word@example.org/x?key=y", "http://[::1]:8080"]
)
def test_any_address_of_a_server_may_be_a_webhook(registry: Registry, address: str) -> None:
    assert validate(AlertsConfig, {"webhook": address}, registry).webhook == address


NONSENSE = {
    "no HTTP": b"hello, I am no server of web pages\r\n\r\n",
    "half an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf",
    "a status that is none": b"HTTP/1.1 abc OK\r\n\r\n",
    "nothing": b"",
    "an error": b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n",
    "a way to nowhere": b"HTTP/1.1 307 There\r\nLocation: http://[nowhere\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("name", NONSENSE)
def test_whatever_a_webhook_answers_the_engine_is_looked_at_further(tmp_path: Path, name: str) -> None:
    listening = Babbling(NONSENSE[name])
    statistics = [told()]
    logger = StructuredLogger(tmp_path / "events.jsonl", run_id="r-1", backend="pixelis")
    config = with_webhook(listening.address).model_copy(update={"every_s": 0.01})
    watch = Watch(config, lambda: statistics[0], lambda: NOBODY, logger, lambda _: None, time.monotonic)
    watch.start()
    statistics[0] = told(waiting=1000)
    until(lambda: listening.num_asked > 0 and "queue" in watch.firing)
    statistics[0] = told()
    until(lambda: not watch.firing)
    watch.close()
    listening.close()
    logger.close()
    written = (tmp_path / "events.jsonl").read_text()
    assert "watch_failed" not in written
    assert "hello" not in written, "what a stranger's server says is not repeated"


def test_an_engine_that_cannot_be_looked_at_once_is_looked_at_again_also_on_a_full_disk() -> None:
    looks = []

    def broken() -> Statistics:
        looks.append(None)
        raise ZeroDivisionError

    logger = StructuredLogger(Path("/dev/full"), run_id="r-1", backend="pixelis")
    config = CONFIG.model_copy(update={"every_s": 0.01})
    watch = Watch(config, broken, lambda: NOBODY, logger, lambda _: None, time.monotonic)
    watch.start()
    until(lambda: len(looks) > 3)
    watch.close()


def test_what_a_webhook_did_not_take_is_posted_again_until_it_is_in_its_order(webhook: Webhook, tmp_path: Path) -> None:
    webhook.statuses += [503, 500, 404]
    logger = StructuredLogger(tmp_path / "events.jsonl", run_id="r-1", backend="pixelis")
    posts = Posts(webhook.address, logger, again_s=0.01)
    for number in range(3):
        posts.post("queue", {"number": number})
    until(lambda: len(webhook.received) == 6)
    posts.close()
    logger.close()
    assert [each["number"] for each in webhook.received] == [0, 0, 0, 0, 1, 2]
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [each["message"].partition(": queue: ")[2] for each in events] == [
        "was answered 503; it is posted again in 0.01 s",
        "was answered 500; it is posted again in 0.02 s",
        "was answered 404; it is posted again in 0.04 s",
    ]


def test_what_waits_for_a_webhook_is_bounded_in_number_and_in_time(tmp_path: Path) -> None:
    listening, now = Babbling(b""), [0.0]
    logger = StructuredLogger(tmp_path / "events.jsonl", run_id="r-1", backend="pixelis")
    posts = Posts(listening.address, logger, again_s=0.01, clock=lambda: now[0])
    for number in range(WAITING_MAX + 3):
        posts.post(f"n{number}", {})
    events = tmp_path / "events.jsonl"
    until(lambda: "webhook_failed" in events.read_text())
    assert [f"n{number}: is not posted any more: 64 later" in events.read_text() for number in range(4)] == [
        True, True, True, False
    ]  # fmt: skip
    now[0] = KEPT_S + 1
    until(lambda: events.read_text().count("webhook_given_up") == WAITING_MAX + 3)
    posts.close()
    logger.close()
    listening.close()


def with_webhook(address: str) -> AlertsConfig:
    return CONFIG.model_copy(update={"webhook": address})
