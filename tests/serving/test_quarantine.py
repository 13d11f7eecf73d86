"""A task that workers died over is not lost: an operator who switches learning on again has it tried once more."""

from __future__ import annotations

import time
from pathlib import Path

from share.kernel.contracts.task import Prompt
from share.kernel.transport.ledger import Ledger
from tests.serving.engines import Maker


def test_a_decision_whose_update_is_in_quarantine_waits_until_learning_is_switched_on_again(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path, learns=True, keep_images=True)
    parts.ask(questions[0], "trace")
    parts.engine.close()
    ledger = Ledger(tmp_path / "worker")
    ledger.quarantine("review-trace", "2 workers died over it")
    ledger.close()
    parts = make(tmp_path, learns=True, keep_images=True)
    assert parts.engine.process_human_review_decision("trace", True, reviewer="anna").effect == "deferred"
    worker = parts.engine.get_statistics().learning.worker
    assert worker is not None
    assert list(worker.quarantined) == ["review-trace"]
    parts.engine.set_learning(True, actor="oscar")
    parts.until(lambda: parts.engine.get_statistics().reviews["unsettled"] == 0)
    assert len(parts.given()) == 1


def test_the_ledger_of_updates_is_swept_as_all_else_is(make: Maker, tmp_path: Path, questions: list[Prompt]) -> None:
    now = [time.time()]
    parts = make(tmp_path, learns=True, clock=lambda: now[0])
    assert parts.supervisor is not None
    parts.supervisor.close()
    Ledger(tmp_path / "worker").quarantine("gated-old", "2 workers died over it")
    parts.engine.close()
    parts = make(tmp_path, learns=True, clock=lambda: now[0])
    for number in range(2):
        parts.ask(questions[number], f"trace-{number}")
        parts.engine.process_human_review_decision(f"trace-{number}", True, reviewer="anna")
        parts.until(lambda: parts.engine.get_statistics().reviews["unsettled"] == 0)
    now[0] += 91 * 86400
    parts.engine.sweep()
    kept = [entry.task_id for entry in Ledger(tmp_path / "worker").entries()]
    assert kept == ["review-trace-1"], "the last one stays"
    assert dict(Ledger(tmp_path / "worker").quarantined()) == {}
    worker = parts.engine.get_statistics().learning.worker
    assert worker is not None
    assert dict(worker.quarantined) == {}, "neither in memory"
    assert parts.engine.get_statistics().troubles.get("not_swept") is None
