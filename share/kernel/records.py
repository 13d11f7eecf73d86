"""What runs left on disk: found, read, and told apart from what is still at work."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from share.kernel.contracts.run import RunContext
from share.kernel.errors import ConfigError
from share.kernel.files import write_json

CONFIG = "config.json"
EVENTS = "events.jsonl"
METRICS = "metrics.json"
ARTIFACTS = "artifacts.json"


def find_run(run: str, workdir: Path) -> Path:
    """The directory of a run, given as path or as id below `workdir`. Raises ConfigError when there is none."""
    for run_dir in (Path(run), workdir / "runs" / run):
        if (run_dir / CONFIG).is_file():
            return run_dir.absolute()
    raise ConfigError(
        f"{run}: no such run, neither as a directory nor in {workdir / 'runs'}; python -m share.kernel runs lists them"
    )


def read_runs(workdir: Path) -> list[dict[str, Any]]:
    """The records of all runs below `workdir`, the latest first; `main_metric` names one of each run's metrics.

    A status of `killed` is a run that never wrote its end and that nobody works at.
    """
    rows = []
    for run_dir in sorted((workdir / "runs").glob("*/"), key=lambda path: path.stat().st_mtime, reverse=True):
        row: dict[str, Any] = {"run_id": run_dir.name, "mode": "", "backend": "", "status": "running"}
        row |= {"elapsed_ms": 0.0, "error": None}
        try:
            row |= read_json(run_dir / METRICS)
        except ConfigError as error:
            row["error"] = str(error) if (run_dir / METRICS).exists() else None
        if row["status"] == "running" and not is_running(run_dir):
            row["status"] = "killed"
        metrics = row.setdefault("metrics", {})
        rows.append({**row, "run_dir": str(run_dir), "main_metric": main_metric(metrics)})
    return rows


def main_metric(metrics: dict[str, Any]) -> str | None:
    """The metric that `main_metric` names, else the first that is a number."""
    named = metrics.get("main_metric")
    if isinstance(named, str) and named in metrics:
        return named
    return next((key for key, value in metrics.items() if type(value) in (int, float)), None)


def is_running(run_dir: Path) -> bool:
    """Whether a process is at work in this run directory."""
    try:
        with held(run_dir):
            return False
    except ConfigError:
        return True


@contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Hold a run directory alone; the system lets go of it when the process dies, however it dies.

    Raises ConfigError when another process holds it.
    """
    directory = os.open(run_dir, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{run_dir}: the run is at work in another process; wait for it or stop it") from error
        yield
    finally:
        os.close(directory)


def write_record(run: RunContext, status: str, backend: str, elapsed_ms: float, error: str | None) -> None:
    """Write `metrics.json` and `artifacts.json` from what the run's context holds."""
    record = {
        "run_id": run.run_id,
        "mode": run.mode,
        "backend": backend,
        "status": status,
        "dry_run": run.dry_run,
        "elapsed_ms": round(elapsed_ms, 1),
        "error": error,
        "metrics": run.metrics,
    }
    write_json(run.run_dir / METRICS, record)
    write_json(run.run_dir / ARTIFACTS, {name: _relative(path, run.run_dir) for name, path in run.artifacts.items()})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ConfigError naming the file."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must hold a JSON object")
    return value


def _relative(path: Path, run_dir: Path) -> str:
    """Relative to the run where the artifact is inside it, so that a run directory can be moved."""
    absolute = Path(path).absolute()
    return str(absolute.relative_to(run_dir)) if absolute.is_relative_to(run_dir) else str(absolute)


__all__ = [
    "ARTIFACTS",
    "CONFIG",
    "EVENTS",
    "METRICS",
    "find_run",
    "held",
    "is_running",
    "main_metric",
    "read_json",
    "read_runs",
    "write_record",
]
