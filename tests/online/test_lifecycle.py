"""A service from its start to its end: what it says, what it keeps, what SIGTERM does, what a mistake costs."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from share.kernel.adaptation.audit import entries, verify
from share.kernel.command import run_command
from share.kernel.registry import Registry
from share.kernel.serving.keys import KeyStore
from tests.online.running import Service, question, start


def everything_in(directory: Path) -> dict[str, tuple[int, str]]:
    """Every file's time of change and digest."""
    return {
        str(path.relative_to(directory)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def ask(service: Service, registry: Registry, number: int, **more: object) -> int:
    messages, _ = question(registry, number)
    body = {"model": "pixelis", "messages": messages, **more}
    return service.call("POST", "/v1/chat/completions", body, key=service.keys["client"]).status


def questions_inside(service: Service) -> int:
    """Questions that were let in and are not answered yet."""
    figures = service.call("GET", "/metrics", key=service.keys["viewer"]).body.decode()
    inside = re.findall(r"^pixelis_num_requests_(?:running|waiting) (\S+)$", figures, re.MULTILINE)
    assert len(inside) == 2
    return sum(int(float(each)) for each in inside)


def test_read_only_questions_leave_every_file_as_it_was(service: Service, registry: Registry) -> None:
    assert ask(service, registry, 1) == 200
    before: dict[str, tuple[int, str]] = {}
    # What was asked before is still being recorded, and the worker still starting.
    while before != (before := everything_in(service.directory)) or "worker/worker.lock" not in before:
        time.sleep(0.5)
    answers = [ask(service, registry, number, pixelis={"read_only": True}) for number in range(12)]
    for path in ("/v1/statistics", "/metrics", "/v1/models", "/health/ready"):
        assert service.call("GET", path, key=service.keys["viewer"]).status == 200
    assert answers == [200] * 12
    assert service.call("POST", "/v1/chat/completions", b"{", key=service.keys["client"]).status == 422
    time.sleep(0.5)
    assert everything_in(service.directory) == before


def test_sigterm_finishes_what_is_being_answered_and_what_was_kept_is_there_again(
    tmp_path: Path, registry: Registry
) -> None:
    running = start(tmp_path, "batching.rows_max=1", "admission.requests_max=12", "read_only=true")
    running.make_keys()
    statuses: Counter[int | str] = Counter()

    def one(number: int) -> None:
        try:
            statuses[ask(running, registry, number)] += 1
        except OSError:
            statuses["refused"] += 1

    threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    while not statuses[200] or statuses.total() + questions_inside(running) < 12:
        time.sleep(0.01)
    assert running.stop() == 0, running.said
    for thread in threads:
        thread.join()
    assert statuses[200] == 12, statuses
    (run_dir,) = (tmp_path / "runs").iterdir()
    record = json.loads((run_dir / "metrics.json").read_text())
    assert record["status"] == "ok"
    assert record["metrics"]["answered"] == 12
    assert running.first_key is not None
    again = KeyStore(running.directory / "keys.json")
    assert again.first_key is None, "it was told once"
    assert again.check(running.first_key).role == "admin"
    for key in [running.first_key, *running.keys.values()]:
        assert all(key.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_dry_run_opens_everything_and_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve("--dry-run", f"workdir={tmp_path}", "port=0", "read_only=true") == 0
    out = capsys.readouterr().out
    assert "first key" in out
    assert "policy_version: frozen" in out


def test_a_demo_asks_itself_a_stream_that_drifts_and_leaves_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(f"workdir={tmp_path}", "port=0", "read_only=true", "demo_items=20") == 0
    out = capsys.readouterr().out
    assert out.index("few cards") < out.index("many cards") < out.index("nothing audited") < out.index("at first")
    (run_dir,) = (tmp_path / "runs").iterdir()
    record = json.loads((run_dir / "metrics.json").read_text())["metrics"]
    assert record["answered"] == 20
    assert 0.0 <= record["demo_right_at_last"] <= 1.0
    assert [key.role for key in KeyStore(run_dir / "online" / "keys.json").all()] == ["admin"]


@pytest.mark.parametrize(
    ("setting", "mistake"),
    [
        ("prot=1", "prot: no such key; did you mean 'port'?"),
        ("admission.pixels_max=5000000", "admission.pixels_max: input should be less than or equal to 4000000"),
        ("update.policy.threads=3", "update.policy: must be what is served; leave it out"),
        ("voter=nobody", "voter: no voter 'nobody'"),
        ("voter.nam=majority", "voter.nam: no such key; did you mean 'name'?"),
        ("voter.half_life=3", "voter.half_life: no such key; known keys: name, "),
        ("policy.path=/no/such", "policy.path: holds no config.json; point it at"),
        ("policy.device=gpu", "policy.device: 'gpu' is no torch device; use cpu, cuda or auto"),
        ("policy.dtype=float16", "update.policy.dtype: float16 cannot be trained; use bfloat16 or float32"),
        ("engine.prior.adapted=0.9", "engine.prior.frozen: must exceed the others"),
        ("engine.retention_days=1", "engine.review.waiting_days: must not exceed retention_days (1)"),
        ("operations=[{side_min: 3}]", "operations.0: needs 'name', which operation it is"),
        ("operations=[ZOOM_OUT]", "operations.0: no operation 'ZOOM_OUT'"),
        ("operations=ZOOM_IN", "operations: must be a list; set operations=[…]"),
        ("alerts.webhook=file:///x", "alerts.webhook: must begin with http"),
    ],
)
def test_a_mistake_in_the_settings_is_one_line_and_leaves_nothing(
    setting: str, mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(f"workdir={tmp_path / 'w'}", setting) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {mistake}")
    assert error.count("\n") == 1
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("host", "mistake"),
    [
        ("127.0.0.1", "port: {port} is in use on 127.0.0.1; set port=…"),
        ("1.2.3.4", "host: 1.2.3.4 is no address of this machine; set host=…"),
        ("no.such.host.invalid", "host: no.such.host.invalid is no address of this machine; set host=…"),
        ("'a..b'", "host: a..b is no address of this machine; set host=…"),
    ],
)
def test_an_address_that_cannot_be_had_is_one_line_and_leaves_nothing(
    host: str, mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve(f"workdir={tmp_path / 'w'}", f"host={host}", f"port={port}") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {mistake.format(port=port)}")
    assert error.count("\n") == 1
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("directory", "mistake"),
    [
        ("file/online", "cannot be made: Not a directory; set directory=…"),
        ("file", "cannot be written: Not a directory; set directory=…"),
        ("x" * 300, "cannot be made: File name too long; set directory=…"),
    ],
)
def test_a_directory_that_cannot_be_had_is_one_line_and_leaves_nothing(
    directory: str, mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert serve(f"workdir={tmp_path / 'w'}", f"directory={tmp_path / directory}", "port=0") == 2
    assert capsys.readouterr().err == f"error: directory: {tmp_path / directory} {mistake}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_second_service_on_a_directory_is_told_who_has_it(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(f"workdir={tmp_path / 'w'}", f"directory={service.directory}", "port=0") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: directory: {service.directory} is in use by process {service.process.pid} on ")
    assert error.endswith("; stop that one, or set directory=… to another\n")
    assert not (tmp_path / "w").exists()
    assert serve(f"workdir={service.directory.parent}", "port=0") == 2, "also where none is set"
    assert service.call("GET", "/health/ready").status == 200


def test_keys_that_are_damaged_are_named_and_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys.json").write_text("{")
    assert serve(f"workdir={tmp_path / 'w'}", f"directory={tmp_path}", "port=0") == 1
    assert "keys.json: is damaged; restore it" in capsys.readouterr().err
    assert (tmp_path / "keys.json").read_text() == "{"


def serve(*arguments: str) -> int:
    """The command line, in this process."""
    return run_command("online", "online", "Serve.", "", arguments, default="pixelis")


def test_another_configuration_is_in_the_audit_log_and_the_same_one_is_there_once(tmp_path: Path) -> None:
    noted: list[list[str]] = []
    secret = "https://example.org/?token=b0a1"
    for settings in (
        [],
        [],
        ["engine.review.audit_share=0.5"],
        ["engine.review.audit_share=0.5", f"alerts.webhook={secret}"],
    ):
        running = start(tmp_path, "read_only=true", f"run_name=run-{len(noted)}", *settings)
        assert running.stop() == 0, running.said
        log = running.directory / "audit.log"
        noted.append([entry.reason for entry in entries(log) if entry.action == "configure"])
        assert verify(log) == []
        assert "token" not in log.read_text()
    assert [len(each) for each in noted] == [1, 1, 2, 3]
    assert len(set(noted[-1])) == 3
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in noted[-1])
