"""GRPO (Shao et al., arXiv 2402.03300) with visual operations in the loop.

One step: prompts -> rollouts -> rewards -> advantages -> `num_iterations` passes of updates over the step's groups. A
checkpoint lies between two steps and holds everything that the next one depends on; the samples of a step are a
function of seed and step, so a run that was killed computes again what it had not saved, to the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from share.kernel.config import Choice, ConfigModel, choice
from share.kernel.contracts.run import RunContext
from share.kernel.data.curriculum import RewardCurriculum, RewardPhase
from share.kernel.errors import Interrupted
from share.kernel.media.operator import Operator, load_operator
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
from share.kernel.policy.losses import UpdateSize, Variant, policy_loss
from share.kernel.policy.orchestrator import Normalization, RewardOrchestrator
from share.kernel.policy.reference import ReferencePolicy
from share.kernel.policy.rollout import Group, RolloutConfig, RolloutKey, rollout
from share.kernel.report.curves import write_curves
from share.kernel.report.gallery import write_gallery
from share.kernel.trainer.alarms import AlarmConfig, Alarms
from share.kernel.trainer.evaluation import Evaluation, answered, evaluate
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
from share.kernel.trainer.scored import Scored, evaluated_items, mean, scored_items, seen

GALLERY_PROMPTS = 12
"""Held-out prompts, and groups of the last step, that the gallery shows."""

REHEARSED_PROMPTS = 4
"""Prompts per step of a dry run."""

ZOOM_IN = {"name": "ZOOM_IN", "side_min": 56, "side_max": 56}
"""Crops of the size that the starter policy reads."""


class RewardTerm(ConfigModel):
    reward: Annotated[Choice, choice("reward")]
    """The reward component."""
    weight: float = 1.0
    """Its weight in the sum of the normalised components."""


class GRPOConfig(OptimizationConfig):
    """Group-relative policy optimisation with visual operations in the loop."""

    policy: PolicyConfig = PolicyConfig()
    """The policy to train; the shipped starter when no path is given."""
    task: Annotated[Choice, choice("task")] = Choice("task", "zoom_digits")
    """Source of the prompts, for training and for the held-out evaluation."""
    operations: tuple[Annotated[Choice, choice("operation")], ...] = Field(
        default_factory=lambda: (ZOOM_IN,)  # type: ignore[arg-type]
    )
    """Visual operations that the policy may call."""
    rewards: dict[str, RewardTerm] = Field(default_factory=dict)
    """Reward components by name. `{curiosity: 0.5}` is short for weight 0.5 of the reward `curiosity`; `task` with
    weight 1 is added when it is not named."""
    reward_curriculum: tuple[RewardPhase, ...] = ()
    """Phases of reward weights, which then replace the weights of `rewards`. Empty: constant weights."""
    reward_window_steps: int = Field(default=100, ge=1)
    """Steps of the moving averages that end a phase."""
    normalization: Normalization = "component"
    """`component`: every component to zero mean and unit deviation in its group, then the weighted sum; `sum`: the sum
    is normalised; `center`: only its mean is subtracted (Dr. GRPO)."""

    learning_rate: float = Field(default=1e-4, gt=0.0)
    """Peak learning rate of AdamW. The default is for the starter policy; billions of weights want 1e-6, an adapter of
    them 1e-5."""
    schedule: Literal["constant", "cosine", "linear"] = "linear"
    """How the learning rate falls, if it does, to `learning_rate_end` at the last update."""
    learning_rate_end: float = Field(default=0.05, ge=0.0, le=1.0)
    """Where cosine and linear end, as a share of the peak."""
    decay_share: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the updates, the last ones, over which cosine and linear fall; before, the learning rate is constant."""
    warmup_updates: int = Field(default=5, ge=0)
    """Optimizer updates over which the learning rate rises linearly from near zero."""

    steps: int = Field(default=100, ge=1)
    """Steps of the run: rounds of rollouts, each followed by its updates."""
    prompts_per_step: int = Field(default=16, ge=1)
    """Prompts (groups) per step."""
    prompts_per_update: int | None = None
    """Groups per optimizer update; None: all of the step in one update."""
    prompts_per_forward: int = Field(default=4, ge=1)
    """Groups per forward and backward pass: bounds memory, does not change the update."""
    num_iterations: int = Field(default=1, ge=1)
    """Passes over the groups of a step."""
    rollout: RolloutConfig = RolloutConfig(group_size=8, turns_max=3, tokens_max=128)
    """How the policy is sampled; `rollout.group_size` rollouts per prompt."""
    mask_truncated: bool = True
    """Rollouts that were cut at turns_max or tokens_max neither pay nor cost (Mini-o3's over-turn masking)."""
    zero_variance: Literal["keep", "skip", "resample"] = "skip"
    """Groups whose rewards are all equal: compute them all the same, leave them out of the update, or draw other
    prompts instead (dynamic sampling, DAPO, arXiv 2503.14476)."""
    resample_rounds_max: int = Field(default=3, ge=1)
    """Rounds of drawing other prompts per step."""

    loss: Variant = "dapo"
    """Loss variant."""
    clip_low: float = Field(default=0.2, ge=0.0)
    """The ratio of policy to behavior policy is clipped below 1 minus this."""
    clip_high: float = Field(default=0.28, ge=0.0)
    """The ratio of policy to behavior policy is clipped above 1 plus this."""
    kl_coefficient: float = Field(default=0.0, ge=0.0)
    """Weight of the KL divergence from the reference policy (the policy without its adapter; a frozen copy when all
    weights are trained)."""
    measure_kl: bool = True
    """Measure that divergence on one group a step also when its coefficient is 0. Where all weights are trained this
    keeps a frozen copy of them in memory."""
    entropy_coefficient: float = Field(default=0.0, ge=0.0)
    """Weight of the entropy bonus."""
    layout: Layout = "packed"
    """Forward pass of the update: one row per group with a tree mask, or one padded row per rollout. Same loss."""

    evaluate_every: int = Field(default=25, ge=1)
    """Steps between held-out evaluations; there is one before the first step and one after the last."""
    evaluation_prompts: int = Field(default=100, ge=1)
    """Held-out prompts per evaluation."""
    evaluate_without_operations: bool = False
    """Also evaluate, before and after, with operations switched off: what can be guessed."""
    checkpoint_every: int = Field(default=25, ge=1)
    """Steps between checkpoints."""
    checkpoints_kept: int = Field(default=2, ge=1)
    """Newest checkpoints that are kept."""
    trackers: Trackers = ("auto",)
    """Trackers of accelerate (tensorboard, wandb, …); `auto`: those of the two that are installed."""
    alarms: AlarmConfig = AlarmConfig()
    """When to warn that operation use or entropy collapses or groups teach nothing."""

    @model_validator(mode="before")
    @classmethod
    def _complete_rewards(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("rewards", {}), Mapping):
            return data
        terms = {"task": 1.0, **data.get("rewards", {})}
        return {**data, "rewards": {name: _term(name, value) for name, value in terms.items()}}

    @field_validator("rollout")
    @classmethod
    def _enough_to_compare(cls, value: RolloutConfig) -> RolloutConfig:
        if value.group_size < 2:
            reason = "a rollout is judged against the others of its group, so a group needs 2 or more"
            error = PydanticCustomError("group_size", "{reason}", {"reason": reason})
            mistake = InitErrorDetails(type=error, loc=("group_size",), input=value.group_size)
            raise ValidationError.from_exception_data("RolloutConfig", [mistake])
        return value

    @field_validator("reward_curriculum")
    @classmethod
    def _weighs_what_is_scored(cls, value: tuple[RewardPhase, ...], info: ValidationInfo) -> tuple[RewardPhase, ...]:
        known = info.data.get("rewards", {})
        for phase in value:
            for name in phase.weights:
                if name not in known:
                    raise ValueError(f"phase {phase.name!r} weighs {name!r}; rewards has {', '.join(known)}")
        return value

    @field_validator("prompts_per_update")
    @classmethod
    def _divides_the_step(cls, value: int | None, info: ValidationInfo) -> int | None:
        prompts = info.data.get("prompts_per_step")
        if value is not None and prompts is not None and (value < 1 or prompts % value):
            raise ValueError(f"must divide prompts_per_step ({prompts})")
        return value


def _term(name: str, value: Any) -> Any:
    if isinstance(value, int | float):
        return {"reward": name, "weight": value}
    if isinstance(value, Mapping):
        reward = value.get("reward", name)
        return {**value, "reward": {"name": name, **reward} if isinstance(reward, Mapping) else reward}
    return value


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step was. `numbers` are the same in every run of one seed; `times` are seconds and rates."""

    numbers: dict[str, float]
    times: dict[str, float]


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
        self.parameters = trainable(self.policy.model)
        self.optimizer = adamw(self.parameters, config)
        self.stream = PromptStream(self.task, "train", run.seed)
        self.alarms = Alarms(config.alarms)
        self.history = History()
        self.step = self.update = self.cursor = 0
        self.train_s = 0.0
        self._last: tuple[Scored, ...] = ()
        updates = config.prompts_per_step // (config.prompts_per_update or config.prompts_per_step)
        self._updates = config.steps * updates * config.num_iterations
        self._checkpoints = run.run_dir / "checkpoints"
        # A resumed run that began from other weights would have another reference, and under an adapter another policy.
        self._identity = f"grpo with seed {run.seed} from policy {fingerprint(self.policy.model.state_dict())}"

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
        norm = make_update(self.optimizer, config, learning_rate) if taught else 0.0
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
        parts = {
            "policy": {name: parameter.detach().cpu() for name, parameter in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "rewards": self.orchestrator.state_dict(),
            "random": random_state(),
            "trainer": {
                "update": self.update,
                "cursor": self.cursor,
                "train_s": self.train_s,
                "alarms": self.alarms.state_dict(),
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
        load_parameters(self.parameters, parts["policy"])
        self.optimizer.load_state_dict(parts["optimizer"])
        self.orchestrator.load_state_dict(parts["rewards"])
        self.alarms.load_state_dict(parts["trainer"]["alarms"])
        self.history.load_state_dict(parts["trainer"]["history"])
        self.step, self.update, self.cursor = checkpoint.step, parts["trainer"]["update"], parts["trainer"]["cursor"]
        self.train_s = parts["trainer"]["train_s"]
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
        items = evaluated_items(self.step, self._measure(self.operator, GALLERY_PROMPTS))
        for scored in self._last[:GALLERY_PROMPTS]:
            items += scored_items(self.step, scored)
        write_gallery(artifacts["trajectories"], items, f"Trajectories of {run.run_id}")
        run.logger.info("train.ended", f"{self.step} steps; the policy is in {artifacts['policy']}", step=self.step)

    def rehearse(self) -> None:
        """A dry run: two real steps on a few prompts, then what the whole run would take."""
        config, run = self.config, self.run
        prompts = min(config.prompts_per_step, REHEARSED_PROMPTS)
        reports = [self.make_step(prompts) for _ in range(2)]
        measured = reports[-1]
        step_s = measured.times["step_s"] * config.prompts_per_step / prompts
        trained = sum(parameter.numel() for parameter in self.parameters.values())
        memory = peak_memory_bytes(self.policy.device)
        tokens = measured.numbers["tokens"]
        run.metrics["rehearsal"] = {
            "steps": len(reports),
            "prompts": prompts * len(reports),
            "tokens": sum(report.numbers["tokens"] for report in reports),
            "parameters_trained": trained,
            "memory_peak_bytes": memory,
            "device": str(self.policy.device),
            "timing": {"step_s": [round(report.times["step_s"], 3) for report in reports]},
        }
        scale = config.prompts_per_step / prompts
        step_s, group_size = measured.times["step_s"] * scale, config.rollout.group_size
        name = config.policy.path or "the starter policy"
        took = measured.times["step_s"]
        for line in (
            f"policy    {name}: {self.policy.num_parameters:,} parameters, {trained:,} trained on {self.policy.device}",
            f"prompts   {config.prompts_per_step} x {group_size} rollouts a step, {config.steps} steps: "
            f"{config.prompts_per_step * config.steps:,} prompts, {self._updates:,} optimizer updates",
            f"tokens    about {tokens * scale:,.0f} a step in completions (measured {tokens:,.0f} on {prompts})",
            f"memory    {memory / 2**20:,.0f} MiB at most, with {config.prompts_per_forward} prompts a forward pass",
            f"time      about {step_s:.1f} s a step (measured {took:.1f} s on {prompts} prompts)",
            f"in all    about {config.steps * step_s / 60:.1f} min, evaluations and checkpoints not counted",
        ):
            print(line)

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


__all__ = [
    "GALLERY_PROMPTS",
    "REHEARSED_PROMPTS",
    "ZOOM_IN",
    "GRPOConfig",
    "GRPOTrainer",
    "RewardTerm",
    "StepReport",
    "train",
]
