"""What both trainers promise of a run, beside that it can be killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from share.kernel.config import validate, with_run_settings
from share.kernel.contracts.run import RunContext
from share.kernel.errors import CheckpointError, ConfigError
from share.kernel.events import StructuredLogger
from share.kernel.kernel import VisionKernel
from share.kernel.registry import Registry
from share.kernel.testing import check_run
from share.kernel.trainer.grpo import GRPOTrainer
from share.kernel.trainer.grpo_config import GRPOConfig
from share.kernel.trainer.monitor import Monitor
from share.kernel.trainer.sft import SFTTrainer
from share.kernel.trainer.sft_config import SFTConfig
from tests.trainer.runs import TINY

SHORT: dict[str, Any] = {
    **TINY,
    "prompts_per_step": 2,
    "rollout": {"group_size": 2, "tokens_max": 24, "turns_max": 2},
    "evaluation_prompts": 1,
}
CUT = {"group_size": 2, "tokens_max": 4, "turns_max": 1}
"""So short that every rollout is cut: all of a group earn the same."""

ONE_STEP = {"grpo": {"steps": 1}, "sft": {"stages": [{"name": "only", "steps_max": 1}]}}


def run_context(registry: Registry, run_dir: Path, name: str) -> RunContext:
    logger = StructuredLogger(run_dir / "events.jsonl", run_id="run", backend=name)
    return RunContext("run", "train", run_dir, run_dir, logger, 0, registry)


def grpo(registry: Registry, run_dir: Path, **settings: Any) -> GRPOTrainer:
    config = validate(GRPOConfig, {**SHORT, **settings}, registry)
    return GRPOTrainer(config, run_context(registry, run_dir, "grpo"))


def sft(registry: Registry, run_dir: Path, **settings: Any) -> SFTTrainer:
    config = validate(SFTConfig, {**SHORT, **settings}, registry)
    return SFTTrainer(config, run_context(registry, run_dir, "sft"))


def weights(trainer: GRPOTrainer | SFTTrainer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.learner.parameters.items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["grpo", "sft"])
def test_a_trainer_keeps_the_contract_of_its_kind(registry: Registry, tmp_path: Path, name: str) -> None:
    check_run(registry, "train", name, {**SHORT, **ONE_STEP[name]}, tmp_path)
    (ended,) = [path for path in (tmp_path / "runs").iterdir() if (path / "policy").exists()]
    assert (ended / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (ended / "trajectories.html").read_text()
    assert (ended / "policy" / "model.safetensors").exists()
    metrics = json.loads((ended / "metrics.json").read_text())["metrics"]
    assert metrics["main_metric"] in metrics
    assert metrics["rollouts_run"] == "direct"


@pytest.mark.parametrize("name", ["grpo", "sft"])
def test_a_dry_run_prints_the_plan_and_measures_two_real_steps(
    registry: Registry, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**SHORT, **ONE_STEP[name], "workdir": str(tmp_path)}
    result = VisionKernel(registry).run_train(name, settings, dry_run=True)
    assert result.status == "dry_run", result.error
    printed = capsys.readouterr().out
    for word in ("policy", "tokens", "memory", "time", "in all"):
        assert f"\n{word} " in f"\n{printed}"
    assert set(result.run_context.metrics) == {"rehearsal"}
    assert result.run_context.metrics["rehearsal"]["steps"] == 2  # type: ignore[index, call-overload]
    assert not result.artifacts


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rollout": {"group_size": 1}}, r"rollout\.group_size: a rollout is judged against the others"),
        ({"prompts_per_step": 4, "prompts_per_update": 3}, r"prompts_per_update: must divide prompts_per_step \(4\)"),
        ({"rewards": {"curiosty": 0.1}}, r"rewards\.curiosty\.reward: no reward 'curiosty'; did you mean 'curiosity'"),
        ({"rewards": {"curiosity": {"reward": {"bonsu": 1}}}}, r"rewards\.curiosity\.reward.*did you mean 'bonus'"),
        ({"reward_curriculum": [{"name": "a", "weights": {"tsak": 1}}]}, r"reward_curriculum.*tsak.*task"),
        ({"trackers": ["tensorbord"]}, r"trackers.*tensorbord.*tensorboard"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line_with_its_path(
    registry: Registry, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        validate(with_run_settings(GRPOConfig), settings, registry)


def test_a_reward_is_named_with_its_weight_or_in_full(registry: Registry) -> None:
    rewards = {"curiosity": 0.5, "misuse": {"weight": 0.1, "reward": {"operations_max": 1}}}
    config = validate(GRPOConfig, {"rewards": rewards}, registry)
    assert {name: term.weight for name, term in config.rewards.items()} == {
        "task": 1.0,
        "curiosity": 0.5,
        "misuse": 0.1,
    }
    assert config.rewards["misuse"].reward.config.operations_max == 1  # type: ignore[union-attr]
    assert validate(GRPOConfig, json.loads(config.model_dump_json()), registry) == config


def test_accumulation_does_not_change_the_update(registry: Registry, tmp_path: Path) -> None:
    trained = []
    for prompts_per_forward in (1, 4):
        trainer = grpo(
            registry,
            tmp_path,
            prompts_per_step=4,
            prompts_per_forward=prompts_per_forward,
            mask_truncated=False,
            zero_variance="keep",
            entropy_coefficient=0.1,
            learning_rate=1e-2,
        )
        before = weights(trainer)
        assert trainer.make_step(4).numbers["gradient_norm"] > 0
        assert not same(before, weights(trainer))
        trained.append([weights(trainer)[name] - before[name] for name in before])
    difference = sum(float((one - other).square().sum()) for one, other in zip(*trained, strict=True))
    size = sum(float(one.square().sum()) for one in trained[0])
    assert difference < 1e-3 * size


def test_with_an_adapter_only_the_adapter_is_trained_and_the_reference_is_the_policy_without_it(
    registry: Registry, tmp_path: Path
) -> None:
    settings = {"mask_truncated": False, "zero_variance": "keep", "entropy_coefficient": 0.1, "learning_rate": 1e-2}
    trainer = grpo(registry, tmp_path, policy={"lora": {"rank": 4}}, **settings)
    assert all("lora" in name for name in trainer.learner.parameters)
    assert trainer.make_step(2).numbers["kl"] == pytest.approx(0.0, abs=1e-6)
    assert trainer.make_step(2).numbers["kl"] > 1e-6


@pytest.mark.parametrize("make", [grpo, sft])
def test_a_run_is_not_resumed_from_another_policy(registry: Registry, tmp_path: Path, make: Any) -> None:
    trainer = make(registry, tmp_path)
    trainer.save()
    with torch.no_grad():
        trainer.policy.model.get_input_embeddings().weight += 1.0
    trainer.policy.save(tmp_path / "other")
    make(registry, tmp_path).restore()
    with pytest.raises(CheckpointError, match="from policy"):
        make(registry, tmp_path, policy={"path": str(tmp_path / "other")}).restore()


def test_an_alarm_is_logged_and_counted(registry: Registry, tmp_path: Path) -> None:
    trainer = grpo(registry, tmp_path, alarms={"window_steps": 1})
    report = trainer.make_step(2)
    report.numbers["rapr"] = 0.0
    with Monitor(trainer.run, steps=1, done=0, trackers=("tensorboard",), title="grpo") as monitor:
        trainer._record(report, monitor)
    assert trainer.history.alarms["operation_collapse"] == 1
    assert "only 0.0% of rollouts call an operation" in (tmp_path / "events.jsonl").read_text()
    assert list((tmp_path / "trackers").rglob("events.out.tfevents*"))


def test_a_group_of_equal_rewards_is_left_out_of_the_update(registry: Registry, tmp_path: Path) -> None:
    trainer = grpo(registry, tmp_path, rollout=CUT)
    before = weights(trainer)
    numbers = trainer.make_step(2).numbers
    assert numbers["zero_variance_share"] == 1.0
    assert numbers["gradient_norm"] == 0.0
    assert same(before, weights(trainer))


def test_resampling_draws_other_prompts_until_its_bound(registry: Registry, tmp_path: Path) -> None:
    trainer = grpo(registry, tmp_path, rollout=CUT, zero_variance="resample", resample_rounds_max=3)
    trainer.make_step(2)
    assert trainer.cursor == 6


def test_a_stage_that_harms_is_taken_back_to_the_kept_weights(registry: Registry, tmp_path: Path) -> None:
    trainer = sft(registry, tmp_path, learning_rate=1e-2, evaluation_prompts=4)
    trainer.curriculum.begin({"format": [1.0] * 4})
    trainer._keep()
    before = weights(trainer)
    trainer.make_step(2)
    assert not same(before, weights(trainer))
    with Monitor(trainer.run, steps=1, done=0, trackers=(), title="sft") as monitor:
        assert trainer._obey({"format": [0.0] * 4}, monitor)
    assert same(before, weights(trainer))
    assert trainer.ended is None
    first = trainer.make_step(2).numbers["learning_rate"]
    assert first == pytest.approx(0.5e-2)


def test_supervision_lowers_the_loss(registry: Registry, tmp_path: Path) -> None:
    trainer = sft(registry, tmp_path, learning_rate=2e-3)
    for parameter in trainer.learner.parameters.values():  # from what the starter knows there is little to lower
        if parameter.dim() >= 2:
            torch.nn.init.normal_(parameter, std=0.02)
    losses = [trainer.make_step(4).numbers["loss"] for _ in range(8)]
    assert losses[-1] < losses[0]


CALLS: dict[str, Any] = {"calls": [{"name": "READ_TEXT", "arguments": {"bbox": [0, 0, 32, 32]}}]}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a JSONL file of two lines, with those keys beside the usual ones."""
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((64, 64, 3), np.uint8))

    def lines(file: str, **keys: Any) -> Path:
        line = {"question": "What is it?", "answer": "x", **keys}
        text = "".join(json.dumps({**line, "image": image}) + "\n" for image in ("a.png", "b.png"))
        (tmp_path / file).write_text(text)
        return tmp_path / file

    return lines


def test_plain_questions_and_answers_are_imitated_and_the_run_says_that_nothing_is_called(
    registry: Registry, tmp_path: Path, write: Callable[..., Path]
) -> None:
    task = {"name": "jsonl", "path": str(write("own.jsonl"))}
    settings = {**SHORT, **ONE_STEP["sft"], "task": task, "workdir": str(tmp_path / "work")}
    result = VisionKernel(registry).run_train("sft", settings)
    assert result.status == "ok", result.error
    assert '"train.no_calls"' in (result.run_context.run_dir / "events.jsonl").read_text()


@pytest.mark.parametrize(
    ("trained_on", "judged_on", "said"),
    [
        ({"imitate": False}, {}, "task: none of 2 prompts of its split 'train', from jsonl-trained-1 on"),
        ({}, {"imitate": False}, "task: none of 1 prompts of its split 'held_out', from jsonl-judged-1 on"),
        (
            CALLS,
            CALLS,
            "operations: the demonstration of prompt jsonl-judged-1 calls READ_TEXT, which is not among ZOOM",
        ),
        (
            {"calls": [{"name": "ZOOM_IN", "arguments": {"box": [0, 0, 32, 32]}}]},
            {"calls": []},
            "task: the demonstration of prompt jsonl-trained-1 fails: ZOOM_IN: box: no such key; did you mean 'bbox'?",
        ),
        ({}, None, "task: its split 'held_out' holds no prompt"),
    ],
)
def test_what_cannot_be_imitated_is_one_line_before_a_run_directory_exists(
    registry: Registry,
    tmp_path: Path,
    write: Callable[..., Path],
    trained_on: dict[str, Any],
    judged_on: dict[str, Any] | None,
    said: str,
) -> None:
    held_out = {"held_out_path": str(write("judged.jsonl", **judged_on))} if judged_on is not None else {}
    task = {"name": "jsonl", "path": str(write("trained.jsonl", **trained_on)), "held_out_fraction": 0, **held_out}
    with pytest.raises(ConfigError) as raised:
        VisionKernel(registry).run_train("sft", {**SHORT, "task": task, "workdir": str(tmp_path / "work")})
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "work").exists()


def test_a_stage_names_the_task_of_it_that_cannot_be_imitated(registry: Registry, write: Callable[..., Path]) -> None:
    term = {"task": {"name": "jsonl", "path": str(write("own.jsonl", imitate=False)), "held_out_fraction": 0}}
    stages = [{"name": "learn", "steps_max": 1, "tasks": {"zoom_digits": 1.0, "own": term}}]
    with pytest.raises(ConfigError, match=r"^stages\.learn\.tasks\.own: none of 2 prompts"):
        validate(SFTConfig, {**SHORT, "stages": stages}, registry)
