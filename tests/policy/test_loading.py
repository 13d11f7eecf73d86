"""Loading: a directory becomes a policy, and a mistake becomes one line."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from share.kernel.contracts.task import Prompt
from share.kernel.errors import PolicyError
from share.kernel.policy.loading import LoRAConfig, Policy, PolicyConfig, load_policy
from share.kernel.policy.rollout import open_prompt


def logits_of(policy: Policy, prompt: Prompt) -> torch.Tensor:
    opened = open_prompt(policy, prompt, [])
    ids = torch.tensor(opened.ids)[None]
    inputs = policy.images.model_inputs(opened.images) | {
        "mm_token_type_ids": (ids == policy.chat.image_token_id).int()
    }
    with torch.no_grad():
        logits: torch.Tensor = policy.base(input_ids=ids, **inputs).logits
    return logits


def test_images_are_those_of_transformers_own_processor(policy: Policy, directory: Path) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    theirs = Qwen2VLImageProcessorPil.from_pretrained(directory)
    rng = np.random.default_rng(0)
    for height, width in ((896, 896), (112, 112), (30, 200), (333, 77), (1, 1), (28, 56)):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = theirs(images=[pixels], return_tensors="pt", input_data_format="channels_last")
        mine = policy.images.encode(policy.fit(pixels))
        assert torch.equal(mine.grid_thw, expected["image_grid_thw"][0])
        assert mine.num_tokens == int(mine.grid_thw.prod()) // 4
        torch.testing.assert_close(mine.pixel_values, expected["pixel_values"], rtol=0, atol=1e-5)


def test_a_saved_policy_is_the_same_policy(policy: Policy, prompts: list[Prompt], tmp_path: Path) -> None:
    policy.save(tmp_path / "saved")
    again = load_policy(PolicyConfig(path=str(tmp_path / "saved"), device="cpu"))
    torch.testing.assert_close(logits_of(again, prompts[0]), logits_of(policy, prompts[0]), rtol=0, atol=0)
    assert again.images == policy.images
    assert again.chat.system == policy.chat.system


def test_an_adapter_is_merged_when_saved(directory: Path, prompts: list[Prompt], tmp_path: Path) -> None:
    policy = load_policy(PolicyConfig(path=str(directory), device="cpu", lora=LoRAConfig(rank=4)))
    trained = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name and "language_model" in name for name in trained)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    policy.save(tmp_path / "merged")
    merged = load_policy(PolicyConfig(path=str(tmp_path / "merged"), device="cpu"))
    with_adapter = logits_of(policy, prompts[0])
    torch.testing.assert_close(logits_of(merged, prompts[0]), with_adapter, rtol=1e-4, atol=1e-4)
    with policy.without_adapter():
        assert float((logits_of(policy, prompts[0]) - with_adapter).abs().max()) > 1e-3


def test_the_starter_is_what_no_path_means(prompts: list[Prompt]) -> None:
    policy = load_policy(PolicyConfig(device="cpu"))
    assert policy.backbone is not None
    assert policy.chat.template_takes_tools
    assert torch.isfinite(logits_of(policy, prompts[0])).all()


def test_a_frozen_vision_tower_gets_no_gradient(directory: Path) -> None:
    policy = load_policy(PolicyConfig(path=str(directory), device="cpu", freeze_vision=True))
    frozen = {name for name, parameter in policy.model.named_parameters() if not parameter.requires_grad}
    assert frozen
    assert all(".visual." in name for name in frozen)


def test_a_mistake_is_one_line(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        PolicyConfig(path=str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(PolicyError, match="cannot be loaded") as caught:
        load_policy(PolicyConfig(path=str(tmp_path), device="cpu"))
    assert "\n" not in str(caught.value)
    with pytest.raises(PolicyError, match=r"policy\.device: 'gpu' is no torch device"):
        load_policy(PolicyConfig(path=str(directory), device="gpu"))
    with pytest.raises(PolicyError, match=r"policy\.pixels_min: 90000 is above"):
        load_policy(PolicyConfig(path=str(directory), device="cpu", pixels_min=90_000))
    settings = json.loads((directory / "preprocessor_config.json").read_text())
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, "image_processor_type": "SamProcessor"}))
    with pytest.raises(PolicyError, match="asks for SamProcessor"):
        load_policy(PolicyConfig(path=str(tmp_path), device="cpu"))
    if not torch.cuda.is_available():
        with pytest.raises(PolicyError, match="finds no GPU"):
            load_policy(PolicyConfig(path=str(directory), device="cuda"))
