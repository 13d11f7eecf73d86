"""Make the starter policy: `python -m share.kernel.policy.starter.make --output DIR`.

Five stages, dense and small first:
1. eyes: the vision tower learns colours, places and digits with a linear head on every image token, thrown away later;
2. places: the language model learns to say where cards are, the eyes held still;
3. tongue: reading crops, calling ZOOM_IN and answering are learned beside it, and how the other operations are called;
4. aim: more of the same, most of it on where to look;
5. habit: a demonstrator is imitated that does it right for one wording of the question only, and else mostly zooms on
   the middle of the scene and guesses. The policy that ships has every skill; that looking at the right place pays,
   however it is asked, is left to GRPO.
The same seed and number of threads give the same weights on the same machine and torch. On one core of a busy machine
it takes about 75 minutes (34, 4, 18, 11 and 2 for the stages) and 3 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from share.kernel.config import Choice
from share.kernel.media.operator import load_operator
from share.kernel.policy.loading import Policy, PolicyConfig, load_policy
from share.kernel.policy.logprobs import token_logprobs
from share.kernel.policy.rollout import Rollout
from share.kernel.policy.starter.architecture import (
    make_configuration,
    make_generation_configuration,
    write_preprocessor,
)
from share.kernel.policy.starter.language import CORPUS
from share.kernel.policy.starter.lessons import (
    NO_PLACE,
    Album,
    Conversations,
    Look,
    demonstrated,
    look_at_crop,
    look_at_mosaic,
    look_at_scene,
    make_album,
)
from share.kernel.policy.starter.tokenizer import make_tokenizer
from share.kernel.registry import load_registry

Lesson = Callable[[np.random.Generator], Rollout]

OPERATIONS = ("ZOOM_IN", "READ_TEXT", "SEGMENT_OBJECT_AT", "GET_PROPERTIES")
"""Operations for still images; prompts of the lessons offer the first always, the others at times."""

DEMONSTRATED = {
    "read_text": (("ZOOM_IN", "READ_TEXT"), (0, 1)),
    "compare_objects": (("SEGMENT_OBJECT_AT", "GET_PROPERTIES"), (0,)),
    "follow_object": (("ZOOM_IN", "TRACK_OBJECT"), (0, 1)),
}
"""Tasks whose own demonstrations are imitated: the operations that are offered, and the difficulties."""

RIGHT_SHARE = 0.3
"""How often the demonstrator with the habit zooms on the right card, for all wordings but the first."""

DIRECT_SHARE = 0.08
"""How often it guesses without zooming."""

FEATURE_SIZE = 0.5
"""Root mean square of an image token when the language model begins to learn; a word token's is 0.1."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast to train; learning rates are peaks. A stage's own numbers begin with its name."""

    scenes: int = 4000
    tongue_demonstrations: int = 64
    eyes_reading_steps: int = 600
    eyes_looking_steps: int = 4000
    eyes_learning_rate: float = 1.5e-3
    places_steps: int = 500
    places_learning_rate: float = 1.5e-3
    tongue_steps: int = 1200
    tongue_learning_rate: float = 1.2e-3
    aim_steps: int = 600
    aim_learning_rate: float = 1.2e-3
    habit_steps: int = 80
    habit_learning_rate: float = 5e-4


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m share.kernel.policy.starter.make", description="Make the starter.")
    parser.add_argument("--output", type=Path, required=True, help="directory to write the policy to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (the shipped weights: 1)")
    parser.add_argument("--share", type=float, default=1.0, help="share of the steps and scenes, for a quick try")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    plan = _shortened(Plan(), options.share)
    started = time.monotonic()
    make_starter(options.output, options.seed, plan)
    print(f"{options.output}: made in {(time.monotonic() - started) / 60:.1f} minutes")
    return 0


def make_starter(output: Path, seed: int, plan: Plan) -> None:
    """Write the policy directory.

    The weights after each stage are kept in `stages/`, with the seed and the numbers that led to them; a stage that is
    there with the same ones is not trained again. Changed lessons do not show in them: delete the folder then.
    """
    torch.manual_seed(seed)
    _write_untrained(output)
    policy = load_policy(PolicyConfig(path=str(output), device="cpu"))
    album, conversations = _gather(policy, seed, plan)
    lessons = lessons_of(conversations)
    (output / "stages").mkdir(exist_ok=True)
    made_with: dict[str, float] = {"seed": seed, "scenes": plan.scenes}
    for number, name in enumerate(("eyes", *lessons)):
        made_with |= {field: getattr(plan, field) for field in plan.__slots__ if field.startswith(name)}
        kept = output / "stages" / f"{name}.safetensors"
        if kept.is_file() and _made_with(kept) == json.dumps(made_with):
            load_model(policy.model, kept)
            continue
        rng = np.random.default_rng([seed, number])
        if name == "eyes":
            train_eyes(policy, album, rng, plan)
        else:
            if name == "places":
                _rescale_features(policy, conversations, rng)
            _imitate(policy, name, lessons[name], rng, plan)
        save_model(policy.model, str(kept), {"made_with": json.dumps(made_with)})
    policy.save(output)
    _write_settings(output, make_tokenizer(CORPUS))  # again: those of a policy that was loaded say where from


def _gather(policy: Policy, seed: int, plan: Plan) -> tuple[Album, Conversations]:
    """What the lessons are cut from: scenes of zoom_digits, and demonstrations of the operations it does not need."""
    registry = load_registry()
    operator = load_operator(
        registry, [Choice("operation", name, registry.config_model("operation", name)()) for name in OPERATIONS]
    )
    settings = registry.config_model("task", "zoom_digits").model_validate({"difficulties": (1, 2), "seed": seed + 1})
    prompts = tqdm(range(plan.scenes), desc="scenes", leave=False)
    album = make_album(registry.build(Choice("task", "zoom_digits", settings)), policy.images, iter(prompts))
    rollouts: list[Rollout] = []
    for name, (operations, difficulties) in DEMONSTRATED.items():
        settings = registry.config_model("task", name).model_validate({"difficulties": difficulties, "seed": seed + 1})
        task = registry.build(Choice("task", name, settings))
        chosen = [Choice("operation", each, registry.config_model("operation", each)()) for each in operations]
        prompts = tqdm(range(plan.tongue_demonstrations), desc=name, leave=False)
        rollouts += demonstrated(policy, task, load_operator(registry, chosen, fit=policy.fit), iter(prompts))
    conversations = Conversations(
        album,
        policy.chat,
        policy.images,
        operator.schemas(),
        rollouts,
        right_share=RIGHT_SHARE,
        direct_share=DIRECT_SHARE,
    )
    return album, conversations


def _made_with(kept: Path) -> str | None:
    with safe_open(kept, framework="pt") as file:
        return (file.metadata() or {}).get("made_with")


def train_eyes(policy: Policy, album: Album, rng: np.random.Generator, plan: Plan) -> None:
    """Teach the vision tower with a linear head per question on every image token; the heads are thrown away.

    An image token without a card must say so for x and y: were places written on every token, their mean over the
    image would say nothing, and the language model would have no slope to learn from where to look.
    """
    vision = policy.model.model.visual
    width = policy.model.config.text_config.hidden_size
    heads = torch.nn.ModuleDict(
        {
            "digit": torch.nn.Linear(width, 10),
            "color": torch.nn.Linear(width, len(album.colors) + 1),
            "x": torch.nn.Linear(width, NO_PLACE + 1),
            "y": torch.nn.Linear(width, NO_PLACE + 1),
        }
    )
    optimizers = _optimizers([*vision.named_parameters(), *heads.named_parameters()])
    steps = plan.eyes_reading_steps + plan.eyes_looking_steps
    cards = album.cards
    for step, bar in _steps("eyes", steps):
        _set_learning_rate(optimizers, plan.eyes_learning_rate * _schedule(step, steps))
        reading = step < plan.eyes_reading_steps
        clear = _falling(step, 0.4 * plan.eyes_reading_steps, plan.eyes_reading_steps)
        corner = _falling(step, plan.eyes_reading_steps, plan.eyes_reading_steps + 0.4 * plan.eyes_looking_steps)
        batches = (
            [look_at_mosaic(album, cards, rng, clear) for _ in range(32 if reading else 8)],
            [look_at_crop(album, cards, rng, clear, corner) for _ in range(40 if reading else 128)],
            [look_at_scene(album, rng) for _ in range(12 if reading else 10)],
        )
        losses = [_look_loss(policy, heads, looks) for looks in batches]
        torch.autograd.backward(torch.stack(losses).sum())
        _update(optimizers)
        bar.set_postfix_str(" ".join(f"{loss.item():.2f}" for loss in losses))


def _falling(step: int, first: float, last: float) -> float:
    """1 up to step `first`, then falling linearly to 0 at step `last`."""
    return min(1.0, max(0.0, (last - step) / (last - first)))


def _look_loss(policy: Policy, heads: torch.nn.ModuleDict, looks: Sequence[Look]) -> torch.Tensor:
    encoded = [policy.images.encode(look.pixels) for look in looks]
    assert policy.backbone is not None
    features = policy.backbone.image_features(encoded)
    counts = [len(feature) for feature in features]
    tokens = torch.cat(list(features))
    tokens = tokens * torch.rsqrt(tokens.pow(2).mean(-1, keepdim=True) + 1e-6)
    loss = tokens.new_zeros(())
    for name, head in heads.items():
        logits = head(tokens)
        labels = torch.from_numpy(np.concatenate([getattr(look, name) for look in looks]))
        if name == "digit" and looks[0].digit_is_shared:
            logits = torch.stack([each.mean(0) for each in torch.split(logits, counts)])
            labels = torch.stack([each[0] for each in torch.split(labels, counts)])
        if (labels >= 0).any():
            loss = loss + cross_entropy(logits, labels, ignore_index=-1)
    return loss


def lessons_of(conversations: Conversations) -> dict[str, dict[Lesson, int]]:
    """What the language model practises in each stage, the eyes held still, and how many of each make a batch."""
    give = conversations
    return {
        "places": {give.cards: 16, give.place: 8},
        "tongue": {give.crop: 10, give.digits: 2, give.cards: 4, give.place: 6, give.task: 18, give.other: 2},
        # The last thing to be learned is the column of a card.
        "aim": {give.crop: 4, give.cards: 6, give.place: 10, give.task: 14, give.other: 1},
        "habit": {give.crop: 6, give.cards: 4, give.place: 4, give.habit: 26, give.other: 2},
    }


def _imitate(policy: Policy, name: str, lessons: Mapping[Lesson, int], rng: np.random.Generator, plan: Plan) -> None:
    """Make what the lessons wrote likelier, for as many steps and as fast as the plan says of the stage."""
    steps: int = getattr(plan, f"{name}_steps")
    rate: float = getattr(plan, f"{name}_learning_rate")
    policy.model.model.visual.requires_grad_(False)
    optimizers = _optimizers([item for item in policy.model.named_parameters() if item[1].requires_grad])
    for step, bar in _steps(name, steps):
        _set_learning_rate(optimizers, rate * _schedule(step, steps))
        batch = [lesson(rng) for lesson, count in lessons.items() for _ in range(count)]
        results = token_logprobs(policy, batch)
        written = sum(rollout.num_actions for rollout in batch)
        loss = -torch.cat([logprobs for logprobs, _ in results]).sum() / written
        torch.autograd.backward(loss)
        _update(optimizers)
        bar.set_postfix_str(f"{loss.item():.3f}")


def _rescale_features(policy: Policy, conversations: Conversations, rng: np.random.Generator) -> None:
    """Bring image tokens to the size of word tokens, so that neither drowns the other at the start."""
    assert policy.backbone is not None
    images = [image for _ in range(8) for image in conversations.cards(rng).prompt_images]
    with torch.no_grad():
        features = torch.cat(list(policy.backbone.image_features(images)))
        factor = FEATURE_SIZE * torch.rsqrt(features.pow(2).mean())
        last = policy.model.model.visual.merger.mlp[-1]
        last.weight.mul_(factor)
        last.bias.mul_(factor)


def _write_untrained(output: Path) -> None:
    """A policy directory with random weights: small steps into the residual stream, words not drowned by them."""
    output.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(CORPUS)
    model: Any = Qwen2_5_VLForConditionalGeneration(make_configuration(tokenizer))
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight.normal_(0, 0.1)
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight.mul_(0.3)
            layer.mlp.down_proj.weight.mul_(0.3)
    model.save_pretrained(output)
    _write_settings(output, tokenizer)


def _write_settings(output: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """All files of a policy directory but the weights."""
    make_configuration(tokenizer).save_pretrained(output)
    make_generation_configuration(tokenizer).save_pretrained(output)
    tokenizer.save_pretrained(output)
    write_preprocessor(output)


def _optimizers(parameters: Sequence[tuple[str, torch.nn.Parameter]]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the rest (Jordan et al. 2024): about twice as fast as AdamW."""
    is_matrix = {name: value.ndim == 2 and "embed" not in name and value.shape[0] >= 128 for name, value in parameters}
    matrices = [value for name, value in parameters if is_matrix[name]]
    others = [value for name, value in parameters if not is_matrix[name]]
    return [
        torch.optim.Muon(matrices, momentum=0.95, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _schedule(step: int, steps: int) -> float:
    """Warm up over 30 steps, fall linearly to a twentieth over the last third."""
    return min(1.0, (step + 1) / 30, max(0.05, 3 * (1 - step / steps)))


def _set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def _update(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    parameters = [value for each in optimizers for group in each.param_groups for value in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def _steps(name: str, count: int) -> Iterator[tuple[int, Any]]:
    bar = tqdm(range(count), desc=name)
    for step in bar:
        yield step, bar


def _shortened(plan: Plan, share: float) -> Plan:
    if not 0 < share <= 1:
        raise SystemExit("--share: must be above 0 and at most 1")
    steps = {field: max(1, round(getattr(plan, field) * share)) for field in plan.__slots__ if "rate" not in field}
    return replace(plan, **steps)


if __name__ == "__main__":
    raise SystemExit(main())
