"""What is in quarantine is seen wherever an operator looks, with what to do, and is gone once they have done it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from share.kernel.transport.ledger import Ledger
from tests.online.running import Service, start


@pytest.fixture
def quarantining(tmp_path: Path) -> Iterator[Service]:
    """A service of which workers died over one update, before it was started anew."""
    ledger = Ledger(tmp_path / "online" / "worker")
    ledger.quarantine("review-trace", "2 workers died over it")
    ledger.close()
    running = start(tmp_path)
    try:
        running.make_keys()
        yield running
    finally:
        assert running.stop() == 0, running.said


def page(service: Service, role: str) -> str:
    return service.call("GET", "/", headers={"Cookie": f"pixelis_key={service.keys[role]}"}).body.decode()


def metrics(service: Service) -> list[str]:
    return service.call("GET", "/metrics", key=service.keys["viewer"]).body.decode().splitlines()


def wait_for(line: str, service: Service) -> None:
    """More seldom than a key may ask."""
    while line not in metrics(service):
        time.sleep(0.1)


def test_a_quarantine_is_on_the_page_in_the_metrics_and_an_alert_until_learning_is_switched_on(
    quarantining: Service,
) -> None:
    wait_for('pixelis_alert{alert="quarantine"} 1.0', quarantining)
    assert "pixelis_quarantined_updates 1.0" in metrics(quarantining)
    seen = page(quarantining, "viewer")
    assert "1 in quarantine" in seen
    assert "an operator switches learning on again" in seen
    assert "Try again what is in quarantine" not in seen, "a viewer has no buttons"
    seen = page(quarantining, "operator")
    assert "review-trace" in seen
    assert '<button class="main">Try again what is in quarantine</button>' in seen
    on = quarantining.call("PUT", "/v1/admin/learning", {"on": True}, key=quarantining.keys["operator"])
    assert on.status == 200, on.body
    wait_for('pixelis_alert{alert="quarantine"} 0.0', quarantining)
    assert "pixelis_quarantined_updates 0.0" in metrics(quarantining)
    assert "in quarantine" not in page(quarantining, "operator")
