"""The chat format: prompts, operation calls, observations and answers as token ids, through the policy's own template.

A policy calls an operation as Qwen2.5 and Hermes do,

    <tool_call>
    {"name": "ZOOM_IN", "arguments": {"bbox": [10, 20, 60, 70]}}
    </tool_call>

answers with `<answer>…</answer>`, and reads an observation in `<tool_response>…</tool_response>`. A template that
knows nothing of tools (Qwen2.5-VL's) is given them in the system message. What was once token ids is never made text
and tokenised again: an observation is tokenised alone and appended.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from share.kernel.errors import PolicyError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER_INSTRUCTION = "Put your final answer between <answer> and </answer>."

_TOOLS_MESSAGE = """# Tools

You may call one function at a time to look closer at the images.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{schemas}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""

_MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<answer>", "</answer>")

_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_MARK = "\u241fmark\u241f"


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """A call of an operation as the policy wrote it; `arguments` are checked by the operator, not here."""

    operation: str
    arguments: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    text: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """Neither a call nor an answer. `error` is what the policy reads about it."""

    error: str


class Chat:
    """Turns of a conversation to token ids and back, for one tokenizer and chat template.

    `system` is the system message, None for the default: how to answer, unless the tokenizer has `<answer>` as a token
    of its own, which only one made for this format has. `image_text` is what the template writes for an image and what
    is to be written instead, with one image token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_token_id: int,
        system: str | None = None,
        image_text: tuple[str, str] | None = None,
    ) -> None:
        if not tokenizer.chat_template:
            raise PolicyError(f"{tokenizer.name_or_path}: its tokenizer has no chat template")
        self.tokenizer = tokenizer
        self.image_token_id = image_token_id
        self.image_text = image_text
        knows_format = len(tokenizer.encode("<answer>", add_special_tokens=False)) == 1
        self.system = system if system is not None else ("" if knows_format else ANSWER_INSTRUCTION)
        self.template_takes_tools = self._takes_tools()
        self.template_takes_observations = "tool_response" in str(tokenizer.chat_template)
        self.end_id, self._end = self._end_of_turn()
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        self._control = sorted({*special, *_MARKS, str(tokenizer.convert_ids_to_tokens(image_token_id))})
        self._observations = {has_image: self._observation(has_image) for has_image in (False, True)}

    def prompt(self, question: str, num_images: int, schemas: Sequence[Mapping[str, Any]]) -> list[int]:
        """The ids of a prompt up to where the policy begins to write; every image is one image token."""
        content = [*({"type": "image"} for _ in range(num_images)), {"type": "text", "text": question}]
        system, tools = self.system, list(schemas) or None
        if tools and not self.template_takes_tools:
            listed = "\n".join(json.dumps(schema, ensure_ascii=False) for schema in tools)
            system = "\n\n".join(part for part in (system, _TOOLS_MESSAGE.format(schemas=listed)) if part)
            tools = None
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if system:
            messages.insert(0, {"role": "system", "content": _said(system)})
        ids = self._ids(self._render(messages, tools))
        if ids.count(self.image_token_id) != num_images:
            raise PolicyError(
                f"the chat template of {self.tokenizer.name_or_path} shows {ids.count(self.image_token_id)} "
                f"of {num_images} images; a question must not contain image tokens"
            )
        return ids

    def observation(self, text: str, has_image: bool) -> list[int]:
        """The ids between the end of the policy's turn and where it writes again; an image is one image token."""
        return self._ids(self._observations[has_image].replace(_MARK, self._harmless(text)))

    def call(self, operation: str, arguments: Mapping[str, object]) -> list[int]:
        """The ids of a turn that calls an operation."""
        call = json.dumps({"name": operation, "arguments": dict(arguments)}, ensure_ascii=False)
        return [*self._ids(f"<tool_call>\n{call}\n</tool_call>"), self.end_id]

    def answer(self, text: str) -> list[int]:
        """The ids of a turn that answers."""
        return [*self._ids(f"<answer>{text}</answer>"), self.end_id]

    def text(self, ids: Sequence[int]) -> str:
        """What the policy wrote in a turn, without the end of the turn."""
        written = ids[:-1] if ids and ids[-1] == self.end_id else ids
        return str(self.tokenizer.decode(list(written), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> str:
        render: Any = self.tokenizer.apply_chat_template
        text = str(render(messages, tools=tools, tokenize=False, add_generation_prompt=True))
        return text.replace(*self.image_text) if self.image_text is not None else text

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _harmless(self, text: str) -> str:
        """An observation's text without control tokens: text that was read may hold `<|im_end|>`, and ends no turn."""
        for token in self._control:
            text = text.replace(token, f"{token[:1]} {token[1:]}")
        return text

    def _observation(self, has_image: bool) -> str:
        """The text from the end of the policy's turn to where it writes again, a mark in the place of what it reads."""
        content: list[dict[str, Any]] = [*_said(_MARK)]
        if has_image:
            content.append({"type": "image"})
        message: dict[str, Any] = {"role": "tool", "content": content}
        if not self.template_takes_observations:
            message = {"role": "user", "content": [*_said("<tool_response>\n"), *content, *_said("\n</tool_response>")]}
        turn = _MARK[::-1]
        asked = {"role": "user", "content": _said("x")}
        return (
            self._render([asked, {"role": "assistant", "content": _said(turn)}, message], None)
            .partition(turn)[2]
            .removeprefix(self._end)
        )

    def _takes_tools(self) -> bool:
        probe = {"type": "function", "function": {"name": "PROBE_OPERATION", "description": "", "parameters": {}}}
        probe["function"]["parameters"] = {"type": "object", "properties": {}}  # type: ignore[index]
        try:
            rendered = self._render([{"role": "user", "content": _said("x")}], [probe])
        except Exception:  # a template may raise whatever it likes for what it does not know
            return False
        return "PROBE_OPERATION" in rendered and "tool" in str(self.tokenizer.chat_template)

    def _end_of_turn(self) -> tuple[int, str]:
        """The token that ends the policy's turn, found by rendering one."""
        messages = [{"role": "user", "content": _said("x")}, {"role": "assistant", "content": _said(_MARK)}]
        render: Any = self.tokenizer.apply_chat_template
        rendered = render(messages, tokenize=False, add_generation_prompt=False)
        ids = self._ids(str(rendered).partition(_MARK)[2].lstrip())
        if not ids:
            raise PolicyError(f"{self.tokenizer.name_or_path}: its chat template does not end a turn with a token")
        return ids[0], str(self.tokenizer.decode([ids[0]], skip_special_tokens=False))


def _said(text: str) -> list[dict[str, str]]:
    """A message of text alone, in parts: templates of SmolVLM and LLaVA pass over a bare string."""
    return [{"type": "text", "text": text}]


def parse_turn(text: str) -> ParsedCall | ParsedAnswer | Invalid:
    """What the policy decided in a turn; the first of call and answer that it wrote counts."""
    call, answer = _CALL.search(text), _ANSWER.search(text)
    if answer is not None and (call is None or answer.start() < call.start()):
        return ParsedAnswer(answer.group(1).strip())
    if call is None:
        return Invalid("error: neither <tool_call> nor <answer> was written")
    try:
        parsed = json.loads(call.group(1))
    except (ValueError, RecursionError) as error:
        where = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        return Invalid(f"error: the call is not JSON{where}")
    if not isinstance(parsed, dict) or not isinstance(parsed.get("name"), str):
        return Invalid('error: a call is {"name": …, "arguments": {…}}')
    arguments = parsed.get("arguments", {})
    if not isinstance(arguments, dict):
        return Invalid("error: arguments must be a JSON object")
    return ParsedCall(parsed["name"], arguments)


__all__ = ["ANSWER_INSTRUCTION", "Chat", "Invalid", "ParsedAnswer", "ParsedCall", "parse_turn"]
