"""From samples to what is learned of them: rewards against a target, advantages, and the loss.

Every sample is rewarded on its own, against what a person, a checker or the vote said, never the vote against itself.
An answer that was approved or corrected also joins its group as one more sample, after the operations of one that
answered: where no sample finds the answer, its group would teach nothing. A rejected answer teaches only that it is
wrong: samples that repeat it are pushed down in their last turn, and no other is pushed up for being different.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from share.kernel.contracts.kinds import Task
from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Trajectory
from share.kernel.data.checkers import canonical
from share.kernel.policy.chat import ParsedAnswer, parse_turn
from share.kernel.policy.loading import Policy
from share.kernel.policy.logprobs import token_logprobs
from share.kernel.policy.losses import UpdateSize, policy_loss
from share.kernel.policy.orchestrator import normalize
from share.kernel.policy.rollout import Group, Rollout, forbidden_ids
from share.kernel.serving.update_task import LearnTask

NEUTRAL = 0.5
"""Reward of a sample of which nothing is known but that it is not the answer that was rejected."""


@dataclass(frozen=True, slots=True)
class Exercise:
    """A prompt with its target. `task_id` is None for an anchor, `weight` in [0, 1] scales its advantages."""

    prompt: Prompt
    reward: Callable[[str], float]
    spelling: Callable[[str], str]
    weight: float
    task_id: str | None = None
    is_rejected: bool = False
    is_shown: bool = False

    @property
    def is_known(self) -> bool:
        """Whether rewards say what is right."""
        return self.task_id is None or self.is_shown


def of_task(task: LearnTask, prompt: Prompt, learning_rate: float) -> Exercise:
    """The exercise of a task in an update of that learning rate."""
    target = canonical(task.answer, task.answer_type)

    def spelling(answer: str) -> str:
        return canonical(answer, task.answer_type)

    def reward(answer: str) -> float:
        is_same = spelling(answer) == target
        return NEUTRAL * (not is_same) if task.kind == "rejected" else float(is_same)

    return Exercise(
        prompt,
        reward,
        spelling,
        weight=task.weight / learning_rate,
        task_id=prompt.prompt_id,
        is_rejected=task.kind == "rejected",
        is_shown=task.is_audited,
    )


def of_anchor(task: Task, prompt: Prompt) -> Exercise:
    return Exercise(
        prompt, lambda answer: float(task.check(prompt, answer)), lambda answer: canonical(answer, "text"), 1.0
    )


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """The scored rollouts of an exercise; the last may be the target as it was shown, the others are samples.

    `masks` bool[S] mark the tokens that the advantages are for. `rewards` are those of the samples.
    """

    exercise: Exercise
    group: Group
    num_samples: int
    rewards: tuple[float, ...]
    advantages: tuple[float, ...]
    masks: tuple[Tensor, ...]

    @property
    def teaches(self) -> bool:
        return any(self.advantages)

    @property
    def reward(self) -> float:
        return math.fsum(self.rewards) / len(self.rewards)


def score(policy: Policy, exercise: Exercise, group: Group, tokens_max: int) -> Lesson:
    """Rewards and advantages of a group of samples. Rollouts that were cut take no part."""
    samples = group.rollouts
    rewards = [_reward(exercise, each.trajectory) for each in samples]
    counted: list[float | None] = [
        None if each.trajectory.finish in ("turns_max", "tokens_max") else reward
        for each, reward in zip(samples, rewards, strict=True)
    ]
    if exercise.is_rejected:
        advantages = [0.0 if reward is None else (reward - NEUTRAL) / NEUTRAL for reward in counted]
        masks = [_last_turn(each) for each in samples]
    else:
        shown = _shown(policy, exercise, group, tokens_max) if exercise.is_shown else ()
        advantages = [value or 0.0 for value in normalize([*counted, *(1.0 for _ in shown)])]
        group = Group(group.prompt, (*samples, *shown))
        masks = [each.action_mask for each in group.rollouts]
    weighted = tuple(exercise.weight * advantage for advantage in advantages)
    return Lesson(exercise, group, len(samples), tuple(rewards), weighted, tuple(masks))


def _reward(exercise: Exercise, trajectory: Trajectory) -> float:
    if trajectory.answer is None:
        return NEUTRAL if exercise.is_rejected else 0.0
    return exercise.reward(trajectory.answer)


def _last_turn(rollout: Rollout) -> Tensor:
    """The action mask without what was written before the last observation."""
    read = (~rollout.action_mask).nonzero()[:, 0]
    mask = rollout.action_mask.clone()
    if len(read):
        mask[: int(read[-1])] = False
    return mask


def _shown(policy: Policy, exercise: Exercise, group: Group, tokens_max: int) -> tuple[Rollout, ...]:
    """The target as the answer of a sample that answered, preferably one whose operations all succeeded.

    None where no sample answered, or where the target cannot be written as an answer: it may be anything.
    """
    ids = policy.chat.answer(exercise.prompt.answer)
    parsed = parse_turn(policy.chat.text(ids))
    can_be_written = isinstance(parsed, ParsedAnswer) and exercise.reward(parsed.text) == 1.0
    if not can_be_written or ids.count(policy.chat.end_id) > 1 or not forbidden_ids(policy).isdisjoint(ids):
        return ()
    answered = [each for each in group.rollouts if each.trajectory.finish == "answer"]
    if not answered:
        return ()
    best = min(answered, key=lambda each: (_num_failed(each.trajectory), -len(each.trajectory.operations), each.sample))
    start = int(_last_turn(best).nonzero()[0, 0])
    if start + len(ids) > tokens_max:
        return ()
    written = torch.ones(len(ids), dtype=torch.bool)
    rollout = replace(
        best,
        trajectory=replace(best.trajectory, answer=exercise.prompt.answer),
        completion_ids=torch.cat([best.completion_ids[:start], torch.tensor(ids)]),
        action_mask=torch.cat([best.action_mask[:start], written]),
        behavior_logprobs=torch.zeros(start + len(ids)),  # not of this policy's own choosing
        sample=len(group.rollouts),
    )
    return (rollout,)


def _num_failed(trajectory: Trajectory) -> int:
    return sum(action.error is not None for action in trajectory.actions)


Logprobs = Mapping[Rollout, Tensor]
"""Log-probabilities float32[S] of what each rollout says, on the CPU, under some policy."""


def logprobs_of(policy: Policy, groups: Sequence[Group], groups_max: int) -> Logprobs:
    """Under this policy, `groups_max` groups at a time; no gradients."""
    found: dict[Rollout, Tensor] = {}
    with torch.no_grad():
        for first in range(0, len(groups), groups_max):
            chunk = groups[first : first + groups_max]
            rollouts = [each for group in chunk for each in group.rollouts]
            found |= zip(rollouts, (logprobs.cpu() for logprobs, _ in token_logprobs(policy, chunk)), strict=True)
    return found


def divergence(lessons: Sequence[Lesson], logprobs: Logprobs) -> float:
    """KL divergence of the policy that sampled from the one with these log-probabilities, nats per token (k3)."""
    towards = torch.cat(
        [
            (logprobs[each] - each.behavior_logprobs)[each.action_mask]
            for lesson in lessons
            for each in lesson.group.rollouts[: lesson.num_samples]
        ]
    ).double()
    return float((towards.expm1() - towards).mean()) if len(towards) else 0.0


@dataclass(frozen=True, slots=True)
class Objective:
    """What is minimised beside the loss of the advantages: `beta` times the divergence from each reference policy."""

    beta: float
    references: tuple[Logprobs, ...]
    tokens_max: int
    groups_max: int


def add_gradients(policy: Policy, lessons: Sequence[Lesson], objective: Objective) -> None:
    """The gradient of one update on samples of the policy as it is, `groups_max` groups at a time."""
    rollouts = [each for lesson in lessons for each in lesson.group.rollouts]
    size = UpdateSize(len(rollouts), sum(each.num_actions for each in rollouts), objective.tokens_max)
    for first in range(0, len(lessons), objective.groups_max):
        chunk = lessons[first : first + objective.groups_max]
        logprobs = [each for each, _ in token_logprobs(policy, [lesson.group for lesson in chunk])]
        _loss(chunk, logprobs, size, objective).backward()  # type: ignore[no-untyped-call]


def _loss(lessons: Sequence[Lesson], logprobs: Sequence[Tensor], size: UpdateSize, objective: Objective) -> Tensor:
    rollouts = [each for lesson in lessons for each in lesson.group.rollouts]
    behavior = [each.detach() for each in logprobs]  # a target that was shown counts as a sample, too
    advantages = [advantage for lesson in lessons for advantage in lesson.advantages]
    masks = [mask for lesson in lessons for mask in lesson.masks]
    loss = policy_loss("grpo", logprobs, behavior, advantages, masks, size).loss
    # What was shown is no sample of the policy, so that no divergence can be estimated on it.
    sampled = [
        each.action_mask & (number < lesson.num_samples)
        for lesson in lessons
        for number, each in enumerate(lesson.group.rollouts)
    ]
    for reference in objective.references:
        loss = (
            loss
            + policy_loss(
                "dapo",
                logprobs,
                behavior,
                [0.0] * len(rollouts),
                sampled,
                size,
                reference_logprobs=[reference[each] for each in rollouts],
                kl_coefficient=objective.beta,
            ).loss
        )
    return loss


@dataclass(frozen=True, slots=True)
class Agreement:
    """The three shares of TTRL (arXiv 2504.16084); None where no answer is known, or no sample answered."""

    label_accuracy: float | None = None
    reward_accuracy: float | None = None
    majority_ratio: float | None = None


def agreement(lessons: Sequence[Lesson]) -> Agreement:
    """How well the majority of samples stands for the truth. Ties go to the answer that was sampled first."""
    labels: list[float] = []
    rewards: list[float] = []
    ratios: list[float] = []
    for lesson in lessons:
        answers = [each.trajectory.answer for each in lesson.group.rollouts[: lesson.num_samples]]
        spelled = [None if answer is None else lesson.exercise.spelling(answer) for answer in answers]
        counts = Counter(each for each in spelled if each is not None)
        if not counts:
            continue
        majority, votes = counts.most_common(1)[0]
        ratios.append(votes / len(answers))
        if lesson.exercise.is_known:
            labels.append(lesson.rewards[spelled.index(majority)])
            rewards += [
                float((each == majority) == (reward == 1.0))
                for each, reward in zip(spelled, lesson.rewards, strict=True)
            ]
    return Agreement(_mean(labels), _mean(rewards), _mean(ratios))


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


__all__ = [
    "NEUTRAL",
    "Agreement",
    "Exercise",
    "Lesson",
    "Logprobs",
    "Objective",
    "add_gradients",
    "agreement",
    "divergence",
    "logprobs_of",
    "of_anchor",
    "of_task",
    "score",
]
