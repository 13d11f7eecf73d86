"""The online service from end to end: open what it stands on, say where it is, serve until told to stop, finish."""

from __future__ import annotations

import gc
import hashlib
import json
import time
from contextlib import ExitStack
from pathlib import Path

from share.kernel.adaptation.audit import entries
from share.kernel.contracts.run import RunContext
from share.kernel.errors import AuditBroken, AuditUnavailable
from share.kernel.events import StructuredLogger
from share.kernel.online.alerts import Watch
from share.kernel.online.config import DIRECTORY, OnlineConfig
from share.kernel.online.demo import Demo
from share.kernel.online.door import Door
from share.kernel.online.http import make_app
from share.kernel.online.listening import Listening, bound, url_of
from share.kernel.online.metrics import Metrics
from share.kernel.online.pictures import Painter
from share.kernel.online.tracking import Tracker
from share.kernel.online.turnstile import Turnstile
from share.kernel.report.trackers import Tracking
from share.kernel.serving.admission import Places, TokenBuckets, waiting_room
from share.kernel.serving.engine import InferenceEngine
from share.kernel.serving.keys import KeyStore
from share.kernel.serving.opening import open_engine

LOOPBACK = ("127.", "localhost", "::1")
AUDIT_LOG = "audit.log"


def serve(config: OnlineConfig, run: RunContext) -> None:
    """Answer requests until `run.stop` is set, or a demo has ended; then nobody is let in any more, what is being
    answered is finished, and everything is synced. A dry run does all of it but wait.

    Raises ConfigError for an address that was taken since the configuration was looked at, and what is wrong with the
    policy, a plugin, the keys, or the directory.
    """
    directory = _directory(config, run)
    with ExitStack() as opened:
        listening = opened.enter_context(bound(config.host, config.port))  # first: a taken port costs no time
        tracking = Tracking(config.trackers, run.run_dir, run.run_id, run.logger, dry_run=run.dry_run)
        opened.callback(tracking.close)
        run.metrics["trackers"] = list(tracking.names)
        keys = KeyStore(directory / "keys.json")
        engine = open_engine(
            directory,
            config.engine,
            run.registry,
            run.logger,
            policy=config.policy,
            operations=config.operations,
            voter=config.voter,
            batching=config.batching,
            waiting_max=waiting_room(config.batching.rows_max, config.admission.requests_max),
            update=None if config.read_only else config.update,
            transport=config.transport,
            seed=run.seed,
        )
        opened.callback(engine.close)
        opened.callback(_report, run, engine)
        _note_configuration(config, directory / AUDIT_LOG, engine, run.logger)
        tracker = Tracker(tracking, engine.get_statistics, run.logger, every_s=config.track_every_s)
        opened.callback(tracker.close)
        door = _door(config, run, keys, engine)
        gc.collect()
        gc.freeze()  # what stays to the end: to look through its 400,000 objects stops every request for 0.15 s
        opened.callback(gc.unfreeze)
        server = Listening(Turnstile(make_app(door), door.places, door.metrics), listening, drain_s=config.drain_s)
        opened.callback(server.close)  # before the engine is: what is being answered is finished
        door.watch.start()
        opened.callback(door.watch.close)
        opened.callback(door.closing.set)
        _announce(config, run, keys, engine, url_of(listening))
        run.metrics["url"] = url_of(listening)
        if config.demo_items and not run.dry_run:
            Demo(url_of(listening), keys, run, items=config.demo_items).play(run.stop)
        elif not run.dry_run:
            run.stop.wait()
        run.logger.info("stopping", "nobody is let in any more; what is being answered is finished")


def _directory(config: OnlineConfig, run: RunContext) -> Path:
    """A demo keeps to the directory of its run: what it learns is nobody's."""
    return config.directory or (run.run_dir if config.demo_items else run.workdir) / DIRECTORY


def _note_configuration(config: OnlineConfig, log: Path, engine: InferenceEngine, logger: StructuredLogger) -> None:
    """Put the hash of a configuration that is another than the last one into the audit log, if that can be written."""
    try:
        noted = [entry.reason for entry in entries(log) if entry.action == "configure"]
        if noted[-1:] != [digest_of(config)]:
            engine.note("service", "configure", reason=digest_of(config))
    except (AuditBroken, AuditUnavailable, OSError) as error:
        logger.warn("configuration_not_noted", str(error))


def digest_of(config: OnlineConfig) -> str:
    """What the audit log calls a configuration: the SHA-256 of its canonical JSON, without the name of the run; of the
    webhook, whose address may hold a secret, only whether there is one."""
    told = config.model_dump(mode="json", exclude={"run_name": True, "alerts": {"webhook"}})
    told["alerts"]["webhook"] = config.alerts.webhook is not None
    return "sha256:" + hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _door(config: OnlineConfig, run: RunContext, keys: KeyStore, engine: InferenceEngine) -> Door:
    limits, rows_max = config.admission, config.batching.rows_max
    metrics = Metrics(engine.get_statistics)
    return Door(
        config=config,
        engine=engine,
        keys=keys,
        buckets=TokenBuckets(limits.requests_per_s, limits.burst),
        places=Places(limits.requests_max or rows_max + waiting_room(rows_max)),
        metrics=metrics,
        watch=Watch(
            config.alerts, engine.get_statistics, metrics.at_the_door, run.logger, metrics.show, time.monotonic
        ),
        painter=Painter(engine.policy, engine.operator),
        logger=run.logger,
        started_at=time.time(),
    )


def _announce(config: OnlineConfig, run: RunContext, keys: KeyStore, engine: InferenceEngine, url: str) -> None:
    """What an operator needs to know, on stdout; the key is nowhere else."""
    told = engine.get_statistics()
    policy = config.policy.path or "the starter policy"
    operations = ", ".join(chosen.name for chosen in config.operations) or "none"
    print(f"serving {url}", flush=True)
    print(f"  policy      {policy}, version {told.releases.live}, operations {operations}")
    print(f"  directory   {_directory(config, run)}")
    print(f"  learning    {'never: read-only' if config.read_only else told.learning.state}")
    if keys.first_key is not None:
        print(f"  first key   {keys.first_key}  (admin; shown this once)")
    print(f"  try         {url}/ in a browser, or any OpenAI client with base_url={url}/v1", flush=True)
    if not config.host.startswith(LOOPBACK):
        run.logger.warn("plain_http", f"{url} speaks plain HTTP: keys can be read on the way; put TLS before it")
    run.logger.info("serving", f"serving {url}", url=url, policy_version=told.releases.live)


def _report(run: RunContext, engine: InferenceEngine) -> None:
    """What came of it, when the last question is answered."""
    told = engine.get_statistics()
    run.metrics.update(
        answered=told.requests.answered,
        failed=told.requests.failed,
        recorded=told.memory.recorded,
        updates=told.learning.confirmed,
        published=told.releases.published,
        rollbacks=told.releases.rollbacks,
        policy_version=told.releases.live,
    )


__all__ = ["AUDIT_LOG", "LOOPBACK", "digest_of", "serve"]
