"""Real training runs in real processes, for tests that kill them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from share.kernel.kernel import VisionKernel
from share.kernel.registry import Registry

TINY: dict[str, Any] = {
    "evaluation_prompts": 2,
    "checkpoint_every": 1,
    "trackers": [],
    "task": {"name": "zoom_digits"},
}
"""Settings of both trainers that make a step take a fraction of a second."""


def uninterrupted(registry: Registry, backend: str, settings: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """The record of a run that nothing disturbed, made in this process."""
    result = VisionKernel(registry).run_train(backend, {**TINY, **settings, "workdir": str(workdir)})
    assert result.status == "ok", result.error
    return record(result.run_context.run_dir)


def start(backend: str, settings: dict[str, Any], workdir: Path) -> subprocess.Popen[bytes]:
    config = workdir / "settings.yaml"
    config.write_text(json.dumps({**TINY, **settings, "workdir": str(workdir)}))
    return _python("--backend", backend, "--config", str(config))


def finish(process: subprocess.Popen[bytes]) -> int:
    """Wait for the process to end, and leave none behind when it does not."""
    try:
        return process.wait(timeout=800)
    finally:
        process.kill()
        process.wait()


def resume(run_dir: Path) -> subprocess.Popen[bytes]:
    return _python("--resume", str(run_dir))


def run_dir_of(workdir: Path, process: subprocess.Popen[bytes]) -> Path:
    """The run directory of a process that was just started, as soon as it has one."""
    while process.poll() is None:
        found = [path for path in (workdir / "runs").glob("*") if (path / "events.jsonl").exists()]
        if found:
            return found[0]
        time.sleep(0.01)
    raise AssertionError(f"ended with {process.returncode} before it had a run directory")


def signal_after(process: subprocess.Popen[bytes], run_dir: Path, steps: int, delay_s: float, number: int) -> int:
    """Send a signal `delay_s` after the process has recorded `steps` more steps; returns how it ended."""
    seen = len(steps_of(run_dir))
    while process.poll() is None and len(steps_of(run_dir)) < seen + steps:
        time.sleep(0.005)
    time.sleep(delay_s)
    process.send_signal(number)
    return process.wait()


def steps_of(run_dir: Path) -> list[int]:
    """The steps in the order in which they were recorded; one that was made again appears again."""
    steps = []
    for line in (run_dir / "events.jsonl").read_bytes().splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event["event"] == "train.step":
            steps.append(event["step"])
    return steps


def record(run_dir: Path) -> dict[str, Any]:
    """`metrics.json` as it must repeat itself: without identity and times."""
    whole = json.loads((run_dir / "metrics.json").read_text())
    metrics = {key: value for key, value in whole["metrics"].items() if key != "timing"}
    return {"status": whole["status"], "error": whole["error"], "metrics": metrics}


def _python(*arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::DeprecationWarning:share"}
    return subprocess.Popen(
        [sys.executable, "-m", "train.cli", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
