"""GRPO steps of Pixelis and TRL side by side: same process, weights, prompts, group size; alternated; median step.

    python -m benchmarks.grpo_vs_trl [--case operation single long] [--steps 5] [--model small] [--device cpu]

Both sides sample rollouts of the same length from a small random Qwen2.5-VL. In `operation` it first learns by heart to
call a zoom, at places that vary, and to answer after its image. In `single` (a long prompt, a short completion) and
`long` (the other way round) it stays random and writes until its limit, so no two rollouts share a token. A step is
everything from prompts to gradients: rollouts with their operations, rewards, advantages, loss, backward. The
optimizer's own work is the same and left out, so the weights stay equal.

Before it is timed, every case is checked: on one side's rollouts, loss and gradient of both must be equal to 1e-5.
Peak memory is that of loss and backward on the same rollouts, beyond what was allocated before.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel

from share.kernel.config import ConfigModel
from share.kernel.contracts.task import Call, Demonstration, Prompt
from share.kernel.contracts.vision import OperationResult, Scene, Transform
from share.kernel.media.operator import Limits, Operator
from share.kernel.policy.loading import STARTER, Policy, PolicyConfig, load_policy
from share.kernel.policy.logprobs import token_logprobs
from share.kernel.policy.losses import UpdateSize, policy_loss
from share.kernel.policy.rollout import (
    Group,
    RolloutConfig,
    RolloutKey,
    how_rollouts_run,
    rollout,
    teacher_forced,
)

GROUP_SIZE = 8
PROMPTS = 2
CROP_SIDE = 56
"""What the operation shows, in pixels: four image tokens."""


@dataclass(frozen=True)
class Case:
    """Image side in px, words of the question, tokens of a completion at most, whether it is taught an operation."""

    name: str
    image_side: int
    question_words: int
    tokens_max: int
    operation: bool
    bar: float
    aim: float


CASES = (
    Case("operation", 336, 60, 192, operation=True, bar=6.0, aim=12.0),
    Case("single", 336, 3, 24, operation=False, bar=5.0, aim=8.0),
    Case("long", 168, 3, 96, operation=False, bar=1.0, aim=2.5),
)


@dataclass(frozen=True)
class Size:
    """Width, layers and heads of language model and vision tower, tokens, deviation of the random weights."""

    width: int
    layers: int
    heads: int
    vocabulary: int
    deviation: float
    dtype: Literal["float32", "bfloat16"]


MODELS = {"small": Size(128, 4, 4, 4096, 0.08, "float32"), "large": Size(1024, 12, 16, 32768, 0.02, "bfloat16")}
"""`large` has about 250 million parameters and is meant for a GPU."""


@dataclass(frozen=True)
class Equality:
    """Both sides on the same rollouts: loss apart, gradient apart relative to its norm."""

    loss_difference: float
    gradient_difference: float
    gradient_norm: float
    equal: bool


@dataclass(frozen=True)
class Pair:
    """A number of each side: seconds or bytes."""

    ours: float
    trl: float

    @property
    def ratio(self) -> float:
        return self.trl / self.ours


@dataclass(frozen=True)
class Result:
    """What was measured of a case. Tokens and calls are means over rollouts, seconds medians over steps."""

    case: str
    rollouts_run: str
    prompt_tokens: float
    completion_tokens: Pair
    calls: Pair
    step_s: Pair
    update_s: Pair
    update_bytes: Pair
    equality: Equality


WORDS = ("look", "at", "the", "red", "card", "and", "tell", "which", "digit", "it", "shows", "then")


def zoom(x: int, y: int) -> list[dict[str, Any]]:
    """Show a part of the image enlarged.

    Args:
        x: Column of the middle of the part, in pixels.
        y: Row of the middle of the part, in pixels.
    """
    return [{"type": "image", "image": Image.fromarray(crop(x, y))}, {"type": "text", "text": "part"}]


def crop(x: int, y: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The same picture for the same place, on both sides."""
    return np.random.default_rng([x, y]).integers(0, 256, (CROP_SIDE, CROP_SIDE, 3), dtype=np.uint8)


class ZoomArguments(ConfigModel):
    x: int
    """Column of the middle of the part, in pixels."""
    y: int
    """Row of the middle of the part, in pixels."""


class Zoom:
    """Show a part of the image enlarged."""

    Arguments: ClassVar[type[BaseModel]] = ZoomArguments

    def run(self, scene: Scene, arguments: Any, /) -> OperationResult:
        return OperationResult("part", image=crop(arguments.x, arguments.y), transform=Transform())


class SameSchemas(Operator):
    """Shows the policy the schema that TRL makes of the same operation, so that both sides have the same prompts."""

    def schemas(self) -> list[dict[str, Any]]:
        from transformers.utils.chat_template_utils import get_json_schema

        return [get_json_schema(zoom)] if self.operations else []


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=[case.name for case in CASES], default=[c.name for c in CASES])
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each side")
    parser.add_argument("--learn", type=int, default=60, help="supervised steps before the case `operation`")
    parser.add_argument("--model", choices=list(MODELS), default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    warnings.simplefilter("ignore")
    device = (
        torch.cuda.get_device_name() if options.device.startswith("cuda") else f"CPU, {torch.get_num_threads()} thread"
    )
    print(f"{device}; torch {torch.__version__}; {MODELS[options.model]}; {PROMPTS} prompts x {GROUP_SIZE} rollouts")
    with tempfile.TemporaryDirectory() as directory:
        chosen = [case for case in CASES if case.name in options.case]
        results = [run_case(case, options, Path(directory) / case.name) for case in chosen]
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n", encoding="utf-8")
    return 0 if all(result.equality.equal for result in results) else 1


def run_case(case: Case, options: argparse.Namespace, directory: Path) -> Result:
    policy = make_policy(case, MODELS[options.model], options.device, directory)
    prompts = [make_prompt(case, number) for number in range(PROMPTS)]
    operator = SameSchemas({"zoom": Zoom()} if case.operation else {}, Limits(), fit=policy.fit)
    if case.operation:
        learn_by_heart(policy, prompts, operator, options.learn)
    trainer = make_trl(policy, prompts, case, options.device, directory)
    config = RolloutConfig(group_size=GROUP_SIZE, turns_max=3, tokens_max=case.tokens_max)

    groups = rollout(policy, prompts, operator, config, RolloutKey(0, 0))
    equality = check_equality(policy, trainer, groups, tolerance=1e-5 if policy.config.dtype == "float32" else 0.05)
    update_bytes = Pair(
        peak_memory(policy.model, lambda: ours_update(policy, groups)),
        peak_memory(trainer.model, lambda: trl_update(trainer, groups)),
    )
    steps, updates = list[Pair](), list[Pair]()
    for number in range(options.steps + 1):
        step = Pair(
            clock(partial(ours_step, policy, prompts, operator, config, number), policy),
            clock(lambda: trl_step(trainer), policy),
        )
        update = Pair(
            clock(lambda: ours_update(policy, groups), policy),
            clock(lambda: trl_update(trainer, groups), policy),
        )
        check_prompts(trainer, groups)
        if number == 0:
            continue  # the first warms up
        steps.append(step)
        updates.append(update)
        print(
            f"  step: ours {step.ours:.3f} s, TRL {step.trl:.3f} s; "
            f"update: ours {update.ours:.3f} s, TRL {update.trl:.3f} s",
            file=sys.stderr,
            flush=True,
        )
    rollouts = [each for group in groups for each in group.rollouts]
    result = Result(
        case=case.name,
        rollouts_run=how_rollouts_run(policy),
        prompt_tokens=statistics.mean(len(each.prompt_ids) for each in rollouts),
        completion_tokens=Pair(
            statistics.mean(len(each.completion_ids) for each in rollouts), trainer.completion_tokens
        ),
        calls=Pair(statistics.mean(len(each.trajectory.operations) for each in rollouts), trainer.calls),
        step_s=median(steps),
        update_s=median(updates),
        update_bytes=update_bytes,
        equality=equality,
    )
    show(case, result)
    return result


def median(pairs: Sequence[Pair]) -> Pair:
    return Pair(statistics.median(pair.ours for pair in pairs), statistics.median(pair.trl for pair in pairs))


def show(case: Case, result: Result) -> None:
    step, update, memory, equality = result.step_s, result.update_s, result.update_bytes, result.equality
    print(
        f"\n{case.name}: P={result.prompt_tokens:.0f} S={result.completion_tokens.ours:.0f} "
        f"(TRL {result.completion_tokens.trl:.0f}), calls per rollout {result.calls.ours:.2f} "
        f"(TRL {result.calls.trl:.2f}), rollouts {result.rollouts_run}\n"
        f"  step    TRL {step.trl:7.3f} s   ours {step.ours:7.3f} s   {step.ratio:5.2f}x "
        f"(bar {case.bar:g}x, aim {case.aim:g}x)\n"
        f"  update  TRL {update.trl:7.3f} s   ours {update.ours:7.3f} s   {update.ratio:5.2f}x (same rollouts)\n"
        f"  memory  TRL {memory.trl / 2**20:7.1f} MB  ours {memory.ours / 2**20:7.1f} MB  {1 / memory.ratio:5.2f}x "
        f"(bar 0.6x, aim 0.25x)\n"
        f"  equal   |loss difference| {equality.loss_difference:.1e}, gradient {equality.gradient_difference:.1e} "
        f"relative: {'yes' if equality.equal else 'NO'}",
        flush=True,
    )


def make_policy(case: Case, size: Size, device: str, directory: Path) -> Policy:
    """A random Qwen2.5-VL with a tokenizer of its own and the chat template of Qwen3-VL, which TRL takes tools with."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    make_tokenizer: Any = PreTrainedTokenizerFast
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    special += ["<|image_pad|>", "<|video_pad|>"]
    marks = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<answer>", "</answer>"]
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    template = qwen3_vl_template()
    corpus = [template, " ".join(WORDS), str(Zoom.__doc__), "system user assistant tool part x y 0 1 2 3 4 5 6 7 8 9"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learned.train_from_iterator(
        corpus * 8, trainers.BpeTrainer(vocab_size=900, special_tokens=special, initial_alphabet=alphabet)
    )
    learned.add_tokens(marks)
    tokenizer = make_tokenizer(
        tokenizer_object=learned, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.chat_template = template
    token, head = tokenizer.convert_tokens_to_ids, size.width // size.heads
    shape = {
        "hidden_size": size.width,
        "intermediate_size": 3 * size.width,
        "initializer_range": size.deviation,
    }
    config = Qwen2_5_VLConfig(
        text_config={
            **shape,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.heads // 2,
            "vocab_size": size.vocabulary,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [head // 2 - 2 * (head // 6), head // 6, head // 6],
            },
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            **shape,
            "depth": size.layers,
            "num_heads": size.heads,
            "out_hidden_size": size.width,
            "fullatt_block_indexes": list(range(size.layers)),
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    preprocessor = json.loads((STARTER / "preprocessor_config.json").read_text())
    preprocessor |= {"min_pixels": CROP_SIDE**2, "max_pixels": case.image_side**2}
    (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    policy = load_policy(PolicyConfig(path=str(directory), device=device, dtype=size.dtype, system=""))
    print(f"\n{case.name}: a Qwen2.5-VL of {policy.num_parameters / 1e6:.1f} M parameters", flush=True)
    return policy


def qwen3_vl_template() -> str:
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / "qwen3_vl.jinja").read_text(encoding="utf-8")


def make_prompt(case: Case, number: int) -> Prompt:
    side = case.image_side
    image = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    question = " ".join(WORDS[(number + place) % len(WORDS)] for place in range(case.question_words))
    return Prompt(f"{case.name}-{number}", "benchmark", question, (image,), answer="")


def learn_by_heart(policy: Policy, prompts: Sequence[Prompt], operator: Operator, steps: int) -> None:
    """Supervised steps on demonstrations whose coordinates vary, so that rollouts part as they do in training."""
    rng = np.random.default_rng(0)
    optimizer = torch.optim.Adam(policy.model.parameters(), lr=3e-3 if policy.config.dtype == "float32" else 2e-4)
    loss: Any = None
    for _ in range(steps):
        x, y = (int(each) for each in rng.integers(0, 10, 2))
        shown = Demonstration((Call("zoom", {"x": x, "y": y}),), " ".join(WORDS[:3]))
        rollouts = [teacher_forced(policy, prompt, shown, operator) for prompt in prompts]
        loss = -sum(logprobs.sum() for logprobs, _ in token_logprobs(policy, rollouts))
        loss = loss / sum(each.num_actions for each in rollouts)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    print(f"  learned by heart to {float(loss.detach()):.3f} nats a token in {steps} steps", flush=True)


def rewards(num: int) -> list[float]:
    """Rewards that differ inside of every group, so that no side has less to do."""
    return [float(number % 3) for number in range(num)]


def advantages_of(groups: int) -> list[float]:
    """Group-normalised as TRL does it: deviation plus 1e-4."""
    values = torch.tensor(rewards(groups * GROUP_SIZE)).view(groups, GROUP_SIZE)
    normalized = (values - values.mean(1, keepdim=True)) / (values.std(1, keepdim=True) + 1e-4)
    return [float(value) for value in normalized.flatten()]


def ours_step(policy: Policy, prompts: Sequence[Prompt], operator: Operator, config: RolloutConfig, step: int) -> None:
    ours_update(policy, rollout(policy, prompts, operator, config, RolloutKey(0, step)))


def ours_update(policy: Policy, groups: Sequence[Group]) -> float:
    """Loss and gradients, TRL's default loss: dapo."""
    rollouts = [each for group in groups for each in group.rollouts]
    policy.model.zero_grad()
    logprobs, entropies = zip(*token_logprobs(policy, groups), strict=True)
    loss = policy_loss(
        "dapo",
        logprobs,
        [each.behavior_logprobs for each in rollouts],
        advantages_of(len(groups)),
        [each.action_mask for each in rollouts],
        UpdateSize(len(rollouts), sum(each.num_actions for each in rollouts), 1),
        entropies=entropies,
    ).loss
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def make_trl(policy: Policy, prompts: Sequence[Prompt], case: Case, device: str, directory: Path) -> Any:
    """TRL's GRPOTrainer on the same weights in a model of its own, with transformers' own attention and layers."""
    from datasets import Dataset
    from transformers import Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        directory, dtype=policy.base.dtype, attn_implementation="sdpa", local_files_only=True
    )
    model.to(policy.device).load_state_dict(policy.base.state_dict())

    class TensorImages(Qwen2VLImageProcessorPil):
        """As the one that needs torchvision, and TRL reads: tensors, not arrays."""

        def preprocess(self, images: Any, **settings: Any) -> Any:
            return super().preprocess(images, **{**settings, "return_tensors": "pt"})

    image_processor = TensorImages.from_pretrained(directory)
    with _without_video_processor(Qwen2_5_VLProcessor):
        make_processor: Any = Qwen2_5_VLProcessor
        processor = make_processor(image_processor, policy.tokenizer, chat_template=policy.tokenizer.chat_template)
    rows = [
        {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt.question}]}]}
        for prompt in prompts
    ]
    images = [[Image.fromarray(prompt.images[0])] for prompt in prompts]
    dataset = Dataset.from_list([{**row, "images": image} for row, image in zip(rows, images, strict=True)])
    trainer: Any = None

    def reward(completions: Sequence[Any], **_: Any) -> list[float]:
        return rewards(len(completions))

    config = GRPOConfig(
        str(directory / "trl"),
        use_cpu=device == "cpu",
        bf16=policy.config.dtype == "bfloat16",
        per_device_train_batch_size=PROMPTS * GROUP_SIZE,
        num_generations=GROUP_SIZE,
        max_completion_length=case.tokens_max,
        max_tool_calling_iterations=2 if case.operation else None,
        beta=0.0,
        gradient_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
        logging_steps=10**9,
        seed=0,
    )
    make_trainer: Any = GRPOTrainer
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = make_trainer(
            model,
            reward,
            args=config,
            train_dataset=dataset,
            processing_class=processor,
            tools=[zoom] if case.operation else None,
        )
    trainer.current_gradient_accumulation_steps = 1
    trainer.batch = next(iter(trainer.get_train_dataloader()))
    trainer.completion_tokens, trainer.calls = 0.0, 0.0
    return trainer


@contextlib.contextmanager
def _without_video_processor(kind: Any) -> Any:
    """transformers' processor wants a video processor, which wants torchvision; no video is used here."""
    original = kind.get_attributes
    kind.get_attributes = classmethod(lambda cls: [name for name in original() if name != "video_processor"])
    try:
        yield
    finally:
        kind.get_attributes = original


def trl_step(trainer: Any) -> None:
    """One training step of TRL without its optimizer's: generation, rewards, loss, backward."""
    trainer._step = 0
    trainer._buffered_inputs = None
    trainer.model.zero_grad()
    trainer.model.train()
    inputs = trainer._prepare_inputs(trainer.batch)
    loss = trainer.compute_loss(trainer.model, inputs)
    trainer.accelerator.backward(loss)
    trainer.prompt_ids, trainer.prompt_mask = inputs["prompt_ids"], inputs["prompt_mask"]
    trainer.completion_tokens = float(inputs["completion_mask"].sum(1).float().mean())
    if "tool_mask" in inputs:
        observed = (inputs["tool_mask"] == 0) & (inputs["completion_mask"] == 1)
        trainer.calls = float(observed.any(1).float().mean())


def trl_update(trainer: Any, groups: Sequence[Group]) -> float:
    """TRL's loss and gradients on our rollouts."""
    inputs = trl_inputs(trainer, groups)
    trainer.model.zero_grad()
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, inputs)
    trainer.accelerator.backward(loss)
    return float(loss.detach())


def trl_inputs(trainer: Any, groups: Sequence[Group]) -> dict[str, torch.Tensor | list[int]]:
    """Rollouts as TRL keeps them: prompts padded on the left, completions on the right, every image in every row."""
    rollouts = [each for group in groups for each in group.rollouts]
    pad_id = trainer._tokenizer.pad_token_id

    def padded(rows: list[torch.Tensor], value: float, side: str) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)

    prompt_ids = padded([each.prompt_ids for each in rollouts], pad_id, "left")
    completion_ids = padded([each.completion_ids for each in rollouts], pad_id, "right")
    images = [[*each.prompt_images, *each.completion_images] for each in rollouts]
    inputs = {
        "prompt_ids": prompt_ids,
        "prompt_mask": padded([torch.ones_like(each.prompt_ids) for each in rollouts], 0, "left"),
        "completion_ids": completion_ids,
        "completion_mask": padded([torch.ones_like(each.completion_ids) for each in rollouts], 0, "right"),
        "tool_mask": padded([each.action_mask.long() for each in rollouts], 1, "right"),
        "advantages": torch.tensor(advantages_of(len(groups))),
        "old_per_token_logps": padded([each.behavior_logprobs for each in rollouts], 0.0, "right"),
        "num_items_in_batch": torch.tensor(sum(each.num_actions for each in rollouts)),
        "pixel_values": torch.cat([image.pixel_values for row in images for image in row]),
        "image_grid_thw": torch.stack([image.grid_thw for row in images for image in row]),
        "mm_token_type_ids": (torch.cat([prompt_ids, completion_ids], 1) == trainer.model.config.image_token_id).int(),
    }
    moved = {name: tensor.to(trainer.accelerator.device) for name, tensor in inputs.items()}
    return {**moved, "num_images": [len(row) for row in images]}


def check_prompts(trainer: Any, groups: Sequence[Group]) -> None:
    """Both sides were given the same tokens; TRL shuffles them."""
    rows = zip(trainer.prompt_ids.tolist(), trainer.prompt_mask.tolist(), strict=True)
    theirs = {tuple(token for token, kept in zip(*row, strict=True) if kept) for row in rows}
    assert theirs == {tuple(group.rollouts[0].prompt_ids.tolist()) for group in groups}


def check_equality(policy: Policy, trainer: Any, groups: Sequence[Group], tolerance: float) -> Equality:
    """Loss and gradient of both sides on the same rollouts, advantages and behavior log-probabilities."""
    theirs = trl_update(trainer, groups)
    their_gradient = gradient(trainer.model)
    ours = ours_update(policy, groups)
    our_gradient = gradient(policy.model)
    loss_difference = abs(ours - theirs)
    gradient_difference = float((our_gradient - their_gradient).norm() / their_gradient.norm())
    return Equality(
        loss_difference,
        gradient_difference,
        gradient_norm=float(their_gradient.norm()),
        equal=loss_difference <= tolerance and gradient_difference <= tolerance,
    )


def gradient(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([each.grad.float().flatten().cpu() for each in model.parameters() if each.grad is not None])


def clock(work: Callable[[], object], policy: Policy) -> float:
    """Seconds: of this process on a CPU, so that others on the machine do not count; on the wall with a GPU."""
    if policy.device.type == "cpu":
        started = time.process_time()
        work()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_memory(model: Any, work: Callable[[], object]) -> float:
    """The most bytes of tensors that were allocated at one time beyond those that were there before.

    On the CPU every allocation and release of torch's allocator is replayed from a profile; on a GPU torch counts.
    """
    work()
    model.zero_grad()
    gc.collect()
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return float(torch.cuda.max_memory_allocated() - before)
    from torch.autograd.profiler import profile

    with profile(profile_memory=True) as profiled:
        work()
    events = [event for event in profiled.kineto_results.events() if event.name() == "[memory]"]
    current = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return float(peak)


if __name__ == "__main__":
    sys.exit(main())
