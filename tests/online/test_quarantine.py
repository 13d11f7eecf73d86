"""What is in quarantine is seen wherever an operator looks, with what to do, and is gone once they have done it."""

from __future__ import annotations

from pathlib import Path

from share.kernel.transport.ledger import Ledger
from tests.online.running import start


def test_a_quarantine_is_on_the_page_in_the_metrics_and_an_alert_until_learning_is_switched_on(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "online" / "worker")
    ledger.quarantine("review-trace", "2 workers died over it")
    ledger.close()
    service = start(tmp_path, "alerts.every_s=0.1")
    service.make_keys()

    def page(role: str) -> str:
        return service.call("GET", "/", headers={"Cookie": f"pixelis_key={service.keys[role]}"}).body.decode()

    def metrics() -> list[str]:
        return service.call("GET", "/metrics", key=service.keys["viewer"]).body.decode().splitlines()

    while 'pixelis_alert{alert="quarantine"} 1.0' not in metrics():
        pass
    assert "pixelis_quarantined_updates 1.0" in metrics()
    assert "1 in quarantine" in page("viewer")
    assert "an operator switches learning on again" in page("viewer")
    assert "Try again what is in quarantine" in page("operator")
    assert "review-trace" in page("operator")
    on = service.call("PUT", "/v1/admin/learning", {"on": True}, key=service.keys["operator"])
    assert on.status == 200, on.body
    assert "pixelis_quarantined_updates 0.0" in metrics()
    assert "in quarantine" not in page("operator")
    while 'pixelis_alert{alert="quarantine"} 0.0' not in metrics():
        pass
    assert service.stop() == 0
