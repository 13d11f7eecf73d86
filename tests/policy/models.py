"""Tiny random models of the families whose prefixes are shared, and how a policy directory is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from share.kernel.policy.loading import STARTER

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 3, 3]},
    "tie_word_embeddings": True,
    "initializer_range": 0.1,
}
VISION = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 4,
    "out_hidden_size": 64,
    "fullatt_block_indexes": [1],
    "window_size": 56,
    "initializer_range": 0.1,
}


def special_tokens(tokenizer: Any) -> dict[str, Any]:
    token = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
    }


def qwen2_vl(tokenizer: Any) -> Any:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    vision = {"depth": 2, "embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2, "num_heads": 4, "initializer_range": 0.1}
    config = Qwen2VLConfig(
        text_config={**TEXT, **text_tokens(tokenizer)},
        vision_config=vision,
        tie_word_embeddings=True,
        **special_tokens(tokenizer),
    )
    return Qwen2VLForConditionalGeneration(config)


def qwen2_5_vl(tokenizer: Any) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={**TEXT, **text_tokens(tokenizer)},
        vision_config=VISION,
        tie_word_embeddings=True,
        **special_tokens(tokenizer),
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl(tokenizer: Any) -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vision = {
        "depth": 3,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "out_hidden_size": 64,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    config = Qwen3VLConfig(
        text_config={**TEXT, **text_tokens(tokenizer), "head_dim": 16},
        vision_config=vision,
        tie_word_embeddings=True,
        **special_tokens(tokenizer),
    )
    return Qwen3VLForConditionalGeneration(config)


def text_tokens(tokenizer: Any) -> dict[str, Any]:
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    return {"vocab_size": 1040, "eos_token_id": end, "pad_token_id": pad, "bos_token_id": None}


def write_policy(directory: Path, model: Any, tokenizer: Any, **preprocessor: Any) -> Path:
    """A policy directory as transformers would write it."""
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    settings = json.loads((STARTER / "preprocessor_config.json").read_text()) | preprocessor
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    return directory
