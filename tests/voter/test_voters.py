"""What distinguishes the voters; tests/contract has what they share."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from share.kernel.config import Choice
from share.kernel.contracts.kinds import Voter
from share.kernel.contracts.voting import AnswerType, Vote
from share.kernel.registry import Registry
from share.kernel.testing import build
from share.kernel.voter.weighted import WeightedConfig, WeightedVoter

NAMES = ("confidence", "ensemble", "majority", "weighted")
PROBABILITY = st.floats(0.0, 1.0)
POLICY = Vote("policy", "cat", 0.6)

VOTES = st.builds(
    lambda source, answer, confidence, similarity, age_s, counts: Vote(
        source, answer, confidence, similarity, age_s, max(counts), min(counts)
    ),
    st.sampled_from(["a", "b", "c", "d", "policy"]),
    st.sampled_from(["cat", "Cat.", "dog", "3", "three", "B", "(b)", "", " ?"]),
    PROBABILITY,
    st.floats(-1.0, 1.0),
    st.floats(0.0, 1e8),
    st.tuples(st.integers(0, 50), st.integers(0, 50)),
)
TYPES: st.SearchStrategy[AnswerType] = st.sampled_from(["text", "number", "choice"])


@pytest.fixture(scope="session")
def voters(registry: Registry) -> list[Voter]:
    return [build(registry, "voter", name) for name in NAMES]


@pytest.fixture(params=NAMES)
def voter(request: pytest.FixtureRequest, registry: Registry) -> Voter:
    built: Voter = build(registry, "voter", request.param)
    return built


@pytest.fixture
def weighted() -> WeightedVoter:
    return WeightedVoter(WeightedConfig())


@given(policy=VOTES, others=st.lists(VOTES, max_size=8), kind=TYPES, data=st.data())
def test_no_order_and_no_repetition_of_votes_changes_a_bit(
    voters: list[Voter], policy: Vote, others: list[Vote], kind: AnswerType, data: st.DataObject
) -> None:
    for voter in voters:
        result = voter.vote(policy, others, kind)
        assert voter.vote(policy, data.draw(st.permutations(others)), kind) == result
        repeated = voter.vote(policy, [*others, *others, policy], kind)
        assert (repeated.answer, repeated.confidence, repeated.shares) == (
            result.answer,
            result.confidence,
            result.shares,
        )


@given(policy=VOTES, others=st.lists(VOTES, max_size=8), kind=TYPES)
def test_every_vote_is_accounted_for_and_the_confidence_is_a_probability(
    voters: list[Voter], policy: Vote, others: list[Vote], kind: AnswerType
) -> None:
    for voter in voters:
        result = voter.vote(policy, others, kind)
        assert 0.0 <= result.confidence <= 1.0
        assert sum(result.shares.values()) == pytest.approx(1.0)
        assert sum(opinion.weight for opinion in result.provenance) == pytest.approx(1.0)
        assert sorted(map(str, (opinion.vote for opinion in result.provenance))) == sorted(map(str, [policy, *others]))
        assert result.provenance[0].vote == policy
        agreeing = sum(opinion.weight for opinion in result.provenance if opinion.agrees)
        assert agreeing == pytest.approx(next(iter(result.shares.values()))), "the answer has the greatest share"
        supporters = [opinion.vote for opinion in result.provenance if opinion.agrees]
        assert result.answer in {vote.answer for vote in supporters}
        assert result.confidence <= max(vote.confidence for vote in supporters) + 1e-9


@given(policy=VOTES, kind=TYPES)
def test_without_neighbors_the_answer_and_its_confidence_are_the_policys(
    voters: list[Voter], policy: Vote, kind: AnswerType
) -> None:
    for voter in voters:
        result = voter.vote(policy, [], kind)
        assert (result.answer, result.confidence) == (policy.answer, policy.confidence)


def test_answers_that_mean_the_same_are_one(voter: Voter) -> None:
    others = [Vote("a", "3.0", 0.9), Vote("b", "Three", 0.9), Vote("c", "4", 0.9)]
    result = voter.vote(Vote("policy", "it is 3", 0.9), others, "number")
    assert list(result.shares) == ["3", "4"]
    result = voter.vote(
        Vote("policy", "a", 0.9), [Vote("a", "B) a cat", 0.9), Vote("b", "(b)", 0.9), Vote("c", "b.", 0.9)], "choice"
    )
    assert list(result.shares) == ["b", "a"]
    result = voter.vote(Vote("policy", "dog", 0.5), [Vote("a", "Cat", 0.9), Vote("b", " cat. ", 0.9)], "text")
    assert list(result.shares) == ["cat", "dog"]


def test_a_tie_goes_to_the_policy_and_then_to_the_nearest(voter: Voter) -> None:
    assert voter.vote(Vote("policy", "cat", 0.9), [Vote("a", "dog", 0.9)], "text").answer == "cat"
    others = [Vote("a", "dog", 0.9, 0.5), Vote("b", "bird", 0.9, 0.8)]
    assert voter.vote(Vote("policy", "", 0.0), others, "text").answer == "bird"


def test_one_client_that_asks_a_hundred_times_has_one_vote(voter: Voter) -> None:
    flood = [Vote("client-1", "dog", 1.0, 1.0 - index / 1e4) for index in range(100)]
    others = [Vote(f"client-{index}", "cat", 0.9, 0.99) for index in range(2, 4)]
    assert voter.vote(POLICY, [*flood, *others], "text").answer == "cat"


def test_a_policy_without_an_answer_is_not_counted_against_its_neighbors(voter: Voter) -> None:
    result = voter.vote(Vote("policy", " ", 0.9), [Vote("a", "dog", 0.4, 0.9)], "text")
    assert result.answer == "dog"
    assert result.confidence == pytest.approx(0.4)
    assert result.provenance[0].weight == 0.0


@pytest.mark.parametrize("name", ["weighted", "ensemble"])
def test_the_nearer_of_two_opposed_neighbors_wins(name: str, registry: Registry) -> None:
    voter: Voter = build(registry, "voter", name)
    for near, far in ((0.99, 0.9), (0.5, 0.4), (0.0, -0.2)):
        others = [Vote("z", "dog", 0.9, near), Vote("a", "bird", 0.9, far)]
        assert voter.vote(Vote("policy", "", 0.0), others, "text").answer == "dog"


def test_majority_counts_heads_whatever_their_distance(registry: Registry) -> None:
    others = [Vote("a", "dog", 0.1, -0.5), Vote("b", "dog", 0.1, -0.5)]
    result = build(registry, "voter", "majority").vote(Vote("policy", "cat", 1.0), others, "text")
    assert result.answer == "dog"
    assert result.confidence == pytest.approx(0.2 / 3)


def test_confidence_lets_one_that_is_sure_outweigh_two_that_are_not(registry: Registry) -> None:
    others = [Vote("a", "dog", 0.3), Vote("b", "dog", 0.3)]
    assert build(registry, "voter", "confidence").vote(Vote("policy", "cat", 0.9), others, "text").answer == "cat"
    assert build(registry, "voter", "majority").vote(Vote("policy", "cat", 0.9), others, "text").answer == "dog"


@given(vote=VOTES, nearer=st.floats(0.0, 2.0), success=st.integers(1, 20), older_s=st.floats(1.0, 1e8))
def test_a_vote_never_weighs_less_for_being_nearer_more_successful_newer_or_surer(
    vote: Vote, nearer: float, success: int, older_s: float
) -> None:
    weighted = WeightedVoter(WeightedConfig())
    weight = weighted.weight(vote)
    assert 0.0 <= weight <= 1.0
    assert weighted.weight(replace(vote, similarity=min(vote.similarity + nearer, 1.0))) >= weight
    assert weighted.weight(replace(vote, age_s=vote.age_s + older_s)) <= weight
    assert weighted.weight(replace(vote, confidence=1.0)) >= weight
    more = replace(vote, retrieval_count=vote.retrieval_count + success, success_count=vote.success_count + success)
    assert weighted.weight(more) >= weight * (1 - 1e-12)
    assert weighted.weight(replace(vote, retrieval_count=vote.retrieval_count + success)) <= weight


def test_the_weight_is_the_product_that_the_configuration_describes(weighted: WeightedVoter) -> None:
    vote = Vote("a", "cat", 0.5, similarity=0.9, age_s=30 * 86400, retrieval_count=6, success_count=5)
    assert weighted.weight(vote) == pytest.approx(0.36787944 * 6 / 8 * 0.5 * 0.5)


def test_a_setting_reaches_the_voter_that_it_is_for(registry: Registry) -> None:
    strict = WeightedConfig(bandwidth=0.001)
    others = [Vote("a", "dog", 0.9, 0.9), Vote("b", "dog", 0.9, 0.9)]
    assert registry.build(Choice("voter", "weighted", strict)).vote(POLICY, others, "text").answer == "cat"
    assert registry.build(Choice("voter", "weighted")).vote(POLICY, others, "text").answer == "dog"
