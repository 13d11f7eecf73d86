"""Events are whole JSON lines, whoever writes them and whatever was killed before."""

from __future__ import annotations

import io
import json
import re
import threading
from pathlib import Path

import pytest

from share.kernel.events import FRAMES, StructuredLogger, whereabouts


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_has_the_fields_of_every_event_and_its_own(tmp_path: Path) -> None:
    logger = StructuredLogger(tmp_path / "events.jsonl", run_id="run-1", backend="grpo")
    logger.info("step", "step 3 of 9", step=3, reward=0.5)
    logger.close()
    (event,) = read(tmp_path / "events.jsonl")
    assert list(event) == ["ts_utc", "level", "event", "message", "run_id", "backend", "step", "reward"]
    assert (event["level"], event["event"], event["run_id"], event["step"]) == ("info", "step", "run-1", 3)
    assert str(event["ts_utc"]).endswith("+00:00")


def test_fields_cannot_overwrite_what_every_event_has(tmp_path: Path) -> None:
    logger = StructuredLogger(tmp_path / "events.jsonl", run_id="run-1", backend="grpo")
    logger.info("step", "m", run_id="forged", path=tmp_path)
    assert read(tmp_path / "events.jsonl")[0]["run_id"] == "run-1"


def test_threads_and_loggers_share_a_file_without_mixing_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    loggers = [StructuredLogger(path, run_id=f"run-{number}", backend="b") for number in range(2)]

    def write(logger: StructuredLogger) -> None:
        for number in range(100):
            logger.debug("line", "x" * 500, number=number)

    threads = [threading.Thread(target=write, args=(loggers[number % 2],)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read(path)) == 600


def test_a_line_torn_by_a_kill_is_not_glued_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "whole"}\n{"event": "to')
    StructuredLogger(path, run_id="run-1", backend="b").info("next", "n")
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["event"] == "next"


def test_warnings_and_errors_are_echoed_in_plain_words() -> None:
    echo = io.StringIO()
    logger = StructuredLogger(None, run_id="run-1", backend="b", echo=echo)
    logger.info("quiet", "nobody needs to see this")
    logger.warn("loud", "entropy collapses")
    logger.error("louder", "the disk is full")
    assert echo.getvalue() == "warn: entropy collapses\nerror: the disk is full\n"


def test_events_after_closing_are_dropped(tmp_path: Path) -> None:
    logger = StructuredLogger(tmp_path / "events.jsonl", run_id="run-1", backend="b")
    logger.close()
    logger.close()
    logger.info("late", "a thread that outlived its run")
    assert (tmp_path / "events.jsonl").read_text() == ""


def test_of_an_error_its_type_and_place_are_told_and_not_its_message() -> None:
    def broken(depth: int) -> None:
        if depth == 0:
            raise OSError(28, "jane.roe@example.org")
        broken(depth - 1)

    with pytest.raises(OSError, match="jane") as caught:
        broken(9)
    place = r"test_events\.py:\d+ broken"
    assert re.fullmatch(
        rf"OSError \(No space left on device\) at {' > '.join([place] * FRAMES)}", whereabouts(caught.value)
    )
    assert whereabouts(ValueError("jane.roe@example.org")) == "ValueError"
