"""What goes over the wire: OpenAI's chat completions, with a `pixelis` block on either side.

A parameter that the policy cannot honour is refused, not ignored: a client that asked for two choices and got one
would not know.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from share.kernel.contracts.serving import Expert, Path
from share.kernel.contracts.trajectory import Action, FinishReason
from share.kernel.contracts.voting import AnswerType

MODEL = "pixelis"
"""The one model there is."""

TRACE_ID = r"^[0-9A-Za-z_.:-]{1,40}$"
"""What names an answer and its review."""

ID_PREFIX = "chatcmpl-"
"""The id of a completion is that of its answer behind this."""

HALF_A_CHARACTER = "has half a character in it, a surrogate without its other half; send text in UTF-8"
SUBJECT_CHARACTERS_MAX = 200
SEED_MAX = 2**32 - 1


class Wire(BaseModel):
    """Base of what is read from and written to the wire."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(HALF_A_CHARACTER) from error
    return text


Text = Annotated[str, AfterValidator(_whole)]
"""Text that can be written in UTF-8: JSON's escapes can say half a character."""


class ImageUrl(Wire):
    url: str
    """The image as `data:image/<type>;base64,…`; nothing is fetched from elsewhere."""
    detail: Literal["auto", "low", "high"] | None = None
    """Accepted and without effect: the policy zooms in by itself."""


class ImagePart(Wire):
    type: Literal["image_url"]
    image_url: ImageUrl


class TextPart(Wire):
    type: Literal["text"]
    text: Text


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(Wire):
    """A message. A question is one message of the user; what the system says is put before it."""

    role: Literal["system", "developer", "user"]
    content: Text | list[Part]
    name: str | None = None
    """Accepted and without effect."""

    @field_validator("role", mode="before")
    @classmethod
    def _is_of_this_turn(cls, value: object) -> object:
        if value in ("assistant", "tool", "function"):
            raise ValueError(f"{value}: earlier turns are not taken; put what they said into the message of the user")
        return value


class StreamOptions(Wire):
    include_usage: bool = False
    """Send a last chunk with the usage of the whole stream."""
    include_obfuscation: bool = False
    """Accepted and without effect: nothing is padded."""


class AsText(Wire):
    """The form of an answer: the only one that there is."""

    type: Literal["text"]


class Asked(Wire):
    """What only this service knows of a request."""

    read_only: bool = False
    """Answer, and keep nothing at all of it."""
    answer_type: AnswerType = "text"
    """How answers are compared: as words, one number, or the letter of a choice."""
    is_video: bool = False
    """The images are the frames of a video, in order."""
    subject: str | None = Field(default=None, min_length=1, max_length=SUBJECT_CHARACTERS_MAX)
    """The person it is about, for erasure; `user` or `safety_identifier` when not set."""
    deadline_s: float | None = Field(default=None, gt=0.0, le=3600.0)
    """Seconds after which it is not begun any more; the service's own when not set, and never later."""


class ChatRequest(Wire):
    """A question, as OpenAI's clients ask it."""

    model: Literal["pixelis"]
    messages: list[Message] = Field(min_length=1, max_length=16)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    """0 takes the likeliest token, and is the default here."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens of the completion, those of observations included; the service's own bound when not set or smaller."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """The newer name of `max_tokens`."""
    seed: int | None = Field(default=None, ge=0, le=SEED_MAX)
    user: str | None = Field(default=None, min_length=1, max_length=SUBJECT_CHARACTERS_MAX)
    safety_identifier: str | None = Field(default=None, min_length=1, max_length=SUBJECT_CHARACTERS_MAX)
    pixelis: Asked = Asked()

    n: Literal[1] | None = None
    """Only 1 is supported."""
    top_p: float | None = Field(default=None, ge=1.0, le=1.0)
    """Only 1 is supported."""
    presence_penalty: float | None = Field(default=None, ge=0.0, le=0.0)
    """Only 0 is supported."""
    frequency_penalty: float | None = Field(default=None, ge=0.0, le=0.0)
    """Only 0 is supported."""
    logprobs: Literal[False] | None = None
    """Only false is supported."""
    stop: Annotated[list[str], Field(max_length=0)] | None = None
    """Only null and [] are supported."""
    tools: Annotated[list[str], Field(max_length=0)] | None = None
    """Only null and [] are supported."""
    tool_choice: Literal["none"] | None = None
    """Only "none" is supported."""
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    """Only null and {} are supported."""
    response_format: AsText | None = None
    """Only text is supported."""
    store: bool | None = None
    """Accepted and without effect: what is kept is said in docs/online.md."""

    @field_validator("stop", "tools", "tool_choice", "logit_bias", "response_format", mode="before")
    @classmethod
    def _asks_for_nothing(cls, value: object) -> object:
        if value not in (None, [], {}, "none", {"type": "text"}):
            raise ValueError("is not supported by this service; leave it out")
        return value

    @model_validator(mode="after")
    def _is_one_question(self) -> ChatRequest:
        asked = [number for number, message in enumerate(self.messages) if message.role == "user"]
        if len(asked) != 1 or asked[0] != len(self.messages) - 1:
            raise ValueError("messages: exactly one message of the user is answered, and it is the last")
        if not self.question.strip():
            raise ValueError("messages: there is no question in them; put it in text beside the images")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: are for a stream; set stream to true, or leave them out")
        if self.pixelis.is_video and not self.image_urls:
            raise ValueError("pixelis.is_video: there are no images; send the frames as images, or leave it out")
        return self

    @property
    def question(self) -> str:
        """All text, that of the system first."""
        return "\n".join(text for message in self.messages for text in _texts(message) if text)

    @property
    def image_urls(self) -> list[tuple[str, str]]:
        """(path in the request, URL) of every image."""
        return [
            (f"messages.{number}.content.{place}.image_url", part.image_url.url)
            for number, message in enumerate(self.messages)
            if isinstance(message.content, list)
            for place, part in enumerate(message.content)
            if isinstance(part, ImagePart)
        ]

    @property
    def tokens_max(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def subject(self) -> str | None:
        return self.pixelis.subject or self.safety_identifier or self.user


def _texts(message: Message) -> list[str]:
    if isinstance(message.content, str):
        return [message.content]
    return [part.text for part in message.content if isinstance(part, TextPart)]


class OperationUsed(Wire):
    """An operation that the policy called on the way to its answer. Coordinates are pixels of the view it named."""

    name: str
    arguments: dict[str, Any]
    observation: str | None
    error: str | None
    view: str | None
    region: str | None
    elapsed_ms: float

    @classmethod
    def of(cls, action: Action) -> OperationUsed:
        return cls(
            name=str(action.operation),
            arguments=dict(action.arguments or {}),
            observation=action.observation,
            error=action.error,
            view=action.view,
            region=action.region,
            elapsed_ms=round(action.elapsed_ms, 3),
        )


class Told(Wire):
    """What only this service says of an answer."""

    trace_id: str
    """Names it everywhere; what feedback is given on."""
    confidence: float
    """Probability of being right, calibrated on audited items, in [0, 1]."""
    path: Path
    """Whether the policy alone answered, or the vote with its memory."""
    expert: Expert
    """Whose answer it is."""
    policy_version: str
    """The one version that wrote every token."""
    finish: FinishReason
    """How the rollout ended."""
    operations: list[OperationUsed]
    elapsed_ms: dict[str, float]
    """Milliseconds by step."""


class Usage(Wire):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(Wire):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(Wire):
    index: Literal[0] = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(Wire):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str = MODEL
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage
    pixelis: Told


class Delta(Wire):
    """What is new. `content` is the answer, sent once it is decided and never taken back; `reasoning_content` is the
    policy's own answer while it writes it: a draft, which the vote of the memory may not bear out."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None


class ChunkChoice(Wire):
    index: Literal[0] = 0
    delta: Delta
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None = None


class Step(Wire):
    """What only this service says in the middle of a stream."""

    operation: OperationUsed


class ChatChunk(Wire):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str = MODEL
    system_fingerprint: str | None = None
    choices: list[ChunkChoice]
    usage: Usage | None = None
    pixelis: Told | Step | None = None


class Model(Wire):
    id: str = MODEL
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "pixelis"
    policy_version: str
    """The version that answers now."""


class Models(Wire):
    object: Literal["list"] = "list"
    data: list[Model]


class Feedback(Wire):
    """What a client says of an answer that it got."""

    trace_id: str = Field(pattern=TRACE_ID)
    correct: bool
    answer: str | None = Field(default=None, max_length=2_000)
    """The right answer, where it is known."""

    @field_validator("trace_id", mode="before")
    @classmethod
    def _is_no_completion(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith(ID_PREFIX):
            raise ValueError(f"is that of a completion; send its pixelis.trace_id, what comes after {ID_PREFIX}")
        return value


class Recorded(Wire):
    trace_id: str
    recorded: Literal[True] = True


__all__ = [
    "HALF_A_CHARACTER",
    "ID_PREFIX",
    "MODEL",
    "SEED_MAX",
    "SUBJECT_CHARACTERS_MAX",
    "TRACE_ID",
    "AnswerMessage",
    "AsText",
    "Asked",
    "ChatChunk",
    "ChatCompletion",
    "ChatRequest",
    "Choice",
    "ChunkChoice",
    "Delta",
    "Feedback",
    "ImagePart",
    "ImageUrl",
    "Message",
    "Model",
    "Models",
    "OperationUsed",
    "Part",
    "Recorded",
    "Step",
    "StreamOptions",
    "Text",
    "TextPart",
    "Told",
    "Usage",
    "Wire",
]
