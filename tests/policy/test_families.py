"""Other families, tiny and random: Qwen2-VL and Qwen3-VL share prefixes as Qwen2.5-VL does; the others do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from share.kernel.contracts.task import Prompt
from share.kernel.media.operator import Operator
from share.kernel.policy.loading import STARTER, Policy, PolicyConfig, load_policy
from share.kernel.policy.logprobs import token_logprobs
from share.kernel.policy.rollout import RolloutConfig, RolloutKey, rollout
from tests.policy.models import qwen2_vl, qwen3_vl, special_tokens, text_tokens, write_policy


def llava(tokenizer: Any) -> tuple[Any, dict[str, Any]]:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**sizes, "model_type": "llama", "vocab_size": 1040, "bos_token_id": None, "initializer_range": 0.1}
    vision = {**sizes, "model_type": "clip_vision_model", "image_size": 56, "patch_size": 14}
    image = special_tokens(tokenizer)["image_token_id"]
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=image, image_seq_length=16)
    processor = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 56}}
    return LlavaForConditionalGeneration(config), processor


def gemma3(tokenizer: Any) -> tuple[Any, dict[str, Any]]:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**sizes, "vocab_size": 1040, "head_dim": 8, "num_key_value_heads": 2, "bos_token_id": None}
    vision = {**sizes, "image_size": 56, "patch_size": 14}
    image = special_tokens(tokenizer)["image_token_id"]
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_id=image)
    processor = {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 56, "width": 56}}
    return Gemma3ForConditionalGeneration(config), processor


def smolvlm(tokenizer: Any) -> tuple[Any, dict[str, Any]]:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    return SmolVLMForConditionalGeneration(SmolVLMConfig(**idefics3_settings(tokenizer))), IDEFICS3_PROCESSOR


def idefics3(tokenizer: Any) -> tuple[Any, dict[str, Any]]:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    return Idefics3ForConditionalGeneration(Idefics3Config(**idefics3_settings(tokenizer))), IDEFICS3_PROCESSOR


IDEFICS3_PROCESSOR = {
    "image_processor_type": "Idefics3ImageProcessor",
    "size": {"longest_edge": 224},
    "max_image_size": {"longest_edge": 56},
}


def idefics3_settings(tokenizer: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**sizes, **text_tokens(tokenizer), "model_type": "llama", "initializer_range": 0.1}
    vision = {**sizes, "image_size": 56, "patch_size": 14}
    image = special_tokens(tokenizer)["image_token_id"]
    return {"text_config": text, "vision_config": vision, "scale_factor": 2, "image_token_id": image}


FAMILIES = {qwen2_vl: True, qwen3_vl: True, llava: False, gemma3: False, smolvlm: False, idefics3: False}
"""Families, and whether their prefixes are shared."""


def made(make: Callable[[Any], Any], directory: Path, **settings: Any) -> Policy:
    """The policy of a family, with random weights."""
    tokenizer = AutoTokenizer.from_pretrained(STARTER)
    torch.manual_seed(0)
    model, processor = both if isinstance(both := make(tokenizer), tuple) else (both, {})
    path = str(write_policy(directory, model, tokenizer, **processor))
    return load_policy(PolicyConfig(path=path, device="cpu", **settings))


@pytest.mark.parametrize(("make", "shares"), FAMILIES.items())
def test_a_family_is_sampled_and_scored_alike(
    make: Callable[[Any], Any],
    shares: bool,
    prompts: list[Prompt],
    operator_of: Callable[[Policy], Operator],
    tmp_path: Path,
) -> None:
    policy = made(make, tmp_path)
    assert (policy.backbone is not None) == shares
    config = RolloutConfig(group_size=3, turns_max=2, tokens_max=16)
    groups = rollout(policy, prompts, operator_of(policy), config, RolloutKey(0, 0))
    rollouts = [each for group in groups for each in group.rollouts]
    padded = token_logprobs(policy, groups, "padded")
    for each, (logprobs, _) in zip(rollouts, padded, strict=True):
        torch.testing.assert_close(each.behavior_logprobs, logprobs.detach(), rtol=1e-4, atol=2e-5)
    sum(logprobs.sum() for logprobs, _ in token_logprobs(policy, groups)).backward()  # type: ignore[union-attr]
    mine = [each.grad.clone() for each in policy.model.parameters() if each.grad is not None]
    policy.model.zero_grad()
    sum(logprobs.sum() for logprobs, _ in padded).backward()  # type: ignore[union-attr]
    plain = [each.grad for each in policy.model.parameters() if each.grad is not None]
    difference = torch.stack([(one - other).norm() for one, other in zip(mine, plain, strict=True)]).norm()
    assert float(difference / torch.stack([each.norm() for each in plain]).norm()) < 1e-5


@pytest.mark.parametrize("make", FAMILIES)
def test_the_vision_tower_of_a_family_can_be_frozen(make: Callable[[Any], Any], tmp_path: Path) -> None:
    model = made(make, tmp_path, freeze_vision=True).model
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen
    assert all("vis" in name for name in frozen)
    assert any(
        "language_model" in name or "text_model" in name for name in set(dict(model.named_parameters())) - set(frozen)
    )


@pytest.mark.parametrize("make", FAMILIES)
def test_a_saved_policy_shows_the_same_images(
    make: Callable[[Any], Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    policy = made(make, tmp_path / "made")
    policy.save(tmp_path / "saved")
    again = load_policy(PolicyConfig(path=str(tmp_path / "saved"), device="cpu"))
    assert again.images == policy.images
    image = policy.fit(prompts[0].images[0])
    assert again.images.encode(image).pixel_values.equal(policy.images.encode(image).pixel_values)


def test_smolvlm_is_given_the_pixels_that_its_own_processor_makes_of_a_whole_image(
    prompts: list[Prompt], tmp_path: Path
) -> None:
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    policy = made(smolvlm, tmp_path / "made")
    policy.save(tmp_path / "saved")
    processor = Idefics3ImageProcessorPil.from_pretrained(tmp_path / "saved")
    image = policy.fit(prompts[0].images[0])
    theirs = processor(image, return_tensors="pt")["pixel_values"]
    ours = policy.images.model_inputs([policy.images.encode(image)])["pixel_values"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
