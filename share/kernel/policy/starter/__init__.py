"""The starter policy: a Qwen2.5-VL of two million parameters, kept here as a plain Hugging Face directory.

The files beside this one (config.json, tokenizer.json, tokenizer_config.json, chat_template.jinja,
preprocessor_config.json, generation_config.json, model.safetensors) are such as
`python -m share.kernel.policy.starter.make --output DIR` writes. The weights kept here went through the same stages and
lessons, but in pieces, while the length of each stage was being found; one run of the command gives a policy of the
same kind, not the same bits.
"""

from __future__ import annotations
