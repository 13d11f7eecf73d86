"""The curves: what is read from the events of a run, and what of it becomes a picture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from share.kernel.events import StructuredLogger
from share.kernel.report.curves import NOTE_ROWS, Label, placed, read_measured, smoothed, write_curves


def _log(run_dir: Path) -> StructuredLogger:
    return StructuredLogger(run_dir / "events.jsonl", run_id="grpo-1", backend="grpo")


def _train(run_dir: Path, steps: int) -> None:
    logger = _log(run_dir)
    for step in range(1, steps + 1):
        share = step / steps
        numbers = {"reward": share, "accuracy": share, "rapr": 0.5, "kl": 0.01, "entropy": 1 - share, "loss": 0.1}
        logger.info("train.step", f"step {step}", step=step, tokens_per_s=900.0, reward_task=share, **numbers)
        if step % 10 == 0:
            logger.info("train.evaluation", "", step=step, held_out_accuracy=share, held_out_grounding=share / 2)
    logger.warn("alarm.zero_variance", "", step=steps // 2)
    logger.info("train.phase", "", step=2, phase="coherence", weights={"task": 1.0})
    logger.close()


def test_a_run_becomes_a_picture(tmp_path: Path) -> None:
    _train(tmp_path, 60)
    assert write_curves(tmp_path, tmp_path / "curves.png")
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture is not None
    assert picture.shape[0] > 600
    assert picture.shape[1] > 1200
    assert picture.std() > 5


def test_a_run_of_one_step_becomes_a_picture_too(tmp_path: Path) -> None:
    _train(tmp_path, 1)
    assert write_curves(tmp_path, tmp_path / "curves.png")


def test_a_run_without_a_step_leaves_no_picture(tmp_path: Path) -> None:
    logger = _log(tmp_path)
    logger.info("run_started", "train with backend grpo")
    logger.close()
    assert not write_curves(tmp_path, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_numbers_alarms_and_phases_are_read_with_their_steps(tmp_path: Path) -> None:
    _train(tmp_path, 20)
    measured = read_measured(tmp_path / "events.jsonl")
    assert measured.points["accuracy"][-1] == (20, 1.0)
    assert measured.points["held_out_accuracy"] == [(10, 0.5), (20, 1.0)]
    assert measured.alarms == ((10, "zero variance"),)
    assert measured.phases == ((2, "coherence"),)


def test_what_became_of_a_stage_is_named_with_it(tmp_path: Path) -> None:
    logger = _log(tmp_path)
    logger.info("train.phase", "", step=50, phase="advance", stage="format")
    logger.close()
    assert read_measured(tmp_path / "events.jsonl").phases == ((50, "format: advance"),)


def test_a_resumed_run_counts_the_later_record_of_a_step_and_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = [{"event": "train.step", "step": step, "loss": value} for step, value in ((1, 9.0), (2, 8.0), (1, 5.0))]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"event": "train.st')
    assert read_measured(path).points["loss"] == [(1, 5.0), (2, 8.0)]


def test_what_is_no_finite_number_is_no_point(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    record = {"event": "train.step", "step": 1, "loss": float("nan"), "kl": "x", "done": True, "reward": 1}
    path.write_text(json.dumps(record) + "\n")
    assert read_measured(path).points == {"reward": [(1, 1.0)]}


def test_two_alarms_of_one_step_are_both_read(tmp_path: Path) -> None:
    logger = _log(tmp_path)
    for name in ("zero_variance", "entropy_collapse", "zero_variance"):
        logger.warn(f"alarm.{name}", "", step=7)
    logger.close()
    assert read_measured(tmp_path / "events.jsonl").alarms == ((7, "entropy collapse"), (7, "zero variance"))


def test_names_that_come_close_together_stand_in_rows_and_one_that_repeats_is_counted() -> None:
    notes = [(10, "zero variance"), (11, "entropy collapse"), (12, "zero variance"), (80, "zero variance")]
    labels = [(label.name, label.step, label.row, label.count) for label in placed(notes, 0, 100)]
    assert labels == [("zero variance", 10, 0, 2), ("entropy collapse", 11, 1, 1), ("zero variance", 80, 0, 1)]


def test_a_name_at_the_right_edge_stands_left_of_its_line() -> None:
    (label,) = placed([(99, "zero variance")], 0, 100)
    assert label.leftward
    assert label.end == pytest.approx(0.99)


@given(st.lists(st.tuples(st.integers(0, 200), st.sampled_from(["a", "zero variance", "coherence", "b", "c", "d"]))))
def test_no_two_names_lie_on_each_other_and_the_rows_are_bounded(notes: list[tuple[int, str]]) -> None:
    labels = placed(sorted(notes), -2, 202)

    def touch(one: Label, other: Label) -> bool:
        return one.row == other.row and one.begin < other.end and other.begin < one.end

    assert all(0 <= label.row < NOTE_ROWS for label in labels)
    assert not any(touch(one, other) for index, one in enumerate(labels) for other in labels[:index])
    assert sum(label.count for label in labels) <= len(notes)


def test_smoothing_keeps_a_constant_and_does_not_lag_behind_a_slope() -> None:
    assert smoothed([3.0] * 50) == pytest.approx([3.0] * 50)
    slope = [float(step) for step in range(100)]
    assert smoothed(slope)[10:-10] == pytest.approx(slope[10:-10])


def test_matplotlib_is_not_imported_before_a_picture_is_drawn() -> None:
    program = "import sys, share.kernel.report.curves; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
