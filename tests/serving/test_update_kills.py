"""The update worker under its supervisor, killed in the middle of an update: its effect is there once, bit by bit."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from share.kernel.config import validate
from share.kernel.contracts.task import Prompt
from share.kernel.events import StructuredLogger
from share.kernel.registry import Registry
from share.kernel.serving.update_config import UpdateConfig, worker_settings
from share.kernel.serving.update_task import LEARN, UpdateResult
from share.kernel.serving.update_worker import PRELOAD, TARGET, UpdateWorker
from share.kernel.serving.versions import Manifest, VersionStore
from share.kernel.transport.config import TransportConfig
from share.kernel.transport.ledger import Ledger
from share.kernel.transport.supervisor import WorkerSupervisor
from share.kernel.transport.worker import Task

PATIENCE_S = 300.0
SMALL = {
    "rollout": {"group_size": 4, "turns_max": 3, "tokens_max": 64},
    "prompts_min": 2,
    "qualify": {"anchors": 4, "loss_max": 1.0},
    "policy": {"device": "cpu"},
}
DELAYS_S = (0.05, 0.4)
"""From the beginning of an update to its worker's death: while it samples, or later, or when it has just ended."""


@pytest.mark.timeout(900)
def test_an_update_whose_worker_was_killed_has_its_effect_once(
    registry: Registry, questions: list[Prompt], tmp_path: Path
) -> None:
    config = validate(UpdateConfig, SMALL, registry)
    transport = {"batch_max": 1, "deaths_max": 1000, "quarantine_deaths": 100, "scheduling": "normal"}
    supervisor = WorkerSupervisor(
        TransportConfig.model_validate({**transport, "preload": PRELOAD}),
        target=TARGET,
        settings=worker_settings(config, versions=tmp_path / "versions", directory=tmp_path),
        directory=tmp_path,
        logger=StructuredLogger(None, run_id="test", backend="transport"),
    )
    tasks = [corrected(f"t{number}", prompt) for number, prompt in enumerate(questions[: len(DELAYS_S)])]
    results = []
    was_updating = []
    try:
        for deaths, (task, delay_s) in enumerate(zip(tasks, DELAYS_S, strict=True)):
            assert supervisor.wait_for(
                lambda status: status.standby_pid is not None and status.pid is not None, PATIENCE_S
            )
            future = supervisor.submit(task)
            assert supervisor.wait_for(lambda status: status.state == "updating", PATIENCE_S)
            time.sleep(delay_s)
            killed = supervisor.status()
            assert killed.pid is not None
            was_updating.append(killed.state == "updating")
            os.kill(killed.pid, signal.SIGKILL)
            assert supervisor.wait_for(lambda status, deaths=deaths: status.deaths > deaths, PATIENCE_S)  # type: ignore[misc]
            results.append(UpdateResult.model_validate(future.result(PATIENCE_S).result))
        assert any(was_updating)
    finally:
        supervisor.close(PATIENCE_S)

    other_path = tmp_path / "other"
    unkilled = UpdateWorker(worker_settings(config, versions=other_path / "versions", directory=other_path))
    unkilled.take_over(None)
    expected = [UpdateResult.model_validate(unkilled.handle([task]).results[task.task_id]) for task in tasks]
    assert [(each.outcome, each.counters) for each in results] == [(each.outcome, each.counters) for each in expected]
    assert any(each.version for each in results)
    for mine, other in zip(results, expected, strict=True):
        if other.version is not None and mine.version is not None:
            assert weights(tmp_path, mine.version) == weights(other_path, other.version)
    assert [entry.task_id for entry in Ledger(tmp_path).entries()] == [task.task_id for task in tasks]
    named = {each.version for each in results}
    store = VersionStore(tmp_path / "versions")
    last = next(each.version for each in reversed(results) if each.version is not None)
    store.publish("frozen", last)
    store.prune()
    assert set(store.newest()) <= named, "what was written in vain is gone"
    assert not list((tmp_path / "versions").glob(".*-v*"))
    assert len(list((tmp_path / "learning").iterdir())) == 2


def corrected(name: str, prompt: Prompt) -> Task:
    told = {"question": prompt.question, "answer": prompt.answer, "kind": "corrected", "learning_rate": 3e-3}
    return Task(name, LEARN, told, {"image": torch.from_numpy(prompt.images[0])})


def weights(directory: Path, version: str) -> object:
    manifest: Manifest = VersionStore(directory / "versions").manifest(version)
    return manifest.sha256
