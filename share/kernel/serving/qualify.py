"""Whether a candidate may serve: compared item by item with what serves and with the policy that was shipped.

A comparison is a one-sided exact sign test over the items that exactly one of the two answered rightly (McNemar 1947,
"Note on the sampling error of the difference between correlated proportions", in its exact form): the probability that
a candidate that is as good loses at least so many of them. Beside it stands a bound on what may be lost outright,
because a test alone lets small losses add up over versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from share.kernel.adaptation.arbiter import sign_test
from share.kernel.contracts.kinds import Task
from share.kernel.contracts.task import Prompt
from share.kernel.media.operator import Operator
from share.kernel.policy.loading import Policy
from share.kernel.policy.logprobs import token_logprobs
from share.kernel.policy.rollout import Group, OpenedPrompt, RolloutConfig, RolloutKey, open_prompt, rollout_opened
from share.kernel.serving.update_config import QualifyConfig
from share.kernel.serving.update_task import Comparison, Qualification


@dataclass(frozen=True, slots=True)
class Standing:
    """How a policy does on the anchors: which it answers rightly, and of what the shipped policy says about them the
    mean entropy and the mean log-probability, nats per token."""

    right: tuple[bool, ...]
    entropy: float
    logprob: float

    @property
    def accuracy(self) -> float:
        return sum(self.right) / len(self.right)


class Anchors:
    """Prompts with known answers, and what the shipped policy (`policy` as it is now) says about them, greedily."""

    def __init__(
        self,
        policy: Policy,
        task: Task,
        prompts: Sequence[Prompt],
        operator: Operator,
        config: RolloutConfig,
        groups_max: int,
    ) -> None:
        self._task = task
        schemas = operator.schemas()
        self._opened = [open_prompt(policy, prompt, schemas) for prompt in prompts]
        self._operator = operator
        self._config = config
        self._groups_max = groups_max
        self._said = answered_greedily(policy, self._opened, operator, config)
        self.frozen = Standing(self._right(self._said), *self._surety(policy))

    def standing(self, policy: Policy) -> Standing:
        groups = answered_greedily(policy, self._opened, self._operator, self._config)
        return Standing(self._right(groups), *self._surety(policy))

    def _right(self, groups: Sequence[Group]) -> tuple[bool, ...]:
        answers = [group.rollouts[0].trajectory.answer for group in groups]
        return tuple(
            answer is not None and float(self._task.check(opened.prompt, answer)) > 0.5
            for opened, answer in zip(self._opened, answers, strict=True)
        )

    def _surety(self, policy: Policy) -> tuple[float, float]:
        """Mean entropy and mean log-probability of what the shipped policy said."""
        entropy = logprob = 0.0
        tokens = 0
        with torch.no_grad():
            for first in range(0, len(self._said), self._groups_max):
                chunk = self._said[first : first + self._groups_max]
                for logprobs, entropies in token_logprobs(policy, chunk):
                    logprob += float(logprobs.double().sum())
                    entropy += float(entropies.double().sum())
                tokens += sum(group.rollouts[0].num_actions for group in chunk)
        return entropy / tokens, logprob / tokens


def answered_greedily(
    policy: Policy, opened: Sequence[OpenedPrompt], operator: Operator, config: RolloutConfig
) -> list[Group]:
    """One rollout per prompt, the likeliest token at every place."""
    greedy = config.model_copy(update={"group_size": 1, "temperature": 0.0})
    return [
        group
        for first in range(0, len(opened), config.rows_max)
        for group in rollout_opened(policy, opened[first : first + config.rows_max], operator, greedy, RolloutKey(0, 0))
    ]


def qualify(
    config: QualifyConfig,
    candidate: Standing,
    served: Standing,
    frozen: Standing,
    audited: Sequence[tuple[bool, bool]],
) -> Qualification:
    """Measure a candidate; `audited` says of items whether what served, and the shipped policy, was right."""
    against_served = compare(list(zip(candidate.right, served.right, strict=True)))
    against_frozen = compare(list(zip(candidate.right, frozen.right, strict=True)))
    on_audited = compare(audited)
    # Of the two the greater: compared with what serves alone, many small losses would add up to a collapse.
    entropy = max(served.entropy, frozen.entropy)
    ratio = candidate.entropy / entropy if entropy > 0.0 else 1.0
    drift = abs(candidate.logprob - frozen.logprob)
    failures = [
        *_failures(config, "anchors, against what serves", against_served, config.loss_max),
        *_failures(config, "anchors, against the shipped policy", against_frozen, config.loss_max),
        *_failures(config, "audited items, against the shipped policy", on_audited, 1.0),
    ]
    # Not `<` and `>`: what is not a number fails.
    if not ratio >= config.entropy_ratio_min:
        whose = "what serves" if served.entropy >= frozen.entropy else "the shipped policy"
        failures.append(f"entropy: {ratio:.2f} times that of {whose} (at least {config.entropy_ratio_min:g})")
    if not drift <= config.drift_max:
        failures.append(f"log-probability: {drift:.2f} nats per token from the shipped policy's ({config.drift_max:g})")
    return Qualification(
        failures=tuple(failures),
        anchor_accuracy=candidate.accuracy,
        against_served=against_served,
        against_frozen=against_frozen,
        audited=on_audited,
        entropy_ratio=ratio,
        drift=drift,
    )


def compare(pairs: Sequence[tuple[bool, bool]]) -> Comparison:
    """Of items that two answered: whether the first, and the second, was right."""
    won = sum(first and not second for first, second in pairs)
    lost = sum(second and not first for first, second in pairs)
    return Comparison(items=len(pairs), won=won, lost=lost, probability=sign_test(won, lost))


def _failures(config: QualifyConfig, name: str, comparison: Comparison, loss_max: float) -> list[str]:
    won, lost = comparison.won, comparison.lost
    what = f"{name}: {lost} of {comparison.items} lost, {won} won"
    if lost > won and comparison.probability <= config.harm_probability:
        return [f"{what} (p = {comparison.probability:.3f})"]
    if lost - won > loss_max * comparison.items:
        return [f"{what} (more than {loss_max:.0%})"]
    return []


__all__ = ["Anchors", "Standing", "answered_greedily", "compare", "qualify"]
