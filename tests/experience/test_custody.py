"""`python -m share.kernel buffer`: what the person on call has."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from share.kernel.__main__ import main
from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.registry import Registry
from tests.experience.children import Child
from tests.experience.making import DIMENSION, experience, ids_of, opened

CUSTODY = ("stat", "verify", "dump", "compact", "rebuild", "erase")


@pytest.fixture
def directory(tmp_path: Path, registry: Registry) -> Path:
    with opened(tmp_path / "buffer", registry, capacity=25) as buffer:
        for number in range(30):
            subject = "jane" if number % 10 == 0 else None
            buffer.add(experience(number, subject=subject, created_at=number * 86400.0, question=f"ask {number};"))
        buffer.rebuild()
        buffer.record_retrieval(["e9"], True)
    return tmp_path / "buffer"


def said(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_stat_says_what_is_in_it(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["buffer", "stat", str(directory), "--json"]) == 0
    report = json.loads(said(capsys)[0])
    assert (report["experiences"], report["capacity"], report["dimension"]) == (25, 25, DIMENSION)
    assert (report["storage"], report["index"], report["index_rows"], report["generation"]) == ("file", "flat", 30, 1)
    assert (report["sequence"], report["subjects"], report["writer"]) == (33, 1, None)
    assert (report["created_first"], report["created_last"]) == (5 * 86400.0, 29 * 86400.0)
    assert report["status"] == {"unverified": 25, "approved": 0, "rejected": 0, "quarantined": 0}
    assert main(["buffer", "stat", str(directory)]) == 0
    assert "experiences         25\n" in said(capsys)[0]


def test_what_auto_has_chosen_is_known_by_whoever_opens_the_buffer_later(
    tmp_path: Path, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(tmp_path, registry, index="auto") as buffer:
        buffer.add_many([experience(number) for number in range(5)])
        buffer.rebuild()
    with opened(tmp_path, registry, index="auto") as buffer:
        assert buffer.metrics()["index"] == "flat: 5 rows"
    assert main(["buffer", "stat", str(tmp_path), "--json"]) == 0
    assert json.loads(said(capsys)[0])["index"] == "flat: 5 rows"


def test_a_terminal_sees_that_long_work_goes_on(directory: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, "-m", "share.kernel", "buffer", "rebuild", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal open any more
            while part := os.read(ours, 4096):
                shown += part
    os.close(ours)
    assert process.returncode == 0
    assert b"open: 00:00" in shown
    assert b"rebuild: 00:00" in shown


def test_verify_finds_nothing_or_says_what_and_where(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["buffer", "verify", str(directory)]) == 0
    assert said(capsys)[0] == f"{directory}: sound, nothing wrong was found\n"
    segment = min((directory / "log").iterdir())
    content = bytearray(segment.read_bytes())
    content[content.index(b"ask 12;")] ^= 1
    segment.write_bytes(content)
    assert main(["buffer", "verify", str(directory)]) == 1
    out = said(capsys)[0]
    assert out.startswith(f"LOSS: {segment}: offset ")
    assert f"python -m share.kernel buffer rebuild {directory} --salvage" in out
    assert main(["buffer", "verify", str(directory), "--json"]) == 1
    (finding,) = json.loads(said(capsys)[0])
    assert finding["path"] == str(segment)
    assert finding["is_loss"] is True

    assert main(["buffer", "rebuild", str(directory)]) == 0  # the snapshot stands for what it covers
    assert main(["buffer", "rebuild", str(directory), "--salvage", "--json"]) == 0
    assert json.loads("{" + said(capsys)[0].partition("\n{")[2])["experiences"] == 24
    assert main(["buffer", "verify", str(directory)]) == 0


def test_dump_gives_every_field_and_appears_whole(
    directory: Path, tmp_path: Path, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    action = Action("operation", "<tool_call>", operation="ZOOM_IN", arguments={"bbox": [1, 2, 3, 4]})
    rich = experience(
        99,
        trajectory=Trajectory("p", (action,), "seven", "answer"),
        features={"visual": np.arange(4, dtype=np.float16)},
        reward=0.5,
        reward_components={"task": 1.0, "misuse": None},
        metadata={"tags": ["ä", 1]},
    )
    with opened(directory, registry, capacity=None) as buffer:
        buffer.add(rich)
    lines_path, table_path = tmp_path / "all.jsonl", tmp_path / "all.parquet"
    assert main(["buffer", "dump", str(directory), "--output", str(lines_path)]) == 0
    rows = [json.loads(line) for line in lines_path.read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"e{number}" for number in range(6, 30)] + ["e99"]
    assert [row["retrieval_count"] for row in rows if row["id"] == "e9"] == [1]
    assert rows[-1]["trajectory"]["actions"][0]["arguments"] == {"bbox": [1, 2, 3, 4]}
    assert rows[-1]["features"]["visual"]["dtype"] == "<f2"
    assert rows[-1]["metadata"] == {"tags": ["ä", 1]}
    assert np.array_equal(np.array(rows[-1]["embedding"], np.float32), rich.embedding)
    assert main(["buffer", "dump", str(directory), "--output", str(table_path)]) == 0
    table = pq.read_table(table_path).to_pylist()
    assert [row["id"] for row in table] == [row["id"] for row in rows]
    assert json.loads(table[-1]["reward_components"]) == {"task": 1.0, "misuse": None}
    assert table[-1]["embedding"] == rows[-1]["embedding"]
    said(capsys)
    assert main(["buffer", "dump", str(directory)]) == 0
    assert [json.loads(line)["id"] for line in said(capsys)[0].splitlines()] == [row["id"] for row in rows]
    assert sorted(os.listdir(tmp_path)) == ["all.jsonl", "all.parquet", "buffer"]


def test_erase_is_in_no_file_any_more(directory: Path, registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["buffer", "erase", str(directory), "--subject", "jane", "--json"]) == 0
    assert json.loads(said(capsys)[0])["removed"] == 2
    content = b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())
    for number in range(30):  # the evicted went with them
        is_kept = number >= 5 and number % 10 != 0
        assert (b"ask %d;" % number in content) == is_kept
    assert main(["buffer", "erase", str(directory), "--older-than-days", "1"]) == 0
    said(capsys)
    with opened(directory, registry, capacity=None) as buffer:
        assert ids_of(buffer) == []
        assert buffer.capacity == 25


def test_a_subject_that_nothing_is_about_is_said(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["buffer", "erase", str(directory), "--subject", "john"]) == 1
    assert "nothing is about 'john' here" in said(capsys)[1]


def test_an_option_of_other_work_and_the_directory_above_are_mistakes(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["buffer", "stat", str(directory), "--older-than-days", "3"]) == 2
    assert "--older-than-days: is for erase, not for stat" in said(capsys)[1]
    assert main(["buffer", "stat", str(directory.parent)]) == 2
    assert f"did you mean {directory}?" in said(capsys)[1]


@pytest.mark.parametrize("days", ["-5", "nan", "inf"])
def test_an_age_that_is_none_erases_nothing(directory: Path, days: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["buffer", "erase", str(directory), f"--older-than-days={days}"]) == 2
    assert "older_than_days: " in said(capsys)[1]
    assert main(["buffer", "stat", str(directory), "--json"]) == 0
    assert json.loads(said(capsys)[0])["experiences"] == 25


@pytest.mark.parametrize("work", ["stat", "verify", "dump", "rebuild"])
@pytest.mark.parametrize(
    ("field", "value"), [("dimension", 32), ("dimension", 0), ("dimension", "x"), ("storage", 7), ("format", None)]
)
def test_a_damaged_identity_is_named(
    directory: Path, work: str, field: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = directory / "buffer.json"
    identity.write_text(json.dumps({**json.loads(identity.read_text()), field: value}))
    assert main(["buffer", work, str(directory)]) in (1, 2)
    out, err = said(capsys)
    assert "buffer.json" in (out if work == "verify" and value == 32 else err)


def test_a_full_disk_behind_standard_output_is_said(directory: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "share.kernel", "buffer", "dump", str(directory)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output: cannot be written")
    assert "Traceback" not in done.stderr


def test_compact_and_rebuild_with_another_index(
    directory: Path, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["buffer", "compact", str(directory), "--json"]) == 0
    assert json.loads(said(capsys)[0])["log_bytes_erased"] > 0
    assert main(["buffer", "compact", str(directory), "--json"]) == 0
    assert json.loads(said(capsys)[0])["log_bytes_erased"] == 0
    assert main(["buffer", "rebuild", str(directory), "--set", "index=sketch", "--json"]) == 0
    assert json.loads(said(capsys)[0])["index"] == "sketch"
    with opened(directory, registry, capacity=None, index="sketch") as buffer:
        assert buffer.search_index(experience(20).embedding, 1)[0].id == "e20"
        assert buffer.metrics()["index"] == "sketch"


def test_beside_a_living_writer_it_reads_and_says_who_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Child("write", tmp_path) as writer:
        for number in range(5):
            writer.ask("add", number)
        assert main(["buffer", "stat", str(tmp_path), "--json"]) == 0
        report = json.loads(said(capsys)[0])
        assert report["experiences"] == 5
        assert report["writer"].startswith(f"process {writer.process.pid} on ")
        assert main(["buffer", "verify", str(tmp_path)]) == 0
        assert main(["buffer", "dump", str(tmp_path)]) == 0
        assert len(said(capsys)[0].splitlines()) == 6
        for work in (["compact"], ["rebuild"], ["erase", "--subject", "jane"]):
            assert main(["buffer", work[0], str(tmp_path), *work[1:]]) == 2
            err = said(capsys)[1]
            assert err.startswith(f"error: {tmp_path}: process {writer.process.pid} on ")
            assert err.count("\n") == 1
        assert writer.ask("add", 5) == 7


@pytest.mark.parametrize("work", CUSTODY)
def test_a_mistake_is_one_line(work: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    erase = ["--subject", "jane"] if work == "erase" else []
    assert main(["buffer", work, str(tmp_path / "absent"), *erase]) == 2
    out, err = said(capsys)
    assert out == ""
    assert err.startswith(f"error: {tmp_path / 'absent'}: is not an experience buffer")
    assert err.count("\n") == 1
    assert not (tmp_path / "absent").exists()


def test_other_mistakes_are_one_line_too(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, message in [
        (["erase", str(directory)], "erase: say whose with --subject NAME, or of what age with --older-than-days N"),
        (["dump", str(directory), "--output", "all.csv"], "--output: all.csv must end in .jsonl or .parquet"),
        (["rebuild", str(directory), "--set", "index=hnws"], "index: no index 'hnws'; did you mean 'hnsw'?"),
    ]:
        assert main(["buffer", *argv]) == 2
        out, err = said(capsys)
        assert out == ""
        assert err.startswith(f"error: {message}")
        assert err.count("\n") == 1
