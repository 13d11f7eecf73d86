"""GRPO (Shao et al., arXiv 2402.03300) with visual operations in the loop.

One step: prompts -> rollouts -> rewards -> advantages -> `num_iterations` passes of updates over the step's groups. A
checkpoint lies between two steps and holds everything that the next one depends on; the samples of a step are a
function of seed and step, so a run that was killed computes again what it had not saved, to the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch

from share.kernel.contracts.run import RunContext
from share.kernel.data.curriculum import RewardCurriculum
from share.kernel.errors import Interrupted
from share.kernel.media.operator import Operator, load_operator
from share.kernel.policy.learner import Learner
from share.kernel.policy.loading import load_policy
from share.kernel.policy.logprobs import token_logprobs
from share.kernel.policy.losses import UpdateSize, policy_loss
from share.kernel.policy.orchestrator import RewardOrchestrator
from share.kernel.policy.reference import ReferencePolicy
from share.kernel.policy.rollout import Group, RolloutKey, rollout
from share.kernel.trainer.alarms import Alarms
from share.kernel.trainer.checkpoints import RunCheckpoints
from share.kernel.trainer.evaluation import Evaluation, answered, evaluate
from share.kernel.trainer.grpo_config import GRPOConfig
from share.kernel.trainer.history import History, StepReport
from share.kernel.trainer.monitor import Monitor
from share.kernel.trainer.optimization import learning_rate_at, seed_everything
from share.kernel.trainer.prompts import PromptStream, build_task, held_out
from share.kernel.trainer.rehearsal import Plan, rehearse
from share.kernel.trainer.results import leave_results
from share.kernel.trainer.scored import Scored, evaluated_items, mean, scored_items, seen

GALLERY_PROMPTS = 12
"""Held-out prompts, and groups of the last step, that the gallery shows."""


def train(config: GRPOConfig, run: RunContext) -> None:
    """Kind `trainer`, name `grpo`. Leaves `policy/` (a Hugging Face directory), `curves.png`, `trajectories.html`."""
    trainer = GRPOTrainer(config, run)
    if run.dry_run:
        trainer.rehearse()
        return
    if run.resume:
        trainer.restore()
    trainer.run_steps()
    trainer.finish()


class GRPOTrainer:
    """The state of one training: `step` steps and `update` optimizer updates are done, `cursor` prompts were drawn."""

    def __init__(self, config: GRPOConfig, run: RunContext) -> None:
        self.config = config
        self.run = run
        seed_everything(run.seed)
        self.task = build_task(run.registry, config.task)
        self.policy = load_policy(config.policy)
        self.operator = load_operator(run.registry, config.operations, fit=self.policy.fit)
        curriculum = RewardCurriculum(config.reward_curriculum, config.reward_window_steps)
        self.orchestrator = RewardOrchestrator(
            {name: run.registry.build(term.reward) for name, term in config.rewards.items()},
            {name: term.weight for name, term in config.rewards.items()},
            config.normalization,
            curriculum if config.reward_curriculum else None,
        )
        self.reference = ReferencePolicy(self.policy) if config.kl_coefficient or config.measure_kl else None
        self.learner = Learner(self.policy.model, config)
        self.checkpoints = RunCheckpoints(run, "grpo", self.policy, config.checkpoints_kept)
        self.stream = PromptStream(self.task, "train", run.seed)
        self.alarms = Alarms(config.alarms)
        self.history = History()
        self.step = self.update = self.cursor = 0
        self.train_s = 0.0
        self._last: tuple[Scored, ...] = ()
        updates = config.prompts_per_step // (config.prompts_per_update or config.prompts_per_step)
        self._updates = config.steps * updates * config.num_iterations

    def run_steps(self) -> None:
        """All steps that are left. Raises Interrupted, after a checkpoint, when the run was asked to stop."""
        config = self.config
        with Monitor(self.run, steps=config.steps, done=self.step, trackers=config.trackers, title="grpo") as monitor:
            while self.step < config.steps:
                if self.run.stop.is_set():
                    self.save()
                    raise Interrupted(f"stopped after step {self.step} of {config.steps}")
                if self.step == 0:
                    self._evaluate(monitor)
                self._record(self.make_step(config.prompts_per_step), monitor)
                last = self.step == config.steps
                if last or self.step % config.evaluate_every == 0:
                    self._evaluate(monitor)
                if last or self.step % config.checkpoint_every == 0:
                    self.save()

    def make_step(self, num_prompts: int) -> StepReport:
        """One step, from prompts to new weights."""
        started = time.perf_counter()
        scored, numbers = self._collect(num_prompts)
        collected = time.perf_counter()
        numbers |= self._learn(scored)
        self.step += 1
        ended = time.perf_counter()
        self.history.count(tokens=int(numbers["tokens"]))
        self.train_s += ended - started
        self._last = tuple(scored)
        times = {
            "step_s": ended - started,
            "rollout_s": collected - started,
            "update_s": ended - collected,
            "tokens_per_s": numbers["tokens"] / (ended - started),
        }
        return StepReport(numbers, times)

    def _collect(self, num_prompts: int) -> tuple[list[Scored], dict[str, float]]:
        """The groups to learn from, and what was seen of all that were sampled."""
        resample = self.config.zero_variance == "resample"
        kept: list[Scored] = []
        sampled: list[Scored] = []
        for _ in range(self.config.resample_rounds_max if resample else 1):
            scored = [self._score(group) for group in self._sample(num_prompts - len(kept))]
            sampled += scored
            kept += [each for each in scored if not (resample and each.rewards.zero_variance)]
            if len(kept) == num_prompts:
                break
        return kept, seen(sampled)

    def _sample(self, num_prompts: int) -> list[Group]:
        """Rollouts of the next prompts. Where a small source comes round within a step, it is sampled anew."""
        cursors = range(self.cursor, self.cursor + num_prompts)
        self.cursor += num_prompts
        groups: list[Group] = []
        for number, same_pass in groupby(cursors, self.stream.pass_of):
            prompts = [self.stream.prompt(cursor) for cursor in same_pass]
            key = RolloutKey(self.run.seed, (self.step << 20) + number)
            groups += rollout(self.policy, prompts, self.operator, self.config.rollout, key)
        return groups

    def _learn(self, scored: Sequence[Scored]) -> dict[str, float]:
        """All updates of a step; what is reported is their mean."""
        size = self.config.prompts_per_update or max(len(scored), 1)
        updates = [
            self._update(scored[first : first + size])
            for _ in range(self.config.num_iterations)
            for first in range(0, max(len(scored), 1), size)
        ]
        names = {name for numbers in updates for name in numbers}
        return {name: mean([numbers[name] for numbers in updates if name in numbers]) for name in sorted(names)}

    def _update(self, batch: Sequence[Scored]) -> dict[str, float]:
        """One optimizer update on some groups, forward and backward a few groups at a time."""
        config = self.config
        rollouts = [each for scored in batch for each in scored.group.rollouts]
        size = UpdateSize(len(rollouts), sum(each.num_actions for each in rollouts), config.rollout.tokens_max)
        taught = [each for each in batch if config.zero_variance == "keep" or not each.rewards.zero_variance]
        sums = dict.fromkeys(("loss", "kl_behavior", "clipped_low_share", "clipped_high_share"), 0.0)
        kl = self._kl(taught[:1]) if not config.kl_coefficient else None
        if config.kl_coefficient:
            sums["kl"] = 0.0
        tokens = 0
        for first in range(0, len(taught), config.prompts_per_forward):
            tokens += self._backward(taught[first : first + config.prompts_per_forward], size, sums)
        learning_rate = learning_rate_at(config, self.update, self._updates)
        norm = self.learner.update(learning_rate) if taught else 0.0
        self.update += 1
        means = {name: value if name == "loss" else value / max(tokens, 1) for name, value in sums.items()}
        return {**({} if kl is None else {"kl": kl}), **means, "gradient_norm": norm, "learning_rate": learning_rate}

    def _kl(self, batch: Sequence[Scored]) -> float | None:
        """KL divergence from the reference policy on some groups, nats per token (k3 estimate, as in the loss)."""
        if self.reference is None or not batch:
            return None
        groups = [each.group for each in batch]
        masks = [each.action_mask for group in groups for each in group.rollouts]
        with torch.no_grad():
            policy = [logprobs for logprobs, _ in token_logprobs(self.policy, groups, self.config.layout)]
        reference = self.reference.token_logprobs(groups, self.config.layout)
        towards = torch.cat(
            [(one - other).cpu()[mask] for one, other, mask in zip(reference, policy, masks, strict=True)]
        )
        return float((towards.double().expm1() - towards).mean())

    def _backward(self, batch: Sequence[Scored], size: UpdateSize, sums: dict[str, float]) -> int:
        """Add the gradient of some groups of an update, and to `sums` what was measured; returns their tokens."""
        config = self.config
        groups = [each.group for each in batch]
        rollouts = [each for group in groups for each in group.rollouts]
        reference = None
        if self.reference is not None and config.kl_coefficient:
            reference = self.reference.token_logprobs(groups, config.layout)
        logprobs, entropies = zip(*token_logprobs(self.policy, groups, config.layout), strict=True)
        part = policy_loss(
            config.loss,
            logprobs,
            [each.behavior_logprobs for each in rollouts],
            [advantage for each in batch for advantage in each.rewards.advantages],
            [each.action_mask for each in rollouts],
            size,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            reference_logprobs=reference,
            kl_coefficient=config.kl_coefficient,
            entropies=entropies,
            entropy_coefficient=config.entropy_coefficient,
        )
        part.loss.backward()  # type: ignore[no-untyped-call]
        sums["loss"] += float(part.loss.detach())
        if reference is not None:
            sums["kl"] += part.kl
        sums["clipped_low_share"] += part.clipped_low
        sums["clipped_high_share"] += part.clipped_high
        for each, logprob in zip(rollouts, logprobs, strict=True):
            ratio = (logprob.detach().cpu().double() - each.behavior_logprobs)[each.action_mask]
            sums["kl_behavior"] += float((ratio.expm1() - ratio).sum())
        return part.tokens

    def _score(self, group: Group) -> Scored:
        trajectories = [each.trajectory for each in group.rollouts]
        correctness = [answered(self.task, group.prompt, trajectory) for trajectory in trajectories]
        cut = [trajectory.finish in ("turns_max", "tokens_max") for trajectory in trajectories]
        counted = [not (self.config.mask_truncated and was_cut) for was_cut in cut]
        scenes = [each.scene for each in group.rollouts]
        return Scored(group, self.orchestrator.score(group.prompt, trajectories, scenes, correctness, counted))

    def _record(self, report: StepReport, monitor: Monitor) -> None:
        """Tell the history, the alarms, the curriculum and the person about a step."""
        numbers = report.numbers
        self.history.add(self.step, numbers)
        shown = {
            "reward": f"{numbers['reward']:.3f}",
            "accuracy": f"{numbers['accuracy']:.1%}",
            "operations": f"{numbers['rapr']:.0%}",
            "kl": f"{numbers.get('kl', numbers['kl_behavior']):.4f}",
            "tokens/s": f"{report.times['tokens_per_s']:.0f}",
        }
        monitor.step(self.step, {**numbers, **report.times}, shown)
        begun = self.alarms.observe(
            operation_share=numbers["rapr"],
            entropy=numbers["entropy"],
            zero_variance_share=numbers["zero_variance_share"],
            accuracy=numbers["accuracy"],
        )
        for alarm in begun:
            self.history.add_alarm(alarm.name)
            self.run.logger.warn(f"alarm.{alarm.name}", f"step {self.step}: {alarm.message}", step=self.step)
        reason = self.orchestrator.observe(numbers["accuracy"], numbers["reward"])
        if reason is not None and self.orchestrator.curriculum is not None:
            phase = self.orchestrator.curriculum.phase
            message = f"step {self.step}: reward phase {phase.name!r} begins: {reason}"
            self.run.logger.info("train.phase", message, step=self.step, phase=phase.name, weights=phase.weights)

    def _evaluate(self, monitor: Monitor) -> None:
        """Held-out accuracy, greedily; at both ends also without operations when configured."""
        limit = self.config.evaluation_prompts
        if not held_out(self.task, 1):
            return
        numbers = self._measure(self.operator, limit).numbers("held_out_")
        if self.config.evaluate_without_operations and self.step in (0, self.config.steps):
            blind = self._measure(Operator({}, fit=self.policy.fit), limit)
            numbers["held_out_accuracy_without_operations"] = blind.accuracy
        self.history.add_evaluation(self.step, numbers)
        monitor.track(self.step, numbers)
        message = f"step {self.step}: held-out accuracy {numbers['held_out_accuracy']:.1%}"
        self.run.logger.info("train.evaluation", message, step=self.step, **numbers)
        monitor.say(message)

    def _measure(self, operator: Operator, limit: int) -> Evaluation:
        prompts = held_out(self.task, limit)
        return evaluate(self.policy, self.task, prompts, operator, self.config.rollout, self.run.seed)

    def save(self) -> None:
        """A checkpoint of everything the next step depends on."""
        own = {
            "update": self.update,
            "cursor": self.cursor,
            "train_s": self.train_s,
            "alarms": self.alarms.state_dict(),
            "history": self.history.state_dict(),
        }
        rewards = self.orchestrator.state_dict()
        self.checkpoints.save(self.step, {**self.learner.state_dict(), "rewards": rewards, "trainer": own})
        self._publish()

    def restore(self) -> None:
        """Go back to the newest good checkpoint; without any, to the beginning."""
        checkpoint = self.checkpoints.restore()
        if checkpoint is None:
            return
        parts: Mapping[str, Any] = checkpoint.parts
        own = parts["trainer"]
        self.learner.load_state_dict(parts)
        self.orchestrator.load_state_dict(parts["rewards"])
        self.alarms.load_state_dict(own["alarms"])
        self.history.load_state_dict(own["history"])
        self.step, self.update, self.cursor = checkpoint.step, own["update"], own["cursor"]
        self.train_s = own["train_s"]

    def finish(self) -> None:
        """The policy, the curves and the gallery."""
        self._publish()
        items = evaluated_items(self.step, self._measure(self.operator, GALLERY_PROMPTS))
        for scored in self._last[:GALLERY_PROMPTS]:
            items += scored_items(self.step, scored)
        leave_results(self.run, self.policy, self.learner, self.step, items)

    def rehearse(self) -> None:
        """A dry run."""
        config = self.config
        plan = Plan(
            name=config.policy.path or "the starter policy",
            summary=f"{config.steps:,} steps of {config.prompts_per_step} x {config.rollout.group_size} rollouts, "
            f"{config.prompts_per_step * config.steps:,} prompts and {self._updates:,} optimizer updates in all",
            steps=config.steps,
            prompts_per_step=config.prompts_per_step,
            prompts_per_forward=config.prompts_per_forward,
        )
        rehearse(self.run, self.policy, self.learner, plan, self.make_step)

    def _publish(self) -> None:
        """What is known so far, into the run's metrics. All but `timing` is the same in every run of one seed."""
        history, metrics = self.history, self.run.metrics
        metrics["main_metric"] = "held_out_accuracy" if history.evaluations else "recent_accuracy"
        if history.evaluations:
            metrics |= {name: value for name, value in history.evaluations[-1].items() if name != "step"}
        metrics |= {f"recent_{name}": history.mean(name) for name in ("reward", "accuracy", "rapr", "entropy")}
        metrics |= {"steps": self.step, "updates": self.update, "prompts": self.cursor, **history.totals}
        metrics["evaluations"] = [dict(numbers) for numbers in history.evaluations]
        metrics["alarms"] = dict(history.alarms)
        metrics["history_sha256"] = history.digest
        metrics["timing"] = {"train_s": round(self.train_s, 3)}


__all__ = ["GALLERY_PROMPTS", "GRPOTrainer", "train"]
