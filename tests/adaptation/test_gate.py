"""The gate: what it lets through, what it caps, and that a log of its decisions can be checked and gone on from."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from share.kernel.adaptation.gate import Gate, GateConfig, GateDecision, GateRequest, entropy_of, label_key
from share.kernel.config import validate
from share.kernel.errors import ConfigError, GateMismatch
from share.kernel.registry import Registry

GOOD = GateRequest("r1", "client-1", "cat", confidence=0.9, entropy=0.1, buffer_size=100)
AXES = np.eye(64, dtype=np.float32)
LENIENT = GateConfig(label_share_max=1.0, client_share_max=1.0)

REQUESTS = st.builds(
    GateRequest,
    st.uuids().map(str),
    st.sampled_from(["client-1", "client-2", "client-3"]),
    st.sampled_from(["cat", "dog", "bird"]),
    st.floats(0.5, 1.0),
    st.floats(0.0, 1.0),
    st.integers(0, 1000),
    st.sampled_from([None, 1, 2, 10]),
)


def stream(gate: Gate, requests: list[GateRequest]) -> list[GateDecision]:
    """Each request with an embedding of its own direction, so that none is redundant."""
    return [gate.decide(request, AXES[index % len(AXES)]) for index, request in enumerate(requests)]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (GOOD, "accepted"),
        (replace(GOOD, confidence=0.69), "unsure"),
        (replace(GOOD, confidence=math.nan), "unsure"),
        (replace(GOOD, confidence=1.5), "unsure"),
        (replace(GOOD, entropy=0.5), "blurred"),
        (replace(GOOD, entropy=math.nan), "blurred"),
        (replace(GOOD, entropy=0.9, num_answers=10), "accepted"),
        (replace(GOOD, entropy=0.93, num_answers=10), "blurred"),
        (replace(GOOD, entropy=0.3, num_answers=2), "blurred"),
        (replace(GOOD, entropy=0.0, num_answers=1), "accepted"),
    ],
)
def test_an_answer_is_learned_from_when_it_is_sure_and_sharp(request_: GateRequest, reason: str) -> None:
    assert Gate(GateConfig()).decide(request_, AXES[0]).reason == reason


def test_what_was_learned_lately_is_not_learned_again() -> None:
    gate = Gate(LENIENT)
    assert gate.decide(GOOD, AXES[0]).redundancy is None
    near = (AXES[0] + 0.2 * AXES[1]) * 7  # the length of an embedding says nothing
    again = gate.decide(GOOD, near)
    assert again.reason == "redundant"
    assert again.redundancy == pytest.approx(1 / math.sqrt(1.04))
    assert gate.decide(GOOD, AXES[2]).accepted
    assert gate.decide(GOOD, np.zeros(64, np.float32)).redundancy == 0.0
    assert Gate(replace_config(redundancy_max=1.0)).decide(GOOD, AXES[0]).accepted


def replace_config(**values: float) -> GateConfig:
    return GateConfig.model_validate(values)


@settings(max_examples=25, deadline=None)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=120))
def test_no_window_learns_more_from_a_label_or_a_client_than_their_caps(requests: list[GateRequest]) -> None:
    config = GateConfig(window=20, label_share_max=0.3, client_share_max=0.2, redundancy_max=1.0, confidence_min=0.5)
    decisions = stream(Gate(config), requests)
    for start in range(len(decisions)):
        learned = [each.request for each in decisions[start : start + 20] if each.accepted]
        for label in ("cat", "dog", "bird"):
            assert sum(each.label == label for each in learned) <= 6
        for client in ("client-1", "client-2", "client-3"):
            assert sum(each.client == client for each in learned) <= 4


def test_a_session_of_one_label_reaches_the_cap_and_goes_on_when_the_window_has_passed() -> None:
    gate = Gate(replace_config(window=20, client_share_max=1.0))
    decisions = stream(gate, [GOOD] * 40)
    assert [each.reason for each in decisions] == (["accepted"] * 6 + ["label_cap"] * 14) * 2
    assert decisions[6].label_count == 6


def test_one_client_cannot_take_the_others_share() -> None:
    gate = Gate(replace_config(window=20, label_share_max=1.0))
    poisoner = [replace(GOOD, client="poisoner")] * 18
    reasons = [each.reason for each in stream(gate, [*poisoner, GOOD])]
    assert reasons == ["accepted"] * 2 + ["client_cap"] * 16 + ["accepted"]


@given(request=REQUESTS, threshold=st.integers(1, 10_000))
def test_the_learning_rate_is_within_its_bounds_and_trust_grows_with_the_buffer(
    request: GateRequest, threshold: int
) -> None:
    config = GateConfig(cold_start_threshold=threshold)
    decision = Gate(config).decide(request, AXES[0])
    assert 0.0 <= decision.trust < 1.0
    assert decision.trust == request.buffer_size / (request.buffer_size + threshold), "of the buffer, not of this run"
    if decision.accepted:
        assert config.lr_min <= decision.learning_rate <= config.lr_max
        fuller = Gate(config).decide(replace(request, buffer_size=request.buffer_size + 50), AXES[0])
        assert fuller.trust > decision.trust
        assert fuller.learning_rate >= decision.learning_rate
    else:
        assert decision.learning_rate == 0.0


def test_the_learning_rate_is_that_of_the_formula() -> None:
    config = GateConfig(lr_max=1e-3, lr_min=1e-6)
    assert Gate(config).decide(GOOD, AXES[0]).learning_rate == pytest.approx(1e-3 * 0.1 * 0.5)
    assert Gate(config).decide(replace(GOOD, confidence=1.0), AXES[0]).learning_rate == 1e-6
    assert Gate(config).decide(replace(GOOD, buffer_size=0), AXES[0]).learning_rate == 1e-6


@settings(max_examples=25, deadline=None)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=60), data=st.data())
def test_a_log_of_decisions_gives_the_gate_that_made_them(requests: list[GateRequest], data: st.DataObject) -> None:
    config = GateConfig(window=10, redundancy_max=1.0, confidence_min=0.5)
    gate = Gate(config)
    decisions = stream(gate, requests)
    lines = [json.dumps(asdict(decision)) for decision in decisions]
    read = [from_line(line) for line in lines]
    assert read == decisions, "a decision survives its line in a log"
    replayed = Gate.replay(config, read)
    following = data.draw(REQUESTS)
    expected, got = gate.decide(following, AXES[0]), replayed.decide(following, AXES[0])
    assert replace(got, redundancy=expected.redundancy) == expected


def from_line(line: str) -> GateDecision:
    told = json.loads(line)
    return GateDecision(**{**told, "request": GateRequest(**told["request"])})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"reason": "unsure"}, "learning_rate"),
        ({"learning_rate": 0.5}, "learning_rate"),
        ({"trust": 0.9}, "trust"),
        ({"label_count": 3}, "label_count"),
        ({"client_count": 0}, "client_count"),
        ({"redundancy": 0.99}, "learning_rate"),
    ],
)
def test_a_decision_that_does_not_follow_is_named(change: dict[str, float | str], field: str) -> None:
    decisions = stream(Gate(LENIENT), [replace(GOOD, request_id=f"r{index}") for index in range(6)])
    decisions[4] = replace(decisions[4], **change)  # type: ignore[arg-type]
    with pytest.raises(GateMismatch, match=f"^gate decision on r4: {field}|^gate decision on r4: reason"):
        Gate.replay(LENIENT, decisions)
    with pytest.raises(GateMismatch, match="gate decision on r3"):
        Gate.replay(LENIENT, [*decisions[:2], *decisions[3:]])


def test_the_entropy_is_that_of_the_shares() -> None:
    assert entropy_of({"cat": 1.0}) == 0.0
    assert entropy_of({"cat": 0.5, "dog": 0.5}) == pytest.approx(math.log(2))
    assert entropy_of({"cat": 1.0, "dog": 0.0}) == 0.0


def test_a_label_is_a_key_of_what_the_answer_means() -> None:
    secret = b"of a service"
    assert (
        label_key("Three", "number", secret) == label_key("3.0", "number", secret) != label_key("4", "number", secret)
    )
    assert "cat" not in label_key("cat", "text", secret)
    assert label_key("cat", "text", secret) != label_key("cat", "text", b"of another")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"confidence_min": 1.1}, "confidence_min"),
        ({"entropy_fraction_max": 0.0}, "entropy_fraction_max"),
        ({"window": 0}, "window"),
        ({"lr_min": 1.0}, "lr_min"),
        ({"client_share_max": 0.0}, "client_share_max"),
        ({"confidence": 0.7}, "did you mean 'confidence_min'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(values: dict[str, float], field: str, registry: Registry) -> None:
    with pytest.raises(ConfigError, match=field):
        validate(GateConfig, values, registry)
