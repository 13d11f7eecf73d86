"""An engine that is killed with a decision half carried out: its successor finishes it, and nothing is done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from share.kernel.adaptation.audit import verify
from share.kernel.contracts.task import Prompt
from share.kernel.serving.versions import FROZEN
from share.kernel.transport.ledger import Ledger
from tests.serving.engines import Maker

ROOT = Path(__file__).parents[2]
CHILD = """
import sys, time
from pathlib import Path
from share.kernel.config import Choice
from share.kernel.policy.loading import PolicyConfig, load_policy
from share.kernel.registry import load_registry
from tests.serving.engines import Maker

directory = Path(sys.argv[1])
registry = load_registry()
prompt = registry.build(Choice("task", "zoom_digits")).prompt("held_out", 0)
parts = Maker(registry, load_policy(PolicyConfig()))(directory, learns=True, keep_images=True)
parts.ask(prompt, "trace")
parts.engine.process_human_review_decision("trace", True, reviewer="anna")
while sys.argv[2] == "given" and not parts.given():
    time.sleep(0.001)
print("decided", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("moment", ["decided", "given"])
def test_a_decision_is_carried_out_once_though_the_engine_is_killed(
    make: Maker, tmp_path: Path, questions: list[Prompt], moment: str
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), moment], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "decided\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    parts = make(tmp_path, learns=True, keep_images=True)
    parts.until(lambda: parts.engine.get_statistics().reviews["unsettled"] == 0)
    ledger = Ledger(tmp_path / "worker")
    assert [entry.task_id for entry in ledger.entries()] == ["review-trace"]
    ledger.close()
    statistics = parts.engine.get_statistics()
    assert statistics.releases.live != FROZEN
    assert statistics.evidence.audits == 1
    assert parts.served.store.published() == [statistics.releases.live]
    assert verify(tmp_path / "audit.log") == []
