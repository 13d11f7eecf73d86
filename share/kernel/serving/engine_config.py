"""What can be set of the engine itself; its policy, batches, voter and worker have settings of their own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from share.kernel.adaptation.gate import GateConfig
from share.kernel.adaptation.review import ReviewConfig
from share.kernel.config import Choice, ConfigModel, choice
from share.kernel.privacy.redaction import RedactionConfig


class PriorConfig(ConfigModel):
    """How much each expert's say weighs before anything was audited, in any scale."""

    frozen: float = Field(default=0.6, gt=0.0)
    """The policy as it was shipped."""
    adapted: float = Field(default=0.25, gt=0.0)
    """The policy as it has learned."""
    memory: float = Field(default=0.15, gt=0.0)
    """The vote of the policy and of similar experiences."""

    @model_validator(mode="after")
    def _frozen_first(self) -> PriorConfig:
        if self.frozen <= max(self.adapted, self.memory):
            raise ValueError(
                "frozen: must exceed the others, or what is learned is believed before it was ever audited"
            )
        return self


class EngineConfig(ConfigModel):
    """The online engine: whom it asks, what it keeps and for how long, and when it goes back."""

    capacity: int = Field(default=1_000_000, ge=0)
    """Experiences that are kept at most: one more evicts the oldest. 0 = no bound."""
    storage: Annotated[Choice, choice("buffer")] = Choice("buffer", "file")
    """Where they are stored durably."""
    index: Annotated[Choice, choice("index")] = Choice("index", "auto")
    """How similar ones are found."""
    redaction: RedactionConfig = RedactionConfig()
    """Which personal data is replaced before anything is kept."""
    neighbors: int = Field(default=5, ge=1, le=256)
    """Similar experiences that are asked for each request."""
    similarity_min: float = Field(default=0.8, ge=-1.0, le=1.0)
    """Cosine below which an experience is not similar and has no vote."""
    consult_ms: float = Field(default=50.0, gt=0.0)
    """Milliseconds that search and vote may take once the policy has answered; then its answer is given alone."""
    prior: PriorConfig = PriorConfig()
    """Weights of the experts before anything was audited."""
    gate: GateConfig = GateConfig()
    """Which answers are learned from without a review."""
    review: ReviewConfig = ReviewConfig()
    """The share that is audited at random, and the review queue."""
    unsure_below: float = Field(default=0.5, ge=0.0, le=1.0)
    """An answer with less confidence is put before a reviewer."""
    evidence_window: int = Field(default=500, ge=10, le=100_000)
    """Audited items that calibration and the comparison with the frozen policy look back on."""
    harm_probability: float = Field(default=0.05, gt=0.0, le=0.5)
    """The adapted policy answers where it won against the frozen one on audited items so clearly that one as good would
    have with at most this probability (one-sided sign test), the memory likewise where it won against the policy that
    answers, and a version is taken back where the adapted policy lost as clearly on the newest of them."""
    keep_images: bool = False
    """Write the images of what waits for review to disk, as PNG without metadata, until it is decided. Without it they
    are kept in memory, and an update whose review is decided after a restart cannot be made."""
    images_bytes_max: int = Field(default=256 * 2**20, ge=0)
    """Bytes of images in memory at most; the oldest go first."""
    behind_max: int = Field(default=1024, ge=1)
    """Answers that wait to be recorded at most; more are given and not recorded."""
    retention_days: float = Field(default=90.0, gt=0.0)
    """Days after which everything about a request is erased."""
    sweep_hours: float = Field(default=6.0, gt=0.0)
    """Hours between two looks for what is older."""

    @model_validator(mode="after")
    def _kept_no_longer(self) -> EngineConfig:
        for name in ("waiting_days", "kept_days"):
            if getattr(self.review, name) > self.retention_days:
                raise ValueError(f"review.{name}: must not exceed retention_days ({self.retention_days:g})")
        return self


__all__ = ["EngineConfig", "PriorConfig"]
