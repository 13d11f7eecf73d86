"""The starter policy's shape: Qwen2.5-VL's own classes with a configuration of two million parameters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from transformers import GenerationConfig, Qwen2_5_VLConfig

from share.kernel.policy.starter.tokenizer import SPECIAL_TOKENS

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast

PIXELS_MIN = 56 * 56
PIXELS_MAX = 112 * 112
"""Bounds of an image as the policy sees it: 4 to 16 tokens of 28 x 28 px."""


def make_configuration(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    """The configuration for that tokenizer's vocabulary.

    The rotary base is 10, not a million: positions here are below a few hundred, and with the published base the
    rotary dimensions that carry an image's columns would turn by less than a thousandth over a whole image.
    """
    token = token_ids(tokenizer)
    vocabulary_size = -(-len(tokenizer) // 16) * 16
    return Qwen2_5_VLConfig(
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        dtype="float32",
        text_config={
            "vocab_size": vocabulary_size,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10.0, "mrope_section": [2, 7, 7]},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": token["<|im_end|>"],
            "pad_token_id": token["<|endoftext|>"],
            "initializer_range": 0.05,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_heads": 4,
            "out_hidden_size": 128,
            "fullatt_block_indexes": [0, 1, 2],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "initializer_range": 0.05,
        },
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def make_generation_configuration(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """Sample until the end of the turn."""
    token = token_ids(tokenizer)
    settings = {"eos_token_id": token["<|im_end|>"], "pad_token_id": token["<|endoftext|>"]}
    return GenerationConfig.from_dict({"do_sample": True, "temperature": 1.0, **settings})


def token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The ids of the control tokens."""
    vocabulary = tokenizer.get_vocab()
    return {token: int(vocabulary[token]) for token in SPECIAL_TOKENS}


def write_preprocessor(directory: Path) -> None:
    """Write preprocessor_config.json: Qwen2-VL's image processor, which runs without torchvision."""
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "rescale_factor": 1 / 255,
        "resample": 3,
        "min_pixels": PIXELS_MIN,
        "max_pixels": PIXELS_MAX,
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


__all__ = [
    "PIXELS_MAX",
    "PIXELS_MIN",
    "make_configuration",
    "make_generation_configuration",
    "token_ids",
    "write_preprocessor",
]
