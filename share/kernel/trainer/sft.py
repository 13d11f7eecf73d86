"""Supervised fine-tuning on demonstrations, in stages that open on held-out evidence and are taken back when they harm.

A demonstration is played through the chat format with its operations really run; the loss is on the tokens that the
policy would have written, and on no other. Every `evaluate_every` steps the policy is scored per skill on held-out
prompts, and the curriculum says whether to stay, to open the next stage, or to go back to the weights from before.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, model_validator

from share.kernel.config import Choice, ConfigModel, choice
from share.kernel.contracts.run import RunContext
from share.kernel.contracts.task import Demonstration, Prompt
from share.kernel.data.curriculum import HarmRules, StageCurriculum, StageRules
from share.kernel.errors import Interrupted, TaskError
from share.kernel.media.operator import load_operator
from share.kernel.policy.checkpoint import (
    fingerprint,
    random_state,
    read_checkpoint,
    restore_random_state,
    sha256_of_tensors,
    write_checkpoint,
)
from share.kernel.policy.loading import PolicyConfig, load_policy
from share.kernel.policy.logprobs import Layout, token_logprobs
from share.kernel.policy.rollout import Rollout, RolloutConfig, open_scene, teacher_forced
from share.kernel.report.curves import write_curves
from share.kernel.report.gallery import write_gallery
from share.kernel.trainer.evaluation import evaluate
from share.kernel.trainer.history import History
from share.kernel.trainer.monitor import Monitor, Trackers
from share.kernel.trainer.optimization import (
    OptimizationConfig,
    adamw,
    learning_rate_at,
    load_parameters,
    make_update,
    peak_memory_bytes,
    seed_everything,
    trainable,
)
from share.kernel.trainer.prompts import PromptStream, build_task, held_out
from share.kernel.trainer.scored import evaluated_items
from share.kernel.trainer.skills import format_score, grounding_score, reading_score

GALLERY_PROMPTS = 24
"""Held-out prompts that the gallery shows."""

REHEARSED_PROMPTS = 4
"""Demonstrations per step of a dry run."""

UNDEMONSTRATED_MAX = 1000
"""Prompts in a row for which a task may know no demonstration before the run gives up."""


class TaskTerm(ConfigModel):
    task: Annotated[Choice, choice("task")]
    """Source of the demonstrations."""
    weight: float = Field(default=1.0, gt=0.0)
    """How often it is drawn, relative to the other tasks of the stage."""


class SFTStage(StageRules):
    name: str
    """Shown in the log."""
    tasks: dict[str, TaskTerm] = Field(default_factory=dict)
    """What is imitated in this stage, by name; `{zoom_digits: 2.0}` is short for that task with weight 2. Empty: the
    task of the run."""
    learning_rate_scale: float = Field(default=1.0, gt=0.0)
    """The stage's learning rate as a multiple of the run's."""

    @model_validator(mode="before")
    @classmethod
    def _complete_tasks(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("tasks", {}), Mapping):
            return data
        return {**data, "tasks": {name: _term(name, value) for name, value in data.get("tasks", {}).items()}}


class SFTConfig(OptimizationConfig):
    """Supervised fine-tuning on the demonstrations of tasks, in stages."""

    policy: PolicyConfig = PolicyConfig()
    """The policy to train; the shipped starter when no path is given."""
    task: Annotated[Choice, choice("task")] = Choice("task", "zoom_digits")
    """Source of the held-out prompts that the skills are scored on, and of the demonstrations where a stage names no
    other."""
    operations: tuple[Annotated[Choice, choice("operation")], ...] = Field(
        default_factory=lambda: ({"name": "ZOOM_IN", "side_min": 56, "side_max": 56},)  # type: ignore[arg-type]
    )
    """Visual operations that the demonstrations call."""
    learning_rate: float = Field(default=3e-4, gt=0.0)
    """Peak learning rate of AdamW. The default is for the starter policy; billions of weights want 1e-5."""
    stages: tuple[SFTStage, ...] = Field(default=(SFTStage(name="imitate", steps_max=200),), min_length=1)
    """Stages in order. The next one opens when the gate of the one before is reached on held-out prompts."""
    harm: HarmRules = HarmRules()
    """When a stage is taken back."""

    prompts_per_step: int = Field(default=16, ge=1)
    """Demonstrations per optimizer update."""
    prompts_per_forward: int = Field(default=8, ge=1)
    """Demonstrations per forward and backward pass: bounds memory, does not change the update."""
    layout: Layout = "packed"
    """Forward pass: shared tokens once, or one padded row per demonstration. Same loss."""
    rollout: RolloutConfig = RolloutConfig(turns_max=3, tokens_max=128)
    """How the policy is sampled in the evaluation, which is greedy."""

    evaluate_every: int = Field(default=50, ge=1)
    """Steps between held-out evaluations, each of which may end, open or take back a stage."""
    evaluation_prompts: int = Field(default=64, ge=1)
    """Held-out prompts per evaluation."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between checkpoints; there is one after every change of stage, too."""
    checkpoints_kept: int = Field(default=2, ge=1)
    """Newest checkpoints that are kept."""
    trackers: Trackers = ("auto",)
    """Trackers of accelerate (tensorboard, wandb, …); `auto`: those of the two that are installed."""


def _term(name: str, value: Any) -> Any:
    return {"task": name, "weight": value} if isinstance(value, int | float) else value


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
        self.parameters = trainable(self.policy.model)
        self.optimizer = adamw(self.parameters, config)
        self.curriculum = StageCurriculum(config.stages, config.harm, run.seed)
        self.history = History()
        self.step = self.cursor = 0
        self.train_s = 0.0
        self.ended: str | None = None
        self.kept: dict[str, Any] = {}
        self._demonstrated: list[tuple[Prompt, Demonstration, Rollout]] | None = None
        self._steps = sum(stage.steps_max for stage in config.stages)
        self._checkpoints = run.run_dir / "checkpoints"
        # A resumed run that began from other weights would have another reference, and under an adapter another policy.
        self._identity = f"sft with seed {run.seed} from policy {fingerprint(self.policy.model.state_dict())}"

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
                self._record(*self.make_step(config.prompts_per_step), monitor)
                changed = False
                if self.curriculum.exhausted or self.step % config.evaluate_every == 0:
                    changed = self._obey(self._evaluate(monitor), monitor)
                if changed or self.step % config.checkpoint_every == 0:
                    self.save()

    def make_step(self, num_prompts: int) -> tuple[dict[str, float], dict[str, float]]:
        """One optimizer update: what was measured, the same in every run of one seed, and the times."""
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
        norm = make_update(self.optimizer, config, learning_rate)
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
        return numbers, {"step_s": step_s, "tokens_per_s": tokens / step_s}

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

    def _record(self, numbers: dict[str, float], times: dict[str, float], monitor: Monitor) -> None:
        self.history.add(self.step, numbers)
        shown = {
            "stage": self.config.stages[self.curriculum.index].name,
            "loss": f"{numbers['loss']:.4f}",
            "tokens/s": f"{times['tokens_per_s']:.0f}",
        }
        monitor.step(self.step, {**numbers, **times}, shown)

    def _evaluate(self, monitor: Monitor) -> dict[str, list[float]]:
        """Held-out scores per skill and prompt."""
        demonstrated = self._held_out()
        prompts = [prompt for prompt, _, _ in demonstrated]
        greedy = evaluate(self.policy, self.task, prompts, self.operator, self.config.rollout, self.run.seed)
        rolled = [group.rollouts[0] for group in greedy.groups]
        answers, losses = self._teacher_forced([rollout for _, _, rollout in demonstrated])
        scores: dict[str, list[float]] = {
            "format": [format_score(each.trajectory) for each in rolled],
            "grounding": [
                grounding_score(each.trajectory, demonstration, each.scene)
                for each, (_, demonstration, _) in zip(rolled, demonstrated, strict=True)
            ],
            "reading": answers,
            "accuracy": list(greedy.correctness),
        }
        numbers = {f"held_out_{skill}": sum(values) / len(values) for skill, values in scores.items()}
        numbers["held_out_loss"] = sum(losses) / len(losses)
        self.history.add_evaluation(self.step, numbers)
        self._publish()
        monitor.track(self.step, numbers)
        said = ", ".join(f"{skill} {numbers[f'held_out_{skill}']:.1%}" for skill in scores)
        self.run.logger.info("train.evaluation", f"step {self.step}: {said}", step=self.step, **numbers)
        monitor.say(f"step {self.step}: held-out {said}")
        return scores

    def _teacher_forced(self, rollouts: Sequence[Rollout]) -> tuple[list[float], list[float]]:
        """Of each demonstration: the probability of its answer, and the mean loss of its tokens."""
        answers, losses = [], []
        for first in range(0, len(rollouts), self.config.prompts_per_forward):
            batch = rollouts[first : first + self.config.prompts_per_forward]
            with torch.no_grad():
                logprobs = [logprob.cpu() for logprob, _ in token_logprobs(self.policy, batch, self.config.layout)]
            for each, logprob in zip(batch, logprobs, strict=True):
                read = (~each.action_mask).nonzero()
                answer_start = int(read[-1]) + 1 if len(read) else 0
                answers.append(reading_score(logprob[answer_start:].double().tolist()))
                losses.append(-float(logprob[each.action_mask].double().mean()))
        return answers, losses

    def _held_out(self) -> list[tuple[Prompt, Demonstration, Rollout]]:
        """The held-out prompts that the task can demonstrate, each with its demonstration played."""
        if self._demonstrated is None:
            self._demonstrated = []
            for prompt in held_out(self.task, self.config.evaluation_prompts):
                demonstration = self.task.demonstrate(prompt, open_scene(self.policy, prompt))
                if demonstration is not None:
                    played = teacher_forced(self.policy, prompt, demonstration, self.operator)
                    self._demonstrated.append((prompt, demonstration, played))
            if not self._demonstrated:
                raise TaskError(f"task: {self.config.task.name!r} demonstrates none of its held-out prompts")
        return self._demonstrated

    def _obey(self, scores: dict[str, list[float]], monitor: Monitor) -> bool:
        """Do what the curriculum says of an evaluation; True when that was anything but to go on."""
        stage = self.config.stages[self.curriculum.index].name
        judged = self.curriculum.judge(scores)
        if judged.verdict == "stay":
            return False
        if judged.verdict in ("roll_back", "give_up"):
            load_parameters(self.parameters, self.kept["policy"])
            self.optimizer.load_state_dict(copy.deepcopy(self.kept["optimizer"]))
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
        self.kept = {
            "policy": {name: parameter.detach().cpu().clone() for name, parameter in self.parameters.items()},
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
        }

    def save(self) -> None:
        """A checkpoint of everything the next step depends on."""
        parts = {
            "policy": {name: parameter.detach().cpu() for name, parameter in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "kept": self.kept,
            "random": random_state(),
            "trainer": {
                "cursor": self.cursor,
                "train_s": self.train_s,
                "ended": self.ended,
                "curriculum": self.curriculum.state_dict(),
                "history": self.history.state_dict(),
            },
        }
        write_checkpoint(self._checkpoints, self.step, self._identity, parts, self.config.checkpoints_kept)
        self._publish()

    def restore(self) -> None:
        """Go back to the newest good checkpoint; without any, to the beginning."""
        checkpoint = read_checkpoint(self._checkpoints, self._identity)
        self.run.metrics.clear()
        if checkpoint is None:
            self.run.logger.info("train.resumed", "no checkpoint yet: from the beginning", step=0)
            return
        for damage in checkpoint.damaged:
            self.run.logger.warn("train.checkpoint_damaged", f"passed over a damaged checkpoint: {damage}")
        parts: Mapping[str, Any] = checkpoint.parts
        trainer = parts["trainer"]
        load_parameters(self.parameters, parts["policy"])
        self.optimizer.load_state_dict(parts["optimizer"])
        self.kept = parts["kept"]
        self.curriculum.load_state_dict(trainer["curriculum"])
        self.history.load_state_dict(trainer["history"])
        self.step, self.cursor = checkpoint.step, trainer["cursor"]
        self.train_s, self.ended = trainer["train_s"], trainer["ended"]
        restore_random_state(parts["random"])
        self.run.logger.info("train.resumed", f"resumed after step {self.step}", step=self.step)

    def finish(self) -> None:
        """The policy, the curves and the gallery."""
        run, artifacts = self.run, self.run.artifacts
        self._publish()
        artifacts["policy"] = run.run_dir / "policy"
        self.policy.save(artifacts["policy"])
        run.metrics["policy_sha256"] = sha256_of_tensors(self.parameters)
        artifacts["curves"] = run.run_dir / "curves.png"
        write_curves(run.run_dir, artifacts["curves"])
        artifacts["trajectories"] = run.run_dir / "trajectories.html"
        prompts = held_out(self.task, GALLERY_PROMPTS)
        done = evaluate(self.policy, self.task, prompts, self.operator, self.config.rollout, run.seed)
        write_gallery(artifacts["trajectories"], evaluated_items(self.step, done), f"Trajectories of {run.run_id}")
        run.logger.info("train.ended", f"{self.step} steps; the policy is in {artifacts['policy']}", step=self.step)

    def rehearse(self) -> None:
        """A dry run: two real updates on a few demonstrations, then what the whole run would take at most."""
        config, run = self.config, self.run
        prompts = min(config.prompts_per_step, REHEARSED_PROMPTS)
        reports = [self.make_step(prompts) for _ in range(2)]
        numbers, times = reports[-1]
        trained = sum(parameter.numel() for parameter in self.parameters.values())
        memory = peak_memory_bytes(self.policy.device)
        run.metrics["rehearsal"] = {
            "steps": len(reports),
            "prompts": prompts * len(reports),
            "tokens": sum(measured["tokens"] for measured, _ in reports),
            "parameters_trained": trained,
            "memory_peak_bytes": memory,
            "device": str(self.policy.device),
            "timing": {"step_s": [round(took["step_s"], 3) for _, took in reports]},
        }
        scale = config.prompts_per_step / prompts
        name, took = config.policy.path or "the starter policy", times["step_s"]
        stages = ", ".join(f"{stage.name} ({stage.steps_max})" for stage in config.stages)
        for line in (
            f"policy    {name}: {self.policy.num_parameters:,} parameters, {trained:,} trained on {self.policy.device}",
            f"stages    {stages}: at most {self._steps:,} steps of {config.prompts_per_step} demonstrations",
            f"tokens    about {numbers['tokens'] * scale:,.0f} a step (measured {numbers['tokens']:,.0f} on {prompts})",
            f"memory    {memory / 2**20:,.0f} MiB at most, with {config.prompts_per_forward} prompts a forward pass",
            f"time      about {took * scale:.2f} s a step (measured {took:.2f} s on {prompts} demonstrations)",
            f"in all    at most {self._steps * took * scale / 60:.1f} min, evaluations and checkpoints not counted",
        ):
            print(line)

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


__all__ = [
    "GALLERY_PROMPTS",
    "REHEARSED_PROMPTS",
    "UNDEMONSTRATED_MAX",
    "SFTConfig",
    "SFTStage",
    "SFTTrainer",
    "TaskTerm",
    "train",
]
