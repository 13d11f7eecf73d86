"""One question about a user's own images: what a line of a file may say, and what is wrong with one that does not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictFloat, StrictInt, StrictStr, model_validator

from share.kernel.config import ConfigModel
from share.kernel.data import checkers

Check = Literal["exact", "numeric", "contains", "choice", "similarity"]


def score(check: Check, answer: str, truth: str, tolerance: float = 0.0) -> float:
    """The score in [0, 1] of an answer by the checker of that name."""
    match check:
        case "exact":
            return checkers.exact(answer, truth)
        case "numeric":
            return checkers.numeric(answer, truth, tolerance)
        case "contains":
            return checkers.contains(answer, truth)
        case "choice":
            return checkers.choice(answer, truth)
        case "similarity":
            return checkers.edit_similarity(answer, truth)


def _json_number_as_text(value: str | int | float) -> str:
    return value if isinstance(value, str) else repr(value)


class RecordCall(ConfigModel):
    """One operation call of a demonstration."""

    name: str = Field(min_length=1)
    """Name of the operation, e.g. ZOOM_IN."""

    arguments: dict[str, object] = Field(default_factory=dict)
    """Its arguments. `bbox`, and `x` with `y`, are pixels of the user's own image: the first, or the one that `image`
    names (`image_2` is the second that the policy is shown). They are mapped to what the policy is shown of it. In an
    image that an earlier call returned, they are pixels of that image as it is."""

    @model_validator(mode="after")
    def _coordinates(self) -> RecordCall:
        if "bbox" in self.arguments:
            box = self.arguments["bbox"]
            if not (
                isinstance(box, Sequence)
                and len(box) == 4
                and all(_is_finite(number) for number in box)
                and box[0] < box[2]
                and box[1] < box[3]
            ):
                raise ValueError("bbox must be four numbers [x1, y1, x2, y2] with x1 < x2 and y1 < y2")
            if box[2] - box[0] < 1 or box[3] - box[1] < 1:
                raise ValueError("bbox is less than a pixel wide or high; give pixels, not shares of the image")
        if ("x" in self.arguments or "y" in self.arguments) and not (
            _is_finite(self.arguments.get("x")) and _is_finite(self.arguments.get("y"))
        ):
            raise ValueError("x and y must both be numbers")
        return self


class Record(ConfigModel):
    """A question with its images or its video, its answer, and how an answer is judged."""

    question: str = Field(min_length=1, max_length=20_000)
    """What the policy is asked."""

    answer: Annotated[StrictStr | StrictInt | StrictFloat, AfterValidator(_json_number_as_text)]
    """The true answer, text or number."""

    image: str | None = None
    """Path of the image."""

    images: tuple[str, ...] | None = Field(default=None, min_length=1, max_length=64)
    """Paths of several images."""

    video: str | None = None
    """Path of the video."""

    difficulty: int = Field(default=0, ge=0)
    """Difficulty level, 0 (easiest) upwards."""

    calls: tuple[RecordCall, ...] | None = Field(default=None, max_length=32)
    """What an expert would call before answering; an empty list when nothing. Where any record of a source has it, SFT
    imitates those that have it; where none has, it imitates the answers, given at once."""

    imitate: bool = True
    """False: ask it, judge its answer, and never imitate it. So are CoTA samples of another type than positive."""

    check: Check = "exact"
    """How an answer is judged: exact (after normalising case, space and punctuation at the ends), numeric, contains,
    choice (a letter), or similarity (of edits)."""

    tolerance: float = Field(default=0.0, ge=0)
    """Of a numeric check: relative to the truth's magnitude, absolute where that is below 1."""

    @model_validator(mode="after")
    def _consistent(self) -> Record:
        if sum(media is not None for media in (self.image, self.images, self.video)) != 1:
            raise ValueError("give exactly one of image, images and video")
        answer = str(self.answer)
        if self.check == "numeric":
            checkers.numeric(answer, answer)
        if self.check == "choice" and not checkers.choice(answer, answer):
            raise ValueError(f"the answer {answer!r} is not a letter, which a choice check needs")
        if not checkers.normalise(answer):
            raise ValueError(f"the answer {answer!r} is empty")
        return self

    @property
    def truth(self) -> str:
        return str(self.answer)

    @property
    def image_paths(self) -> tuple[str, ...]:
        return (self.image,) if self.image is not None else self.images or ()


def record_of(parsed: object) -> Record:
    """The record that a parsed JSON value says: our own keys, chat messages with images, or a CoTA sample.

    Raises ValueError (pydantic's ValidationError among them) for anything else.
    """
    if not isinstance(parsed, Mapping):
        raise ValueError(f"must be a JSON object, not {type(parsed).__name__}")
    if "messages" in parsed:
        return Record.model_validate(_of_messages(parsed))
    if "trajectory" in parsed:
        return Record.model_validate(_of_cota(parsed))
    return Record.model_validate(parsed)


def _of_messages(parsed: Mapping[str, object]) -> dict[str, object]:
    """Chat messages with a list of images, as TRL's and LLaMA-Factory's vision data: one user turn, one answer."""
    messages = parsed["messages"]
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise ValueError("messages must be a list of objects with role and content")
    by_role = {role: [message for message in messages if message.get("role") == role] for role in ("user", "assistant")}
    if len(by_role["user"]) != 1 or len(by_role["assistant"]) != 1:
        raise ValueError("messages must hold one user and one assistant message; split longer conversations")
    record: dict[str, object] = {key: value for key, value in parsed.items() if key != "messages"}
    record["question"] = _text(by_role["user"][0].get("content"))
    record["answer"] = _text(by_role["assistant"][0].get("content"))
    return record


def _text(content: object) -> str:
    if isinstance(content, str):
        return content.replace("<image>", "").strip()
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        return " ".join(str(part.get("text", "")) for part in content if part.get("type") == "text").strip()
    raise ValueError("the content of a message must be text, or a list of parts with a type")


_COTA_KEYS = ("question", "answer", "image", "images", "video", "difficulty", "check", "tolerance")
_COTA_ENDS = ("ANSWER", "FINAL_ANSWER", "TERMINATE")


def _of_cota(parsed: Mapping[str, object]) -> dict[str, object]:
    """A chain of thought and action: `trajectory` is a list of actions with `parameters` or `coordinates`.

    Only samples of the type positive (or of none) are imitated: the others show what not to do.
    """
    record = {key: parsed[key] for key in _COTA_KEYS if key in parsed}
    trajectory = parsed["trajectory"]
    if not isinstance(trajectory, list) or not all(isinstance(action, Mapping) for action in trajectory):
        raise ValueError("trajectory must be a list of objects with action and parameters or coordinates")
    if parsed.get("sample_type", "positive") != "positive":
        return record | {"imitate": False}
    record["calls"] = [
        {"name": str(action.get("action", "")), "arguments": _cota_arguments(action)}
        for action in trajectory
        if str(action.get("action", "")).upper() not in _COTA_ENDS
    ]
    return record


def _cota_arguments(action: Mapping[str, object]) -> object:
    if "parameters" in action:
        return action["parameters"]
    coordinates = action.get("coordinates")
    if isinstance(coordinates, list) and len(coordinates) == 2:
        return {"x": coordinates[0], "y": coordinates[1]}
    return {} if coordinates is None else {"bbox": coordinates}


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


__all__ = ["Check", "Record", "RecordCall", "record_of", "score"]
