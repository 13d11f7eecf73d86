"""From votes and what each weighs to the consensus. Sums are exact (`fsum`), so no order of votes changes a bit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from share.kernel.contracts.voting import AnswerType, Opinion, Vote, VotingResult
from share.kernel.data.checkers import canonical


class Poll:
    """The votes on one question.

    `votes` are those that count, in an order of their own: the policy's first, then one per source, none without an
    answer. Of several votes of one source the nearest counts.
    """

    def __init__(self, policy: Vote, others: Sequence[Vote], answer_type: AnswerType) -> None:
        self._others = sorted(others, key=_rank)
        # Most say the same: each way to write it is normalised once.
        self._said = {answer: canonical(answer, answer_type) for answer in {policy.answer, *(v.answer for v in others)}}
        by_source: dict[str, Vote] = {}
        for vote in self._others:
            if vote.source != policy.source and self._said[vote.answer]:
                by_source.setdefault(vote.source, vote)
        self.votes = [policy, *by_source.values()]

    def consensus(self, weights: Sequence[float]) -> VotingResult:
        """The answer with most weight, where `votes` have these weights, not negative, in any scale.

        Its confidence is the mean, by weight, of what the supporters stated and of 0 for everybody else: agreement
        never makes it surer than its surest supporter, because neighbors repeat each other's mistakes. Ties go to the
        policy's answer, then to the answer with the nearest vote. Where nothing has weight, the policy stands.
        """
        votes, said = self.votes, self._said
        answers = [said[vote.answer] for vote in votes]
        parts = parts_of(weights if answers[0] else [0.0, *weights[1:]])
        shares = {answer: math.fsum(_where(answer, answers, parts)) for answer in answers}
        best = max(shares, key=lambda answer: (shares[answer], answer == answers[0], -answers.index(answer)))
        supporters = [index for index, answer in enumerate(answers) if answer == best]
        heaviest = max(supporters, key=lambda index: (parts[index], -index))
        confidence = math.fsum(parts[index] * votes[index].confidence for index in supporters)
        cast = {id(vote): part for vote, part in zip(votes, parts, strict=True)}
        opinions = [
            Opinion(vote, cast.pop(id(vote), 0.0), said[vote.answer] == best) for vote in (votes[0], *self._others)
        ]
        return VotingResult(
            votes[heaviest].answer,
            min(confidence, 1.0),
            {a: share for a, share in sorted(shares.items(), key=lambda item: (-item[1], item[0])) if share > 0},
            (opinions[0], *sorted(opinions[1:], key=lambda opinion: -opinion.weight)),  # stable: the nearest first
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


__all__ = ["Poll", "parts_of"]
