"""The whole way, as users go it: a service on the loopback, its worker, and the official client.

A person corrects an answer, what was learned of it is published, and when audited items have borne it out the answer is
another one; an operator rolls back, and it is the old one again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from share.kernel.adaptation.audit import entries, verify
from share.kernel.config import Choice
from share.kernel.data.checkers import canonical
from share.kernel.registry import Registry
from tests.online.running import Service, question, start

PATIENCE_S = 400.0
CORRECTIONS_MAX = 12
SETTINGS = (
    "engine.review.audit_share=1.0",
    "engine.gate.lr_max=0.01",
    "engine.gate.cold_start_threshold=1000000",  # the memory has no say here: what changes the answer is the weights
    "update.rollout.group_size=6",
    "update.rollout.tokens_max=64",
    "update.prompts_min=2",
    "update.qualify.anchors=4",
    "update.qualify.loss_max=1.0",  # of one question learned by heart, four anchors say little
    "transport.scheduling=normal",
    "admission.requests_per_s=100",
    "admission.burst=1000",
)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = start(tmp_path, *SETTINGS)
    try:
        running.make_keys()
        yield running
    finally:
        assert running.stop() == 0, running.said


def ask(service: Service, messages: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The answer, and what is said beside it."""
    done = service.client().chat.completions.create(model="pixelis", messages=messages)  # type: ignore[call-overload]
    return done.choices[0].message.content or "", done.model_extra["pixelis"]


def told(service: Service) -> Any:
    return service.call("GET", "/v1/statistics", key=service.keys["viewer"]).json


def correct(service: Service, trace_id: str, answer: str) -> None:
    """Reject an answer and say the right one; wait until what was learned of it is published, or dropped."""
    deadline = time.monotonic() + PATIENCE_S
    verdict = {"approved": False, "notes": "", "answer": answer}
    while (said := decide(service, trace_id, verdict)).status == 404:  # it is not recorded yet
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert said.status == 200, said.body
    while told(service)["reviews"]["unsettled"]:
        assert time.monotonic() < deadline, json.dumps(told(service), indent=2)
        time.sleep(0.1)


def decide(service: Service, trace_id: str, verdict: dict[str, Any]) -> Any:
    return service.call("POST", f"/v1/reviews/{trace_id}/decision", verdict, key=service.keys["reviewer"])


def missed(service: Service, registry: Registry) -> tuple[list[dict[str, Any]], str, str]:
    """A question that the starter answers wrongly, the right answer, and what it says instead."""
    task = registry.build(Choice("task", "zoom_digits"))
    for number in range(30):
        messages, _ = question(registry, number)
        answer, _ = ask(service, messages)
        right = task.prompt("held_out", number).answer
        if canonical(answer, "text") != canonical(right, "text") and answer:
            return messages, right, answer
    raise AssertionError("the starter misses nothing")


def test_a_corrected_answer_changes_when_what_was_learned_serves_and_back_on_rollback(
    service: Service, registry: Registry, tmp_path: Path
) -> None:
    messages, right, wrong = missed(service, registry)
    versions = set()
    for number in range(CORRECTIONS_MAX):
        answer, beside = ask(service, messages)
        if canonical(answer, "text") == canonical(right, "text"):
            break
        if number == 0:
            assert beside["policy_version"] == beside["expert"] == "frozen", "nobody has borne out another yet"
        correct(service, beside["trace_id"], right)  # samples differ from run to run: a first lesson may not be enough
        versions.add(told(service)["releases"]["live"])
    answer, beside = ask(service, messages)
    assert canonical(answer, "text") == canonical(right, "text"), told(service)
    assert beside["expert"] == "adapted"
    assert beside["policy_version"] in versions
    deadline = time.monotonic() + PATIENCE_S
    while (said := decide(service, beside["trace_id"], {"approved": True})).status == 404:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert said.json["effect"] == "update"
    while service.call("POST", "/v1/admin/rollback", {"reason": "by_hand"}, key=service.keys["operator"]).json != {
        "policy_version": "frozen"
    }:
        pass
    answer, beside = ask(service, messages)
    assert (answer, beside["policy_version"], beside["expert"]) == (wrong, "frozen", "frozen")
    log = service.directory / "audit.log"
    actions = [entry.action for entry in entries(log)]
    assert actions.index("review") < actions.index("update") < actions.index("publish") < actions.index("rollback")
    assert verify(log) == []
