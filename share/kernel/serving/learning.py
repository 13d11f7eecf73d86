"""The update itself: from tasks to a candidate, and from a candidate to a version or back.

    sample -> reward -> restore, if the divergence says so -> step -> mean of weights -> qualify -> version

Whatever becomes of a candidate, the tasks are done: what fails is dropped, and learning goes on from what serves. At
the end of every update the mean of the trained weights is therefore exactly what serves.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from share.kernel.adaptation.kl import KLController
from share.kernel.config import Choice
from share.kernel.contracts.kinds import Task
from share.kernel.contracts.task import Prompt, Split
from share.kernel.errors import ConfigError, VersionDamaged
from share.kernel.media.operator import load_operator
from share.kernel.policy.checkpoint import fingerprint
from share.kernel.policy.loading import Policy, load_policy
from share.kernel.policy.rollout import RolloutKey, open_prompt, rollout
from share.kernel.registry import Registry
from share.kernel.serving.learning_state import LearningState
from share.kernel.serving.lessons import (
    Agreement,
    Exercise,
    Lesson,
    Logprobs,
    Objective,
    add_gradients,
    agreement,
    divergence,
    logprobs_of,
    of_anchor,
    of_task,
    score,
)
from share.kernel.serving.qualify import Anchors, Standing, answered_greedily, qualify
from share.kernel.serving.trainable import Trainable, Values, are_finite, moved
from share.kernel.serving.update_config import UpdateConfig
from share.kernel.serving.update_task import Counters, LearnTask, Outcome, Qualification
from share.kernel.serving.versions import FROZEN, VersionStore
from share.kernel.serving.weights import with_weights


@dataclass(slots=True)
class Update:
    """What came of one update; `rewards` are the mean rewards of the tasks' samples, in order, `seconds` by phase."""

    outcome: Outcome = "no_signal"
    reason: str = ""
    rewards: tuple[float, ...] = ()
    kl_frozen: float | None = None
    kl_served: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    agreement: Agreement | None = None
    qualification: Qualification | None = None
    seconds: dict[str, float] = field(default_factory=dict)


class Learning:
    """The policies and where learning stands. Making it loads all that no update changes.

    `version` is what shall serve. Versions are written to `store` and not published.
    """

    def __init__(self, config: UpdateConfig, registry: Registry, store: VersionStore) -> None:
        self._config = config
        self._store = store
        self._frozen = load_policy(config.policy)
        self._operator = load_operator(registry, config.operations, fit=self._frozen.fit)
        self._trainable = Trainable(config.policy, config.trainable, config.lora, config, config.seed)
        parameters = dict(self._frozen.model.named_parameters())
        self._frozen_values: Values = {name: parameters[name].detach() for name in self._trainable.names}
        self._task, prompts = _anchors(registry, config.anchors, config.qualify.anchors)
        self._anchors = Anchors(
            self._frozen, self._task, prompts, self._operator, config.rollout, config.prompts_per_forward
        )
        self.identity = (
            f"updates of policy {fingerprint(self._frozen_values)} by {config.trainable}"
            f" with seed {config.seed}, {self._trainable.learner.num_parameters} parameters"
        )
        self.number = 0
        self.counters = Counters()
        self._kl = KLController(config.kl)
        self._was_restored = False
        self._audited: list[tuple[bool, bool]] = []
        self._base: Values
        self._mean: Values
        self._serve(FROZEN, self._frozen_values, self._anchors.frozen)
        self._begin()

    @property
    def beta(self) -> float:
        return self._kl.beta

    def state(self) -> LearningState:
        """All that the next update depends on. Its tensors are not copied: the next update changes them."""
        return LearningState(
            number=self.number,
            version=self.version,
            base=self._base,
            learner=self._trainable.learner.state_dict(),
            mean=self._mean,
            standing=self._standing,
            kl=self._kl.state(),
            was_restored=self._was_restored,
            audited=self._audited,
            counters=self.counters,
        )

    def take_up(self, state: LearningState) -> None:
        """Go on where `state` was taken."""
        self.number, self.counters = state.number, state.counters
        self._kl.restore(state.kl)
        self._was_restored, self._audited = state.was_restored, state.audited
        self._trainable.begin(state.base or self._frozen_values)
        self._trainable.learner.load_state_dict(state.learner)
        trained = self._trainable.learner.parameters
        self._base, self._mean = state.base, {name: each.to(trained[name].device) for name, each in state.mean.items()}
        values = self._frozen_values if state.version == FROZEN else self._trainable.values(state.mean)
        self._serve(state.version, values, state.standing)

    def open(self, prompt: Prompt) -> None:
        """Raises a PixelisError when the policy cannot be asked this."""
        open_prompt(self._frozen, prompt, self._operator.schemas())

    def restore(self, version: str) -> None:
        """Go on from this version, which serves now. Raises UnknownVersion, VersionDamaged; then all is as it was."""
        values = self._frozen_values if version == FROZEN else self._store.read(version)
        if set(values) != set(self._frozen_values):
            raise VersionDamaged(f"{version} changes other weights than are trained here; serve {FROZEN} instead")
        policy = self._frozen if version == FROZEN else with_weights(self._frozen, values)
        self._serve(version, values, self._anchors.standing(policy))
        self._begin()
        self._forget()
        self._count(restored=1)

    def learn(self, tasks: Sequence[tuple[LearnTask, Prompt]]) -> Update:
        """One update from these tasks, which `open` accepted."""
        update = Update(learning_rate=max(task.weight for task, _ in tasks))
        with _timed(update, "audit"):
            self._audit([each for each in tasks if each[0].is_audited])
        exercises = [of_task(task, prompt, update.learning_rate or 1.0) for task, prompt in tasks]
        exercises += self._replayed(len(tasks))
        lessons, references = self._sampled(exercises, update)
        self._count(updates=1)
        divergences = (update.kl_frozen or 0.0, update.kl_served or 0.0)
        if self._kl.observe(max(divergences) if all(map(math.isfinite, divergences)) else math.inf) == "restore":
            self._put_back()
            lessons, references = self._sampled(exercises, update)
        elif not self._kl.state()["count"]:
            self._was_restored = False
        update.rewards = tuple(lesson.reward for lesson in lessons[: len(tasks)])
        update.agreement = agreement(lessons)
        taught = [lesson for lesson in lessons if lesson.teaches]
        if not any(lesson.teaches for lesson in lessons[: len(tasks)]):
            update.reason = "the rewards of every task's samples are all alike"
            self._count(no_signal=1)
            return update
        with _timed(update, "learn"):
            is_learned = self._step(taught, references, update)
        if is_learned:
            self._judge(moved(self._mean, self._trainable.weights(), self._config.ema_decay), update)
        return update

    def _sampled(self, exercises: Sequence[Exercise], update: Update) -> tuple[list[Lesson], tuple[Logprobs, Logprobs]]:
        """Samples of the policy as it is trained now, scored, and what the shipped and the served one make of them."""
        config = self._config
        with _timed(update, "sample"):
            policy = with_weights(self._frozen, self._trainable.values(self._trainable.weights()))
            key = RolloutKey(config.seed, self.counters.updates)
            groups = rollout(policy, [each.prompt for each in exercises], self._operator, config.rollout, key)
            lessons = [
                score(policy, exercise, group, config.rollout.tokens_max)
                for exercise, group in zip(exercises, groups, strict=True)
            ]
        with _timed(update, "compare"):
            scored = [lesson.group for lesson in lessons]
            frozen = logprobs_of(self._frozen, scored, config.prompts_per_forward)
            served = frozen
            if self._served is not self._frozen:
                served = logprobs_of(self._served, scored, config.prompts_per_forward)
            update.kl_frozen, update.kl_served = divergence(lessons, frozen), divergence(lessons, served)
        return lessons, (frozen, served)

    def _step(self, taught: Sequence[Lesson], references: tuple[Logprobs, Logprobs], update: Update) -> bool:
        """One step of the optimizer. False when it was not finite, and then all is as before."""
        config, learner, rate = self._config, self._trainable.learner, update.learning_rate
        assert rate is not None
        objective = Objective(self._kl.beta, references, config.rollout.tokens_max, config.prompts_per_forward)
        add_gradients(self._trainable.policy, taught, objective)
        update.gradient_norm = learner.clip()
        if math.isfinite(update.gradient_norm):
            before = copy.deepcopy(learner.state_dict())
            learner.step(rate)
            if are_finite(learner.parameters):
                return True
            learner.load_state_dict(before)
        learner.discard()
        update.outcome, update.reason = "skipped", "the step of the optimizer was not finite"
        self._count(skipped=1)
        return False

    def _judge(self, mean: Values, update: Update) -> None:
        """Write a version of the candidate if it qualifies; drop it if it does not."""
        values = self._trainable.values(mean)
        if not are_finite(values):
            self._fail("the candidate's weights are not finite", update)
            return
        with _timed(update, "qualify"):
            standing = self._anchors.standing(with_weights(self._frozen, values))
            frozen = self._anchors.frozen
            update.qualification = qualify(self._config.qualify, standing, self._standing, frozen, self._audited)
        if update.qualification.failures:
            self._fail("; ".join(update.qualification.failures), update)
            return
        with _timed(update, "write"):
            facts = {
                "updates": self.counters.updates,
                "kl_frozen": update.kl_frozen,
                "qualification": update.qualification.model_dump(mode="json"),
            }
            version = self._store.write(values, self.version, facts)
        self._mean = mean
        self._serve(version, values, standing)
        self._count(qualified=1)
        self.counters = self.counters.model_copy(update={"failures_in_a_row": 0})
        update.outcome = "learned"

    def _fail(self, reason: str, update: Update) -> None:
        """The candidate is dropped, and with the last of too many in a row all that was learned."""
        update.outcome, update.reason = "unqualified", reason
        self._count(unqualified=1, failures_in_a_row=1)
        if self.counters.failures_in_a_row < self._config.qualify.failures_max:
            self._begin()
            return
        update.outcome = "reset"
        update.reason = f"{self.counters.failures_in_a_row} candidates in a row did not qualify, the last: {reason}"
        self._reset()

    def _put_back(self) -> None:
        """The divergence is too large: go on from what serves, and if that did not help the last time, from nothing."""
        self._count(kl_restores=1)
        if self._was_restored:
            self._reset()
        else:
            self._begin()
            self._was_restored = True

    def _reset(self) -> None:
        self._serve(FROZEN, self._frozen_values, self._anchors.frozen)
        self._begin()
        self._forget()
        self._count(resets=1)

    def _serve(self, version: str, values: Values, standing: Standing) -> None:
        self.version = version
        self._values = values
        self._served: Policy = self._frozen if version == FROZEN else with_weights(self._frozen, values)
        self._standing = standing

    def _begin(self) -> None:
        """Drop what is being trained: begin at what serves."""
        self._trainable.begin(self._values)
        self._base = {} if self.version == FROZEN else self._values
        self._mean = self._trainable.weights()

    def _forget(self) -> None:
        """What was observed of a version that serves no more says nothing about the one that does."""
        self._audited = []
        self._was_restored = False
        self._kl.restore({"beta": self._kl.beta, "sum": 0.0, "count": 0.0})
        self.counters = self.counters.model_copy(update={"failures_in_a_row": 0})

    def _audit(self, tasks: Sequence[tuple[LearnTask, Prompt]]) -> None:
        """Before anything is learned of them: was what serves right about these, and the shipped policy?

        Asked afterwards, a candidate would know the answers.
        """
        window = self._config.qualify.audited_window
        if not tasks or self.version == FROZEN or not window:
            return
        schemas = self._operator.schemas()
        opened = [open_prompt(self._frozen, prompt, schemas) for _, prompt in tasks]
        served, frozen = (
            answered_greedily(policy, opened, self._operator, self._config.rollout)
            for policy in (self._served, self._frozen)
        )
        for (task, prompt), ours, theirs in zip(tasks, served, frozen, strict=True):
            exercise = of_task(task, prompt, 1.0)
            answers = (ours.rollouts[0].trajectory.answer, theirs.rollouts[0].trajectory.answer)
            ours_right, theirs_right = (answer is not None and exercise.reward(answer) == 1.0 for answer in answers)
            self._audited = [*self._audited, (ours_right, theirs_right)][-window:]

    def _replayed(self, num_tasks: int) -> list[Exercise]:
        """Anchors that make up for a small batch, and keep a large one from being the stream's alone."""
        config = self._config
        number = max(config.prompts_min - num_tasks, math.ceil(config.replay_share * num_tasks))
        first, size = self.counters.anchors, self._task.size("train")
        self._count(anchors=number)
        indices = [index if size is None else index % size for index in range(first, first + number)]
        return [of_anchor(self._task, self._task.prompt("train", index)) for index in dict.fromkeys(indices)]

    def count_refused(self) -> None:
        self._count(refused=1)

    def _count(self, **more: int) -> None:
        counted = {name: getattr(self.counters, name) + number for name, number in more.items()}
        self.counters = self.counters.model_copy(update=counted)


def _anchors(registry: Registry, choice: Choice, number: int) -> tuple[Task, list[Prompt]]:
    """The anchor task, and the prompts that candidates are measured on."""
    task = cast(Task, registry.build(choice))
    split: Split = "train" if task.size("held_out") == 0 else "held_out"
    size = task.size(split)
    if size == 0 or task.size("train") == 0:
        raise ConfigError(f"anchors: {choice.name!r} has no prompts to learn beside the stream; give it some")
    return task, [task.prompt(split, index) for index in range(number if size is None else min(number, size))]


@contextmanager
def _timed(update: Update, phase: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    update.seconds[phase] = update.seconds.get(phase, 0.0) + time.perf_counter() - started


__all__ = ["Learning", "Update"]
