"""The command lines: mistakes are one line and leave nothing behind, signals stop a run that can be resumed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from share.kernel import __main__ as main
from share.kernel.command import run_command, selection
from share.kernel.config import layered, validate
from share.kernel.registry import Registry
from tests.kernel.wheels import install_counting


@pytest.fixture
def work(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install_counting(site)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*argv: str) -> int:
    return run_command("train", "trainer", "Train.", "", argv)


def test_a_run_ends_with_0_and_says_where_everything_is(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--backend", "counting", "steps=2") == 0
    out = capsys.readouterr().out
    (run_dir,) = (work / "work-dir" / "runs").iterdir()
    assert f"{run_dir}" in out
    assert "count: 2" in out
    assert f"state: {run_dir / 'step.txt'}" in out


def test_a_failed_run_ends_with_1(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--backend", "counting", "fail_at=0") == 1
    assert capsys.readouterr().err == "error: ValueError: asked to fail\n"


MISTAKES = {
    "no backend": ([], "--backend NAME is needed"),
    "unknown backend": (["--backend", "countin"], "no trainer 'countin'; did you mean 'counting'?"),
    "unknown key": (["--backend", "counting", "stps=3"], "stps: no such key; did you mean 'steps'?"),
    "wrong type": (["--backend", "counting", "steps=many"], "steps: input should be a valid integer"),
    "missing file": (["--backend", "counting", "--config", "none.yaml"], "none.yaml: no such file"),
    "unreadable YAML": (["--backend", "counting", "--config", "bad.yaml"], "bad.yaml: line 1: "),
    "no value": (["--backend", "counting", "steps"], "steps: an override is key.path=value"),
    "taken workdir": (["--backend", "counting", "workdir=bad.yaml"], "workdir: "),
    "unknown run": (["--resume", "counting-1"], "counting-1: no such run"),
    "dry resume": (["--resume", "counting-1", "--dry-run"], "--dry-run: cannot be combined with --resume"),
    "blocked": (["--backend", "counting", "--block", "counting"], "no trainer 'counting'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_code_2_and_leaves_nothing(
    mistake: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, message = MISTAKES[mistake]
    (work / "bad.yaml").write_text("a: [")
    assert train(*argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert not (work / "work-dir").exists()


def test_an_unknown_option_is_one_line_too(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train("--bakcend", "counting")
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_files_environment_and_overrides_are_layered(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "a.yaml").write_text("steps: 1\nseed: 1\nrun_name: a\n")
    (work / "b.yaml").write_text("seed: 2\n")
    monkeypatch.setenv("PIXELIS__PAUSE_S", "0.001")
    monkeypatch.setenv("PIXELIS__SEED", "3")
    assert train("--backend", "counting", "--config", "a.yaml", "b.yaml", "steps=2") == 0
    (run_dir,) = (work / "work-dir" / "runs").iterdir()
    config = json.loads((run_dir / "config.json").read_text())
    assert (config["run_name"], config["steps"], config["seed"], config["pause_s"]) == ("a", 2, 3, 0.001)


def test_the_schema_describes_every_setting(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--backend", "counting", "--schema") == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"run_name", "workdir", "seed", "steps", "pause_s"} <= set(schema["properties"])
    assert not (work / "work-dir").exists()


def test_the_help_lists_the_backends_that_are_installed(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train("--help")
    help_text = capsys.readouterr().out
    assert "counting  Counts steps." in help_text
    for option in ("--dry-run", "--resume", "--schema", "--block", "PIXELIS__A__B", "exit codes"):
        assert option in help_text


def test_the_settings_that_the_help_shows_are_settings(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train("--help")
    shown = re.search(r"set by path: (\S+), or (\S+)\.\n", capsys.readouterr().out)
    assert shown is not None
    for override in shown.groups():
        validate(registry.config_model("trainer", "grpo"), layered([], {}, [override]), registry)


def start(*overrides: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "train.cli", "--backend", "counting", "steps=200", *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "step 0\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_run_where_nothing_is_lost_and_it_can_be_resumed(number: signal.Signals, work: Path) -> None:
    process = start("pause_s=0.01")
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    (run_dir,) = (work / "work-dir" / "runs").iterdir()
    assert json.loads((run_dir / "metrics.json").read_text())["status"] == "interrupted"
    assert f"--resume {run_dir.name}" in out
    done = int((run_dir / "step.txt").read_text())
    assert 0 < done < 200
    resumed = subprocess.run(
        [sys.executable, "-m", "train.cli", "--resume", run_dir.name], capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.startswith(f"step {done}\n")


def test_a_run_in_another_workdir_is_gone_on_with_by_its_path(
    work: Path,
) -> None:
    process = start("pause_s=0.01", "workdir=elsewhere")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    (run_dir,) = (work / "elsewhere" / "runs").iterdir()
    assert f"go on with: python -m train.cli --resume {run_dir}\n" in out


def test_a_second_signal_stops_at_once(work: Path) -> None:
    process = start("pause_s=600")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "once more" not in process.stderr.readline():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    (run_dir,) = (work / "work-dir" / "runs").iterdir()
    record = json.loads((run_dir / "metrics.json").read_text())
    assert (record["status"], record["metrics"]["count"]) == ("interrupted", 1)


def test_a_killed_run_is_listed_as_killed_and_resumed(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = start("pause_s=600")
    assert main.main(["runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["status"] == "running"
    process.kill()
    process.communicate(timeout=60)
    assert main.main(["runs"]) == 0
    assert "killed" in capsys.readouterr().out
    (run_dir,) = (work / "work-dir" / "runs").iterdir()
    config = json.loads((run_dir / "config.json").read_text())
    (run_dir / "config.json").write_text(json.dumps({**config, "pause_s": 0.0, "steps": 3}))
    assert train("--resume", str(run_dir)) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {"block": ["x"], "only": None}),
        ("off", {"block": ["x"], "only": ()}),
        ("a, b", {"block": ["x"], "only": ["a", "b"]}),
        ("-a,-b", {"block": ["x", "a", "b"], "only": None}),
    ],
)
def test_the_environment_switches_plugins(text: str, expected: dict[str, Sequence[str] | None]) -> None:
    assert selection({"PIXELIS_PLUGINS": text}, ["x"]) == expected
