"""Trackers: those that were named must start, those that were not may be missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from share.kernel.errors import ConfigError
from share.kernel.events import StructuredLogger
from share.kernel.report.trackers import DIRECTORY, Tracking

ROOT = Path(__file__).parent.parent.parent


def in_the_way(run_dir: Path) -> None:
    """A file where TensorBoard makes its directory."""
    (run_dir / DIRECTORY).mkdir(parents=True)
    (run_dir / DIRECTORY / "pixelis").write_text("taken")


def test_a_tracker_that_nobody_named_and_that_cannot_start_is_left_out_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    in_the_way(tmp_path)
    logger = StructuredLogger(tmp_path / "events.jsonl", run_id="run-1", backend="test")
    tracking = Tracking(("auto",), tmp_path, "run-1", logger)
    tracking.log(1, {"loss": 0.5})
    tracking.close()
    logger.close()
    assert "tensorboard" not in tracking.names
    told = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [each["event"] for each in told] == ["tracker_left_out"]
    assert told[0]["message"].startswith("trackers: tensorboard cannot be started: ")


def test_a_tracker_that_was_named_and_cannot_start_is_a_mistake(tmp_path: Path) -> None:
    in_the_way(tmp_path)
    logger = StructuredLogger(None, run_id="run-1", backend="test")
    with pytest.raises(ConfigError, match=r"^trackers: tensorboard cannot be started: .*; set it up, or leave"):
        Tracking(("tensorboard",), tmp_path, "run-1", logger)


TRACK = """
import sys
from pathlib import Path
from share.kernel.errors import ConfigError
from share.kernel.events import StructuredLogger
from share.kernel.report.trackers import Tracking

run_dir = Path(sys.argv[1])
logger = StructuredLogger(run_dir / "events.jsonl", run_id="run-1", backend="test")
try:
    tracking = Tracking(tuple(sys.argv[2:]), run_dir, "run-1", logger)
except ConfigError as error:
    print("ConfigError:", error)
else:
    tracking.log(1, {"loss": 0.5})
    tracking.close()
    print("names:", *tracking.names)
"""


def track(run_dir: Path, *trackers: str, **variables: str) -> str:
    """In a process of its own, as W&B starts threads and processes of its own; without any key of whoever tests."""
    pytest.importorskip("wandb")
    mine = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    ended = subprocess.run(
        [sys.executable, "-c", TRACK, str(run_dir), *trackers],
        cwd=ROOT,
        env={**mine, "HOME": str(run_dir), "NETRC": str(run_dir / "netrc"), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()[-1]


def test_wandb_without_a_network_writes_below_the_run(tmp_path: Path) -> None:
    assert track(tmp_path, "wandb", WANDB_MODE="offline") == "names: wandb"
    (written,) = (tmp_path / DIRECTORY / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"loss" in written.read_bytes()


def test_wandb_without_a_key_is_left_out_unless_it_was_named(tmp_path: Path) -> None:
    assert track(tmp_path, "auto") == "names: tensorboard"
    assert "wandb cannot be started: " in (tmp_path / "events.jsonl").read_text()
    assert track(tmp_path, "wandb").startswith("ConfigError: trackers: wandb cannot be started: ")
