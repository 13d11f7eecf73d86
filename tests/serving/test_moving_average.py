"""What is published is the mean of the weights, which follows what is trained by `ema_decay`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from share.kernel.config import validate
from share.kernel.contracts.task import Prompt
from share.kernel.policy.loading import Policy
from share.kernel.registry import Registry
from share.kernel.serving.trainable import moved
from share.kernel.serving.update_config import UpdateConfig, worker_settings
from share.kernel.serving.update_task import LEARN, UpdateResult
from share.kernel.serving.update_worker import UpdateWorker
from share.kernel.serving.versions import VersionStore
from share.kernel.transport.worker import Task

SMALL: dict[str, object] = {
    "rollout": {"group_size": 4, "turns_max": 3, "tokens_max": 64},
    "prompts_min": 1,
    "replay_share": 0.0,
    "trainable": "norm",
    "qualify": {"anchors": 4, "loss_max": 1.0},
    "policy": {"device": "cpu"},
}


def published(registry: Registry, directory: Path, prompt: Prompt, ema_decay: float) -> dict[str, torch.Tensor]:
    """The weights of the version that one update makes."""
    config = validate(UpdateConfig, {**SMALL, "ema_decay": ema_decay}, registry)
    worker = UpdateWorker(worker_settings(config, versions=directory / "versions", directory=directory))
    worker.take_over(None)
    told = {"question": prompt.question, "answer": prompt.answer, "kind": "corrected", "learning_rate": 3e-3}
    task = Task("task", LEARN, told, {"image": torch.from_numpy(prompt.images[0].copy())})
    result = UpdateResult.model_validate(worker.handle([task]).results["task"])
    assert result.outcome == "learned", result.reason
    assert result.version is not None
    return dict(VersionStore(directory / "versions").read(result.version))


def test_a_version_is_as_far_from_the_one_before_as_the_decay_leaves_it(
    registry: Registry, tmp_path: Path, starter: Policy, questions: list[Prompt]
) -> None:
    trained = published(registry, tmp_path / "trained", questions[0], 0.0)
    mean = published(registry, tmp_path / "mean", questions[0], 0.75)
    shipped = dict(starter.model.named_parameters())
    steps = {name: (trained[name] - shipped[name].detach()).float() for name in trained}
    assert max(float(step.abs().max()) for step in steps.values()) > 1e-4, "one update moved them"
    for name, step in steps.items():
        assert (mean[name] - shipped[name].detach()).float() == pytest.approx(0.25 * step, abs=1e-6), name


def test_the_mean_of_a_constant_comes_ever_nearer_to_it() -> None:
    mean = {"weight": torch.zeros(3)}
    for number in range(1, 5):
        mean = moved(mean, {"weight": torch.ones(3)}, 0.5)
        assert mean["weight"].tolist() == [1 - 0.5**number] * 3
