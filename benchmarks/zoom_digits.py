"""Does a policy learn to look where it pays? The task zoom_digits, from the shipped starter, through the real trainer.

`python -m benchmarks.zoom_digits [--seeds 5] [--steps 100] [--parts ceiling learning curiosity]`. One thread of torch.
Every seed is printed. Three parts:

ceiling    what can be guessed: the starter trained directly on the answers, with no operation, then asked held-out
           prompts. Whatever it reaches is what the overview gives away.
learning   held-out accuracy of the starter as it ships (after SFT) and after GRPO, for each seed, with the wall time.
curiosity  from a policy that was taught to answer without looking: GRPO on the task reward alone against GRPO with
           curiosity beside it, same seed, same steps.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from share.kernel.config import Choice
from share.kernel.contracts.kinds import Task
from share.kernel.contracts.task import Demonstration, Prompt
from share.kernel.kernel import VisionKernel
from share.kernel.media.operator import Operator, load_operator
from share.kernel.policy.loading import Policy, PolicyConfig, load_policy
from share.kernel.policy.logprobs import token_logprobs
from share.kernel.policy.rollout import RolloutConfig, RolloutKey, rollout, teacher_forced
from share.kernel.registry import Registry, load_registry

CEILING_MAX = 0.15
ACCURACY_MIN = 0.95
CURIOSITY_GAP_MIN = 0.40

CEILING_STEPS = 300
CEILING_PROMPTS = 32
AVERSION_STEPS = 2
AVERSION_STEPS_MAX = 60
AVERSE_CALLS_MAX = 0.005
"""Share of rollouts with a call from which down a policy is averse. At 0.018 the task reward alone still finds out."""

EVALUATION_PROMPTS = 400
ZOOM_IN = {"name": "ZOOM_IN", "side_min": 56, "side_max": 56}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoom_digits", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="steps of GRPO")
    parser.add_argument("--curiosity-steps", type=int, default=120)
    parser.add_argument("--parts", nargs="+", default=["ceiling", "learning", "curiosity"])
    parser.add_argument("--policy", default=None, help="policy directory; the shipped starter when not given")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    registry = load_registry()
    reached: list[bool] = []
    with tempfile.TemporaryDirectory() as directory:
        workdir = Path(directory)
        if "ceiling" in options.parts:
            reached.append(show_ceiling(registry, options.policy))
        if "learning" in options.parts:
            reached.append(show_learning(registry, options.policy, options.seeds, options.steps, workdir))
        if "curiosity" in options.parts:
            reached.append(show_curiosity(registry, options.policy, options.curiosity_steps, workdir))
    return 0 if all(reached) else 1


def show_ceiling(registry: Registry, path: str | None) -> bool:
    started = time.monotonic()
    policy, task = load_policy(PolicyConfig(path=path, device="cpu")), build_task(registry)
    blind = Operator({})
    train_on(policy, task, blind, CEILING_STEPS, CEILING_PROMPTS, guess=False)
    accuracy, _ = evaluate(policy, task, blind)
    seen = CEILING_STEPS * CEILING_PROMPTS
    print(
        f"ceiling    trained on {seen:,} answers without operations: held-out accuracy {accuracy:.1%} "
        f"(bar <= {CEILING_MAX:.0%}), {time.monotonic() - started:.0f} s",
        flush=True,
    )
    return accuracy <= CEILING_MAX


def show_learning(registry: Registry, path: str | None, seeds: int, steps: int, workdir: Path) -> bool:
    accuracies = []
    for seed in range(seeds):
        started = time.monotonic()
        metrics = reinforce(registry, path, seed, steps, workdir, {})
        before, after = metrics["evaluations"][0], metrics["evaluations"][-1]
        accuracies.append(float(after["held_out_accuracy"]))
        print(
            f"learning   seed {seed}: after SFT {before['held_out_accuracy']:.1%}, after {steps} steps of GRPO "
            f"{after['held_out_accuracy']:.1%} with {after['held_out_operations_mean']:.2f} operations a rollout, "
            f"{time.monotonic() - started:.0f} s",
            flush=True,
        )
    good = sum(accuracy >= ACCURACY_MIN for accuracy in accuracies)
    print(f"learning   {good} of {seeds} seeds reach {ACCURACY_MIN:.0%}; the lowest {min(accuracies):.1%}", flush=True)
    return good == seeds


def show_curiosity(registry: Registry, path: str | None, steps: int, workdir: Path) -> bool:
    policy, task = load_policy(PolicyConfig(path=path, device="cpu")), build_task(registry)
    operator = load_operator(registry, [zoom_in(registry)], fit=policy.fit)
    for first in range(0, AVERSION_STEPS_MAX, AVERSION_STEPS):
        train_on(policy, task, operator, AVERSION_STEPS, CEILING_PROMPTS, guess=True, first=first, rate=1e-4)
        if evaluate(policy, task, operator, temperature=1.0)[1] <= AVERSE_CALLS_MAX:
            break
    averse = workdir / "averse"
    policy.save(averse)
    accuracy, calls = evaluate(policy, task, operator, temperature=1.0)
    print(f"curiosity  averse policy: calls an operation in {calls:.1%}, accuracy {accuracy:.1%} (sampled)", flush=True)
    results = {}
    for name, rewards in (("task alone", {"task": 1.0}), ("with curiosity", {"task": 1.0, "curiosity": 0.5})):
        metrics = reinforce(registry, str(averse), 0, steps, workdir, {"rewards": rewards})
        last = metrics["evaluations"][-1]
        results[name] = float(last["held_out_accuracy"])
        print(
            f"curiosity  {name}, seed 0: after {steps} steps {last['held_out_accuracy']:.1%}, calls an operation in "
            f"{last['held_out_operation_share']:.1%}",
            flush=True,
        )
    gap = results["with curiosity"] - results["task alone"]
    print(f"curiosity  gap {100 * gap:.1f} points (bar >= {100 * CURIOSITY_GAP_MIN:.0f})", flush=True)
    return gap >= CURIOSITY_GAP_MIN


def reinforce(
    registry: Registry, path: str | None, seed: int, steps: int, workdir: Path, more: Mapping[str, Any]
) -> dict[str, Any]:
    """The metrics of a GRPO run of the real trainer."""
    config = {
        "run_name": f"zoom_digits-{seed}",
        "workdir": str(workdir),
        "seed": seed,
        "policy": {"path": path, "device": "cpu"},
        "steps": steps,
        "evaluate_every": steps,
        "evaluation_prompts": EVALUATION_PROMPTS,
        "checkpoint_every": steps,
        "trackers": [],
        **more,
    }
    result = VisionKernel(registry).run_train("grpo", config)
    if result.status != "ok":
        raise SystemExit(f"the run of seed {seed} ended as {result.status}: {result.error}")
    return cast("dict[str, Any]", result.run_context.metrics)


def train_on(
    policy: Policy,
    task: Task,
    operator: Operator,
    steps: int,
    prompts: int,
    *,
    guess: bool,
    first: int = 0,
    rate: float = 5e-4,
) -> None:
    """Supervised steps on answering at once: with the true answer, or with a digit that is a guess."""
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=rate, weight_decay=0.01)
    for step in range(first, first + steps):
        asked = [task.prompt("train", 1_000_000 + step * prompts + number) for number in range(prompts)]
        batch = [
            teacher_forced(policy, prompt, Demonstration((), guessed(prompt) if guess else prompt.answer), operator)
            for prompt in asked
        ]
        results = token_logprobs(policy, batch)
        loss = -torch.cat([logprobs for logprobs, _ in results]).sum() / sum(each.num_actions for each in batch)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def guessed(prompt: Prompt) -> str:
    """A digit that has nothing to do with the answer."""
    return str(sum(prompt.prompt_id.encode()) % 10)


def evaluate(policy: Policy, task: Task, operator: Operator, temperature: float = 0.0) -> tuple[float, float]:
    """Held-out accuracy and the share of rollouts that call an operation."""
    prompts = [task.prompt("held_out", index) for index in range(EVALUATION_PROMPTS)]
    config = RolloutConfig(group_size=1, turns_max=3, tokens_max=128, temperature=temperature)
    groups = rollout(policy, prompts, operator, config, RolloutKey(0, 0))
    trajectories = [group.rollouts[0].trajectory for group in groups]
    correct = [
        task.check(prompt, trajectory.answer) if trajectory.answer is not None else 0.0
        for prompt, trajectory in zip(prompts, trajectories, strict=True)
    ]
    calls = [bool(trajectory.operations) for trajectory in trajectories]
    return sum(correct) / len(correct), sum(calls) / len(calls)


def build_task(registry: Registry) -> Task:
    return cast("Task", registry.build(Choice("task", "zoom_digits")))


def zoom_in(registry: Registry) -> Choice:
    settings = {key: value for key, value in ZOOM_IN.items() if key != "name"}
    return Choice("operation", "ZOOM_IN", registry.config_model("operation", "ZOOM_IN").model_validate(settings))


if __name__ == "__main__":
    raise SystemExit(main())
