"""From a decision to a version that serves, and back: once, durable, and only as far as audited items bear it out."""

from __future__ import annotations

import os
import signal
from itertools import pairwise
from pathlib import Path

import pytest

from share.kernel.adaptation.audit import entries, verify
from share.kernel.contracts.experience import Status
from share.kernel.contracts.task import Prompt
from share.kernel.errors import ReviewConflict, ReviewProblem, UnknownReview
from share.kernel.serving.versions import FROZEN
from share.kernel.transport.ledger import Ledger
from tests.serving.engines import Maker, Parts


def actions(directory: Path) -> list[tuple[str, str, str]]:
    return [(entry.actor, entry.action, entry.reason) for entry in entries(directory / "audit.log")]


def approve(parts: Parts, prompt: Prompt, trace_id: str) -> None:
    """Ask, approve, and wait until the version that was learned of it serves."""
    parts.ask(prompt, trace_id)
    assert parts.engine.process_human_review_decision(trace_id, True, reviewer="anna").effect == "update"
    parts.until(lambda: parts.engine.get_statistics().reviews["unsettled"] == 0)


def make_adapted_trusted(parts: Parts, prompt: Prompt) -> str:
    """Have the adapted policy right five times where the frozen one is wrong, by chance one in 32; returns what the
    adapted one says."""
    says = ""
    for number in range(5):
        parts.ask(prompt, f"judged-{number}")
        experience = parts.buffer.get(f"judged-{number}")
        assert experience is not None
        says = str(experience.metadata["answers"]["adapted"])  # type: ignore[index, call-overload]
        assert says not in ("", experience.answer), "both policies were asked, and are of two minds"
        parts.engine.process_human_review_decision(f"judged-{number}", False, reviewer="anna", answer=says)
        parts.until(lambda: parts.engine.get_statistics().reviews["unsettled"] == 0)
    return says


def test_an_approved_answer_is_learned_once_however_often_it_is_said(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path, learns=True)
    parts.ask(questions[0], "first")
    parts.ask(questions[0], "second")
    outcomes = [parts.engine.process_human_review_decision("second", True, reviewer="anna") for _ in range(3)]
    assert [(outcome.effect, outcome.repeated) for outcome in outcomes] == [
        ("update", False),
        ("update", True),
        ("update", True),
    ]
    parts.until(lambda: parts.engine.get_statistics().reviews["unsettled"] == 0)
    assert parts.engine.process_human_review_decision("second", True, reviewer="bert").repeated
    with pytest.raises(ReviewConflict):
        parts.engine.process_human_review_decision("second", False, reviewer="bert")
    with pytest.raises(UnknownReview):
        parts.engine.process_human_review_decision("third", True, reviewer="anna")
    experience, voter = parts.buffer.get("second"), parts.buffer.get("first")
    assert experience is not None
    assert voter is not None
    assert parts.given() == [f"review-second approved {experience.answer}"]
    assert experience.status is Status.APPROVED
    assert (voter.retrieval_count, voter.success_count) == (1, 1), "it was asked once, and was right"
    assert parts.engine.get_statistics().evidence.audits == 1
    assert [entry for entry in actions(tmp_path) if entry[1] == "review"] == [("anna", "review", "approved")]


def test_a_rejected_answer_is_a_negative_example_and_may_bring_the_right_one(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path, learns=True)
    for trace_id in ("plain", "corrected"):
        parts.ask(questions[0], trace_id)
    wrong = parts.buffer.get("plain")
    assert wrong is not None
    parts.engine.process_human_review_decision("plain", False, reviewer="anna")
    parts.engine.process_human_review_decision("corrected", False, "it is 41", reviewer="anna", answer="41")
    with pytest.raises(ReviewProblem, match="answer: goes with a rejection"):
        parts.engine.process_human_review_decision("plain", True, reviewer="anna", answer="41")
    parts.until(lambda: parts.engine.get_statistics().reviews["unsettled"] == 0)
    assert sorted(parts.given()) == ["review-corrected corrected 41", f"review-plain rejected {wrong.answer}"]
    reply = parts.ask(questions[0])
    assert reply.votes is not None
    assert {opinion.vote.answer for opinion in reply.votes.provenance[1:]} == {"41"}, "what was rejected has no vote"


def test_the_answer_changes_when_audited_items_bear_the_new_version_out_and_back_on_rollback(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path, learns=True)
    before = parts.ask(questions[0], "before")
    assert before.policy_version == FROZEN
    approve(parts, questions[1], "taught")
    version = parts.engine.get_statistics().releases.live
    assert version != FROZEN
    unproven = parts.ask(questions[0])
    assert (unproven.answer, unproven.policy_version) == (before.answer, FROZEN), "nothing speaks for it yet"
    says = make_adapted_trusted(parts, questions[0])
    after = parts.ask(questions[0])
    assert (after.answer, after.expert) == (says, "adapted")
    assert after.policy_version == parts.engine.get_statistics().releases.live
    passed = [parts.engine.get_statistics().releases.live]
    while (version := parts.engine.roll_back(actor="oscar", reason="by_hand")) != FROZEN:
        passed.append(version)
    assert all(later < earlier for earlier, later in pairwise(passed)), "one back each time"
    back = parts.ask(questions[0])
    assert (back.answer, back.policy_version, back.expert) == (before.answer, FROZEN, "frozen")
    log = [action for _, action, _ in actions(tmp_path)]
    assert log.index("review") < log.index("update") < log.index("publish") < log.index("rollback")
    assert verify(tmp_path / "audit.log") == []


def test_what_serves_is_what_served_before_the_restart_and_what_was_taken_back_stays_back(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path, learns=True)
    approve(parts, questions[0], "taught")
    live = parts.engine.get_statistics().releases.live
    parts.engine.close()
    parts = make(tmp_path, learns=True)
    assert parts.engine.get_statistics().releases.live == live
    assert parts.engine.roll_back(actor="oscar", reason="by_hand") == FROZEN
    parts.until(lambda: any(line.startswith("restore") for line in ids(parts)))
    parts.engine.close()
    parts = make(tmp_path, learns=True)
    assert parts.engine.get_statistics().releases.live == FROZEN
    approve(parts, questions[1], "taught-again")
    newer = parts.engine.get_statistics().releases.live
    assert newer not in (FROZEN, live), "the worker went on from what serves"


def ids(parts: Parts) -> list[str]:
    ledger = Ledger(parts.directory / "worker")
    try:
        return [entry.task_id for entry in ledger.entries()]
    finally:
        ledger.close()


def test_a_version_that_audited_items_speak_against_is_taken_back(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path, learns=True, harm_probability=0.2)
    approve(parts, questions[1], "taught")
    for number in range(3):
        parts.ask(questions[0], f"trace-{number}")
    parts.engine.set_learning(False, actor="oscar")
    for number in range(3):  # the frozen policy's answer is right, and the adapted one gave another
        parts.engine.process_human_review_decision(f"trace-{number}", True, reviewer="anna")
    assert parts.engine.get_statistics().releases.live == FROZEN
    assert ("engine", "rollback", "audited_items") in actions(tmp_path)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_decision_whose_update_could_not_be_sent_is_carried_out_after_a_restart(
    make: Maker, tmp_path: Path, questions: list[Prompt], keeps: bool
) -> None:
    parts = make(tmp_path, keep_images=keeps)  # without a worker
    parts.ask(questions[0], "trace")
    assert parts.engine.process_human_review_decision("trace", True, reviewer="anna").effect == "deferred"
    audits = parts.engine.get_statistics().evidence.audits
    parts.engine.close()
    parts = make(tmp_path, keep_images=keeps, learns=True)
    parts.until(lambda: parts.engine.get_statistics().reviews["unsettled"] == 0)
    assert len(parts.given()) == keeps, "without its images there is nothing to learn from"
    assert parts.engine.get_statistics().evidence.audits == audits == 1, "it counts once"
    assert len([entry for entry in actions(tmp_path) if entry[1] == "review"]) == 1


def test_a_reviewer_is_told_that_no_update_is_made_where_the_images_are_gone(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path, learns=True)
    parts.ask(questions[0], "trace")
    assert not parts.engine.review_item("trace").lacks_images
    parts.engine.close()
    parts = make(tmp_path, learns=True)
    item = parts.engine.review_item("trace")
    assert (item.num_images, item.images, item.lacks_images) == (1, (), True)
    assert parts.engine.process_human_review_decision("trace", True, reviewer="anna").effect == "no_images"
    statistics = parts.engine.get_statistics()
    assert statistics.troubles["review_without_update"] == {"images": 1}
    assert statistics.reviews["unsettled"] == 0
    assert statistics.evidence.audits == 1
    assert parts.given() == []


def test_a_dead_worker_delays_no_answer_and_loses_no_update(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path, learns=True, transport={"deaths_max": 100})
    supervisor = parts.supervisor
    assert supervisor is not None
    for number in range(3):
        assert supervisor.wait_for(lambda status: status.pid is not None, 120.0)
        pid = supervisor.status().pid
        assert pid is not None
        parts.ask(questions[number], f"trace-{number}")
        parts.engine.process_human_review_decision(f"trace-{number}", True, reviewer="anna")
        os.kill(pid, signal.SIGKILL)
        assert parts.ask(questions[5]).answer
    parts.until(lambda: parts.engine.get_statistics().reviews["unsettled"] == 0)
    assert sorted(ids(parts)) == ["review-trace-0", "review-trace-1", "review-trace-2"]


def test_learning_that_is_turned_off_stays_off_and_goes_on_where_it_was(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path, learns=True)
    parts.engine.set_learning(False, actor="oscar")
    parts.ask(questions[0], "trace")
    assert parts.engine.process_human_review_decision("trace", True, reviewer="anna").effect == "deferred"
    assert parts.engine.get_statistics().learning.state == "off"
    parts.engine.set_learning(True, actor="oscar")
    parts.until(lambda: parts.engine.get_statistics().reviews["unsettled"] == 0)
    assert len(parts.given()) == 1
    parts.engine.set_learning(False, actor="oscar")
    parts.engine.close()
    assert make(tmp_path, learns=True).engine.get_statistics().learning.state == "off"


def test_what_is_about_a_person_can_be_erased_from_every_file(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    gate = {"confidence_min": 1.0}  # asked, and lets nothing through
    parts = make(tmp_path, learns=True, unsure_below=0.0, review={"audit_share": 0.0}, gate=gate)
    for trace_id, subject in (("his-first", "joe"), ("hers-first", "jane"), ("his-second", "joe")):
        parts.ask(questions[0], trace_id, subject=subject)
    parts.engine.close()
    parts = make(tmp_path, keep_images=True)
    for trace_id, subject in (("hers", "jane"), ("his", "joe"), ("hers-too", "jane")):
        parts.ask(questions[0], trace_id, subject=subject, question=f"{questions[0].question} {trace_id}")
    parts.engine.process_human_review_decision("hers-too", False, reviewer="anna", answer="forty-one of jane")
    assert parts.engine.erase("jane", actor="alice") == 4
    assert parts.engine.erase("jane", actor="alice") == 0
    assert [item.task_id for item in parts.engine.lease_reviews("bert", 9)] == ["his"]
    assert [each.name[33:] for each in (tmp_path / "images").iterdir()] == ["his"]
    parts.engine.close()
    gated = [path.read_text() for path in (tmp_path / "gate").iterdir()]
    assert any("his-second" in content for content in gated)
    assert not any("hers" in content for content in gated)
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != "audit.log":
            content = path.read_bytes()
            assert b"forty-one" not in content, path
            assert f"{questions[0].question} hers".encode() not in content, path
    assert make(tmp_path).buffer.get("his") is not None


def test_what_is_older_than_is_kept_goes(make: Maker, tmp_path: Path, questions: list[Prompt]) -> None:
    now = [1_800_000_000.0]
    parts = make(tmp_path, clock=lambda: now[0])
    parts.ask(questions[0], "old", question="what is on the ancient card?")
    parts.engine.process_human_review_decision("old", True, reviewer="anna")
    now[0] += 60 * 86400
    parts.ask(questions[0], "new")
    now[0] += 31 * 86400
    parts.engine.sweep()
    assert [each.id for each in parts.buffer] == ["new"]
    with pytest.raises(UnknownReview):
        parts.engine.review_item("old")
    statistics = parts.engine.get_statistics()
    assert statistics.evidence.experts["frozen"].audited == 0
    assert statistics.troubles.get("not_swept") is None
    parts.engine.close()
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"ancient card" not in path.read_bytes(), path
