"""The review queue: drawn at random, decided once, lost never."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from share.kernel.adaptation.review import DAY_S, ReviewConfig, ReviewQueue
from share.kernel.errors import ReviewConflict, ReviewProblem, UnknownReview

ROOT = Path(__file__).parents[2]
ALL = ReviewConfig(audit_share=1.0)
WORKER = """
import sys
from pathlib import Path
from share.kernel.adaptation.review import ReviewConfig, ReviewQueue
queue = ReviewQueue(Path(sys.argv[1]), ReviewConfig(audit_share=1.0), seed=0)
print("open", flush=True)
for number in range(int(sys.argv[2]), 1_000_000):
    queue.offer(f"r{number}", subject="ada")
    print("offered", number, flush=True)
    queue.decide(f"r{number}", number % 2 == 0, "bo", "seen")
    print("decided", number, flush=True)
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> Iterator[ReviewQueue]:
    queue = ReviewQueue(tmp_path / "review.sqlite", ALL, seed=0, clock=clock)
    yield queue
    queue.close()


def test_the_random_share_is_drawn_by_seed_and_id_alone(tmp_path: Path) -> None:
    first, second, other = (
        ReviewQueue(tmp_path / f"{name}.sqlite", ReviewConfig(audit_share=0.05), seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    ids = [f"request-{number}" for number in range(20_000)]
    drawn = {each for each in ids if first.is_audited(each)}
    assert drawn == {each for each in ids if second.is_audited(each)}
    assert 900 < len(drawn) < 1100
    assert len(drawn & {each for each in ids if other.is_audited(each)}) < 100
    audited = next(iter(sorted(drawn)))
    assert first.offer(audited, is_unsure=True) == "audit", "that it is unsure changes nothing"
    assert second.offer(audited, is_unsure=False) == "audit"
    passed_over = next(each for each in ids if each not in drawn)
    assert first.offer(passed_over) is None
    assert first.offer(passed_over, is_unsure=True) == "unsure"
    assert [task.cause for task in first.lease("bo", 5)] == ["audit", "unsure"]
    for each in (first, second, other):
        each.close()


def test_the_first_decision_stands(queue: ReviewQueue, clock: Clock) -> None:
    queue.offer("r1")
    decision = queue.decide("r1", True, "bo", "a cat indeed")
    clock.now += 5
    assert queue.decide("r1", True, "bo", "a cat indeed") == decision
    assert queue.decide("r1", True, "cy") == decision
    with pytest.raises(ReviewConflict, match="bo has approved it"):
        queue.decide("r1", False, "cy")
    assert queue.counts() == {"audit": 0, "unsure": 0, "approved": 1, "rejected": 0, "unsettled": 1}
    assert queue.offer("r1") == "audit", "offered again it is not opened again"
    assert queue.lease("bo") == []
    with pytest.raises(UnknownReview, match="r2"):
        queue.decide("r2", True, "bo")
    queue.offer("r3")
    with pytest.raises(ReviewProblem, match="notes"):
        queue.decide("r3", True, "bo", "x" * 2001)


def test_of_reviewers_who_disagree_at_the_same_instant_one_decides(tmp_path: Path) -> None:
    """Each has a connection of its own, as another process would."""
    path = tmp_path / "review.sqlite"
    queues = [ReviewQueue(path, ALL, seed=0) for _ in range(4)]
    for number in range(5):
        queues[0].offer(f"r{number}")
    outcomes: list[tuple[str, bool, str]] = []

    def review(which: int) -> None:
        for number in range(5):
            try:
                decision = queues[which].decide(f"r{number}", which % 2 == 0, f"reviewer-{which}")
                outcomes.append((decision.task_id, decision.approved, decision.reviewer))
            except ReviewConflict:
                outcomes.append((f"r{number}", which % 2 != 0, ""))

    threads = [threading.Thread(target=review, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 20
    for number in range(5):
        assert len({approved for task_id, approved, _ in outcomes if task_id == f"r{number}"}) == 1
        assert len({who for task_id, _, who in outcomes if task_id == f"r{number}" and who}) == 1
    for queue in queues:
        queue.close()


def test_a_task_is_kept_for_the_reviewer_who_took_it_until_the_lease_ends(queue: ReviewQueue, clock: Clock) -> None:
    for number in range(3):
        queue.offer(f"r{number}")
        clock.now += 1
    assert [task.task_id for task in queue.lease("bo", 2)] == ["r0", "r1"]
    assert [task.task_id for task in queue.lease("cy", 5)] == ["r2"]
    assert [task.task_id for task in queue.lease("bo", 5)] == ["r0", "r1"], "one's own are given again"
    with pytest.raises(ReviewConflict, match="bo holds it"):
        queue.decide("r0", True, "cy")
    assert queue.decide("r0", True, "bo").approved
    clock.now += 901
    assert [task.task_id for task in queue.lease("cy", 5)] == ["r1", "r2"]
    assert not queue.decide("r1", False, "cy").approved


def test_a_right_answer_is_kept_of_whoever_decides_and_until_it_is_settled(
    queue: ReviewQueue, tmp_path: Path, clock: Clock
) -> None:
    queue.offer("r1")
    queue.lease("bo")
    with pytest.raises(ReviewConflict, match="bo holds it"):
        queue.decide("r1", False, "cy", answer="666")
    assert b"666" not in (tmp_path / "review.sqlite").read_bytes()
    assert queue.decide("r1", False, "bo", answer="41").answer == "41"
    assert queue.decide("r1", False, "cy", answer="666").answer == "41", "the first decision stands, its answer too"
    assert [each.answer for each in queue.unsettled()] == ["41"]
    queue.offer("r2")
    queue.lease("bo")
    clock.now += 901
    assert queue.decide("r2", False, "cy", answer="42").answer == "42", "the lease has ended"
    with pytest.raises(ReviewConflict, match="cy has rejected it"):
        queue.decide("r2", True, "bo")
    queue.settle("r2")
    assert [each.task_id for each in queue.unsettled()] == ["r1"]
    settled = queue.decision("r2")
    assert settled is not None
    assert settled.answer is None, "it is an experience by now, and words of users are in the buffer alone"


def test_a_queue_from_before_answers_were_kept_is_read(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    queue = ReviewQueue(path, ALL, seed=0)
    queue.offer("r1")
    queue.decide("r1", False, "bo", "seen")
    queue.offer("r2")
    queue.close()
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE tasks DROP COLUMN answer")
    connection.close()
    queue = ReviewQueue(path, ALL, seed=0)
    assert [(each.task_id, each.notes, each.answer) for each in queue.unsettled()] == [("r1", "seen", None)]
    assert queue.decide("r2", False, "bo", answer="41").answer == "41"
    queue.close()


def test_what_nobody_reviews_is_dropped_and_a_decision_is_forgotten_in_time(queue: ReviewQueue, clock: Clock) -> None:
    queue.offer("r1")
    queue.offer("r2")
    queue.decide("r2", True, "bo")
    clock.now += 14 * DAY_S - 100
    assert queue.expire() == 0
    assert len(queue.lease("bo")) == 1
    clock.now += 200
    assert queue.expire() == 0, "a reviewer holds it"
    clock.now += 900
    with pytest.raises(UnknownReview):
        queue.decide("r1", True, "bo")
    assert queue.expire() == 1
    assert queue.counts()["approved"] == 1
    clock.now += 90 * DAY_S
    assert queue.expire() == 1
    with pytest.raises(UnknownReview):
        queue.decide("r2", True, "bo")


def test_a_flood_of_unsure_ones_keeps_no_audit_out(tmp_path: Path) -> None:
    queue = ReviewQueue(tmp_path / "review.sqlite", ReviewConfig(audit_share=0.5, waiting_max=3), seed=0)
    audited = [f"r{number}" for number in range(60) if queue.is_audited(f"r{number}")]
    unsure = [f"r{number}" for number in range(60) if not queue.is_audited(f"r{number}")]
    assert [queue.offer(each, is_unsure=True) for each in unsure[:5]] == ["unsure"] * 3 + [None] * 2
    assert [queue.offer(each) for each in audited[:5]] == ["audit"] * 3 + [None] * 2
    queue.decide(audited[0], True, "bo")
    assert queue.offer(audited[4]) == "audit"
    queue.close()


def test_a_decision_is_told_until_its_effect_is_confirmed(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "review.sqlite"
    queue = ReviewQueue(path, ALL, seed=0, clock=clock)
    for number in range(3):
        queue.offer(f"r{number}")
    for number in (2, 0):
        clock.now += 1
        queue.decide(f"r{number}", number == 2, "bo")
    queue.close()
    queue = ReviewQueue(path, ALL, seed=0, clock=clock)
    assert [(each.task_id, each.approved) for each in queue.unsettled()] == [("r2", True), ("r0", False)]
    queue.settle("r2")
    queue.settle("r2")
    assert [each.task_id for each in queue.unsettled()] == ["r0"]
    with pytest.raises(UnknownReview, match="no decision"):
        queue.settle("r1")
    queue.close()


def test_erasing_a_subject_leaves_nothing_of_it_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    queue = ReviewQueue(path, ALL, seed=0)
    for number in range(40):
        queue.offer(f"erase-me-{number}" if number % 2 else f"keep-{number}", subject="ada" if number % 2 else "bo")
    queue.decide("erase-me-1", True, "cy", "secret-of-ada")
    assert b"secret-of-ada" in path.read_bytes()
    assert b'"ada"' not in path.read_bytes()
    assert queue.erase("ada") == 20
    assert queue.erase("ada") == 0
    content = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert b"erase-me" not in content
    assert b"secret-of-ada" not in content
    assert queue.counts()["audit"] == 20
    queue.close()


def test_counting_does_not_wait_for_another_process_that_has_the_file(queue: ReviewQueue, tmp_path: Path) -> None:
    queue.offer("r1")
    assert queue.counts()["audit"] == 1
    other = sqlite3.connect(tmp_path / "review.sqlite", isolation_level=None)
    offering = threading.Thread(target=queue.offer, args=("r2",))
    try:
        other.execute("BEGIN EXCLUSIVE")
        offering.start()  # waits for the file, up to half a minute
        assert queue.counts()["audit"] == 1, "as it was counted last"
        assert offering.is_alive()
    finally:
        other.execute("ROLLBACK")
        other.close()
    offering.join()
    assert queue.counts()["audit"] == 2


def test_a_file_that_is_no_queue_is_named(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    path.write_bytes(b"not a database, but long enough to be looked at" * 50)
    with pytest.raises(ReviewProblem, match=r"review\.sqlite"):
        ReviewQueue(path, ALL, seed=0)
    queue = ReviewQueue(tmp_path / "other.sqlite", ALL, seed=0)
    queue.close()
    with pytest.raises(ReviewProblem, match=r"other\.sqlite"):
        queue.lease("bo")


def test_a_killed_process_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    acknowledged: set[tuple[str, int]] = set()
    for kill in range(3):
        start = max((number for _, number in acknowledged), default=-1) + 1
        child = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(path), str(start)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        lines = [child.stdout.readline() for _ in range(random.Random(kill).randrange(1, 12))]
        os.kill(child.pid, signal.SIGKILL)
        lines += child.stdout.read().split("\n")[:-1]
        child.wait()
        child.stdout.close()
        acknowledged |= {(what, int(number)) for what, number in map(str.split, lines)}
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            known = {task_id for (task_id,) in connection.execute("SELECT task_id FROM tasks")}
        connection.close()
        assert {f"r{number}" for _, number in acknowledged} <= known
        queue = ReviewQueue(path, ALL, seed=0)
        decided = {number for what, number in acknowledged if what == "decided"}
        assert decided <= {int(each.task_id[1:]) for each in queue.unsettled()}
        for number in sorted(decided):
            assert queue.decide(f"r{number}", number % 2 == 0, "cy").reviewer == "bo", "it was decided before the kill"
        queue.close()
