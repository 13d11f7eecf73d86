"""A Hugging Face dataset that was saved on disk with `save_to_disk`: nothing is downloaded.

The columns are named in the configuration. A column of images holds an image, a list of images, or paths relative to
the dataset's directory; images are decoded by our own loader, under its limits, when a prompt asks for them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from share.kernel.config import ConfigModel
from share.kernel.contracts.task import Demonstration, Prompt, Split
from share.kernel.contracts.vision import Scene
from share.kernel.data import checkers
from share.kernel.errors import MediaError, TaskError
from share.kernel.media.image import load_image
from share.kernel.task.record import Check, score
from share.kernel.task.splits import held_out

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels

IMAGES_MAX = 64
"""The most images that one row may show."""


class HfDatasetConfig(ConfigModel):
    """Settings of the hf_dataset source."""

    path: Path
    """Directory that `save_to_disk` wrote."""

    question_column: str = "question"
    """Column of the question, text."""

    image_column: str = "image"
    """Column of the image: an image, a list of images, or paths relative to the directory."""

    answer_column: str = "answer"
    """Column of the true answer: text, a number, or a class label."""

    difficulty_column: str | None = None
    """Column of the difficulty level, whole numbers from 0. Without one every row is of level 0."""

    train_split: str = "train"
    """Split to train on, when the directory holds several."""

    held_out_split: str | None = None
    """Split to hold out. Without one, a part of the train split is held out."""

    held_out_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of the train split's rows that is held out, chosen by hashing row numbers. Where rows share images, give
    `held_out_split` instead. Not used with it."""

    check: Check = "exact"
    """How an answer is judged: exact, numeric, contains, choice, or similarity."""

    tolerance: float = Field(default=0.0, ge=0)
    """Of a numeric check: relative to the truth's magnitude, absolute where that is below 1."""

    @field_validator("path")
    @classmethod
    def _was_saved_to_disk(cls, value: Path) -> Path:
        if not any((value / name).is_file() for name in ("state.json", "dataset_dict.json")):
            problem = "is not a saved dataset" if value.is_dir() else "is no directory"
            raise ValueError(f"{problem}; give the one that Dataset.save_to_disk wrote")
        return value

    @model_validator(mode="after")
    def _has_the_splits_and_columns(self) -> HfDatasetConfig:
        """Raises TaskError, which pydantic lets through. Rows are looked at when a prompt asks for them."""
        _rows(self)
        return self


class HfDataset:
    """Kind `task`. Raises TaskError naming the dataset's path, and the row and column where there is one."""

    def __init__(self, config: HfDatasetConfig) -> None:
        self.config = config
        self._rows = _rows(config)

    def size(self, split: Split) -> int | None:
        return len(self._rows[split][1])

    def prompt(self, split: Split, index: int) -> Prompt:
        """The row of that index; indices beyond the last row begin again."""
        dataset, rows = self._rows[split]
        if not rows:
            raise TaskError(f"{self.config.path}: no row is held out; set held_out_fraction or held_out_split")
        number = rows[index % len(rows)]
        place = f"{self.config.path}: row {number}"
        row = dataset[number]
        question, answer = row[self.config.question_column], row[self.config.answer_column]
        if not isinstance(question, str) or not question.strip():
            raise TaskError(f"{place}, column {self.config.question_column!r}: must be text, not {question!r}")
        return Prompt(
            prompt_id=f"hf_dataset-{split}-{number}",
            task="hf_dataset",
            question=question,
            images=self._images(row[self.config.image_column], place),
            answer=self._answer(dataset, answer, place),
            difficulty=self._difficulty(row, place),
            truth={"row": number},
        )

    def check(self, prompt: Prompt, answer: str) -> float:
        return score(self.config.check, answer, prompt.answer, self.config.tolerance)

    def demonstrate(self, prompt: Prompt, scene: Scene) -> Demonstration:
        """The row's answer, at once: a dataset says what is true, and nothing of operations."""
        return Demonstration((), prompt.answer)

    def _images(self, value: object, place: str) -> tuple[Pixels, ...]:
        place = f"{place}, column {self.config.image_column!r}"
        values = value if isinstance(value, list) else [value]
        if not 1 <= len(values) <= IMAGES_MAX:
            raise TaskError(f"{place}: {len(values)} images; between 1 and {IMAGES_MAX} can be shown")
        try:
            return tuple(load_image(self._source(image, place)) for image in values)
        except MediaError as error:
            raise TaskError(f"{place}: {error}") from error

    def _source(self, image: object, place: str) -> bytes | str | os.PathLike[str]:
        if isinstance(image, dict) and isinstance(content := image.get("bytes"), bytes):
            return content
        path = image.get("path") if isinstance(image, dict) else image
        if not isinstance(path, str):
            raise TaskError(f"{place}: must be an image or a path, not {type(image).__name__}")
        return self.config.path / path

    def _answer(self, dataset: Any, value: object, place: str) -> str:
        place = f"{place}, column {self.config.answer_column!r}"
        names = getattr(dataset.features[self.config.answer_column], "names", None)
        answer = names[value] if names and isinstance(value, int) and 0 <= value < len(names) else value
        if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
            raise TaskError(f"{place}: must be text or a number, not {answer!r}")
        if self.config.check == "numeric":
            try:
                checkers.numeric(str(answer), str(answer))
            except ValueError as error:
                raise TaskError(f"{place}: {error}, which a numeric check needs") from error
        if self.config.check == "choice" and not checkers.choice(str(answer), str(answer)):
            raise TaskError(f"{place}: {answer!r} is not a letter, which a choice check needs")
        return str(answer)

    def _difficulty(self, row: dict[str, object], place: str) -> int:
        if self.config.difficulty_column is None:
            return 0
        value = row[self.config.difficulty_column]
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise TaskError(
                f"{place}, column {self.config.difficulty_column!r}: must be a whole number from 0, not {value!r}"
            )
        return value


def _rows(config: HfDatasetConfig) -> dict[Split, tuple[Any, Sequence[int]]]:
    """Of both splits, the dataset and the numbers of the rows in it. Raises TaskError."""
    splits = _load(config)
    train = splits[config.train_split]
    if config.held_out_split is not None:
        other = splits[config.held_out_split]
        return {"train": (train, range(len(train))), "held_out": (other, range(len(other)))}
    outside = held_out([str(row) for row in range(len(train))], config.held_out_fraction, str(config.path))
    return {
        "train": (train, [row for row, out in enumerate(outside) if not out]),
        "held_out": (train, [row for row, out in enumerate(outside) if out]),
    }


def _load(config: HfDatasetConfig) -> dict[str, Any]:
    """The splits that are asked for, their columns checked, their images left encoded."""
    import datasets  # takes seconds, and only this source needs it

    try:
        loaded = datasets.load_from_disk(str(config.path))
    except Exception as error:  # whatever a damaged directory makes arrow, fsspec or json raise
        raise TaskError(
            f"{config.path}: is not a dataset that can be loaded: {' '.join(str(error).split())}"
        ) from error
    if isinstance(loaded, datasets.Dataset):
        if config.held_out_split is not None:
            raise TaskError(f"{config.path}: holds one split, not {config.held_out_split!r}; unset held_out_split")
        loaded = {config.train_split: loaded}
    splits = {}
    for setting, split in (("train_split", config.train_split), ("held_out_split", config.held_out_split)):
        if split is None:
            continue
        if split not in loaded:
            raise TaskError(f"{config.path}: no split {split!r}; there are {', '.join(loaded)}: set {setting}")
        splits[split] = _with_encoded_images(_checked(loaded[split], config, split), config.image_column)
    return splits


def _checked(dataset: Any, config: HfDatasetConfig, split: str) -> Any:
    for setting in ("question_column", "image_column", "answer_column", "difficulty_column"):
        column = getattr(config, setting)
        if column is not None and column not in dataset.column_names:
            raise TaskError(
                f"{config.path}: no column {column!r} in split {split!r}; there are "
                f"{', '.join(dataset.column_names)}: set {setting}"
            )
    if len(dataset) == 0:
        raise TaskError(f"{config.path}: split {split!r} holds no row")
    return dataset


def _with_encoded_images(dataset: Any, column: str) -> Any:
    import datasets

    encoded = datasets.Image(decode=False)
    feature = dataset.features[column]
    if isinstance(feature, datasets.Image):
        return dataset.cast_column(column, encoded)
    if isinstance(getattr(feature, "feature", None), datasets.Image):
        return dataset.cast_column(column, datasets.List(encoded))
    return dataset


__all__ = ["IMAGES_MAX", "HfDataset", "HfDatasetConfig"]
