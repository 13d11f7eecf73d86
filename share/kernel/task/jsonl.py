"""Your own images and questions: a file with one JSON object a line.

    {"question": "How many cups?", "image": "kitchen.png", "answer": 3, "check": "numeric"}

Paths are relative to the file. Every line and the header of every image is checked with the configuration, before a run
directory exists, so that a run does not end hours later on line 7,213. The keys are those of `Record`; chat messages
with images and CoTA samples are understood as well. The format is described in docs/formats/jsonl.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from share.kernel.config import ConfigModel
from share.kernel.contracts.task import Call, Demonstration, Prompt, Split
from share.kernel.contracts.vision import Box, Scene
from share.kernel.errors import MediaError, TaskError
from share.kernel.media.image import check_image, image_size, load_image
from share.kernel.media.video import check_video, load_video
from share.kernel.task.generated import box_in_view, point_in_view, view_of
from share.kernel.task.record import Record, record_of, score
from share.kernel.task.splits import held_out

LINE_BYTES_MAX = 1_000_000
"""The longest line that is read, in bytes. Images belong into files of their own."""

MISTAKES_MAX = 20
"""Bad lines after which reading stops; the error names the first and counts the others."""

_REMEDY = "give a file with one JSON object a line, each with question, image and answer"


class JsonlConfig(ConfigModel):
    """Settings of the jsonl source."""

    path: Path
    """The file; paths inside it are relative to its directory."""

    held_out_path: Path | None = None
    """A file of its own for the held-out split. Without one, a part of `path` is held out."""

    held_out_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of `path` that is held out, chosen by hashing the images' names: lines that show the same images stay
    together. Not used with `held_out_path`."""

    frames_max: int = Field(default=64, ge=1, le=1024)
    """Frames kept of a video; a longer one is thinned evenly."""

    frames_shown: int = Field(default=2, ge=1, le=64)
    """Frames of a video that the policy is shown at the start, evenly spaced from the first to the last."""

    _lines: dict[Split, list[_Line]] = PrivateAttr()

    @field_validator("path", "held_out_path")
    @classmethod
    def _can_be_read(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                value.open("rb").close()
            except OSError as error:
                reason = error.strerror or error
                raise ValueError(f"cannot be read: {reason}; {_REMEDY}") from error
        return value

    @model_validator(mode="after")
    def _holds_what_can_be_asked(self) -> JsonlConfig:
        """Raises TaskError, which pydantic lets through: it names the file and the line better than a key path does."""
        self._lines = _splits(self)
        return self

    @property
    def lines(self) -> Mapping[Split, Sequence[_Line]]:
        """The lines of both splits as they were when the configuration was checked."""
        return self._lines


class Jsonl:
    """Kind `task`. Raises TaskError naming file and line number when an image can no longer be read."""

    def __init__(self, config: JsonlConfig) -> None:
        self.config = config
        self._lines = config.lines
        self._speaks_of_calls = any(line.record.calls is not None for lines in self._lines.values() for line in lines)

    def size(self, split: Split) -> int | None:
        return len(self._lines[split])

    def prompt(self, split: Split, index: int) -> Prompt:
        """The line of that index in the order of the file; indices beyond the last line begin again."""
        lines = self._lines[split]
        if not lines:
            raise TaskError(f"{self.config.path}: no line is held out; set held_out_fraction or held_out_path")
        line = lines[index % len(lines)]
        record, directory = line.record, line.path.parent
        frames_per_second, shown = None, None
        try:
            if record.video is not None:
                images, frames_per_second = load_video(directory / record.video, self.config.frames_max)
                spread = np.linspace(0, len(images) - 1, min(self.config.frames_shown, len(images)))
                shown = tuple(int(frame) for frame in np.round(spread))
            else:
                images = tuple(load_image(directory / name) for name in record.image_paths)
        except MediaError as error:
            raise TaskError(f"{line}: {error}") from error
        return Prompt(
            prompt_id=f"jsonl-{line.path.stem}-{line.number}",
            task="jsonl",
            question=record.question,
            images=images,
            answer=record.truth,
            difficulty=record.difficulty,
            is_video=record.video is not None,
            frames_per_second=frames_per_second,
            shown=shown,
            truth={"file": str(line.path), "line": line.number, "record": record},
        )

    def check(self, prompt: Prompt, answer: str) -> float:
        record = prompt.truth["record"]
        assert isinstance(record, Record)
        return score(record.check, answer, record.truth, record.tolerance)

    def demonstrate(self, prompt: Prompt, scene: Scene) -> Demonstration | None:
        """The line's `calls`, with coordinates in the views that the scene shows, and its answer.

        None when the line is not to be imitated, or has no `calls` while others have: then it is only to be asked.
        Where no line has any, all are plain questions and answers.
        """
        record = prompt.truth["record"]
        assert isinstance(record, Record)
        if not record.imitate or (record.calls is None and self._speaks_of_calls):
            return None
        first = prompt.shown[0] if prompt.shown else 0
        try:
            calls = tuple(Call(call.name, _in_view(call.arguments, scene, first)) for call in record.calls or ())
        except ValueError as error:
            raise TaskError(f"{prompt.truth['file']}:{prompt.truth['line']}: calls: {error}") from error
        return Demonstration(calls=calls, answer=record.truth)


@dataclass(frozen=True, slots=True)
class _Line:
    path: Path
    number: int
    record: Record

    def __str__(self) -> str:
        return f"{self.path}:{self.number}"


def _splits(config: JsonlConfig) -> dict[Split, list[_Line]]:
    """The lines of both splits, all checked. Raises TaskError."""
    lines = _read(config.path)
    if config.held_out_path is not None:
        return {"train": lines, "held_out": _read(config.held_out_path)}
    keys = ["\n".join((*line.record.image_paths, line.record.video or "")) for line in lines]
    outside = held_out(keys, config.held_out_fraction, str(config.path))
    return {
        "train": [line for line, out in zip(lines, outside, strict=True) if not out],
        "held_out": [line for line, out in zip(lines, outside, strict=True) if out],
    }


def _read(path: Path) -> list[_Line]:
    """The lines of a file, all checked. Blank lines are passed over."""
    lines: list[_Line] = []
    mistakes: list[str] = []
    checked: set[str] = set()
    try:
        with path.open("rb") as file:
            for number, content in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX + 1), b""), start=1):
                if not content.strip():
                    continue
                try:
                    record = _parse(content)
                    _check_media(record, path.parent, checked)
                    _check_places(record, path.parent)
                except (TaskError, MediaError) as error:
                    mistakes.append(f"{path}:{number}: {error}")
                    if len(mistakes) == MISTAKES_MAX or len(content) > LINE_BYTES_MAX:
                        break
                    continue
                lines.append(_Line(path, number, record))
    except OSError as error:
        raise TaskError(f"{path}: cannot be read: {error.strerror or error}") from error
    if mistakes:
        others = len(mistakes) - 1
        numbers = ", ".join(mistake.removeprefix(f"{path}:").partition(":")[0] for mistake in mistakes[1:])
        raise TaskError(mistakes[0] + (f" (and {others} more, line {numbers})" if others else ""))
    if not lines:
        raise TaskError(f"{path}: holds no line; {_REMEDY}")
    return lines


def _parse(content: bytes) -> Record:
    if len(content) > LINE_BYTES_MAX:
        raise TaskError(f"longer than {LINE_BYTES_MAX:,} bytes; put images into files and give their paths")
    try:
        return record_of(json.loads(content.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        raise TaskError("is not UTF-8; save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise TaskError(f"is not JSON: {error.msg} at character {error.pos + 1}; write one object a line") from error
    except RecursionError as error:
        raise TaskError("is not JSON that can be read: nested too deeply") from error
    except ValidationError as error:
        raise TaskError("; ".join(_mistake(mistake["loc"], mistake["msg"]) for mistake in error.errors())) from error
    except ValueError as error:
        raise TaskError(str(error)) from error


def _mistake(place: tuple[int | str, ...], message: str) -> str:
    """A validation error in one line. A missing key is the commonest one, so it says what is needed."""
    keys = ".".join(str(key) for key in place)
    text = "is missing" if message == "Field required" else message.removeprefix("Value error, ")
    return f"{keys}: {text}" if keys else text


def _check_media(record: Record, directory: Path, checked: set[str]) -> None:
    """Look at the header of every file that was not looked at before."""
    for name in record.image_paths:
        if name not in checked:
            check_image(directory / name)
            checked.add(name)
    if record.video is not None and record.video not in checked:
        check_video(directory / record.video)
        checked.add(record.video)


def _check_places(record: Record, directory: Path) -> None:
    """Look whether calls point into the images that they name. Only one that seems to miss has its image decoded."""
    own = {f"image_{number}": name for number, name in enumerate(record.image_paths, start=1)}
    for number, call in enumerate(record.calls or ()):
        name = own.get(str(call.arguments.get("image", "image_1")))
        if name is None or _outside(call.arguments, *image_size(directory / name)) is None:
            continue
        height, width = load_image(directory / name).shape[:2]
        if (what := _outside(call.arguments, width, height)) is not None:
            raise TaskError(f"calls.{number}: {what} lies outside of {name!r}, which has {width} x {height} pixels")


def _in_view(arguments: dict[str, object], scene: Scene, first: int) -> dict[str, object]:
    """Arguments whose `bbox`, `x` and `y` are moved from native pixels to those of the view they speak of.

    Raises ValueError for a box or a point that lies wholly outside of the image: it would be moved to its edge.
    """
    name = arguments.get("image")
    if name is not None and name not in scene.views:
        return dict(arguments)
    view = view_of(scene, first) if name is None else scene.views[str(name)]
    height, width = scene.native(view.source).shape[:2]
    moved = dict(arguments)
    if (what := _outside(arguments, width, height)) is not None:
        raise ValueError(f"{what} lies outside of the image of {width} x {height} pixels")
    if (box := _box(arguments)) is not None:
        moved["bbox"] = box_in_view(view, box)
    if (point := _point(arguments)) is not None:
        moved["x"], moved["y"] = point_in_view(view, *point)
    return moved


def _outside(arguments: Mapping[str, object], width: int, height: int) -> str | None:
    """The box or the point of a call, in words, where it lies wholly outside of an image of that size."""
    box, point = _box(arguments), _point(arguments)
    if box is not None and (box[2] <= 0 or box[3] <= 0 or box[0] >= width or box[1] >= height):
        return f"bbox [{', '.join(f'{number:g}' for number in box)}]"
    if point is not None and not (0 <= point[0] <= width and 0 <= point[1] <= height):
        return f"the point ({point[0]:g}, {point[1]:g})"
    return None


def _box(arguments: Mapping[str, object]) -> Box | None:
    if "bbox" not in arguments:
        return None
    box = arguments["bbox"]
    assert isinstance(box, list | tuple), "`RecordCall` looked at it"
    return (box[0], box[1], box[2], box[3])


def _point(arguments: Mapping[str, object]) -> tuple[float, float] | None:
    if "x" not in arguments or "y" not in arguments:
        return None
    x, y = arguments["x"], arguments["y"]
    assert isinstance(x, int | float), "`RecordCall` looked at it"
    assert isinstance(y, int | float), "`RecordCall` looked at it"
    return (x, y)


__all__ = ["LINE_BYTES_MAX", "MISTAKES_MAX", "Jsonl", "JsonlConfig"]
