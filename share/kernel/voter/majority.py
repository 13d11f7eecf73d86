"""One source, one vote."""

from __future__ import annotations

from collections.abc import Sequence

from share.kernel.config import ConfigModel
from share.kernel.contracts.voting import AnswerType, Vote, VotingResult
from share.kernel.voter.counting import Poll


class MajorityConfig(ConfigModel):
    """Every source has one vote; there is nothing to set."""


class MajorityVoter:
    """The answer that most sources gave."""

    def __init__(self, config: MajorityConfig) -> None:
        pass

    def vote(self, policy: Vote, others: Sequence[Vote], answer_type: AnswerType, /) -> VotingResult:
        poll = Poll(policy, others, answer_type)
        return poll.consensus([1.0] * len(poll.votes))


__all__ = ["MajorityConfig", "MajorityVoter"]
