"""The contract of a voter: no order matters, a source counts once, every vote is accounted for."""

from __future__ import annotations

import math

from share.kernel.contracts.kinds import Voter
from share.kernel.contracts.voting import AnswerType, Vote


def check_voter(voter: Voter) -> None:
    """A voter is fair: no order matters, a source counts once, every vote is accounted for, and none is invented."""
    assert isinstance(voter, Voter), "a voter has `vote`"
    ballots: list[tuple[AnswerType, str, list[str]]] = [
        ("text", "cat", ["Cat.", "dog", " DOG ", "bird", "dog", ""]),
        ("number", "it is 3", ["three", "3.0", "4", "4", "four", "many"]),
        ("choice", "B", ["(b)", "a", "A) a cat", "c.", "c", "none of them"]),
        ("text", "", ["cat", "dog", "bird", "fish", "cow", "hen"]),
    ]
    for answer_type, own, answers in ballots:
        for confidence in (0.0, 0.6, 1.0):
            policy = Vote("policy", own, confidence)
            alone = voter.vote(policy, [], answer_type)
            assert alone.answer == own, "without others the answer is the policy's"
            assert alone.confidence == confidence, "without others the confidence is the policy's"
            others = [
                Vote(f"experience-{i}", answer, 0.3 + 0.1 * i, 0.95 - 0.17 * i, 3600.0 * i, 7, i)
                for i, answer in enumerate(answers)
            ]
            result = voter.vote(policy, others, answer_type)
            for order in (others[::-1], others[3:] + others[:3], others[::2] + others[1::2]):
                assert voter.vote(policy, order, answer_type) == result, "the order of the others does not matter"
            repeated = voter.vote(policy, [policy, *others, *others], answer_type)
            assert repeated.answer == result.answer, "a source counts once"
            assert repeated.confidence == result.confidence, "a source counts once"
            assert 0.0 <= result.confidence <= 1.0, "a confidence is a probability"
            assert result.answer in [own, *answers], "the answer is one that was given, as it was written"
            assert math.isclose(sum(result.shares.values()), 1.0), "the shares sum to one"
            assert all(0.0 < share <= 1.0 for share in result.shares.values()), "a share is a part of the weight"
            assert list(result.shares.values()) == sorted(result.shares.values(), reverse=True), "heaviest first"
            weights = [opinion.weight for opinion in result.provenance]
            assert math.isclose(sum(weights), 1.0), "the weights in the provenance sum to one"
            assert all(0.0 <= weight <= 1.0 for weight in weights), "a weight is a part of all weight"
            assert result.provenance[0].vote == policy, "the policy's vote is first in the provenance"
            cast = {opinion.vote for opinion in result.provenance}
            assert cast == {policy, *others}, "the provenance has every vote that was cast and no other"
            assert any(opinion.agrees and opinion.weight > 0.0 for opinion in result.provenance), "somebody agrees"


__all__ = ["check_voter"]
