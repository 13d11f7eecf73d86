"""The starter policy: a Qwen2.5-VL of two million parameters, kept here as a plain Hugging Face directory.

The files beside this one (config.json, tokenizer.json, tokenizer_config.json, chat_template.jinja,
preprocessor_config.json, generation_config.json, model.safetensors) are what
`python -m share.kernel.policy.starter.make --output DIR` wrote, and nothing else trained them. That run was made in two
sittings: the stage `aim` was added after the stages before it, which were kept, had been trained.
"""

from __future__ import annotations
