"""The path of a request: what the answer rests on, what is kept of it, and what it survives."""

from __future__ import annotations

import errno
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from share.kernel.adaptation.audit import AuditLog
from share.kernel.adaptation.gate import Gate
from share.kernel.contracts.experience import Status
from share.kernel.contracts.serving import Reply
from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Action
from share.kernel.contracts.voting import AnswerType, Vote, VotingResult
from share.kernel.data.checkers import canonical
from share.kernel.errors import ServiceFull, UnknownTrace
from share.kernel.events import StructuredLogger
from share.kernel.privacy.redaction import RedactionConfig, Redactor
from share.kernel.serving.answering import UNKNOWN, operations_called
from share.kernel.serving.consultation import Consultation
from share.kernel.serving.gate_log import read_gate_log
from share.kernel.serving.recording import Answered, Recorder
from tests.buffer.faults import FaultyDisk
from tests.serving.engines import LEARNS_FROM_ALL, PATIENCE_S, Maker, ask
from tests.serving.test_degradation import Plug


class Stuck:
    """A stranger's voter that never comes back until it is let go, and then fails."""

    def __init__(self) -> None:
        self.is_let_go = threading.Event()

    def vote(self, policy: Vote, others: Sequence[Vote], answer_type: AnswerType, /) -> VotingResult:
        self.is_let_go.wait()
        raise RuntimeError("no idea")


class Parrot:
    """A stranger's voter whose errors repeat what a user wrote."""

    def vote(self, policy: Vote, others: Sequence[Vote], answer_type: AnswerType, /) -> VotingResult:
        raise ValueError(f"could not convert string to float: {SECRET!r}")


SECRET = "jane.roe@example.org"


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def sources(reply: Reply) -> set[str]:
    """Whoever had a say."""
    assert reply.votes is not None
    return {opinion.vote.source for opinion in reply.votes.provenance}


def test_without_audited_evidence_the_answer_is_the_frozen_policys(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path, gate={"cold_start_threshold": 1})
    first = parts.ask(questions[0])
    own = parts.buffer.get(first.trace_id)
    assert own is not None
    for number in range(20):
        parts.buffer.add(replace(own, id=f"other-{number}", answer="41", status=Status.APPROVED))
    second = parts.ask(questions[0])
    assert (second.answer, second.expert, second.path) == (first.answer, "frozen", "policy")
    assert second.votes is not None
    assert second.votes.answer == "41", "the memory was of another mind, and did not count"
    assert set(second.elapsed_ms) == {"queue", "predict", "consult", "total"}


def test_the_memory_answers_where_audited_items_speak_for_it(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path, gate={"cold_start_threshold": 1})
    replies = []
    for number in range(8):
        replies.append(parts.ask(questions[0], f"trace-{number}"))
        parts.engine.process_human_review_decision(f"trace-{number}", False, reviewer="anna", answer="41")
    assert replies[0].expert == "frozen"
    last = parts.ask(questions[0])
    assert (last.answer, last.expert, last.path) == ("41", "memory", "consensus")
    evidence = parts.engine.get_statistics().evidence
    assert evidence.experts["frozen"].accuracy == 0.0
    assert evidence.experts["memory"].weight > evidence.experts["frozen"].weight
    parts.engine.close()
    again = make(tmp_path, gate={"cold_start_threshold": 1})
    for name, expert in again.engine.get_statistics().evidence.experts.items():
        assert expert.weight == pytest.approx(evidence.experts[name].weight), "evidence survives"
        assert expert.audited == 8
    assert again.ask(questions[0]).expert == "memory"


def test_a_client_has_one_vote_and_a_reviewed_answer_its_own(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path, neighbors=32)
    own = parts.buffer.get(parts.ask(questions[0], client="anna").trace_id)
    assert own is not None
    for number in range(5):
        parts.buffer.add(replace(own, id=f"anna-{number}", answer="41", metadata={**own.metadata, "client": "anna"}))
        parts.buffer.add(replace(own, id=f"wrong-{number}", answer="43", status=Status.REJECTED))
    parts.buffer.add(replace(own, id="sure", answer="42", status=Status.APPROVED))
    reply = parts.ask(questions[0])
    assert reply.votes is not None
    counted = {opinion.vote.source: opinion.vote for opinion in reply.votes.provenance if opinion.weight > 0}
    assert set(counted) == {"policy", "client:anna", "review:sure"}
    assert counted["review:sure"].confidence == 1.0
    assert all(opinion.vote.answer != "43" for opinion in reply.votes.provenance)


@pytest.mark.parametrize("fails", [False, True])
def test_a_voter_that_hangs_or_fails_leaves_the_policys_answer(
    make: Maker, tmp_path: Path, questions: list[Prompt], fails: bool
) -> None:
    voter = Stuck()
    if fails:
        voter.is_let_go.set()
    parts = make(tmp_path, voter=voter, consult_ms=20.0)
    first = parts.ask(questions[0])
    second = parts.ask(questions[0])
    assert (second.answer, second.votes) == (first.answer, None)
    assert parts.engine.get_statistics().memory.policy_only == {"failed" if fails else "timeout": 1}
    voter.is_let_go.set()


def test_a_disk_that_cannot_be_read_leaves_the_policys_answer(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    disk = FaultyDisk()
    parts = make(tmp_path)
    first = parts.ask(questions[0])
    parts.engine.close()
    parts = make(tmp_path, disk=disk)
    disk.fails = lambda call, path: OSError(errno.EIO, "read error") if call == "pread" else None
    second = parts.ask(questions[0])
    assert (second.answer, second.votes) == (first.answer, None)
    assert parts.engine.get_statistics().memory.policy_only == {"failed": 1}


def test_what_has_voted_once_is_not_read_again(make: Maker, tmp_path: Path, questions: list[Prompt]) -> None:
    disk = FaultyDisk()
    parts = make(tmp_path)
    parts.ask(questions[0], client="ann")
    parts.engine.close()
    parts = make(tmp_path, disk=disk)
    first = parts.ask(questions[0], client="bob")
    disk.fails = lambda call, path: OSError(errno.EIO, "read error") if call == "pread" else None
    second = parts.ask(questions[0], client="eve")
    assert sources(first) == {"policy", "client:ann"}
    assert sources(second) == {"policy", "client:ann", "client:bob"}


def test_one_client_does_not_crowd_out_the_others(make: Maker, tmp_path: Path, questions: list[Prompt]) -> None:
    parts = make(tmp_path, neighbors=4)
    parts.ask(questions[0], "own", client="eve")
    own = parts.buffer.get("own")
    assert own is not None
    for number in range(8):
        parts.buffer.add(replace(own, id=f"eve-{number}"))  # as near as can be
    away = own.embedding.copy()
    away[0] += 0.1
    away /= np.linalg.norm(away)
    for client in ("ann", "bob", "cyd"):
        parts.buffer.add(replace(own, id=client, embedding=away, metadata={**own.metadata, "client": client}))
    reply = parts.ask(questions[0], client="dan")
    assert sources(reply) == {"policy", "client:ann", "client:bob", "client:cyd", "client:eve"}
    kept = parts.buffer.get(reply.trace_id)
    assert kept is not None
    assert len(cast("list[object]", kept.metadata["voters"])) == 4, "who had no vote is not credited with one"


def test_what_a_person_decides_counts_at_the_next_vote_and_what_is_erased_at_none(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path)
    for name in ("ann", "bob", "cyd"):
        parts.ask(questions[0], name, client=name, subject=name)
    assert sources(parts.ask(questions[0], client="eve", read_only=True)) == {
        "policy",
        "client:ann",
        "client:bob",
        "client:cyd",
    }
    parts.engine.process_human_review_decision("ann", True, reviewer="r")
    parts.engine.process_human_review_decision("bob", False, reviewer="r")
    reply = parts.ask(questions[0], client="eve", read_only=True)
    assert sources(reply) == {"policy", "review:ann", "client:cyd"}
    parts.engine.erase("ann", actor="admin")
    parts.engine.erase("cyd", actor="admin")
    reply = parts.ask(questions[0], client="eve", read_only=True)
    assert reply.votes is None


def test_who_is_similar_is_found_while_the_policy_writes_and_whoever_is_erased_meanwhile_has_no_vote(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path)
    for name in ("ann", "bob"):
        parts.ask(questions[0], name, client=name, subject=name)
    before, plug = parts.buffer.metrics()["searches"], Plug()
    future = parts.engine.submit(ask(questions[0], client="eve"), plug)
    assert plug.is_reached.wait(PATIENCE_S), "it is being answered"
    deadline = time.monotonic() + PATIENCE_S
    while parts.buffer.metrics()["searches"] == before:
        assert time.monotonic() < deadline, "nobody is looked for before the answer is there"
        time.sleep(0.005)
    parts.engine.erase("ann", actor="admin")
    plug.is_let_go.set()
    assert sources(future.result()) == {"policy", "client:bob"}


def test_a_full_disk_costs_the_memory_of_an_answer_and_not_the_answer(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    disk = FaultyDisk()
    parts = make(tmp_path, disk=disk)
    disk.fails = lambda call, path: OSError(errno.ENOSPC, "no space") if call in ("pwrite", "sync") else None
    assert parts.ask(questions[0]).answer
    assert parts.engine.get_statistics().memory.not_recorded == {"BufferFull": 1}
    disk.fails = lambda call, path: None
    parts.ask(questions[0])
    assert parts.engine.get_statistics().memory.recorded == 1


def test_a_request_that_is_read_only_leaves_no_trace(make: Maker, tmp_path: Path, questions: list[Prompt]) -> None:
    parts = make(tmp_path, keep_images=True)
    parts.ask(questions[0])
    before = contents(tmp_path)
    for number in range(3):
        assert parts.ask(questions[0], f"silent-{number}", read_only=True).answer
    assert contents(tmp_path) == before
    assert parts.engine.get_statistics().requests.read_only == 3
    with pytest.raises(UnknownTrace):
        parts.engine.record_feedback("silent-0", False, client="client-1")


def test_nothing_personal_and_no_pixel_reaches_the_disk(make: Maker, tmp_path: Path, questions: list[Prompt]) -> None:
    parts = make(tmp_path)
    secret = "jane.roe@example.org, 4111 1111 1111 1111"
    parts.ask(questions[0], "trace", question=f"{questions[0].question} {secret}", subject="jane.roe@example.org")
    parts.engine.record_feedback("trace", False, client="client-1", answer="ask jane.roe@example.org")
    parts.engine.settle()
    notes = "she is jane.roe@example.org"
    parts.engine.process_human_review_decision(
        "trace", False, notes, reviewer="anna", answer="write to jane.roe@example.org"
    )
    parts.engine.close()
    pixels = questions[0].images[0].tobytes()
    for path, content in contents(tmp_path).items():
        assert b"jane.roe" not in content, path
        assert b"4111 1111" not in content, path
        assert pixels[:64] not in content, path


def test_an_error_that_repeats_what_a_user_wrote_is_logged_without_it(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    logger = StructuredLogger(tmp_path / "events.jsonl", run_id="run-1", backend="test")
    parts = make(tmp_path, voter=Parrot(), logger=logger)
    for _ in range(2):
        parts.ask(questions[0])
    parts.engine.close()
    logger.close()
    assert parts.engine.get_statistics().memory.policy_only == {"failed": 1}
    written = (tmp_path / "events.jsonl").read_text()
    assert "ValueError at " in written
    assert re.search(r"test_engine_answers\.py:\d+ vote", written), "where it was raised"
    assert all(SECRET.encode() not in content for content in contents(tmp_path).values())


def test_an_operation_that_a_policy_made_up_names_nobody(make: Maker, tmp_path: Path, questions: list[Prompt]) -> None:
    parts = make(tmp_path)
    reply = parts.ask(questions[0])
    calls = tuple(Action("operation", "", operation=name) for name in ("ZOOM_IN", "jane.roe@example.org"))
    trajectory = replace(reply.trajectory, actions=calls)
    assert operations_called(trajectory, parts.operator.operations) == ["ZOOM_IN", UNKNOWN]
    answered = Answered(
        request=ask(questions[0]),
        reply=replace(reply, trajectory=trajectory),
        embedding=None,
        consultation=Consultation(None),
        answers={"frozen": reply.answer},
        confidence=0.5,
        entropy=0.0,
        adapted_version="frozen",
        begun=0.0,
        at=0.0,
    )
    kept = Recorder(Redactor(RedactionConfig())).experience(answered, np.ones(1, np.float32), None)
    assert kept.trajectory is not None
    assert [action.operation for action in kept.trajectory.actions] == ["ZOOM_IN", "<EMAIL>"]


def test_images_are_shown_while_they_are_held_and_kept_only_where_wanted(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    for keeps in (False, True):
        directory = tmp_path / str(keeps)
        parts = make(directory, keep_images=keeps)
        parts.ask(questions[0], "trace")
        (item,) = parts.engine.lease_reviews("anna")
        assert (item.images[0] == questions[0].images[0]).all()
        parts.engine.close()
        parts = make(directory, keep_images=keeps)
        assert len(parts.engine.review_item("trace").images) == keeps
        assert bool(list(directory.rglob("*.png"))) == keeps
        parts.engine.close()


def test_trust_in_the_memory_grows_with_it_and_survives(make: Maker, tmp_path: Path, questions: list[Prompt]) -> None:
    parts = make(tmp_path, gate={"cold_start_threshold": 2})
    trusts = [parts.engine.get_statistics().memory.trust]
    for number in range(2):
        parts.ask(questions[number])
        trusts.append(parts.engine.get_statistics().memory.trust)
    assert trusts == [0.0, 1 / 3, 1 / 2]
    parts.engine.close()
    parts = make(tmp_path, gate={"cold_start_threshold": 2})
    assert parts.engine.get_statistics().memory.trust == 1 / 2


def test_feedback_is_no_evidence_but_a_reason_to_look(make: Maker, tmp_path: Path, questions: list[Prompt]) -> None:
    parts = make(tmp_path, review={"audit_share": 0.0}, unsure_below=0.0)
    parts.ask(questions[0], "trace")
    assert parts.engine.lease_reviews("anna", 9) == []
    with pytest.raises(UnknownTrace):
        parts.engine.record_feedback("trace", False, client="somebody-else")
    parts.engine.record_feedback("trace", True, client="client-1")
    parts.engine.record_feedback("trace", False, client="client-1", answer="41")
    parts.engine.settle()
    (item,) = parts.engine.lease_reviews("anna", 9)
    assert (item.cause, item.suggested, len(item.images)) == ("unsure", "41", 1)
    parts.engine.process_human_review_decision("trace", True, reviewer="anna")
    statistics = parts.engine.get_statistics()
    assert statistics.evidence.audits == 0, "what a client picked is not like the stream"
    assert statistics.feedback == {"right": 1, "wrong": 1}


def test_an_answer_that_is_unsure_is_put_before_a_person(make: Maker, tmp_path: Path, questions: list[Prompt]) -> None:
    parts = make(tmp_path, review={"audit_share": 0.0}, unsure_below=1.0)
    parts.ask(questions[0], "trace")
    assert [(item.task_id, item.cause) for item in parts.engine.lease_reviews("anna", 9)] == [("trace", "unsure")]


def test_every_decision_of_the_gate_can_be_made_again_from_its_log(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(
        tmp_path,
        learns=True,
        **LEARNS_FROM_ALL,
    )
    for number in range(4):
        parts.ask(questions[0], f"trace-{number}")
    (log,) = (tmp_path / "gate").iterdir()
    config, decisions = read_gate_log(log)
    assert [decision.request.request_id for decision in decisions] == ["trace-1", "trace-2", "trace-3"]
    Gate.replay(config, decisions)
    accepted = [each.request.request_id for each in decisions if each.accepted]
    assert accepted
    parts.until(lambda: len(parts.given()) == len(accepted))
    assert parts.given()[0].startswith(f"gated-{accepted[0]} gated ")


def test_more_than_may_wait_is_turned_away_and_the_rest_is_answered(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(tmp_path, batching={"rows_max": 1, "queue_max": 2})
    futures = [parts.engine.submit(ask(questions[number % 10])) for number in range(12)]
    outcomes = [future.exception() for future in futures]
    assert any(isinstance(outcome, ServiceFull) for outcome in outcomes)
    assert sum(outcome is None for outcome in outcomes) >= 2
    assert all(outcome is None or isinstance(outcome, ServiceFull) for outcome in outcomes)


def test_without_an_audit_log_requests_are_answered_and_nothing_is_learned(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    elsewhere = AuditLog(tmp_path / "audit.log")
    parts = make(tmp_path, learns=True)
    reply = parts.ask(questions[0], "trace")
    assert reply.answer
    assert parts.engine.process_human_review_decision("trace", True, reviewer="anna").effect == "deferred"
    assert parts.engine.get_statistics().learning.state == "no_audit_log"
    assert parts.given() == []
    elsewhere.close()
    parts.engine.close()
    parts = make(tmp_path, learns=True)
    assert parts.engine.process_human_review_decision("trace", True, reviewer="anna").repeated
    assert canonical(reply.answer, "number") == canonical(parts.engine.review_item("trace").answer, "number")
