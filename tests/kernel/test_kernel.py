"""A run leaves the truth behind, however it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from share.kernel.contracts.run import RunContext
from share.kernel.errors import ConfigError, UnknownPlugin
from share.kernel.kernel import KIND_OF_MODE, VisionKernel
from share.kernel.records import held, read_runs
from share.kernel.registry import load_registry
from tests.kernel.wheels import install_counting

NOON = datetime(2026, 3, 4, 12, 30, 5)


@pytest.fixture
def kernel(site: Path) -> VisionKernel:
    install_counting(site)
    return VisionKernel(load_registry(), now=lambda: NOON)


def read(run_dir: Path, name: str) -> Any:
    return json.loads((run_dir / name).read_text())


def events(run_dir: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (run_dir / "events.jsonl").read_text().splitlines()]


def test_a_run_writes_its_four_files(kernel: VisionKernel, tmp_path: Path) -> None:
    result = kernel.run_train("counting", {"workdir": tmp_path, "seed": 4, "steps": 2})
    run_dir = result.run_context.run_dir
    assert (result.status, result.error, result.backend) == ("ok", None, "counting")
    assert run_dir == tmp_path / "runs" / "counting-20260304-123005"
    assert read(run_dir, "config.json") == {
        "run_name": "counting",
        "workdir": str(tmp_path),
        "seed": 4,
        "steps": 2,
        "pause_s": 0.0,
        "fail_at": None,
        "exit_at": None,
    }
    record = read(run_dir, "metrics.json")
    assert (record["status"], record["mode"], record["backend"]) == ("ok", "train", "counting")
    assert record["metrics"] == {"count": 2, "loss": "nan"}
    assert read(run_dir, "artifacts.json") == {"state": "step.txt"}
    assert events(run_dir) == ["run_started", "step", "step", "run_ended"]
    assert not list(run_dir.glob(".*")), "no temporary file is left"


def test_a_configuration_can_be_given_back(kernel: VisionKernel, tmp_path: Path) -> None:
    first = kernel.run_train("counting", {"workdir": tmp_path, "steps": 1}).run_context.run_dir
    second = kernel.run_train("counting", read(first, "config.json")).run_context.run_dir
    assert second.name == "counting-20260304-123005-2", "a taken run id is made unique"
    assert read(first, "config.json") == read(second, "config.json")


@pytest.mark.parametrize(
    ("settings", "error"),
    [({"fail_at": 1}, "ValueError: asked to fail"), ({"exit_at": 1}, "SystemExit: asked to exit")],
)
def test_a_run_that_fails_tells_all_it_knew(
    settings: dict[str, int], error: str, kernel: VisionKernel, tmp_path: Path
) -> None:
    result = kernel.run_train("counting", {"workdir": tmp_path, **settings})
    run_dir = result.run_context.run_dir
    assert (result.status, result.error) == ("failed", error)
    assert read(run_dir, "metrics.json")["metrics"]["count"] == 1
    assert read(run_dir, "metrics.json")["error"] == error
    assert read(run_dir, "artifacts.json") == {"state": "step.txt"}
    assert events(run_dir)[-2:] == ["run_failed", "run_ended"]
    assert "Traceback" in (run_dir / "events.jsonl").read_text()


def test_a_stopped_run_is_interrupted_and_goes_on_in_its_own_directory(
    kernel: VisionKernel, tmp_path: Path, site: Path
) -> None:
    stop = Event()
    stop.set()
    stopped = VisionKernel(kernel.registry, stop=stop).run_train("counting", {"workdir": tmp_path})
    run_dir = stopped.run_context.run_dir
    assert (stopped.status, stopped.error) == ("interrupted", "stopped before step 0")
    resumed = kernel.resume("train", run_dir, {})
    assert (resumed.status, resumed.run_context.run_dir) == ("ok", run_dir)
    assert events(run_dir).count("step") == 3
    assert "run_resumed" in events(run_dir)


def test_a_resumed_run_keeps_its_configuration_and_names_the_key_that_differs(
    kernel: VisionKernel, tmp_path: Path
) -> None:
    run_dir = kernel.run_train("counting", {"workdir": tmp_path, "fail_at": 1}).run_context.run_dir
    with pytest.raises(ConfigError, match="steps: the run has 3, not 4; a resumed run keeps its configuration"):
        kernel.resume("train", run_dir, {"steps": 4})
    with pytest.raises(ConfigError, match="backend: the run was made by 'counting', not 'grpo'"):
        kernel.resume("train", run_dir, {}, name="grpo")
    with pytest.raises(ConfigError, match="is a run of train, not of infer"):
        kernel.resume("infer", run_dir, {})
    assert kernel.resume("train", run_dir, {"steps": 3}).status == "failed"


def test_what_was_measured_before_survives_a_resume_that_fails_at_once(kernel: VisionKernel, tmp_path: Path) -> None:
    run_dir = kernel.run_train("counting", {"workdir": tmp_path, "fail_at": 1}).run_context.run_dir
    kernel.resume("train", run_dir, {})
    assert read(run_dir, "metrics.json")["metrics"]["count"] == 1
    assert read(run_dir, "artifacts.json") == {"state": "step.txt"}


def test_a_run_that_ended_well_or_is_at_work_cannot_be_resumed(kernel: VisionKernel, tmp_path: Path) -> None:
    run_dir = kernel.run_train("counting", {"workdir": tmp_path}).run_context.run_dir
    with pytest.raises(ConfigError, match=r"has ended with status ok: .* For a new run: --config .*config\.json"):
        kernel.resume("train", run_dir, {})
    with held(run_dir), pytest.raises(ConfigError, match="at work in another process"):
        kernel.resume("train", run_dir, {})
    (run_dir / "metrics.json").unlink()
    with pytest.raises(ConfigError, match=r"has no metrics\.json, so it is no run"):
        kernel.resume("train", run_dir, {})


def test_what_a_run_is_to_be_resumed_from_is_read_when_nobody_else_can_write_it(
    kernel: VisionKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = kernel.run_train("counting", {"workdir": tmp_path, "fail_at": 1}).run_context.run_dir
    open_ = os.open

    def ended_just_before(path: object, *arguments: int) -> int:
        descriptor = open_(path, *arguments)  # type: ignore[arg-type]
        if path == run_dir:  # the other process lets go as this one comes
            record = run_dir / "metrics.json"
            record.write_text(record.read_text().replace('"failed"', '"ok"'))
        return descriptor

    monkeypatch.setattr(os, "open", ended_just_before)
    with pytest.raises(ConfigError, match="has ended with status ok"):
        kernel.resume("train", run_dir, {})


def test_a_dry_run_is_written_as_what_it_is(kernel: VisionKernel, tmp_path: Path) -> None:
    result = kernel.run_train("counting", {"workdir": tmp_path}, dry_run=True)
    assert result.status == "dry_run"
    assert read(result.run_context.run_dir, "metrics.json")["status"] == "dry_run"
    with pytest.raises(ConfigError, match="status dry_run"):
        kernel.resume("train", result.run_context.run_dir, {})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"stepps": 1}, "stepps: no such key; did you mean 'steps'?"),
        ({"sede": 1}, "sede: no such key; did you mean 'seed'?"),
        ({"seed": -1}, "seed: input should be greater than or equal to 0"),
        ({"run_name": "../up"}, "run_name: string should match pattern"),
    ],
)
def test_a_mistake_leaves_no_directory(
    config: dict[str, object], message: str, kernel: VisionKernel, tmp_path: Path
) -> None:
    workdir = tmp_path / "work"
    with pytest.raises(ConfigError) as caught:
        kernel.run_train("counting", {"workdir": workdir, **config})
    assert str(caught.value).startswith(message)
    assert not workdir.exists()


def test_a_workdir_that_cannot_hold_runs_is_a_mistake(kernel: VisionKernel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"workdir: .* cannot hold runs"):
        kernel.run_train("counting", {"workdir": tmp_path / "file"})


def test_a_full_disk_is_a_mistake_before_the_run_and_leaves_no_run_directory(site: Path, tmp_path: Path) -> None:
    """No file of this process may grow, as on a full disk."""
    install_counting(site)
    code = f"""
import resource, sys
sys.path.insert(0, {str(site)!r})
from share.kernel.command import run_command
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
sys.exit(run_command("train", "trainer", "", "", ["--backend", "counting", {f"workdir={tmp_path}"!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: workdir: {tmp_path} cannot be written: File too large; set workdir=…\n"
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_full_disk_at_the_end_is_told_to_the_caller(kernel: VisionKernel, tmp_path: Path) -> None:
    class Vanishing(Event):
        """Takes the run directory away while the backend runs, as a disk that is unmounted would."""

        def is_set(self) -> bool:
            (run_dir,) = (tmp_path / "runs").iterdir()
            if run_dir.is_dir():
                for file in run_dir.iterdir():
                    file.unlink()
                run_dir.rmdir()
            return True

    result = VisionKernel(kernel.registry, stop=Vanishing()).run_train("counting", {"workdir": tmp_path})
    assert result.status == "failed"
    assert "cannot be written" in str(result.error)


@pytest.mark.parametrize("mode", KIND_OF_MODE)
def test_a_kind_without_a_backend_says_so_in_one_error(mode: Any, tmp_path: Path) -> None:
    kernel = VisionKernel(load_registry(only=()))
    with pytest.raises(UnknownPlugin) as caught:
        getattr(kernel, f"run_{mode.replace('-', '_')}")("no_such_backend", {"workdir": tmp_path})
    assert "no_such_backend" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_past_runs_are_listed_with_how_they_ended(kernel: VisionKernel, tmp_path: Path) -> None:
    kernel.run_train("counting", {"workdir": tmp_path, "run_name": "good"})
    kernel.run_train("counting", {"workdir": tmp_path, "run_name": "bad", "fail_at": 2})
    killed = kernel.run_train("counting", {"workdir": tmp_path, "run_name": "killed"}).run_context.run_dir
    record = read(killed, "metrics.json")
    (killed / "metrics.json").write_text(json.dumps({**record, "status": "running"}))
    (tmp_path / "runs" / "stray").mkdir()
    for age, name in enumerate(("stray", "killed", "bad", "good")):
        (run_dir,) = (tmp_path / "runs").glob(f"{name}*")
        os.utime(run_dir, (1000 - age, 1000 - age))
    rows = read_runs(tmp_path)
    assert [row["status"] for row in rows] == ["killed", "killed", "failed", "ok"]
    assert rows[3]["main_metric"] == "count"
    with held(killed):
        assert read_runs(tmp_path)[1]["status"] == "running"


def test_the_contexts_of_two_runs_share_nothing(kernel: VisionKernel, tmp_path: Path) -> None:
    contexts: list[RunContext] = [kernel.run_train("counting", {"workdir": tmp_path}).run_context for _ in range(2)]
    assert contexts[0].metrics is not contexts[1].metrics
    assert contexts[0].run_dir != contexts[1].run_dir
