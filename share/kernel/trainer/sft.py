"""Supervised fine-tuning on demonstrations, in stages that open on held-out evidence and are taken back when they harm.

A demonstration is played through the chat format with its operations really run; the loss is on the tokens that the
policy would have written, and on no other. Every `evaluate_every` steps the policy is scored per skill on held-out
prompts, and the curriculum says whether to stay, to open the next stage, or to go back to the weights from before.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from share.kernel.contracts.run import RunContext
from share.kernel.data.curriculum import StageCurriculum
from share.kernel.errors import Interrupted, TaskError
from share.kernel.media.operator import load_operator
from share.kernel.policy.learner import Learner
from share.kernel.policy.loading import load_policy
from share.kernel.policy.logprobs import token_logprobs
from share.kernel.policy.rollout import Rollout, open_scene, teacher_forced
from share.kernel.trainer.checkpoints import RunCheckpoints
from share.kernel.trainer.evaluation import evaluate
from share.kernel.trainer.exam import Exam, SkillScores
from share.kernel.trainer.history import History, StepReport
from share.kernel.trainer.monitor import Monitor
from share.kernel.trainer.optimization import learning_rate_at, seed_everything
from share.kernel.trainer.prompts import PromptStream, build_task, held_out
from share.kernel.trainer.rehearsal import Plan, rehearse
from share.kernel.trainer.results import leave_results
from share.kernel.trainer.scored import evaluated_items
from share.kernel.trainer.sft_config import UNDEMONSTRATED_MAX, SFTConfig

GALLERY_PROMPTS = 24
"""Held-out prompts that the gallery shows."""


def train(config: SFTConfig, run: RunContext) -> None:
    """Kind `trainer`, name `sft`. Leaves `policy/` (a Hugging Face directory), `curves.png`, `trajectories.html`."""
    trainer = SFTTrainer(config, run)
    if run.dry_run:
        trainer.rehearse()
        return
    if run.resume:
        trainer.restore()
    trainer.run_steps()
    trainer.finish()


class SFTTrainer:
    """The state of one training: `step` optimizer updates are done, `cursor` prompts were drawn.

    `ended` says how the curriculum ended, None while it goes on. `kept` are weights and optimizer from before the
    stage, which a rollback restores.
    """

    def __init__(self, config: SFTConfig, run: RunContext) -> None:
        self.config = config
        self.run = run
        seed_everything(run.seed)
        self.policy = load_policy(config.policy)
        self.operator = load_operator(run.registry, config.operations, fit=self.policy.fit)
        self.task = build_task(run.registry, config.task)
        own = PromptStream(self.task, "train", run.seed)
        self.sources = [
            [(PromptStream(build_task(run.registry, term.task), "train", run.seed), term.weight) for term in terms]
            if (terms := list(stage.tasks.values()))
            else [(own, 1.0)]
            for stage in config.stages
        ]
        self.learner = Learner(self.policy.model, config)
        self.checkpoints = RunCheckpoints(run, "sft", self.policy, config.checkpoints_kept)
        self.curriculum = StageCurriculum(config.stages, config.harm, run.seed)
        self.history = History()
        self.step = self.cursor = 0
        self.train_s = 0.0
        self.ended: str | None = None
        self.kept: dict[str, Any] = {}
        self._exam: Exam | None = None
        self._steps = sum(stage.steps_max for stage in config.stages)

    def run_steps(self) -> None:
        """All steps that are left. Raises Interrupted, after a checkpoint, when the run was asked to stop."""
        config = self.config
        with Monitor(self.run, steps=self._steps, done=self.step, trackers=config.trackers, title="sft") as monitor:
            while self.ended is None:
                if self.run.stop.is_set():
                    self.save()
                    raise Interrupted(f"stopped after step {self.step} of at most {self._steps}")
                if not self.kept:
                    self.curriculum.begin(self._evaluate(monitor))
                    self._keep()
                self._record(self.make_step(config.prompts_per_step), monitor)
                changed = False
                if self.curriculum.exhausted or self.step % config.evaluate_every == 0:
                    changed = self._obey(self._evaluate(monitor), monitor)
                if changed or self.step % config.checkpoint_every == 0:
                    self.save()

    def make_step(self, num_prompts: int) -> StepReport:
        """One optimizer update."""
        started = time.perf_counter()
        config, curriculum = self.config, self.curriculum
        rollouts = [self._draw() for _ in range(num_prompts)]
        written = sum(each.num_actions for each in rollouts)
        loss = entropy = 0.0
        for first in range(0, len(rollouts), config.prompts_per_forward):
            batch = rollouts[first : first + config.prompts_per_forward]
            logprobs, entropies = zip(*token_logprobs(self.policy, batch, config.layout), strict=True)
            part = -_written(logprobs, batch).sum() / written
            part.backward()  # type: ignore[no-untyped-call]
            loss += float(part.detach())
            entropy += float(_written(entropies, batch).detach().sum()) / written
        scale = config.stages[curriculum.index].learning_rate_scale * curriculum.learning_rate_factor
        learning_rate = learning_rate_at(config, self.step, self._steps) * scale
        norm = self.learner.update(learning_rate)
        self.step += 1
        curriculum.stepped()
        tokens = sum(len(each.prompt_ids) + len(each.completion_ids) for each in rollouts)
        self.history.count(tokens=tokens)
        step_s = time.perf_counter() - started
        self.train_s += step_s
        numbers = {
            "loss": loss,
            "entropy": entropy,
            "gradient_norm": norm,
            "learning_rate": learning_rate,
            "stage": float(curriculum.index),
            "tokens": float(tokens),
            "tokens_written": float(written),
        }
        return StepReport(numbers, {"step_s": step_s, "tokens_per_s": tokens / step_s})

    def _draw(self) -> Rollout:
        """The next demonstration of the stage, played. Raises TaskError when its tasks know none."""
        sources = self.sources[self.curriculum.index]
        weights = np.array([weight for _, weight in sources])
        for _ in range(UNDEMONSTRATED_MAX):
            cursor, self.cursor = self.cursor, self.cursor + 1
            rng = np.random.default_rng([self.run.seed, cursor])
            stream, _ = sources[int(rng.choice(len(sources), p=weights / weights.sum()))]
            prompt = stream.prompt(cursor)
            demonstration = stream.task.demonstrate(prompt, open_scene(self.policy, prompt))
            if demonstration is not None:
                return teacher_forced(self.policy, prompt, demonstration, self.operator)
        stage = self.config.stages[self.curriculum.index].name
        raise TaskError(f"stages.{stage}.tasks: no demonstration in {UNDEMONSTRATED_MAX} prompts; name a task that has")

    def _record(self, report: StepReport, monitor: Monitor) -> None:
        numbers, times = report.numbers, report.times
        self.history.add(self.step, numbers)
        shown = {
            "stage": self.config.stages[self.curriculum.index].name,
            "loss": f"{numbers['loss']:.4f}",
            "tokens/s": f"{times['tokens_per_s']:.0f}",
        }
        monitor.step(self.step, {**numbers, **times}, shown)

    def _evaluate(self, monitor: Monitor) -> SkillScores:
        """Held-out scores per skill and prompt."""
        if self._exam is None:
            self._exam = Exam(self.policy, self.task, self.operator, self.config.evaluation_prompts)
            if not self._exam.calls_operations:
                self.run.logger.warn(
                    "train.no_calls", "no demonstration calls an operation: what is learned is to answer"
                )
        config = self.config
        scores, loss = self._exam.take(config.rollout, self.run.seed, config.prompts_per_forward, config.layout)
        numbers = {f"held_out_{skill}": sum(values) / len(values) for skill, values in scores.items()}
        numbers["held_out_loss"] = loss
        self.history.add_evaluation(self.step, numbers)
        self._publish()
        monitor.track(self.step, numbers)
        said = ", ".join(f"{skill} {numbers[f'held_out_{skill}']:.1%}" for skill in scores)
        self.run.logger.info("train.evaluation", f"step {self.step}: {said}", step=self.step, **numbers)
        monitor.say(f"step {self.step}: held-out {said}")
        return scores

    def _obey(self, scores: SkillScores, monitor: Monitor) -> bool:
        """Do what the curriculum says of an evaluation; True when that was anything but to go on."""
        stage = self.config.stages[self.curriculum.index].name
        judged = self.curriculum.judge(scores)
        if judged.verdict == "stay":
            return False
        if judged.verdict in ("roll_back", "give_up"):
            self.learner.load_state_dict(copy.deepcopy(self.kept))
        if judged.verdict == "advance":
            self._keep()
        if judged.verdict in ("finish", "close", "give_up"):
            self.ended = f"{judged.verdict}: {judged.reason}"
        message = f"step {self.step}: stage {stage!r}: {judged.verdict.replace('_', ' ')}: {judged.reason}"
        log = self.run.logger.info if judged.verdict in ("advance", "finish") else self.run.logger.warn
        self.history.add_alarm(judged.verdict)
        log("train.phase", message, step=self.step, phase=judged.verdict, stage=stage)
        monitor.say(message)
        return True

    def _keep(self) -> None:
        """Remember weights and optimizer, to go back to."""
        self.kept = copy.deepcopy(self.learner.state_dict())

    def save(self) -> None:
        """A checkpoint of everything the next step depends on."""
        own = {
            "cursor": self.cursor,
            "train_s": self.train_s,
            "ended": self.ended,
            "curriculum": self.curriculum.state_dict(),
            "history": self.history.state_dict(),
        }
        self.checkpoints.save(self.step, {**self.learner.state_dict(), "kept": self.kept, "trainer": own})
        self._publish()

    def restore(self) -> None:
        """Go back to the newest good checkpoint; without any, to the beginning."""
        checkpoint = self.checkpoints.restore()
        if checkpoint is None:
            return
        parts: Mapping[str, Any] = checkpoint.parts
        own = parts["trainer"]
        self.learner.load_state_dict(parts)
        self.kept = parts["kept"]
        self.curriculum.load_state_dict(own["curriculum"])
        self.history.load_state_dict(own["history"])
        self.step, self.cursor = checkpoint.step, own["cursor"]
        self.train_s, self.ended = own["train_s"], own["ended"]

    def finish(self) -> None:
        """The policy, the curves and the gallery."""
        self._publish()
        prompts = held_out(self.task, GALLERY_PROMPTS)
        done = evaluate(self.policy, self.task, prompts, self.operator, self.config.rollout, self.run.seed)
        leave_results(self.run, self.policy, self.learner, self.step, evaluated_items(self.step, done))

    def rehearse(self) -> None:
        """A dry run."""
        config = self.config
        stages = ", ".join(f"{stage.name} ({stage.steps_max})" for stage in config.stages)
        plan = Plan(
            name=config.policy.path or "the starter policy",
            summary=f"at most {self._steps:,} steps of {config.prompts_per_step} demonstrations, in stages {stages}",
            steps=self._steps,
            prompts_per_step=config.prompts_per_step,
            prompts_per_forward=config.prompts_per_forward,
        )
        rehearse(self.run, self.policy, self.learner, plan, self.make_step)

    def _publish(self) -> None:
        """What is known so far, into the run's metrics. All but `timing` is the same in every run of one seed."""
        history, metrics = self.history, self.run.metrics
        metrics["main_metric"] = "held_out_accuracy"
        if history.evaluations:
            metrics |= {name: value for name, value in history.evaluations[-1].items() if name != "step"}
        metrics |= {"recent_loss": history.mean("loss"), "steps": self.step, "prompts": self.cursor, **history.totals}
        metrics["stage"] = self.config.stages[self.curriculum.index].name
        metrics["ended"] = self.ended
        metrics["evaluations"] = [dict(numbers) for numbers in history.evaluations]
        metrics["verdicts"] = dict(history.alarms)
        metrics["history_sha256"] = history.digest
        metrics["timing"] = {"train_s": round(self.train_s, 3)}


def _written(values: Sequence[torch.Tensor], rollouts: Sequence[Rollout]) -> torch.Tensor:
    """The entries of tokens that the policy writes, all demonstrations one after the other."""
    return torch.cat([value[each.action_mask.to(value.device)] for value, each in zip(values, rollouts, strict=True)])


__all__ = ["GALLERY_PROMPTS", "SFTTrainer", "train"]
