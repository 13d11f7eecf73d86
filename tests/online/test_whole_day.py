"""A service as its operators know it: an approved answer is learned from, somebody is told, and then it is stopped."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from share.kernel.__main__ import main
from share.kernel.registry import Registry
from share.kernel.transport.ledger import Ledger
from tests.online.running import Answer, Service, question, start
from tests.online.webhook import Webhook

PATIENCE_S = 300.0


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    listening = Webhook()
    yield listening
    listening.close()


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory, webhook: Webhook) -> Iterator[Service]:
    """It learns, everything is audited, and a single update is already one to be told of."""
    running = start(
        tmp_path_factory.mktemp("learner"),
        "engine.review.audit_share=1.0",
        "update.rollout.group_size=4",
        "update.rollout.tokens_max=64",
        "update.prompts_min=2",
        "update.qualify.anchors=4",
        "update.qualify.loss_max=1.0",
        "transport.scheduling=normal",
        "alerts.updates_per_minute_max=0.001",
        f"alerts.webhook={webhook.address}",
    )
    try:
        running.make_keys()
        yield running
    finally:
        assert running.stop() == 0, running.said


def figures(service: Service) -> dict[tuple[str, str], float]:
    """What Prometheus's own parser reads at /metrics: (name, value of the first label) to value."""
    text = service.call("GET", "/metrics", key=service.keys["viewer"])
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(text.body.decode()))
    assert len({family.name for family in families}) == len(families) > 30
    assert all(family.type != "unknown" and family.documentation for family in families)
    samples = [sample for family in families for sample in family.samples]
    told = {(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples}
    assert len(told) == len(samples), "no series is told twice"
    return {(sample.name, next(iter(sample.labels.values()), "")): sample.value for sample in samples}


def statistics(service: Service) -> Any:
    return service.call("GET", "/v1/statistics", key=service.keys["viewer"]).json


def asked(service: Service, registry: Registry, number: int) -> str:
    """Ask, and wait until it waits for review; the id of both."""
    messages, _ = question(registry, number)
    body = {"model": "pixelis", "messages": messages}
    answer = service.call("POST", "/v1/chat/completions", body, key=service.keys["client"])
    trace_id: str = answer.json["pixelis"]["trace_id"]
    deadline = time.monotonic() + PATIENCE_S
    while service.call("GET", f"/v1/reviews/{trace_id}", key=service.keys["admin"]).status == 404:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return trace_id


def decide(service: Service, task_id: str, key: str, **verdict: object) -> Answer:
    return service.call("POST", f"/v1/reviews/{task_id}/decision", verdict, key=key)


def test_reviewers_do_not_get_in_each_others_way(learner: Service, registry: Registry) -> None:
    learner.call("PUT", "/v1/admin/learning", {"on": False}, key=learner.keys["operator"])
    anna = learner.keys["reviewer"]
    bert = learner.call("POST", "/v1/admin/keys", {"role": "reviewer"}, key=learner.keys["admin"]).json["key"]
    task_ids = {asked(learner, registry, number) for number in (1, 2)}
    leased = learner.call("POST", "/v1/reviews/lease", {"num_items": 5}, key=anna).json["reviews"]
    assert {item["task_id"] for item in leased} == task_ids
    assert all(item["leased_until"] > time.time() for item in leased)
    assert learner.call("POST", "/v1/reviews/lease", {"num_items": 5}, key=bert).json["reviews"] == []
    first, second = sorted(task_ids)
    held = decide(learner, first, bert, approved=True)
    assert (held.status, held.json["error"]["code"]) == (409, "review_conflict")
    assert decide(learner, first, anna, approved=False, notes="not that").json["repeated"] is False
    assert decide(learner, first, bert, approved=False).json["repeated"] is True, "the same again is no conflict"
    contrary = decide(learner, first, bert, approved=True)
    assert (contrary.status, contrary.json["error"]["code"]) == (409, "review_conflict")
    assert decide(learner, second, anna, approved=False).json["effect"] == "deferred", "learning is off"
    learner.call("PUT", "/v1/admin/learning", {"on": True}, key=learner.keys["operator"])
    settled(learner)


def settled(service: Service) -> None:
    """Wait until all that was decided has had its effect."""
    deadline = time.monotonic() + PATIENCE_S
    while statistics(service)["reviews"]["unsettled"]:
        assert time.monotonic() < deadline, statistics(service)
        time.sleep(0.1)


def test_an_approved_answer_makes_one_update_that_everybody_who_looks_is_told_of(
    learner: Service, registry: Registry, webhook: Webhook
) -> None:
    before = statistics(learner)["learning"]["confirmed"]
    task_id = asked(learner, registry, 3)
    said = [decide(learner, task_id, learner.keys["reviewer"], approved=True) for _ in range(3)]
    assert [(each.json["effect"], each.json["repeated"]) for each in said] == [
        ("update", False),
        ("update", True),
        ("update", True),
    ]
    settled(learner)
    told = statistics(learner)
    last = told["learning"]["last"]
    assert told["learning"]["confirmed"] == before + 1
    assert last["mode"] == ("frozen" if told["releases"]["live"] == "frozen" else "adapted")
    assert 1 <= last["counters"]["updates"] <= before + 1, "those that came together were one step"
    assert last["beta"] > 0.0
    assert last["kl_frozen"] is not None
    assert last["kl_served"] is not None
    deadline = time.monotonic() + PATIENCE_S
    while not webhook.received:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    alert = webhook.received[0]
    assert (alert["alert"], alert["state"], alert["threshold"]) == ("update_rate", "firing", 0.001)
    seen = figures(learner)
    assert seen["pixelis_alert", "update_rate"] == 1.0
    assert seen["pixelis_alert", "error_rate"] == 0.0
    assert seen["pixelis_updates_total", "confirmed"] == before + 1
    assert seen["pixelis_kl_coefficient", ""] == last["beta"]
    assert seen["pixelis_request_success_total", "answer"] >= 1.0
    assert b"update_rate" in learner.call("GET", "/", headers=cookie(learner, "viewer")).body


def cookie(service: Service, role: str) -> dict[str, str]:
    return {"Cookie": f"pixelis_key={service.keys[role]}"}


def test_who_is_still_sending_when_it_stops_is_told_to_come_back(learner: Service) -> None:
    address = urlsplit(learner.url)
    place = address.hostname or "", address.port or 0
    body = json.dumps({"model": "pixelis", "messages": [{"role": "user", "content": "What is it?"}]}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {learner.keys['client']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(place, timeout=60) as connection:
        connection.sendall(head.encode() + body[:10])
        learner.call("GET", "/health/live")  # what was sent before is being read by now
        learner.process.terminate()
        deadline = time.monotonic() + PATIENCE_S
        while is_listening(place):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        connection.sendall(body[10:])
        answer = connection.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 503 "), answer
    assert "\r\nretry-after: 1\r\n" in answer
    assert '"code":"stopping"' in answer
    assert learner.process.wait(PATIENCE_S) == 0


def is_listening(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=60).close()
    except ConnectionError:
        return False
    return True


def test_what_it_did_is_on_disk_once_and_sound(learner: Service, capsys: pytest.CaptureFixture[str]) -> None:
    learner.process.wait(PATIENCE_S)
    log: Path = learner.directory / "audit.log"
    assert main(["audit", "verify", str(log)]) == 0
    entries = [entry.task_id for entry in Ledger(learner.directory / "worker").entries()]
    assert len(entries) == len(set(entries)) == 3
    capsys.readouterr()
    content = log.read_bytes()
    log.write_bytes(content.replace(b'"approved"', b'"rejected"', 1))
    assert main(["audit", "verify", str(log)]) == 1
    log.write_bytes(content[: content.rindex(b"\n", 0, -1) + 1])
    assert main(["audit", "verify", str(log)]) == 1
