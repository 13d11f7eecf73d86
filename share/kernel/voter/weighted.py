"""A vote weighs more the nearer, the more reliable, the more recent and the surer it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from share.kernel.config import ConfigModel
from share.kernel.contracts.voting import AnswerType, Vote, VotingResult
from share.kernel.voter.counting import Poll


class WeightedConfig(ConfigModel):
    """Weight = exp(-(1 - similarity) / bandwidth) x smoothed success rate x 0.5 ** (age / half-life) x confidence."""

    bandwidth: float = Field(default=0.1, gt=0.0)
    """Cosine distance (1 - similarity) at which a vote weighs 1/e of one that is at the request itself."""
    half_life_days: float = Field(default=30.0, gt=0.0)
    """Days after which a vote weighs half."""
    prior_successes: float = Field(default=1.0, gt=0.0)
    """Audited successes that a source is taken to have had before the first."""
    prior_failures: float = Field(default=1.0, ge=0.0)
    """Audited failures that a source is taken to have had before the first."""


class WeightedVoter:
    """The answer with the greatest weight of votes, as `WeightedConfig` says it."""

    def __init__(self, config: WeightedConfig) -> None:
        self.config = config

    def vote(self, policy: Vote, others: Sequence[Vote], answer_type: AnswerType, /) -> VotingResult:
        poll = Poll(policy, others, answer_type)
        return poll.consensus([self.weight(vote) for vote in poll.votes])

    def weight(self, vote: Vote) -> float:
        """What one vote weighs, in [0, 1]."""
        config = self.config
        nearness = math.exp(min(vote.similarity - 1.0, 0.0) / config.bandwidth)
        successes = vote.success_count + config.prior_successes
        reliability = successes / (vote.retrieval_count + config.prior_successes + config.prior_failures)
        recency = math.pow(0.5, max(vote.age_s, 0.0) / 86400 / config.half_life_days)  # clocks differ: never above 1
        return nearness * min(reliability, 1.0) * recency * vote.confidence


__all__ = ["WeightedConfig", "WeightedVoter"]
