"""VisionKernel: one way to run any backend, which always leaves the truth behind.

A run keeps in `<workdir>/runs/<run_id>`: `config.json` (resolved; can be given back as a configuration file),
`events.jsonl`, `metrics.json` and `artifacts.json`. The last two are written when the run starts and again however it
ends. Mistakes in what was asked for are ConfigErrors, raised before the run directory exists.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any, TextIO

from share.kernel.config import ConfigModel, dump, first_difference, merged, validate, with_run_settings
from share.kernel.contracts.run import Mode, RunContext, RunResult, Status
from share.kernel.errors import ConfigError, Interrupted
from share.kernel.events import StructuredLogger
from share.kernel.files import write_json
from share.kernel.records import ARTIFACTS, CONFIG, EVENTS, METRICS, held, read_json, write_record
from share.kernel.registry import Registry, one_line


class VisionKernel:
    """Runs backends of a registry.

    `stop` ends the current run at the next point where it loses nothing; the command lines set it on Ctrl-C and
    SIGTERM. `echo` is where warnings and errors of a run are shown while it goes. `now` is the clock of run ids.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        stop: Event | None = None,
        echo: TextIO | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.registry = registry
        self.stop = stop if stop is not None else Event()
        self._echo = echo
        self._now = now

    def run_train(self, name: str, config: Mapping[str, Any], *, dry_run: bool = False) -> RunResult:
        return self.run("train", name, config, dry_run=dry_run)

    def run_autolabel(self, name: str, config: Mapping[str, Any], *, dry_run: bool = False) -> RunResult:
        return self.run("autolabel", name, config, dry_run=dry_run)

    def run_online(self, name: str, config: Mapping[str, Any], *, dry_run: bool = False) -> RunResult:
        return self.run("online", name, config, dry_run=dry_run)

    def run_deploy_edge(self, name: str, config: Mapping[str, Any], *, dry_run: bool = False) -> RunResult:
        return self.run("deploy-edge", name, config, dry_run=dry_run)

    def run_deploy_remote(self, name: str, config: Mapping[str, Any], *, dry_run: bool = False) -> RunResult:
        return self.run("deploy-remote", name, config, dry_run=dry_run)

    def run_infer(self, name: str, config: Mapping[str, Any], *, dry_run: bool = False) -> RunResult:
        return self.run("infer", name, config, dry_run=dry_run)

    def run(self, mode: Mode, name: str, config: Mapping[str, Any], *, dry_run: bool = False) -> RunResult:
        """Run the backend `name` of the kind that belongs to `mode` in a new run directory.

        `config` holds `run_name`, `workdir` and `seed` beside the backend's own keys. Raises ConfigError,
        PluginLoadError, and what a configuration raises on purpose (TaskError), before anything is written; after that
        every end of the backend is in the result.
        """
        kind = KIND_OF_MODE[mode]
        model = with_run_settings(self.registry.config_model(kind, name))
        resolved: Any = validate(model, {"run_name": name, **config}, self.registry)
        workdir = resolved.workdir.absolute()
        resolved.check_here(workdir)
        run_dir = _new_run_dir(workdir, resolved.run_name, self._now())
        with held(run_dir):
            try:
                write_json(run_dir / CONFIG, dump(resolved))
            except OSError as error:
                run_dir.rmdir()
                raise ConfigError(f"workdir: {workdir} cannot be written: {error.strerror}; set workdir=…") from error
            return self._run_in(mode, name, resolved, run_dir, workdir, dry_run=dry_run, resume=False)

    def resume(self, mode: Mode, run_dir: Path, changes: Mapping[str, Any], *, name: str | None = None) -> RunResult:
        """Go on with a run that was interrupted, killed or failed, in its own directory and configuration.

        `changes` may repeat the configuration, not change it. `name` is the backend expected there, None for any.
        Raises ConfigError when the run cannot be resumed.
        """
        if not (run_dir / METRICS).is_file():
            raise ConfigError(f"{run_dir}: has no {METRICS}, so it is no run, or one that never started")
        with held(run_dir):  # before it is read: another process may be writing how it ended
            record = read_json(run_dir / METRICS)
            if record.get("mode") != mode:
                raise ConfigError(f"{run_dir}: is a run of {record.get('mode')}, not of {mode}")
            backend = str(record.get("backend"))
            if name is not None and name != backend:
                raise ConfigError(f"backend: the run was made by {backend!r}, not {name!r}")
            status = record.get("status")
            if status in ("ok", "dry_run") or record.get("dry_run"):
                raise ConfigError(
                    f"{run_dir}: has ended with status {status}: there is nothing to resume. For a new run: "
                    f"--config {run_dir / CONFIG}"
                )
            stored = read_json(run_dir / CONFIG)
            model = with_run_settings(self.registry.config_model(KIND_OF_MODE[mode], backend))
            resolved = validate(model, merged(stored, changes), self.registry)
            different = first_difference(dump(validate(model, stored, self.registry)), dump(resolved))
            if different:
                key, before, after = different
                raise ConfigError(
                    f"{key}: the run has {before!r}, not {after!r}; a resumed run keeps its configuration. For a new "
                    f"run: --config {run_dir / CONFIG} {key}=…"
                )
            workdir = run_dir.parent.parent
            resolved.check_here(workdir)
            return self._run_in(mode, backend, resolved, run_dir, workdir, dry_run=False, resume=True)

    def _run_in(
        self, mode: Mode, name: str, config: ConfigModel, run_dir: Path, workdir: Path, *, dry_run: bool, resume: bool
    ) -> RunResult:
        """Call the backend and write down how it ended. One of the two places where every exception is caught."""
        started = time.monotonic()
        logger = StructuredLogger(run_dir / EVENTS, run_id=run_dir.name, backend=name, echo=self._echo)
        run = RunContext(
            run_id=run_dir.name,
            mode=mode,
            workdir=workdir,
            run_dir=run_dir,
            logger=logger,
            seed=config.seed,  # type: ignore[attr-defined]
            registry=self.registry,
            dry_run=dry_run,
            resume=resume,
            stop=self.stop,
        )
        if resume:  # what was known before stays known, should this part end before it has measured anything
            run.metrics.update(read_json(run_dir / METRICS).get("metrics", {}))
            artifacts = read_json(run_dir / ARTIFACTS) if (run_dir / ARTIFACTS).exists() else {}
            run.artifacts.update({key: run_dir / path for key, path in artifacts.items()})

        status: Status
        error: str | None = None
        trace: str | None = None
        try:
            write_record(run, "running", name, 0.0, None)
            logger.info("run_resumed" if resume else "run_started", f"{mode} with backend {name}", dry_run=dry_run)
            self.registry.get(KIND_OF_MODE[mode], name)(config, run)
            status = "dry_run" if dry_run else "ok"
        except (Interrupted, KeyboardInterrupt) as interruption:
            status = "interrupted"
            error = one_line(interruption) if isinstance(interruption, Interrupted) else "stopped at once"
        except (Exception, SystemExit) as failure:
            status = "failed"
            error = one_line(failure)
            trace = traceback.format_exc()

        elapsed_ms = (time.monotonic() - started) * 1000
        try:
            if status == "failed":
                logger.error("run_failed", str(error), traceback=trace)
            elif status == "interrupted":
                logger.warn("run_interrupted", f"interrupted: {error}")
            logger.info("run_ended", f"{status} after {elapsed_ms / 1000:.1f} s", status=status)
            write_record(run, status, name, elapsed_ms, error)
            logger.close()
        except OSError as failure:  # the disk is full or gone: the caller is the only one left to be told
            status = "failed"
            error = "; ".join(filter(None, [error, f"{run_dir} cannot be written: {one_line(failure)}"]))
        return RunResult(run, status, name, elapsed_ms, dict(run.artifacts), error)


KIND_OF_MODE: Mapping[Mode, str] = {
    "train": "trainer",
    "autolabel": "autolabeler",
    "online": "online",
    "deploy-edge": "deployer",
    "deploy-remote": "deployer",
    "infer": "inferencer",
}


def _new_run_dir(workdir: Path, run_name: str, now: datetime) -> Path:
    """Make `<workdir>/runs/<run_name>-<YYYYMMDD-HHMMSS>`, with -2, -3, … behind it when that is taken."""
    run_id = f"{run_name}-{now:%Y%m%d-%H%M%S}"
    try:
        (workdir / "runs").mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            run_dir = workdir / "runs" / (run_id if attempt == 1 else f"{run_id}-{attempt}")
            try:
                run_dir.mkdir()
                return run_dir
            except FileExistsError:
                continue
    except OSError as error:
        raise ConfigError(f"workdir: {workdir} cannot hold runs: {error.strerror}; set workdir=…") from error
    raise ConfigError(f"run_name: 999 runs are named {run_id}; set run_name=…")


__all__ = ["KIND_OF_MODE", "VisionKernel"]
