"""Configurations of tiny models, and how a policy directory is written."""

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


def special_tokens(tokenizer: Any) -> dict[str, int]:
    token = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
    }


def write_policy(directory: Path, model: Any, tokenizer: Any, **preprocessor: Any) -> Path:
    """A policy directory as transformers would write it."""
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    settings = json.loads((STARTER / "preprocessor_config.json").read_text()) | preprocessor
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    return directory
