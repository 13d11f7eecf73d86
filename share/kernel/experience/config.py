"""What can be set of an experience buffer."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from share.kernel.config import Choice, ConfigModel, choice
from share.kernel.contracts.experience import Experience


class PriorityConfig(ConfigModel):
    """How much an experience deserves to be learned from, and how that becomes the chance of being sampled.

    The priority at first is the weighted sum of uncertainty (1 - confidence), absolute reward and age, clipped to
    `priority_min` and `priority_max`. It is sampled in proportion to
    `priority ** exponent * (success_count + prior_successes) / (retrieval_count + prior_successes + prior_failures)`.
    """

    uncertainty: float = Field(default=1.0, ge=0)
    """Weight of 1 - confidence."""
    reward: float = Field(default=1.0, ge=0)
    """Weight of the absolute total reward; one without a reward counts as 0."""
    age: float = 0.0
    """Weight of the age in days when it is added: 0 for one that is added as it happens."""
    priority_min: float = Field(default=0.05, gt=0)
    """Least priority: nothing is never sampled."""
    priority_max: float = Field(default=2.0, gt=0)
    """Greatest priority: nothing is sampled almost always."""
    exponent: float = Field(default=0.6, ge=0, le=2)
    """0 samples evenly, 1 in proportion to the priority (alpha of Schaul et al. 2015, arXiv:1511.05952)."""
    importance_exponent: float = Field(default=0.4, ge=0, le=1)
    """How far importance weights undo the uneven sampling (beta of the same paper); 1 undoes it all."""
    prior_successes: float = Field(default=1.0, gt=0)
    """Successes that an experience is taken to have had before it was ever retrieved."""
    prior_failures: float = Field(default=1.0, ge=0)
    """Failures that an experience is taken to have had before it was ever retrieved."""

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        if self.priority_min > self.priority_max:
            raise ValueError(f"priority_min: {self.priority_min:g} is above priority_max, {self.priority_max:g}")
        return self

    def first(self, experience: Experience, now: float) -> float:
        """The priority with which an experience begins; `now` is in seconds since 1970."""
        if experience.priority is not None:
            return self.clipped(experience.priority)
        age_days = max(0.0, now - experience.created_at) / 86400 if self.age else 0.0
        return self.clipped(
            self.uncertainty * (1.0 - experience.confidence)
            + self.reward * abs(experience.reward or 0.0)
            + self.age * age_days
        )

    def clipped(self, priority: float) -> float:
        return min(max(priority, self.priority_min), self.priority_max)


class ExperienceBufferConfig(ConfigModel):
    """An experience buffer: its size, where it is stored, how it is searched and sampled."""

    dimension: int = Field(ge=2, le=65536)
    """Numbers in an embedding."""
    capacity: int | None = Field(default=1_000_000, ge=0)
    """Most experiences that are kept: one more evicts the oldest. 0 = no bound; null = as it was."""
    storage: Annotated[Choice, choice("buffer")] = Choice("buffer", "file")
    """Where the records are stored durably."""
    index: Annotated[Choice, choice("index")] = Choice("index", "auto")
    """What the built index is; what is newer is searched beside it."""
    vectors: Literal["float16", "float32"] = "float16"
    """How the matrix of embeddings that searching reads is stored; the log keeps them as they came."""
    visual_weight: float = Field(default=0.7, ge=0, le=1)
    """Share of the visual embedding in the hybrid one; the rest is that of the text."""
    rebuild_after: int = Field(default=1000, ge=1)
    """Build a new index and snapshot after so many records …"""
    rebuild_growth: float = Field(default=0.2, ge=0)
    """… or this share of the experiences, whichever is more."""
    check_recall_every: int = Field(default=1000, ge=0)
    """One search of so many is answered again exactly, in the background, to measure recall. 0 = none."""
    priority: PriorityConfig = PriorityConfig()
    """Which experiences are sampled how often."""


__all__ = ["ExperienceBufferConfig", "PriorityConfig"]
