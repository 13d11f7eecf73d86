"""The exam of a policy: its skills, scored on held-out prompts that a task can demonstrate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from share.kernel.contracts.kinds import Task
from share.kernel.contracts.task import Demonstration, Prompt
from share.kernel.errors import TaskError
from share.kernel.media.operator import Operator
from share.kernel.policy.loading import Policy
from share.kernel.policy.logprobs import Layout, token_logprobs
from share.kernel.policy.rollout import Rollout, RolloutConfig, open_scene, teacher_forced
from share.kernel.trainer.evaluation import evaluate
from share.kernel.trainer.prompts import held_out
from share.kernel.trainer.skills import format_score, grounding_score, reading_score

SkillScores = dict[str, list[float]]
"""By skill, one score in [0, 1] per prompt, in the order of the prompts."""


@dataclass(frozen=True, slots=True)
class _Question:
    """`played` is the demonstration as a rollout, its operations really run."""

    prompt: Prompt
    demonstration: Demonstration
    played: Rollout


class Exam:
    """Those of the first `prompts` held-out prompts that the task demonstrates. Raises TaskError when it does none."""

    def __init__(self, policy: Policy, task: Task, operator: Operator, prompts: int) -> None:
        self._policy = policy
        self._task = task
        self._operator = operator
        self._questions: list[_Question] = []
        for prompt in held_out(task, prompts):
            demonstration = task.demonstrate(prompt, open_scene(policy, prompt))
            if demonstration is not None:
                played = teacher_forced(policy, prompt, demonstration, operator)
                self._questions.append(_Question(prompt, demonstration, played))
        if not self._questions:
            raise TaskError(
                f"task: {type(task).__name__} demonstrates none of its held-out prompts, so nothing can be imitated; "
                "name another task, or give the lines of a JSONL file their `calls`"
            )

    @property
    def calls_operations(self) -> bool:
        """Whether any of its demonstrations calls an operation."""
        return any(question.demonstration.calls for question in self._questions)

    def take(
        self, config: RolloutConfig, seed: int, prompts_per_forward: int, layout: Layout
    ) -> tuple[SkillScores, float]:
        """The scores of the policy as it is now, and the mean loss of the demonstrations' tokens, in nats."""
        prompts = [question.prompt for question in self._questions]
        greedy = evaluate(self._policy, self._task, prompts, self._operator, config, seed)
        rolled = [group.rollouts[0] for group in greedy.groups]
        answers, losses = self._teacher_forced(prompts_per_forward, layout)
        scores = {
            "format": [format_score(each.trajectory) for each in rolled],
            "grounding": [
                grounding_score(each.trajectory, question.demonstration, each.scene)
                for each, question in zip(rolled, self._questions, strict=True)
            ],
            "reading": answers,
            "accuracy": list(greedy.correctness),
        }
        return scores, sum(losses) / len(losses)

    def _teacher_forced(self, prompts_per_forward: int, layout: Layout) -> tuple[list[float], list[float]]:
        """Of each demonstration: the probability of its answer, and the mean loss of its tokens."""
        played = [question.played for question in self._questions]
        answers, losses = [], []
        for first in range(0, len(played), prompts_per_forward):
            batch: Sequence[Rollout] = played[first : first + prompts_per_forward]
            with torch.no_grad():
                logprobs = [logprob.cpu() for logprob, _ in token_logprobs(self._policy, batch, layout)]
            for each, logprob in zip(batch, logprobs, strict=True):
                read = (~each.action_mask).nonzero()
                answer_start = int(read[-1]) + 1 if len(read) else 0
                answers.append(reading_score(logprob[answer_start:].double().tolist()))
                losses.append(-float(logprob[each.action_mask].double().mean()))
        return answers, losses


__all__ = ["Exam", "SkillScores"]
