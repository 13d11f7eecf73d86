"""The jsonl source: what a line may say, and how a bad one is named before a run starts."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from share.kernel.command import run_command
from share.kernel.contracts.task import Demonstration
from share.kernel.contracts.vision import Scene, Transform
from share.kernel.errors import TaskError
from share.kernel.task.jsonl import LINE_BYTES_MAX, MISTAKES_MAX, Jsonl, JsonlConfig
from share.kernel.testing import check_task


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Twelve images of 40 x 30 px named 0.png … 11.png; red is their number."""
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((30, 40, 3), (0, 0, number), dtype=np.uint8))
    return tmp_path


def _write(directory: Path, *lines: object) -> Path:
    path = directory / "questions.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def _line(number: int = 0, **keys: object) -> dict[str, object]:
    return {"question": "What?", "image": f"{number}.png", "answer": "cat"} | keys


def _mistake(directory: Path, *lines: object) -> str:
    with pytest.raises(TaskError) as raised:
        Jsonl(JsonlConfig(path=_write(directory, *lines), held_out_fraction=0))
    message = str(raised.value)
    assert "\n" not in message
    return message


def _giant_png() -> bytes:
    """A PNG of 100,000 x 100,000 pixels in a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    header = (100_000).to_bytes(4) * 2 + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_a_line_becomes_a_prompt_with_its_image_relative_to_the_file(directory: Path) -> None:
    source = Jsonl(JsonlConfig(path=_write(directory, _line(7, difficulty=2)), held_out_fraction=0))
    prompt = source.prompt("train", 0)
    assert (prompt.question, prompt.answer, prompt.difficulty) == ("What?", "cat", 2)
    assert prompt.images[0].shape == (30, 40, 3)
    assert prompt.images[0][0, 0].tolist() == [7, 0, 0]
    assert prompt.prompt_id == "jsonl-questions-1"


def test_the_source_keeps_the_contract_of_tasks(directory: Path) -> None:
    check_task(Jsonl(JsonlConfig(path=_write(directory, *(_line(number, calls=[]) for number in range(12))))))


def test_a_line_may_show_several_images(directory: Path) -> None:
    line = {"question": "Which?", "images": ["1.png", "2.png"], "answer": "A", "check": "choice"}
    prompt = Jsonl(JsonlConfig(path=_write(directory, line), held_out_fraction=0)).prompt("train", 0)
    assert [int(image[0, 0, 0]) for image in prompt.images] == [1, 2]


def test_a_line_may_show_a_video_of_which_the_policy_sees_evenly_spaced_frames(directory: Path) -> None:
    writer = cv2.VideoWriter(str(directory / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(20):
        writer.write(np.full((48, 64, 3), number * 10, dtype=np.uint8))
    writer.release()
    path = _write(directory, {"question": "Where?", "video": "clip.avi", "answer": "left"})
    prompt = Jsonl(JsonlConfig(path=path, held_out_fraction=0, frames_shown=3)).prompt("train", 0)
    assert prompt.is_video
    assert len(prompt.images) == 20
    assert prompt.shown == (0, 10, 19)
    assert prompt.frames_per_second == pytest.approx(10)


def test_numbers_are_answers_too(directory: Path) -> None:
    source = Jsonl(JsonlConfig(path=_write(directory, _line(answer=3, check="numeric")), held_out_fraction=0))
    prompt = source.prompt("train", 0)
    assert prompt.answer == "3"
    assert source.check(prompt, "three") == 1.0
    assert source.check(prompt, "4") == 0.0


@pytest.mark.parametrize(
    ("check", "truth", "right", "wrong"),
    [
        ("exact", "A cat", "a cat.", "cats"),
        ("contains", "cat", "I see a cat here", "concatenate"),
        ("choice", "B", "(b)", "C"),
        ("similarity", "GATE 47", "gate 4", "exit"),
    ],
)
def test_each_line_says_how_its_answer_is_judged(
    directory: Path, check: str, truth: str, right: str, wrong: str
) -> None:
    source = Jsonl(JsonlConfig(path=_write(directory, _line(answer=truth, check=check)), held_out_fraction=0))
    prompt = source.prompt("train", 0)
    assert source.check(prompt, right) > 0.5
    assert source.check(prompt, wrong) == 0.0


def test_a_numeric_line_may_allow_a_tolerance(directory: Path) -> None:
    line = _line(answer=200, check="numeric", tolerance=0.05)
    source = Jsonl(JsonlConfig(path=_write(directory, line), held_out_fraction=0))
    prompt = source.prompt("train", 0)
    assert source.check(prompt, "about 209") == 1.0
    assert source.check(prompt, "211") == 0.0


def test_calls_in_native_pixels_are_moved_to_what_the_policy_sees(directory: Path) -> None:
    calls = [
        {"name": "ZOOM_IN", "arguments": {"bbox": [20, 10, 40, 30]}},
        {"name": "SEGMENT_OBJECT_AT", "arguments": {"x": 8, "y": 12, "image": "image_2"}},
        {"name": "ZOOM_IN", "arguments": {"bbox": [1, 2, 3, 4], "image": "image_3"}},
    ]
    line = {"question": "What?", "images": ["0.png", "1.png"], "answer": "cat", "calls": calls}
    source = Jsonl(JsonlConfig(path=_write(directory, line), held_out_fraction=0))
    prompt = source.prompt("train", 0)
    scene = Scene(natives=prompt.images)
    for number in (0, 1):  # the policy is shown each image at half its size
        half = cv2.resize(prompt.images[number], (20, 15))
        scene.add_view(half, number, Transform(scale_x=2, scale_y=2))
    demonstration = source.demonstrate(prompt, scene)
    assert demonstration is not None
    assert [call.arguments for call in demonstration.calls] == [
        {"bbox": [10, 5, 20, 15]},
        {"x": 4, "y": 6, "image": "image_2"},
        {"bbox": [1, 2, 3, 4], "image": "image_3"},
    ]
    assert demonstration.answer == "cat"


def test_a_line_without_calls_has_no_demonstration_and_an_empty_list_says_answer_at_once(directory: Path) -> None:
    source = Jsonl(JsonlConfig(path=_write(directory, _line(), _line(1, calls=[])), held_out_fraction=0))
    scene = Scene(natives=source.prompt("train", 0).images)
    assert source.demonstrate(source.prompt("train", 0), scene) is None
    assert source.demonstrate(source.prompt("train", 1), scene) == Demonstration((), "cat")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"bbox": [40, 5, 60, 20]}, ":1: calls.0: bbox [40, 5, 60, 20] lies outside of '0.png', which has 40 x 30"),
        ({"bbox": [1, 32, 9, 38]}, ":1: calls.0: bbox [1, 32, 9, 38] lies outside of '0.png', which has 40 x 30"),
        ({"bbox": [-9, 2, -1, 8]}, ":1: calls.0: bbox [-9, 2, -1, 8] lies outside of '0.png', which has 40 x 30"),
        ({"x": 5, "y": 31}, ":1: calls.0: the point (5, 31) lies outside of '0.png', which has 40 x 30"),
        ({"bbox": [0.1, 0.2, 0.5, 0.6]}, ":1: calls.0: bbox is less than a pixel wide or high; give pixels"),
    ],
)
def test_a_call_that_points_past_the_image_is_named_before_a_run(
    directory: Path, arguments: dict[str, object], said: str
) -> None:
    assert said in _mistake(directory, _line(calls=[{"name": "ZOOM_IN", "arguments": arguments}]))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_a_call_points_into_the_image_as_it_is_turned(directory: Path, suffix: str) -> None:
    orientation = Image.Exif()
    orientation[ExifTags.Base.Orientation] = 6  # a quarter turn: 40 x 30 is seen as 30 x 40
    with Image.open(directory / "0.png") as image:
        image.save(directory / f"turned.{suffix}", exif=orientation)
    below, beside = ([{"name": "ZOOM_IN", "arguments": {"bbox": box}}] for box in ([1, 32, 9, 38], [32, 1, 38, 9]))
    line = {**_line(), "image": f"turned.{suffix}"}
    assert len(JsonlConfig(path=_write(directory, {**line, "calls": below}), held_out_fraction=0).lines["train"]) == 1
    assert "which has 30 x 40 pixels" in _mistake(directory, {**line, "calls": beside})


def test_a_call_that_points_past_a_video_is_named_when_it_is_demonstrated(directory: Path) -> None:
    writer = cv2.VideoWriter(str(directory / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (40, 30))
    for _ in range(3):
        writer.write(np.zeros((30, 40, 3), np.uint8))
    writer.release()
    calls = [{"name": "ZOOM_IN", "arguments": {"bbox": [1, 32, 9, 38]}}]
    line = {"question": "Where?", "video": "clip.avi", "answer": "left", "calls": calls}
    source = Jsonl(JsonlConfig(path=_write(directory, line), held_out_fraction=0))
    prompt = source.prompt("train", 0)
    scene = Scene(natives=prompt.images)
    scene.add_view(prompt.images[0], 0, Transform())
    with pytest.raises(TaskError, match=r"questions\.jsonl:1: calls: bbox \[1, 32, 9, 38\] lies outside .* 40 x 30"):
        source.demonstrate(prompt, scene)


def test_an_orientation_behind_the_pixels_of_a_png_is_seen_before_a_call_is_refused(directory: Path) -> None:
    content = (directory / "0.png").read_bytes()
    orientation = Image.Exif()
    orientation[ExifTags.Base.Orientation] = 6
    chunk = b"eXIf" + orientation.tobytes().removeprefix(b"Exif\0\0")
    late = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (directory / "late.png").write_bytes(content[:-12] + late + content[-12:])
    line = {**_line(), "image": "late.png", "calls": [{"name": "ZOOM_IN", "arguments": {"bbox": [1, 32, 9, 38]}}]}
    assert len(JsonlConfig(path=_write(directory, line), held_out_fraction=0).lines["train"]) == 1


def test_where_no_line_has_calls_the_answers_are_demonstrated_except_of_lines_not_to_be_imitated(
    directory: Path,
) -> None:
    path = _write(directory, _line(), _line(1, imitate=False))
    source = Jsonl(JsonlConfig(path=path, held_out_fraction=0))
    scene = Scene(natives=source.prompt("train", 0).images)
    assert source.demonstrate(source.prompt("train", 0), scene) == Demonstration((), "cat")
    assert source.demonstrate(source.prompt("train", 1), scene) is None


def test_a_file_of_nothing_but_traps_demonstrates_nothing(directory: Path) -> None:
    trap = {"question": "What?", "image": "0.png", "answer": "cat", "sample_type": "trap_perceptual", "trajectory": []}
    source = Jsonl(JsonlConfig(path=_write(directory, trap), held_out_fraction=0))
    prompt = source.prompt("train", 0)
    assert source.demonstrate(prompt, Scene(natives=prompt.images)) is None


def test_lines_that_show_one_image_stay_on_one_side_and_none_is_lost(directory: Path) -> None:
    lines = [_line(number, question=f"Question {turn}?") for number in range(12) for turn in range(3)]
    source = Jsonl(JsonlConfig(path=_write(directory, *lines), held_out_fraction=0.3))
    seen: dict[str, set[int]] = {}
    for split in ("train", "held_out"):
        size = source.size(split)
        assert size
        seen[split] = {int(source.prompt(split, index).images[0][0, 0, 0]) for index in range(size)}
    assert not seen["train"] & seen["held_out"]
    assert len(seen["train"]) + len(seen["held_out"]) == 12


def test_a_line_that_is_added_moves_no_other_line_to_the_other_side(directory: Path) -> None:
    def train(count: int) -> set[str]:
        path = _write(directory, *(_line(number) for number in range(count)))
        source = Jsonl(JsonlConfig(path=path, held_out_fraction=0.4))
        return {source.prompt("train", index).prompt_id for index in range(source.size("train") or 0)}

    assert train(11) == train(12) - {"jsonl-questions-12"}


def test_two_images_are_enough_for_both_splits(directory: Path) -> None:
    source = Jsonl(JsonlConfig(path=_write(directory, _line(0), _line(1)), held_out_fraction=0.01))
    assert (source.size("train"), source.size("held_out")) == (1, 1)


def test_one_image_alone_cannot_be_held_out(directory: Path) -> None:
    with pytest.raises(TaskError, match="held_out_fraction=0"):
        Jsonl(JsonlConfig(path=_write(directory, _line(0), _line(0, question="Why?"))))


def test_the_held_out_split_may_have_a_file_of_its_own(directory: Path) -> None:
    other = directory / "other.jsonl"
    other.write_text(json.dumps(_line(3, answer="dog")) + "\n")
    source = Jsonl(JsonlConfig(path=_write(directory, _line(0)), held_out_path=other))
    assert source.prompt("held_out", 0).answer == "dog"
    assert source.size("train") == 1


def test_indices_beyond_the_last_line_begin_again(directory: Path) -> None:
    source = Jsonl(JsonlConfig(path=_write(directory, _line(0), _line(1)), held_out_fraction=0))
    assert source.prompt("train", 3).prompt_id == source.prompt("train", 1).prompt_id


def test_blank_lines_are_passed_over_but_counted(directory: Path) -> None:
    source = Jsonl(JsonlConfig(path=_write(directory, "", _line(0), ""), held_out_fraction=0))
    assert source.prompt("train", 0).prompt_id == "jsonl-questions-2"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{not json", "is not JSON"),
        ("[1, 2]", "must be a JSON object"),
        ({"image": "0.png", "answer": "x"}, "question: is missing"),
        ({"question": "What?", "image": "0.png"}, "answer: is missing"),
        ({"question": "What?", "answer": "x"}, "exactly one of image, images and video"),
        ({"question": "What?", "image": "0.png", "video": "v.avi", "answer": "x"}, "exactly one of"),
        (_line(imagee="1.png"), "did you mean 'image'"),
        (_line(answer=True), "answer"),
        (_line(answer=" . "), "is empty"),
        (_line(answer="many", check="numeric"), "is not one number"),
        (_line(answer="cat", check="choice"), "is not a letter"),
        (_line(check="regex"), "check"),
        (_line(difficulty=-1), "difficulty"),
        (_line(image="missing.png"), "missing.png"),
        (_line(image="questions.jsonl"), "not a PNG"),
        (_line(image="giant.png"), "the 4,000,000 pixels accepted"),
        (_line(image="."), "not a file"),
        ({"question": "What?", "video": "0.jsonl", "answer": "x"}, "not a file"),
        (_line(calls=[{"name": "ZOOM_IN", "arguments": {"bbox": [5, 5, 1, 1]}}]), "x1 < x2"),
        (_line(calls=[{"name": "SEGMENT_OBJECT_AT", "arguments": {"x": 1}}]), "x and y"),
        ("[" * 100_000, "nested too deeply"),
        ('"' + "x" * LINE_BYTES_MAX + '"', "longer than 1,000,000 bytes"),
    ],
)
def test_a_bad_line_is_named_with_file_and_number_and_what_to_do(directory: Path, line: object, says: str) -> None:
    (directory / "giant.png").write_bytes(_giant_png())
    message = _mistake(directory, _line(0), line, _line(1))
    assert message.startswith(f"{directory / 'questions.jsonl'}:2: ")
    assert says in message


def test_text_that_is_not_utf8_is_named(directory: Path) -> None:
    path = directory / "latin.jsonl"
    path.write_bytes('{"question": "Où?"}\n'.encode("latin-1"))
    with pytest.raises(TaskError, match=r"latin\.jsonl:1: is not UTF-8"):
        Jsonl(JsonlConfig(path=path))


def test_further_bad_lines_are_counted_up_to_a_limit(directory: Path) -> None:
    message = _mistake(directory, _line(0), "{", _line(1), "{", "{")
    assert ":2: " in message
    assert "(and 2 more, line 4, 5)" in message
    assert f"(and {MISTAKES_MAX - 1} more" in _mistake(directory, *["{"] * 50)


def test_an_empty_file_is_named(directory: Path) -> None:
    assert "holds no line" in _mistake(directory, "")


def test_what_is_asked_is_what_was_checked_whatever_becomes_of_the_file(directory: Path) -> None:
    config = JsonlConfig(path=_write(directory, _line(3)), held_out_fraction=0)
    config.path.write_text("{")
    assert Jsonl(config).prompt("train", 0).images[0][0, 0].tolist() == [3, 0, 0]


@pytest.mark.parametrize("setting", ["path", "held_out_path"])
@pytest.mark.parametrize(("name", "reason"), [("nowhere.jsonl", "No such file or directory"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_a_mistake_in_the_configuration(
    directory: Path, capsys: pytest.CaptureFixture[str], setting: str, name: str, reason: str
) -> None:
    paths = {"path": _write(directory, _line()), setting: directory / name}
    settings = [f"task.{key}={path}" for key, path in paths.items()]
    workdir = directory / "work"
    argv = ["--backend", "grpo", "task=jsonl", *settings, f"workdir={workdir}"]
    assert run_command("train", "trainer", "", "", argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: task.{setting}: cannot be read: {reason}; give a file with one JSON object a line")
    assert str(directory / name) in error
    assert error.count("\n") == 1
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "is not JSON"),
        (_line(image="missing.png"), "No such file or directory"),
        (_line(image="giant.png"), "the 4,000,000 pixels accepted"),
    ],
)
def test_a_bad_line_is_a_mistake_before_a_run_directory_exists(
    directory: Path, capsys: pytest.CaptureFixture[str], line: object, says: str
) -> None:
    (directory / "giant.png").write_bytes(_giant_png())
    path, workdir = _write(directory, _line(0), line), directory / "work"
    argv = ["--backend", "grpo", "task=jsonl", f"task.path={path}", f"workdir={workdir}"]
    assert run_command("train", "trainer", "", "", argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}:2: ")
    assert says in error
    assert error.count("\n") == 1
    assert not workdir.exists()


def test_an_image_that_breaks_after_its_header_is_named_with_its_line(directory: Path) -> None:
    content = (directory / "0.png").read_bytes()
    (directory / "torn.png").write_bytes(content[: len(content) // 2 + 10])
    source = Jsonl(JsonlConfig(path=_write(directory, _line(image="torn.png")), held_out_fraction=0))
    with pytest.raises(TaskError, match=r"questions\.jsonl:1: image .*torn\.png"):
        source.prompt("train", 0)


def test_chat_messages_with_images_are_understood(directory: Path) -> None:
    line = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
        ],
        "images": ["4.png"],
    }
    prompt = Jsonl(JsonlConfig(path=_write(directory, line), held_out_fraction=0)).prompt("train", 0)
    assert (prompt.question, prompt.answer, int(prompt.images[0][0, 0, 0])) == ("What is it?", "a cat", 4)


def test_a_conversation_of_several_turns_is_refused_with_a_remedy(directory: Path) -> None:
    turn = {"role": "user", "content": "And?"}
    assert "split longer conversations" in _mistake(directory, {"messages": [turn, turn], "images": ["0.png"]})


def test_a_positive_cota_sample_is_a_demonstration_and_a_trap_is_not(directory: Path) -> None:
    sample = {
        "task_id": "t1",
        "question": "What?",
        "image": "0.png",
        "answer": "cat",
        "sample_type": "positive",
        "trajectory": [
            {"action": "SEGMENT_OBJECT_AT", "coordinates": [3, 4], "result": "…"},
            {"action": "ZOOM_IN", "parameters": {"bbox": [1, 2, 9, 8]}},
            {"action": "ANSWER", "parameters": {"text": "cat"}},
        ],
    }
    trap = sample | {"image": "1.png", "sample_type": "trap_perceptual"}
    source = Jsonl(JsonlConfig(path=_write(directory, sample, trap), held_out_fraction=0))
    prompt = source.prompt("train", 0)
    scene = Scene(natives=prompt.images)
    scene.add_view(prompt.images[0], 0, Transform())
    demonstration = source.demonstrate(prompt, scene)
    assert demonstration is not None
    assert [(call.operation, dict(call.arguments)) for call in demonstration.calls] == [
        ("SEGMENT_OBJECT_AT", {"x": 3, "y": 4}),
        ("ZOOM_IN", {"bbox": [1, 2, 9, 8]}),
    ]
    assert source.demonstrate(source.prompt("train", 1), scene) is None
