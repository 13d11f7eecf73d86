"""What a person decides, and whose word counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from share.kernel.contracts.experience import Status
from share.kernel.contracts.task import Prompt
from share.kernel.errors import ReviewConflict
from share.kernel.serving.recording import opinions_of
from tests.serving.engines import Maker, Parts


class Clock:
    """Seconds since 1970 that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def is_settled(parts: Parts) -> bool:
    return parts.engine.get_statistics().reviews["unsettled"] == 0


def test_the_correction_of_a_reviewer_who_is_refused_is_nobodys_truth(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path, learns=True)
    for number, trace_id in enumerate(("corrected", "plain")):
        parts.ask(questions[number], trace_id)
    given = parts.buffer.get("plain")
    assert given is not None
    assert {item.task_id for item in parts.engine.lease_reviews("anna", 5)} == {"corrected", "plain"}
    for trace_id in ("corrected", "plain"):
        with pytest.raises(ReviewConflict, match="anna holds it"):
            parts.engine.process_human_review_decision(trace_id, False, reviewer="bert", answer="666")
        assert parts.buffer.get(f"{trace_id}.c") is None
    parts.engine.process_human_review_decision("corrected", False, reviewer="anna", answer="41")
    parts.engine.process_human_review_decision("plain", False, reviewer="anna")
    with pytest.raises(ReviewConflict, match="anna has rejected it"):
        parts.engine.process_human_review_decision("plain", True, reviewer="bert")
    assert parts.engine.process_human_review_decision("plain", False, reviewer="bert", answer="666").repeated
    parts.until(lambda: is_settled(parts))
    assert sorted(parts.given()) == ["review-corrected corrected 41", f"review-plain rejected {given.answer}"]
    right = parts.buffer.get("corrected.c")
    assert right is not None
    assert (right.answer, right.status) == ("41", Status.APPROVED)
    assert parts.buffer.get("plain.c") is None
    assert b"666" not in (tmp_path / "reviews.sqlite").read_bytes()


def test_after_a_lease_has_ended_the_next_reviewers_correction_counts(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    clock = Clock()
    parts = make(tmp_path, learns=True, clock=clock)
    parts.ask(questions[0], "late")
    parts.engine.lease_reviews("anna", 1)
    clock.now += parts.engine.lease_reviews("anna", 1)[0].leased_until - clock.now
    parts.engine.process_human_review_decision("late", False, reviewer="bert", answer="41")
    outcome = parts.engine.process_human_review_decision("late", False, reviewer="anna", answer="43")
    assert (outcome.repeated, outcome.reviewer) == (True, "bert")
    parts.until(lambda: is_settled(parts))
    assert parts.given() == ["review-late corrected 41"]


def test_a_correction_is_carried_out_as_it_was_decided_though_the_engine_ended_between(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path, keep_images=True)  # without a worker
    parts.ask(questions[0], "trace")
    experience = parts.buffer.get("trace")
    assert experience is not None
    parts.buffer.add(replace(experience, id="trace.c", answer="666", status=Status.QUARANTINED))  # of whoever
    assert parts.engine.process_human_review_decision("trace", False, reviewer="anna", answer="41").effect == "deferred"
    parts.engine.close()
    parts = make(tmp_path, keep_images=True, learns=True)
    parts.until(lambda: is_settled(parts))
    assert parts.given() == ["review-trace corrected 41"]
    right = parts.buffer.get("trace.c")
    assert right is not None
    assert (right.answer, right.status) == ("41", Status.APPROVED)


def test_items_whose_experience_is_gone_keep_nobody_from_those_behind_them(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path)
    for number in range(7):
        parts.ask(questions[number], f"trace-{number}")
    parts.engine.process_human_review_decision("trace-0", True, reviewer="anna")
    parts.buffer.remove([f"trace-{number}" for number in range(5)])  # as eviction does
    assert [item.task_id for item in parts.engine.lease_reviews("anna", 2)] == ["trace-5", "trace-6"]
    counts = parts.engine.get_statistics().reviews
    assert (counts["audit"], counts["approved"]) == (2, 1), "what was decided is still to be carried out"
    assert parts.engine.lease_reviews("bert", 2) == []


def test_a_reviewer_is_told_how_old_the_votes_were_and_what_they_were_worth(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    clock = Clock()
    parts = make(tmp_path, clock=clock)
    parts.ask(questions[0], "voter")
    parts.engine.process_human_review_decision("voter", True, reviewer="anna")
    parts.buffer.record_retrieval(["voter"], True)
    clock.now += 3600
    reply = parts.ask(questions[0], "asked")
    assert reply.votes is not None
    item = parts.engine.review_item("asked")
    assert item.votes == reply.votes.provenance, "as they were cast"
    vote = item.votes[1].vote
    assert (vote.age_s, vote.retrieval_count, vote.success_count) == (3600.0, 1, 1)
    experience = parts.buffer.get("asked")
    assert experience is not None
    told = [each[:6] for each in experience.metadata["votes"]]  # type: ignore[union-attr, index]
    older = replace(experience, metadata={**experience.metadata, "votes": told})
    assert [opinion.vote.age_s for opinion in opinions_of(older)] == [0.0, 0.0], "it was not recorded then"
