"""The parts that the engine is made of, each alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from share.kernel.adaptation.audit import AuditLog
from share.kernel.adaptation.gate import Gate, GateConfig, GateRequest
from share.kernel.config import Choice
from share.kernel.contracts.experience import Status
from share.kernel.contracts.kinds import Voter
from share.kernel.contracts.voting import Vote
from share.kernel.errors import AuditUnavailable, ConfigError, EngineClosed
from share.kernel.events import StructuredLogger
from share.kernel.experience.buffer import ExperienceBuffer, open_buffer
from share.kernel.experience.config import ExperienceBufferConfig
from share.kernel.registry import Registry
from share.kernel.serving.audit_trail import AuditTrail
from share.kernel.serving.ballots import Ballots
from share.kernel.serving.behind import Behind
from share.kernel.serving.consultation import THREADS, WAITING_MAX, Consultant, Consultation, Retrieval
from share.kernel.serving.engine_config import EngineConfig
from share.kernel.serving.evidence import LATEST, NEWEST, Audit, Evidence
from share.kernel.serving.gate_log import LoggedGate, read_gate_log
from share.kernel.serving.pictures import Pictures
from share.kernel.serving.troubles import Troubles
from tests.experience.making import DIMENSION, experience

Consults = Callable[..., Consultant]
POLICY_VOTE = Vote("policy", "a", 0.5)
LOGGER = StructuredLogger(None, run_id="", backend="test")
FROZEN_RIGHT = Audit("frozen", 0.9, 0.9, True, False, False, True, "v000001-00000000", 0.0)
ADAPTED_RIGHT = Audit("frozen", 0.9, 0.9, False, True, False, True, "v000001-00000000", 0.0)


def evidence(path: Path, **settings: object) -> Evidence:
    return Evidence(path / "evidence.json", EngineConfig.model_validate(settings), LOGGER, clock=lambda: 1.0)


def test_without_evidence_the_frozen_policy_answers_whatever_the_memory_says(tmp_path: Path) -> None:
    held = evidence(tmp_path)
    assert held.policy == "frozen"
    assert not held.overrules("frozen", 1.0, are_one=True)
    assert held.calibrated("frozen", 0.3) == pytest.approx(0.3)


def test_a_review_counts_once_across_restarts_until_it_is_settled(tmp_path: Path) -> None:
    held = evidence(tmp_path)
    held.record("review", ADAPTED_RIGHT)
    weights = held.weights
    again = evidence(tmp_path)
    assert again.has("review")
    assert again.weights == pytest.approx(weights)
    again.settled("review")
    assert not again.has("review")


def test_evidence_that_could_not_be_stored_does_not_count(tmp_path: Path) -> None:
    held = evidence(tmp_path / "gone")
    before = held.weights
    with pytest.raises(OSError, match="No such file"):
        held.record("review", ADAPTED_RIGHT)
    assert held.weights == before
    assert not held.has("review")


def test_evidence_that_is_damaged_is_none(tmp_path: Path) -> None:
    (tmp_path / "evidence.json").write_text("{")
    assert evidence(tmp_path).policy == "frozen"


def test_what_is_not_known_never_speaks_against_the_frozen_policy(tmp_path: Path) -> None:
    held = evidence(tmp_path)
    prior = held.weights
    for number in range(5):
        held.record(str(number), replace(ADAPTED_RIGHT, given="adapted", frozen=None, adapted=False))
    assert held.weights["frozen"] > prior["frozen"]
    assert held.weights["adapted"] < prior["adapted"]
    incomplete = evidence(tmp_path / "other") if (tmp_path / "other").mkdir() is None else held
    incomplete.record("one", replace(ADAPTED_RIGHT, adapted=None, is_whole=False))
    assert incomplete.weights == pytest.approx(prior), "who was not asked is not judged"


def test_the_adapted_policy_answers_where_it_was_clearly_better_and_not_worse_lately(tmp_path: Path) -> None:
    held = evidence(tmp_path)
    for number in range(4):
        held.record(f"won-{number}", ADAPTED_RIGHT)
    assert held.policy == "frozen", "by chance one in 16"
    held.record("won-4", ADAPTED_RIGHT)
    assert held.policy == "adapted", "by chance one in 32"
    assert evidence(tmp_path).policy == "adapted"
    for number in range(5, 40):
        held.record(f"won-{number}", ADAPTED_RIGHT)
    for number in range(LATEST // 2):
        held.record(f"lost-{number}", FROZEN_RIGHT)
    assert held.policy == "adapted"
    held.record("lost-more", FROZEN_RIGHT)
    assert held.policy == "frozen", "however much it was better before"


def test_the_memory_is_heard_only_where_it_was_clearly_better_than_the_policy_that_answers(tmp_path: Path) -> None:
    held = evidence(tmp_path)
    memory_right = replace(FROZEN_RIGHT, frozen=False, adapted=True, memory=True)
    for number in range(5):
        assert not held.overrules("frozen", 1.0, are_one=False)
        held.record(str(number), memory_right)
    assert held.overrules("frozen", 1.0, are_one=False)
    assert not held.overrules("adapted", 1.0, are_one=False), "the two were right on the same items"
    assert not held.overrules("frozen", 0.0, are_one=False), "of a memory that is empty"
    for number in range(5):
        held.record(f"unsure-{number}", replace(FROZEN_RIGHT, memory=False))
    assert not held.overrules("frozen", 1.0, are_one=False)


def test_harm_is_found_however_often_the_version_changes(tmp_path: Path) -> None:
    held = evidence(tmp_path)
    for number in range(4):
        held.record(f"lost-{number}", replace(FROZEN_RIGHT, version=f"v{number:06d}-00000000"))
    assert not held.is_harmful(), "by chance one in 16"
    held.record("lost-4", replace(FROZEN_RIGHT, version="v000004-00000000"))
    assert held.is_harmful(), "by chance one in 32"
    held.record("won", ADAPTED_RIGHT)
    assert not held.is_harmful()


def test_harm_is_found_among_the_newest_items_however_many_were_won_before(tmp_path: Path) -> None:
    held = evidence(tmp_path)
    for number in range(NEWEST):
        held.record(f"won-{number}", ADAPTED_RIGHT)
    for number in range(NEWEST):
        held.record(f"lost-{number}", FROZEN_RIGHT)
    assert held.is_harmful()


def test_what_was_before_a_version_was_taken_back_speaks_for_none_and_against_none(tmp_path: Path) -> None:
    held = evidence(tmp_path, evidence_window=10)
    for number in range(10):
        held.record(f"lost-{number}", FROZEN_RIGHT)
    held.distrust(FROZEN_RIGHT.version)
    for opened in (held, evidence(tmp_path, evidence_window=10)):
        assert not opened.is_harmful()
    held.record("late", FROZEN_RIGHT)
    for number in range(4):
        held.record(f"next-{number}", replace(FROZEN_RIGHT, version="v000002-00000000"))
    assert not held.is_harmful(), "a review of the version that is gone came late"
    held.record("next-4", replace(FROZEN_RIGHT, version="v000002-00000000"))
    assert held.is_harmful()
    assert evidence(tmp_path, evidence_window=10).is_harmful()


def test_a_policy_that_was_taken_back_has_to_prove_itself_again(tmp_path: Path) -> None:
    held = evidence(tmp_path)
    for number in range(5):
        held.record(str(number), ADAPTED_RIGHT)
    assert held.policy == "adapted"
    held.distrust(ADAPTED_RIGHT.version)
    assert held.policy == "frozen"
    assert sum(held.weights.values()) == pytest.approx(1.0)
    assert evidence(tmp_path).policy == "frozen"


def test_confidence_is_calibrated_on_audited_items(tmp_path: Path) -> None:
    held = evidence(tmp_path)
    for number in range(60):
        held.record(str(number), replace(FROZEN_RIGHT, frozen=number % 2 == 0, confidence=0.95, stated=0.95))
    assert 0.5 <= held.calibrated("frozen", 0.95) < 0.75
    assert held.calibrated("memory", 0.95) == pytest.approx(0.95), "of the vote nothing was heard"
    told = held.statistics()
    assert told.calibration_error_raw == pytest.approx(0.45)
    assert evidence(tmp_path).calibrated("frozen", 0.95) == held.calibrated("frozen", 0.95), "of the window alone"


@pytest.fixture
def buffer(tmp_path: Path, registry: Registry) -> Iterator[ExperienceBuffer]:
    with open_buffer(tmp_path / "buffer", ExperienceBufferConfig(dimension=DIMENSION), registry) as opened:
        yield opened


@pytest.fixture
def consult(buffer: ExperienceBuffer, registry: Registry) -> Iterator[Consults]:
    """Makes consultants that ask one neighbor, of a buffer that remembers the answer of one client."""
    made: list[Consultant] = []

    def make(**settings: Any) -> Consultant:
        voter: Voter = registry.build(Choice("voter", "majority"))
        settings = {"voter": voter, "neighbors": 1, "similarity_min": -1.0, "limit_s": 60.0, **settings}
        made.append(Consultant(buffer, settings.pop("ballots", Ballots(buffer)), **settings))
        return made[-1]

    buffer.add(experience(0, metadata={"answer_type": "text", "client": "c"}))
    yield make
    for each in made:
        each.close()


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def begun(consultant: Consultant, trace_id: str = "trace") -> Retrieval:
    embedding = experience(0).embedding
    return consultant.retrieve(trace_id, np.zeros_like(embedding), embedding, "text")


class HangingClock:
    """Tells no time until it is let go."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.is_let_go = threading.Event()

    def __call__(self) -> float:
        self.num_asked += 1
        self.is_let_go.wait()
        return 0.0


def test_a_search_that_hangs_costs_the_limit_and_what_comes_behind_it_is_refused(consult: Consults) -> None:
    clock = HangingClock()
    consultant = consult(limit_s=0.05, clock=clock)
    told: list[Consultation] = []
    asked = WAITING_MAX + 10
    for _ in range(asked):
        consultant.consult(begun(consultant), POLICY_VOTE, told.append)
    until(lambda: len(told) >= asked)
    reasons = [each.problem for each in told]
    assert set(reasons) == {"timeout", "busy"}
    assert len(reasons) == asked, "each is told once"
    clock.is_let_go.set()

    def is_answered() -> bool:  # not before those that wait have been passed over
        told.clear()
        consultant.consult(begun(consultant), POLICY_VOTE, told.append)
        until(lambda: bool(told))
        return told[0].votes is not None

    until(is_answered)


def test_a_search_that_was_begun_before_leaves_only_the_vote(buffer: ExperienceBuffer, consult: Consults) -> None:
    consultant = consult()
    retrieval = begun(consultant)
    until(lambda: bool(retrieval.near))
    buffer.add(experience(1, embedding=experience(0).embedding, metadata={"answer_type": "text", "client": "d"}))
    told: list[Consultation] = []
    consultant.consult(retrieval, POLICY_VOTE, told.append)
    until(lambda: bool(told))
    assert told[0].voters == (experience(0).id,), "who came later was not there when it was asked"


@pytest.mark.parametrize("is_erased", [False, True])
def test_whoever_is_erased_or_rejected_between_search_and_vote_has_none(
    buffer: ExperienceBuffer, consult: Consults, is_erased: bool
) -> None:
    ballots = Ballots(buffer)
    consultant = consult(ballots=ballots)
    retrieval = begun(consultant)
    until(lambda: bool(retrieval.near) and len(ballots) == 1)
    if is_erased:
        buffer.remove([experience(0).id])
        ballots.forget_all()
    else:
        buffer.update_status([experience(0).id], Status.REJECTED)
        ballots.forget([experience(0).id])
    told: list[Consultation] = []
    consultant.consult(retrieval, POLICY_VOTE, told.append)
    until(lambda: bool(told))
    assert (told[0].votes, told[0].problem) == (None, None)


def test_a_search_that_nobody_asks_for_any_more_is_not_begun(consult: Consults) -> None:
    clock = HangingClock()
    consultant = consult(clock=clock)
    hanging = [begun(consultant) for _ in range(THREADS)]
    until(lambda: clock.num_asked == THREADS)
    dropped, asked = begun(consultant), begun(consultant)
    dropped.drop()
    told: list[Consultation] = []
    consultant.consult(asked, POLICY_VOTE, told.append)
    clock.is_let_go.set()
    until(lambda: bool(told))
    assert told[0].votes is not None
    assert dropped.embedding is None
    assert all(each.embedding is not None for each in hanging)


def test_what_has_no_direction_is_not_searched_for(consult: Consults) -> None:
    consultant = consult()
    embedding = experience(0).embedding
    retrieval = consultant.retrieve("trace", embedding, np.zeros_like(embedding), "text")
    told: list[Consultation] = []
    consultant.consult(retrieval, POLICY_VOTE, told.append)
    until(lambda: bool(told))
    assert (told[0].votes, told[0].problem) == (None, "embedding")
    assert "text has length 0" in told[0].detail


def test_pictures_are_bounded_and_a_flood_of_answers_leaves_those_that_wait(tmp_path: Path) -> None:
    image = np.zeros((10, 10, 3), np.uint8)
    pictures = Pictures(None, bytes_max=8 * image.nbytes)
    pictures.hold("waits", (image,), None)
    pictures.keep("waits")
    for number in range(20):
        pictures.hold(f"answered-{number}", (image,), None)
    assert len(pictures.of("waits")) == 1
    assert [number for number in range(20) if pictures.of(f"answered-{number}")] == [18, 19]
    pictures.release("waits")
    assert pictures.of("waits") == ()


def test_a_gate_goes_on_after_a_restart_and_begins_anew_with_the_day_or_other_settings(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    config = GateConfig(entropy_max=9.0, client_share_max=0.02, label_share_max=1.0, redundancy_max=1.0)

    def opened(config: GateConfig = config) -> LoggedGate:
        return LoggedGate(tmp_path, config, LOGGER, clock=lambda: now[0])

    def decide(gate: LoggedGate, name: str) -> str:
        request = GateRequest(name, "client", name, 0.9, 0.1, 100)
        return gate.decide(request, np.eye(4, dtype=np.float32)[0]).reason

    gate = opened()
    assert [decide(gate, "a"), decide(gate, "b"), decide(gate, "c")] == ["accepted", "accepted", "client_cap"]
    gate.close()
    assert decide(opened(), "d") == "client_cap", "it knows what was before"
    assert decide(opened(config.model_copy(update={"window": 50})), "e") == "accepted"
    now[0] += 86400.0
    assert decide(opened(), "f") == "accepted"
    assert len(list(tmp_path.iterdir())) == 3
    for path in tmp_path.iterdir():
        Gate.replay(*read_gate_log(path))
    now[0] += 91 * 86400.0
    opened().expire(90.0)
    assert list(tmp_path.iterdir()) == []


def test_what_fails_behind_the_answers_takes_nothing_with_it_and_its_message_nowhere(tmp_path: Path) -> None:
    logger = StructuredLogger(tmp_path / "events.jsonl", run_id="", backend="")
    troubles = Troubles(logger)
    behind = Behind(2, troubles)
    is_let_go, done = threading.Event(), []

    def broken() -> None:
        is_let_go.wait()
        raise RuntimeError("not to be stored: jane.roe@example.org")

    assert behind.offer(broken)
    assert behind.offer(lambda: done.append("second"))
    assert not behind.offer(lambda: done.append("third")), "as many wait as may"
    is_let_go.set()
    assert behind.ask(lambda: done) == ["second"]
    assert troubles.counts("behind_failed") == {"RuntimeError": 1}
    behind.close()
    with pytest.raises(EngineClosed):
        behind.ask(lambda: None)
    logger.close()
    written = (tmp_path / "events.jsonl").read_text()
    assert "RuntimeError at behind.py" in written
    assert "jane.roe" not in written


def test_troubles_are_counted_always_and_logged_once_a_minute(tmp_path: Path) -> None:
    now = [0.0]
    troubles = Troubles(StructuredLogger(tmp_path / "events", run_id="", backend=""), now=lambda: now[0])
    for _ in range(100):
        troubles.note("disk", "full", "no space")
    now[0] = 61.0
    troubles.note("disk", "full", "no space")
    troubles.note("disk", "full", "no space", quiet=True)
    assert troubles.counts("disk") == {"full": 102}
    assert len((tmp_path / "events").read_text().splitlines()) == 2


def test_an_audit_log_is_opened_again_when_it_is_free(tmp_path: Path) -> None:
    other = AuditLog(tmp_path / "audit.log")
    trail = AuditTrail(tmp_path / "audit.log", Troubles(LOGGER), again_s=0.0)
    with pytest.raises(AuditUnavailable):
        trail.append("engine", "start")
    other.close()
    trail.append("engine", "start")
    assert trail.is_available
    with pytest.raises(ConfigError, match="reason: must be an identifier"):
        trail.append("engine", "stop", reason="because I wanted to")
    trail.close()


def test_an_engine_that_would_keep_reviews_longer_than_all_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"review\.kept_days: must not exceed retention_days"):
        EngineConfig.model_validate({"retention_days": 30.0})
    with pytest.raises(ValueError, match="frozen: must exceed the others"):
        EngineConfig.model_validate({"prior": {"frozen": 0.1, "adapted": 0.5}})
