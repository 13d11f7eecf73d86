"""Whom an experience is about: a hash that says nothing without the secret, and an erasure that finds old ones too."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from share.kernel.__main__ import main
from share.kernel.contracts.task import Prompt
from share.kernel.errors import ConfigError
from share.kernel.serving.subjects import Subjects, unkeyed
from tests.serving.engines import Maker, Parts

NAME = "subjects.key"


def test_the_secret_is_made_with_the_first_subject_and_is_nobody_elses(tmp_path: Path) -> None:
    subjects = Subjects(tmp_path / NAME)
    assert subjects.keys("jane") == (unkeyed("jane"),)
    assert list(tmp_path.iterdir()) == []
    key = subjects.key("jane")
    assert subjects.keys("jane") == (key, unkeyed("jane"))
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600
    assert Subjects(tmp_path / NAME).key("jane") == key
    assert subjects.key("john") != key


def test_no_two_services_know_a_subject_by_the_same_key(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = (Subjects(tmp_path / name / NAME).key("jane") for name in ("one", "two"))
    assert len({one, two, unkeyed("jane")}) == 3


@pytest.mark.parametrize("content", ["", "abcd", "not hexadecimal", "00" * 31])
def test_a_damaged_secret_is_told_and_not_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)
    with pytest.raises(ConfigError, match=r"subjects\.key: is damaged; restore it"):
        Subjects(tmp_path / NAME)
    assert (tmp_path / NAME).read_text() == content


def test_without_a_place_for_the_secret_there_is_no_key(tmp_path: Path) -> None:
    subjects = Subjects(tmp_path / "gone" / NAME)
    with pytest.raises(FileNotFoundError):
        subjects.key("jane")


def test_a_subject_that_cannot_be_hashed_is_answered_and_not_recorded(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path)
    (tmp_path / NAME).mkdir()  # nothing can be put in its place
    assert parts.ask(questions[0], subject="jane").answer
    memory = parts.engine.get_statistics().memory
    assert (memory.recorded, memory.not_recorded) == (0, {"IsADirectoryError": 1})
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(f".{NAME}")] == []


def test_a_read_only_question_about_somebody_makes_no_secret(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path)
    parts.ask(questions[0], subject="jane", read_only=True)
    assert not (tmp_path / NAME).exists()
    parts.ask(questions[0], subject="jane")
    assert (tmp_path / NAME).exists()


def test_an_erasure_finds_what_was_recorded_before_there_was_a_secret(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path, keep_images=True)
    parts.ask(questions[0], "new", subject="jane")
    own = parts.buffer.get("new")
    assert own is not None
    assert own.subject not in (None, "jane", unkeyed("jane"))
    parts.buffer.add(replace(own, id="old", subject=unkeyed("jane")))
    parts.ask(questions[1], "other", subject="john")
    assert parts.engine.erase("jane", actor="admin") == 2
    assert [each.id for each in parts.buffer] == ["other"]
    assert [item.task_id for item in parts.engine.lease_reviews("anna", 9)] == ["other"]
    assert len(list((tmp_path / "images").iterdir())) == 1


def with_a_settled_review(make: Maker, tmp_path: Path, prompt: Prompt, *subjects: str) -> Parts:
    """An engine that was started anew, so that no update can be made of what is decided: it is settled at once."""
    parts = make(tmp_path)
    for subject in subjects:
        parts.ask(prompt, f"settled-of-{subject}", subject=subject)
    parts.engine.close()
    parts = make(tmp_path)
    for subject in subjects:
        said = parts.engine.process_human_review_decision(f"settled-of-{subject}", True, reviewer="anna")
        assert said.effect == "no_images"
    return parts


def test_no_file_but_the_audit_log_names_a_decided_review_of_whom_was_erased(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = with_a_settled_review(make, tmp_path, questions[0], "jane")
    parts.ask(questions[0], "waits-of-jane", subject="jane")
    said = parts.engine.process_human_review_decision("waits-of-jane", True, reviewer="anna")
    assert said.effect == "deferred", "there is no worker"
    assert b"waits-of-jane" in (tmp_path / "evidence.json").read_bytes()
    parts.engine.erase("jane", actor="admin")
    named = [path.name for path in tmp_path.rglob("*") if path.is_file() and b"of-jane" in path.read_bytes()]
    assert named == ["audit.log"]
    assert parts.engine.get_statistics().evidence.audits == 2, "what was learned of the experts leads to nobody"


def test_a_settled_review_is_erased_from_the_file_that_still_names_it(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = with_a_settled_review(make, tmp_path, questions[0], "jane")
    file = tmp_path / "evidence.json"
    assert b"of-jane" in file.read_bytes()
    file.rename(tmp_path / "kept")
    file.mkdir()  # nothing can be put in its place
    with pytest.raises(IsADirectoryError):
        parts.engine.erase("jane", actor="admin")
    file.rmdir()
    (tmp_path / "kept").rename(file)
    assert parts.engine.erase("jane", actor="admin") == 1, "as it is asked for again"
    assert b"of-jane" not in file.read_bytes()


def test_a_sweep_leaves_no_name_of_a_review_that_is_settled(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = with_a_settled_review(make, tmp_path, questions[0], "jane")
    parts.engine.sweep()
    assert b"of-jane" not in (tmp_path / "evidence.json").read_bytes()
    assert parts.engine.get_statistics().troubles.get("not_swept") is None


def test_who_is_on_call_erases_by_name_from_the_buffer_of_a_service_that_does_not_run(
    make: Maker, tmp_path: Path, questions: list[Prompt], capsys: pytest.CaptureFixture[str]
) -> None:
    parts = make(tmp_path)
    parts.ask(questions[0], "hers", subject="jane")
    own = parts.buffer.get("hers")
    assert own is not None
    parts.buffer.add(replace(own, id="hers-of-old", subject=unkeyed("jane")))
    parts.ask(questions[1], "his", subject="john")
    parts.engine.close()
    erase = ["buffer", "erase", str(tmp_path / "buffer"), "--subject"]
    assert main([*erase, "jane", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["removed"] == 2
    assert "this is the buffer alone" in err
    assert main([*erase, "jane"]) == 1
    assert "nothing is about 'jane' here" in capsys.readouterr().err
    again = make(tmp_path)
    assert [each.id for each in again.buffer] == ["his"]
    assert len(again.engine.lease_reviews("anna", 9)) == 1, "what has left the buffer is passed over"
    assert again.engine.erase("jane", actor="admin") == 0
    assert again.engine.get_statistics().reviews["audit"] == 1, "and the rest goes by name later"
