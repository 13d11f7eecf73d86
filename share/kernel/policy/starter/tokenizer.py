"""The tokenizer of the starter policy: byte-level BPE over a small vocabulary, learned from our own prompt language.

What the policy reads and writes all day (operation calls, coordinates, card colours) costs one token a word; any
other text still encodes, down to single bytes. Integers from 0 to 255 are one token each, because coordinates in the
starter's views are that small.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from collections.abc import Iterable

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Control tokens; decoding with skip_special_tokens drops them."""

MARKER_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<answer>", "</answer>")
"""Tokens that carry structure but belong to the text, as in Qwen2.5: decoding keeps them."""

INTEGER_MAX = 255

_PIECES = Regex(
    r"""\n?\{"name": "|", "arguments": \{"?|": \["?|": "?|, "|, |[\]"]?\}+\n?"""
    r"""|\p{N}{1,3}| ?[\p{L}\p{M}][\p{L}\p{M}_]*|\s+|[^\s\p{L}\p{M}\p{N}]"""
)
"""What BPE may not merge across: the fixed stretches of a JSON call, integers, words, and single other characters."""

_CHAT_TEMPLATE = """\
{%- macro plain(content) -%}
{{ content if content is string else content[0].text }}
{%- endmacro -%}
{%- macro arguments(call) -%}
{{ call.arguments if call.arguments is string else call.arguments | tojson }}
{%- endmacro -%}
{%- if tools -%}
<|im_start|>system
{% if messages and messages[0].role == 'system' %}{{ plain(messages[0].content) }}
{% endif %}Operations:
{%- for tool in tools -%}
{%- set function = tool.function if tool.function is defined else tool %} {{ function.name }}(
{%- for argument in function.parameters.properties -%}
{{ argument }}{{ ', ' if not loop.last }}
{%- endfor -%}
)
{%- endfor -%}
<|im_end|>
{% elif messages and messages[0].role == 'system' -%}
<|im_start|>system
{{ plain(messages[0].content) }}<|im_end|>
{% endif -%}
{%- macro render(content) -%}
{%- if content is string -%}
{{ content }}
{%- else -%}
{%- for part in content -%}
{%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' or 'video' in part -%}
<|vision_start|><|video_pad|><|vision_end|>
{%- elif 'text' in part -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
<|im_start|>user
<tool_response>
{{ render(message.content) }}
</tool_response><|im_end|>
{% elif message.role == 'assistant' -%}
<|im_start|>assistant
{{ render(message.content) if message.content }}
{%- for call in message.tool_calls or [] -%}
{%- set function = call.function if call.function is defined else call -%}
<tool_call>
{"name": "{{ function.name }}", "arguments": {{ arguments(function) }}}
</tool_call>
{%- endfor -%}
<|im_end|>
{% elif message.role != 'system' or not loop.first -%}
<|im_start|>{{ message.role }}
{{ render(message.content) }}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def make_tokenizer(corpus: Iterable[str], vocabulary_max: int = 1024) -> PreTrainedTokenizerFast:
    """Learn the tokenizer from `corpus` (its words, most frequent first, become tokens) and give it the chat template.

    `vocabulary_max` bounds the learned part; single bytes, the special tokens and the integers come on top.
    """
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = _pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_max,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    learned.train_from_iterator(corpus, trainer)
    vocabulary, merges = _with_integers(learned)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKER_TOKENS])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=_CHAT_TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_PIECES, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _with_integers(learned: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The learned vocabulary and merges, with every integer of two or three digits up to INTEGER_MAX merged whole.

    Digits stand in pieces of their own, so these merges compete with no learned one: the corpus must not hold any.
    Three digits need both ways to be put together: in 212 BPE merges 12 before it can see 21.
    """
    model = json.loads(learned.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    merges = [(left, right) for left, right in model["merges"]]
    for integer in range(10, INTEGER_MAX + 1):
        text = str(integer)
        if text not in vocabulary:
            vocabulary[text] = len(vocabulary)
            merges.append((text[:-1], text[-1]))
            if len(text) == 3 and text[1] != "0":
                merges.append((text[0], text[1:]))
    return vocabulary, merges


__all__ = ["INTEGER_MAX", "MARKER_TOKENS", "SPECIAL_TOKENS", "make_tokenizer"]
