"""The hf_dataset source: rows of a dataset saved on disk, and how a bad one is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from share.kernel.command import run_command
from share.kernel.contracts.task import Demonstration
from share.kernel.contracts.vision import Scene
from share.kernel.errors import TaskError
from share.kernel.task.hf_dataset import HfDataset, HfDatasetConfig
from share.kernel.testing import check_task

datasets = pytest.importorskip("datasets")


def _image(number: int) -> Image.Image:
    return Image.fromarray(np.full((20, 30, 3), number, dtype=np.uint8))


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a dataset of ten rows, each of whose columns may be replaced."""

    def write(**columns: Any) -> Path:
        rows = {
            "question": [f"Question {number}?" for number in range(10)],
            "image": [_image(number) for number in range(10)],
            "answer": [str(number) for number in range(10)],
        } | columns
        datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "rows")
        return tmp_path / "rows"

    return write


def _read_all(path: Path, **settings: Any) -> None:
    source = HfDataset(HfDatasetConfig(path=path, **settings))
    for index in range(source.size("train") or 0):
        source.prompt("train", index)


def _mistake(path: Path, **settings: Any) -> str:
    with pytest.raises(TaskError) as raised:
        _read_all(path, **settings)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_a_row_becomes_a_prompt_with_rgb_pixels(save: Save) -> None:
    source = HfDataset(HfDatasetConfig(path=save(), held_out_fraction=0, check="numeric"))
    prompt = source.prompt("train", 4)
    assert (prompt.question, prompt.answer) == ("Question 4?", "4")
    assert prompt.images[0].shape == (20, 30, 3)
    assert prompt.images[0].dtype == np.uint8
    assert int(prompt.images[0][0, 0, 0]) == 4
    assert source.check(prompt, "four") == 1.0
    assert source.demonstrate(prompt, Scene(natives=prompt.images)) == Demonstration((), "4")


def test_the_source_keeps_the_contract_of_tasks(save: Save) -> None:
    check_task(HfDataset(HfDatasetConfig(path=save())))


def test_grey_images_and_lists_of_images_become_rgb(save: Save) -> None:
    pairs = [[_image(number).convert("L"), _image(number + 100)] for number in range(10)]
    path = save(image=pairs)
    prompt = HfDataset(HfDatasetConfig(path=path, held_out_fraction=0)).prompt("train", 3)
    assert [int(image[0, 0, 2]) for image in prompt.images] == [3, 103]


def test_a_column_may_hold_paths_relative_to_the_directory(save: Save) -> None:
    path = save(image=["picture.png"] * 10)
    _image(9).save(path / "picture.png")
    prompt = HfDataset(HfDatasetConfig(path=path, held_out_fraction=0)).prompt("train", 0)
    assert int(prompt.images[0][0, 0, 0]) == 9


def test_class_labels_are_answered_by_name(save: Save) -> None:
    path = save(answer=[number % 2 for number in range(10)])
    labelled = datasets.load_from_disk(str(path)).cast_column("answer", datasets.ClassLabel(names=["cat", "dog"]))
    labelled.save_to_disk(path.parent / "labelled")
    source = HfDataset(HfDatasetConfig(path=path.parent / "labelled", held_out_fraction=0))
    assert [source.prompt("train", index).answer for index in range(2)] == ["cat", "dog"]


def test_a_part_of_the_rows_is_held_out(save: Save) -> None:
    source = HfDataset(HfDatasetConfig(path=save(), held_out_fraction=0.3))
    answers = {
        split: {source.prompt(split, index).answer for index in range(source.size(split) or 0)}
        for split in ("train", "held_out")
    }
    assert not answers["train"] & answers["held_out"]
    assert len(answers["train"] | answers["held_out"]) == 10


def test_a_split_of_its_own_may_be_held_out(save: Save, tmp_path: Path) -> None:
    rows = datasets.load_from_disk(str(save()))
    datasets.DatasetDict(train=rows.select(range(7)), test=rows.select(range(7, 10))).save_to_disk(tmp_path / "both")
    source = HfDataset(HfDatasetConfig(path=tmp_path / "both", held_out_split="test"))
    assert (source.size("train"), source.size("held_out")) == (7, 3)
    assert source.prompt("held_out", 0).answer == "7"
    message = _mistake(tmp_path / "both", held_out_split="validation")
    assert "no split 'validation'; there are train, test: set held_out_split" in message


def test_a_missing_column_is_named_with_those_that_exist(save: Save) -> None:
    path = save()
    message = _mistake(path, answer_column="label")
    assert message.startswith(f"{path}: no column 'label'")
    assert "there are question, image, answer: set answer_column" in message


def test_a_bad_value_is_named_with_row_and_column(save: Save) -> None:
    questions = [f"Question {number}?" if number != 6 else None for number in range(10)]
    path = save(question=questions)
    message = _mistake(path, held_out_fraction=0)
    assert message == f"{path}: row 6, column 'question': must be text, not None"


def test_an_image_that_cannot_be_decoded_is_named_with_row_and_column(save: Save) -> None:
    images = [{"bytes": b"no image", "path": None}] * 10
    path = save(image=images)
    assert f"{path}: row 0, column 'image': image: not a PNG" in _mistake(path, held_out_fraction=0)


def test_an_answer_that_the_check_cannot_judge_is_named(save: Save) -> None:
    path = save(answer=["1", "two cats", *(["x"] * 8)])
    assert "row 2, column 'answer'" in _mistake(path, held_out_fraction=0, check="numeric")


@pytest.mark.parametrize(("name", "problem"), [("nowhere", "is no directory"), ("", "is not a saved dataset")])
def test_a_directory_that_is_missing_or_no_dataset_is_a_mistake_in_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, problem: str
) -> None:
    argv = ["--backend", "sft", "task=hf_dataset", f"task.path={tmp_path / name}", f"workdir={tmp_path / 'work'}"]
    assert run_command("train", "trainer", "", "", argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: task.path: {problem}; give the one that Dataset.save_to_disk wrote")
    assert error.count("\n") == 1
    assert not (tmp_path / "work").exists()


def test_a_column_that_is_not_there_is_known_before_a_run_directory_exists(
    save: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"task.path={save()}", "task.answer_column=label", f"workdir={tmp_path / 'work'}"]
    capsys.readouterr()  # what saving had to say
    assert run_command("train", "trainer", "", "", ["--backend", "grpo", "task=hf_dataset", *settings]) == 2
    error = capsys.readouterr().err
    assert error.endswith("there are question, image, answer: set answer_column\n")
    assert error.count("\n") == 1
    assert not (tmp_path / "work").exists()


def test_a_damaged_dataset_is_named(save: Save) -> None:
    path = save()
    (path / "state.json").write_text("{")
    assert f"{path}: is not a dataset that can be loaded" in _mistake(path)
