"""Other families, tiny and random: Qwen2-VL and Qwen3-VL share prefixes as Qwen2.5-VL does; LLaVA, Gemma 3 do not."""

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
from tests.policy.models import qwen2_vl, qwen3_vl, special_tokens, write_policy


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


@pytest.mark.parametrize(("make", "shares"), [(qwen2_vl, True), (qwen3_vl, True), (llava, False), (gemma3, False)])
def test_a_family_is_sampled_and_scored_alike(
    make: Callable[[Any], Any],
    shares: bool,
    prompts: list[Prompt],
    operator_of: Callable[[Policy], Operator],
    tmp_path: Path,
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(STARTER)
    torch.manual_seed(0)
    made = make(tokenizer)
    model, processor = made if isinstance(made, tuple) else (made, {})
    policy = load_policy(PolicyConfig(path=str(write_policy(tmp_path, model, tokenizer, **processor)), device="cpu"))
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
