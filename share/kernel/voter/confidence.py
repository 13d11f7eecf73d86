"""A vote weighs what it says of itself."""

from __future__ import annotations

from collections.abc import Sequence

from share.kernel.config import ConfigModel
from share.kernel.contracts.voting import AnswerType, Vote, VotingResult
from share.kernel.voter.counting import consensus, counted


class ConfidenceConfig(ConfigModel):
    """A vote weighs its stated confidence; there is nothing to set."""


class ConfidenceVoter:
    """The answer with the greatest sum of stated confidences: as good as those are calibrated."""

    def __init__(self, config: ConfidenceConfig) -> None:
        pass

    def vote(self, policy: Vote, others: Sequence[Vote], answer_type: AnswerType, /) -> VotingResult:
        votes = counted(policy, others, answer_type)
        return consensus(policy, others, answer_type, votes, [vote.confidence for vote in votes])


__all__ = ["ConfidenceConfig", "ConfidenceVoter"]
