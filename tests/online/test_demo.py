"""What a demo tells of itself; that it plays is in test_lifecycle."""

from __future__ import annotations

from pathlib import Path

import cv2

from share.kernel.online.demo import SPAN, Report, draw, recent


def report(asked: int, right: int, audited: int) -> Report:
    return Report(asked, 0.5, {"frozen": (right, audited), "adapted": (audited, audited)})


def test_a_share_is_over_the_audited_questions_of_the_last_lines() -> None:
    reports = [report(20, 4, 8), report(40, 6, 16), report(60, 7, 28)]
    assert recent(reports[:1], "frozen") == 4 / 8
    assert recent(reports[:SPAN], "frozen") == 6 / 16
    assert recent(reports, "frozen") == (7 - 4) / (28 - 8)
    assert recent(reports, "adapted") == 1.0


def test_a_share_is_over_all_that_is_known_where_nothing_new_was_audited_and_none_before_anything_was() -> None:
    assert recent([report(20, 4, 8)] * 3, "frozen") == 4 / 8
    assert recent([report(20, 0, 0)] * 3, "frozen") is None


def test_the_picture_can_be_drawn_with_and_without_audited_questions(tmp_path: Path) -> None:
    for number, audited in enumerate((0, 8)):
        path = tmp_path / f"{number}.png"
        draw([report(20, 0, 0), report(40, 0, audited)], [(0, "few"), (20, "many")], path)
        picture = cv2.imread(str(path))
        assert picture is not None
        assert (picture != 255).any()
