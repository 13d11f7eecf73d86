"""A vote weighs what it says of itself."""

from __future__ import annotations

from collections.abc import Sequence

from share.kernel.config import ConfigModel
from share.kernel.contracts.voting import AnswerType, Vote, VotingResult
from share.kernel.voter.counting import Poll


class ConfidenceConfig(ConfigModel):
    """A vote weighs its stated confidence; there is nothing to set."""


class ConfidenceVoter:
    """The answer with the greatest sum of stated confidences: as good as those are calibrated."""

    def __init__(self, config: ConfidenceConfig) -> None:
        pass

    def vote(self, policy: Vote, others: Sequence[Vote], answer_type: AnswerType, /) -> VotingResult:
        poll = Poll(policy, others, answer_type)
        return poll.consensus([vote.confidence for vote in poll.votes])


__all__ = ["ConfidenceConfig", "ConfidenceVoter"]
