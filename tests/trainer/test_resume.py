"""A run that was killed at a random instant and resumed ends with the bits of the run that was never killed."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from share.kernel.policy.loading import STARTER
from share.kernel.registry import Registry
from tests.trainer.runs import finish, record, resume, run_dir_of, signal_after, start, steps_of, uninterrupted

GRPO: dict[str, Any] = {
    "steps": 5,
    "prompts_per_step": 4,
    "prompts_per_update": 2,
    "prompts_per_forward": 1,
    "num_iterations": 2,
    "rollout": {"group_size": 2, "tokens_max": 48, "turns_max": 2},
    "mask_truncated": False,
    "zero_variance": "keep",
    "entropy_coefficient": 0.01,
    "kl_coefficient": 0.01,
    "learning_rate": 1e-3,
    "evaluate_every": 2,
    "rewards": {"curiosity_icm": 0.1, "misuse": 0.1},
}
SFT: dict[str, Any] = {
    "stages": [
        {"name": "first", "steps_max": 3},
        {"name": "second", "steps_max": 3, "tasks": {"zoom_digits": 2.0}, "learning_rate_scale": 0.5},
    ],
    "harm": {"tolerance": 1.0},
    "prompts_per_step": 4,
    "prompts_per_forward": 2,
    "rollout": {"tokens_max": 48, "turns_max": 2},
    "learning_rate": 1e-3,
    "evaluate_every": 2,
}
SETTINGS = {"grpo": GRPO, "sft": SFT}


def check_kills(
    registry: Registry, tmp_path: Path, backend: str, settings: dict[str, Any], kills: int, seed: int
) -> None:
    """Ask a run to stop, resume it, kill and resume it `kills` times at random instants, let it end, and compare."""
    policy = shutil.copytree(STARTER, tmp_path / "policy")  # one that stays what it is, whatever is made meanwhile
    settings = {**settings, "policy": {"path": str(policy)}}
    expected = uninterrupted(registry, backend, settings, tmp_path / "undisturbed")
    draw = random.Random(seed)
    (tmp_path / "killed").mkdir()
    process = start(backend, settings, tmp_path / "killed")
    run_dir = run_dir_of(tmp_path / "killed", process)
    assert signal_after(process, run_dir, 1, 0.0, signal.SIGTERM) == 130
    assert record(run_dir)["status"] == "interrupted"
    killed = 0
    for _ in range(kills):
        process = resume(run_dir)
        killed += signal_after(process, run_dir, draw.randrange(2), draw.uniform(0.0, 0.8), signal.SIGKILL) < 0
    if killed == kills:
        assert finish(resume(run_dir)) == 0
    assert killed > 0, "the run ended before it was killed"
    assert record(run_dir) == expected
    assert sorted(set(steps_of(run_dir))) == list(range(1, 1 + expected["metrics"]["steps"]))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", sorted(SETTINGS))
def test_a_run_that_was_stopped_and_killed_ends_with_the_same_bits(
    registry: Registry, tmp_path: Path, backend: str
) -> None:
    check_kills(registry, tmp_path, backend, SETTINGS[backend], kills=1, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_reinforced_run_killed_many_times_resumes_to_the_same_bits(
    registry: Registry, tmp_path: Path, iterations: int, accumulation: int
) -> None:
    settings = {**GRPO, "num_iterations": iterations, "prompts_per_update": None, "prompts_per_forward": accumulation}
    check_kills(registry, tmp_path, "grpo", {**settings, "steps": 10}, kills=10, seed=iterations + accumulation)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_supervised_run_killed_many_times_resumes_to_the_same_bits(
    registry: Registry, tmp_path: Path, accumulation: int
) -> None:
    stages = [{"name": "first", "steps_max": 5}, {"name": "second", "steps_max": 5}]
    settings = {**SFT, "stages": stages, "prompts_per_forward": accumulation}
    check_kills(registry, tmp_path, "sft", settings, kills=10, seed=accumulation)
