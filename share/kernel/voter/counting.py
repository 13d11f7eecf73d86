"""From votes and what each weighs to the consensus. Sums are exact (`fsum`), so no order of votes changes a bit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from share.kernel.contracts.voting import AnswerType, Opinion, Vote, VotingResult
from share.kernel.data.checkers import canonical


def counted(policy: Vote, others: Sequence[Vote], answer_type: AnswerType) -> list[Vote]:
    """The votes that count, in an order of their own: the policy's first, then one per source, none without an answer.

    Of several votes of one source the nearest counts.
    """
    by_source: dict[str, Vote] = {}
    for vote in sorted(others, key=_rank):
        if vote.source != policy.source and canonical(vote.answer, answer_type):
            by_source.setdefault(vote.source, vote)
    return [policy, *by_source.values()]


def consensus(
    policy: Vote, others: Sequence[Vote], answer_type: AnswerType, votes: Sequence[Vote], weights: Sequence[float]
) -> VotingResult:
    """The answer with most weight, where `votes` (of `counted`) have these weights, not negative, in any scale.

    Its confidence is the mean, by weight, of what the supporters stated and of 0 for everybody else: agreement never
    makes it surer than its surest supporter, because neighbors repeat each other's mistakes. Ties go to the policy's
    answer, then to the answer with the nearest vote. Where nothing has weight, the policy stands.
    """
    answers = [canonical(vote.answer, answer_type) for vote in votes]
    parts = parts_of(weights if answers[0] else [0.0, *weights[1:]])
    shares = {answer: math.fsum(_where(answer, answers, parts)) for answer in answers}
    best = max(shares, key=lambda answer: (shares[answer], answer == answers[0], -answers.index(answer)))
    supporters = [index for index, answer in enumerate(answers) if answer == best]
    heaviest = max(supporters, key=lambda index: (parts[index], -index))
    confidence = math.fsum(parts[index] * votes[index].confidence for index in supporters)
    cast = dict(zip(votes, parts, strict=True))
    opinions = [
        Opinion(vote, cast.pop(vote, 0.0), canonical(vote.answer, answer_type) == best) for vote in (policy, *others)
    ]
    return VotingResult(
        votes[heaviest].answer,
        min(confidence, 1.0),
        {answer: share for answer, share in sorted(shares.items(), key=lambda item: (-item[1], item[0])) if share > 0},
        (opinions[0], *sorted(opinions[1:], key=lambda opinion: (-opinion.weight, _rank(opinion.vote)))),
    )


def parts_of(weights: Sequence[float]) -> list[float]:
    """Weights in proportion that sum to one; where nothing has weight, the first, the policy's, has all."""
    total = math.fsum(weights)
    return [weight / total for weight in weights] if total > 0.0 else [1.0, *[0.0] * (len(weights) - 1)]


def _rank(vote: Vote) -> tuple[float, float, float, float, float, str, str]:
    """Nearest first; the rest only makes the order complete."""
    return (
        -vote.similarity,
        -vote.confidence,
        vote.age_s,
        -vote.success_count,
        vote.retrieval_count,
        vote.source,
        vote.answer,
    )


def _where(answer: str, answers: Sequence[str], weights: Sequence[float]) -> list[float]:
    return [weight for weight, each in zip(weights, answers, strict=True) if each == answer]


__all__ = ["consensus", "counted", "parts_of"]
