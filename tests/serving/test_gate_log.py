"""The gate's log: every decision in it can be made again, from the shell too, and whoever is erased is not in it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from share.kernel.adaptation.gate import Gate, GateConfig, GateRequest
from share.kernel.contracts.task import Prompt
from share.kernel.events import StructuredLogger
from share.kernel.serving.gate_log import ERASED, LoggedGate, read_gate_log
from share.kernel.transport.supervisor import WorkerState
from tests.serving.engines import LEARNS_FROM_ALL, Maker

ROOT = Path(__file__).parents[2]
LOGGER = StructuredLogger(None, run_id="", backend="test")
LENIENT = GateConfig(entropy_max=9.0, client_share_max=0.03, label_share_max=0.05, redundancy_max=1.0)
DIRECTION = np.eye(4, dtype=np.float32)[0]


def opened(directory: Path) -> LoggedGate:
    return LoggedGate(directory / "gate", LENIENT, LOGGER, clock=lambda: 1_800_000_000.0)


def decide(gate: LoggedGate, name: str, label: str, client: str, subject: str | None = None) -> str:
    return gate.decide(GateRequest(name, client, label, 0.9, 0.1, 100), DIRECTION, subject).reason


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """The directory of a service whose gate decided nine times, some of it about jane."""
    gate = opened(tmp_path)
    for number in range(9):
        subject = "key-of-jane" if number % 3 == 0 else "key-of-joe" if number % 3 == 1 else None
        decide(gate, f"trace-{number}", "a1b2" if number % 2 else "c3d4", "phone" if number < 6 else "desk", subject)
    gate.close()
    return tmp_path


def log_of(service: Path) -> Path:
    (log,) = (service / "gate").iterdir()
    return log


def verify(directory: object, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "share.kernel", "gate", "verify", str(directory), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done


def test_every_decision_of_a_service_is_made_again_from_the_shell(service: Path) -> None:
    reasons = {each.reason for each in read_gate_log(log_of(service))[1]}
    assert reasons == {"accepted", "client_cap"}, "what was before counts in what was decided"
    done = verify(service)
    told = f"{service}/gate: 9 of 9 decisions reproduced, 1 files\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, told, "")
    told_as_json = {"files": 1, "decisions": 9, "reproduced": 9, "differing": [], "torn": []}
    assert json.loads(verify(service, "--json").stdout) == told_as_json


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            '"client_count":1,',
            '"client_count":0,',
            "line 3: gate decision on trace-1: client_count is 0, but 1 follows",
        ),
        ('"confidence":0.9,', '"confidence":0.6,', "line 2: gate decision on trace-0: learning_rate is"),
        ('"trust":0.5,', '"trust":[],', "line 2: gate decision on trace-0: trust is [], but 0.5 follows"),
        ('"buffer_size":100,', '"buffer_size":-100,', "line 2: is no decision of a gate"),
        ('"trust":0.5,', "", "line 2: is no decision of a gate"),
        ('"window":100,', '"window":-1,', "line 1: is no configuration of a gate"),
    ],
)
def test_the_first_decision_that_does_not_follow_is_named(service: Path, old: str, new: str, problem: str) -> None:
    log = log_of(service)
    content = log.read_text()
    assert old in content
    log.write_text(content.replace(old, new, 1))
    done = verify(service)
    assert done.returncode == 1
    first, last = done.stdout.splitlines()
    assert first.startswith(f"DIFFERS: {log}, {problem}")
    reproduced = max(int(problem.split()[1].rstrip(":")) - 2, 0)
    assert last == f"{service}/gate: {reproduced} of 9 decisions reproduced, 1 files"


def test_a_line_that_was_left_out_is_found_and_one_that_a_crash_tore_is_no_difference(service: Path) -> None:
    log = log_of(service)
    whole = log.read_bytes()
    log.write_bytes(whole[:-20])
    done = verify(service)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == f"note: {log}: the last line has no end, as a crash leaves it"
    assert "8 of 8 decisions reproduced" in done.stdout
    lines = whole.splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:1] + lines[2:]))
    assert "line 2: gate decision on trace-1: client_count is 1, but 0 follows" in verify(service).stdout


def test_a_wrong_directory_is_one_line_and_a_service_without_decisions_is_sound(tmp_path: Path) -> None:
    for wrong in (tmp_path / "nowhere", tmp_path):
        done = verify(wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {wrong}: has no gate/; give the directory of a service")
        assert done.stderr.count("\n") == 1
    (tmp_path / "reviews.sqlite").touch()
    assert "0 of 0 decisions reproduced" in verify(tmp_path).stdout


def test_the_help_says_what_is_made_again_and_what_is_taken_as_it_was_logged() -> None:
    command = [sys.executable, "-m", "share.kernel", "gate", "--help"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "The cosine to what was learned lately is taken as it was" in told
    assert "exit codes: 0 every decision follows, 1 one does not" in told


def test_of_whom_was_erased_nothing_can_be_traced_and_every_decision_still_follows(service: Path) -> None:
    gate = opened(service)
    before = read_gate_log(log_of(service))[1]
    gate.erase(["key-of-jane", "an-older-key"], ["trace-1"])  # trace-1 as one whose subject was not logged
    log = log_of(service)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    content = log.read_text()
    for gone in ("key-of-jane", "trace-0", "trace-1", "trace-3", "trace-6", "a1b2", "c3d4", "phone", "desk"):
        assert gone not in content, gone
    after = read_gate_log(log)[1]
    assert [each.request.request_id for each in after if each.request.request_id != ERASED] == [
        f"trace-{number}" for number in (2, 4, 5, 7, 8)
    ]
    assert [(each.reason, each.client_count) for each in after] == [(each.reason, each.client_count) for each in before]
    assert "9 of 9" in verify(service).stdout
    written = log.read_bytes()
    gate.erase(["key-of-jane", "an-older-key"], ["trace-1"])
    assert log.read_bytes() == written, "nothing is left to erase"
    assert decide(gate, "trace-9", "e5f6", "desk") == "accepted"
    gate.close()
    assert "10 of 10 decisions reproduced, 2 files" in verify(service).stdout


def test_what_is_torn_or_damaged_goes_with_an_erasure(service: Path) -> None:
    log = log_of(service)
    with open(log, "ab") as file:
        file.write(b'{"subject":"key-of-joe", \xff\n{"subject":"key-of-joe","request":{"request_id":"trace-10')
    opened(service).erase(["key-of-joe"], [])
    assert b"key-of-joe" not in log.read_bytes()
    assert b"trace-10" not in log.read_bytes()
    assert "9 of 9" in verify(service).stdout


def test_updates_of_whom_was_erased_do_not_reach_the_worker(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path, learns=True, transport={"deaths_max": 1})
    for trace_id, subject in (("hers", "jane"), ("his", "joe")):
        parts.ask(questions[0], trace_id, subject=subject)
    supervisor = parts.supervisor
    assert supervisor is not None
    assert supervisor.wait_for(lambda status: status.state is WorkerState.READY and status.pid is not None, 120.0)
    worker = supervisor.status().pid
    assert worker is not None
    os.kill(worker, signal.SIGSTOP)
    for trace_id in ("hers", "his"):
        assert parts.engine.process_human_review_decision(trace_id, True).effect == "update"
    os.kill(worker, signal.SIGKILL)
    assert supervisor.wait_for(lambda status: status.state is WorkerState.SUSPENDED, 120.0)
    assert parts.engine.erase("jane", actor="alice") == 1
    parts.engine.set_learning(True, actor="oscar")
    parts.until(lambda: parts.engine.get_statistics().reviews["unsettled"] == 0)
    assert [line.split()[0] for line in parts.given()] == ["review-his"]


def test_an_engine_forgets_who_its_gate_learned_from(make: Maker, tmp_path: Path, questions: list[Prompt]) -> None:
    parts = make(
        tmp_path,
        learns=True,
        **LEARNS_FROM_ALL,
    )
    for number in range(6):
        parts.ask(questions[0], f"trace-{number}", subject="jane" if number % 2 else "joe")
    (log,) = (tmp_path / "gate").iterdir()
    assert "trace-3" in log.read_text()
    parts.engine.erase("jane", actor="alice")
    assert [each.request.request_id for each in read_gate_log(log)[1]] == [ERASED, "trace-2", ERASED, "trace-4", ERASED]
    parts.ask(questions[0], "trace-6", subject="joe")
    for path in (tmp_path / "gate").iterdir():
        Gate.replay(*read_gate_log(path))
    assert len(list((tmp_path / "gate").iterdir())) == 2
