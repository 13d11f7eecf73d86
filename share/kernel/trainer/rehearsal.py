"""A dry run: two real steps on a few prompts, and what the whole run would take by them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from share.kernel.contracts.run import RunContext
from share.kernel.policy.learner import Learner
from share.kernel.policy.loading import Policy
from share.kernel.trainer.history import StepReport
from share.kernel.trainer.optimization import peak_memory_bytes

STEPS = 2
"""Steps that are made; the last one is what the whole run is reckoned from, for the first one warms up."""

PROMPTS_MAX = 4
"""Prompts per step."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the whole run would be: at most `steps` steps of `prompts_per_step` prompts, in words `summary`."""

    name: str
    summary: str
    steps: int
    prompts_per_step: int
    prompts_per_forward: int


def rehearse(
    run: RunContext, policy: Policy, learner: Learner, plan: Plan, make_step: Callable[[int], StepReport]
) -> None:
    """Make the steps, leave what was measured in the run's metrics, print what it says of the whole run."""
    prompts = min(plan.prompts_per_step, PROMPTS_MAX)
    reports = [make_step(prompts) for _ in range(STEPS)]
    memory = peak_memory_bytes(policy.device)
    run.metrics["rehearsal"] = {
        "steps": len(reports),
        "prompts": prompts * len(reports),
        "tokens": sum(report.numbers["tokens"] for report in reports),
        "parameters_trained": learner.num_parameters,
        "memory_peak_bytes": memory,
        "device": str(policy.device),
        "timing": {"step_s": [round(report.times["step_s"], 3) for report in reports]},
    }
    scale = plan.prompts_per_step / prompts
    tokens, step_s = reports[-1].numbers["tokens"], reports[-1].times["step_s"]
    trained = f"{learner.num_parameters:,} trained on {policy.device}"
    for line in (
        f"policy    {plan.name}: {policy.num_parameters:,} parameters, {trained}",
        f"steps     {plan.summary}",
        f"tokens    about {tokens * scale:,.0f} a step (measured {tokens:,.0f} on {prompts} prompts)",
        f"memory    {memory / 2**20:,.0f} MiB at most, with {plan.prompts_per_forward} prompts a forward pass",
        f"time      about {step_s * scale:.2f} s a step (measured {step_s:.2f} s on {prompts} prompts)",
        f"in all    {plan.steps * step_s * scale / 60:.1f} min at most, evaluations and checkpoints not counted",
    ):
        print(line)


__all__ = ["PROMPTS_MAX", "STEPS", "Plan", "rehearse"]
