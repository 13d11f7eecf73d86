"""The mean of three ways of counting: heads, stated confidence, and nearness with a record of success."""

from __future__ import annotations

import math
from collections.abc import Sequence

from share.kernel.config import ConfigModel
from share.kernel.contracts.voting import AnswerType, Vote, VotingResult
from share.kernel.voter.counting import Poll, parts_of
from share.kernel.voter.weighted import WeightedConfig, WeightedVoter


class EnsembleConfig(ConfigModel):
    """What can be set of the three that are averaged."""

    weighted: WeightedConfig = WeightedConfig()
    """Settings of the weighted one; the others have none."""


class EnsembleVoter:
    """Weighs a vote by the mean of the parts of all weight that `majority`, `confidence` and `weighted` give it."""

    def __init__(self, config: EnsembleConfig) -> None:
        self._weighted = WeightedVoter(config.weighted)

    def vote(self, policy: Vote, others: Sequence[Vote], answer_type: AnswerType, /) -> VotingResult:
        poll = Poll(policy, others, answer_type)
        parts = [
            parts_of([1.0] * len(poll.votes)),
            parts_of([vote.confidence for vote in poll.votes]),
            parts_of([self._weighted.weight(vote) for vote in poll.votes]),
        ]
        return poll.consensus([math.fsum(each) / 3 for each in zip(*parts, strict=True)])


__all__ = ["EnsembleConfig", "EnsembleVoter"]
