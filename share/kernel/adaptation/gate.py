"""Whether to learn from an answer, and how fast.

Five filters in a fixed order, the cheapest lie first: is the consensus sure (confidence), is it sharp (entropy), is it
news (cosine to the mean of what was learned lately), is this label learned too often, and this client? Entropy and
redundancy filters follow EATA (Niu et al. 2022, "Efficient Test-Time Model Adaptation without Forgetting",
arXiv:2204.02610), which keeps clean accuracy where plain entropy minimisation loses it; the cap on labels is for
streams whose labels are correlated, as those of a session are, on which nearly everything else breaks.

A gate never sees a text: answers and clients are known to it by keys. A decision holds all that it followed from, so
that a log of decisions can be checked and gone on from (`Gate.replay`).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from share.kernel.config import ConfigModel
from share.kernel.contracts.voting import AnswerType
from share.kernel.data.checkers import canonical
from share.kernel.errors import GateMismatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]  # D

Reason = Literal["accepted", "unsure", "blurred", "redundant", "label_cap", "client_cap"]


class GateConfig(ConfigModel):
    """What is learned from, and the learning rate."""

    confidence_min: float = Field(default=0.7, ge=0.0, le=1.0)
    """Least confidence of the consensus."""
    entropy_fraction_max: float = Field(default=0.4, gt=0.0, le=1.0)
    """The entropy must be below this times ln(number of answers), where that number is known."""
    entropy_max: float = Field(default=0.5, gt=0.0)
    """The entropy of the vote must be below this, in nats, where the number of answers is not known."""
    redundancy_max: float = Field(default=0.95, gt=0.0, le=1.0)
    """Greatest cosine to the running mean of the embeddings that were learned from; 1 lets everything pass."""
    mean_momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Part of the running mean that stays when an embedding is added."""
    window: int = Field(default=100, ge=1, le=100_000)
    """Requests over which labels and clients are counted: the newest, learned from or not."""
    label_share_max: float = Field(default=0.3, gt=0.0, le=1.0)
    """Part of the window that may be learned from one label; at least one request."""
    client_share_max: float = Field(default=0.1, gt=0.0, le=1.0)
    """Part of the window that may be learned from one client; at least one request. 1 for a single user."""
    cold_start_threshold: int = Field(default=100, ge=1)
    """Experiences in the buffer at which trust is one half: trust = n / (n + threshold)."""
    lr_min: float = Field(default=1e-6, ge=0.0)
    """Least learning rate."""
    lr_max: float = Field(default=1e-4, gt=0.0)
    """Greatest learning rate, of an update with confidence 0 at full trust."""

    @model_validator(mode="after")
    def _consistent(self) -> GateConfig:
        if self.lr_min > self.lr_max:
            raise ValueError(f"lr_min: must not exceed lr_max ({self.lr_min} > {self.lr_max})")
        return self


@dataclass(frozen=True, slots=True)
class GateRequest:
    """An answered request, as the gate sees it.

    `client` is the id of the key it came with, `label` a key of its normalised answer (`label_key`). `entropy` is that
    of the probabilities where there are `num_answers`, else that of the vote's shares (`entropy_of`), in nats.
    `buffer_size` is the number of experiences in the durable buffer at that time.
    """

    request_id: str
    client: str
    label: str
    confidence: float
    entropy: float
    buffer_size: int
    num_answers: int | None = None


@dataclass(frozen=True, slots=True)
class GateDecision:
    """What was decided and everything that it followed from; `dataclasses.asdict` is its line in a log.

    `redundancy` is the cosine to the running mean, None while there is no mean. `label_count` and `client_count` are
    how many requests with that label, and of that client, were learned from in the window before this one.
    `learning_rate` is 0 where nothing is learned.
    """

    request: GateRequest
    redundancy: float | None
    label_count: int
    client_count: int
    trust: float
    learning_rate: float
    reason: Reason

    @property
    def accepted(self) -> bool:
        return self.reason == "accepted"


class Gate:
    """Decides request by request. Not thread-safe: one thread asks, behind the answer."""

    def __init__(self, config: GateConfig) -> None:
        self.config = config
        self._mean_D: NDArray[np.float64] | None = None
        self._window: deque[tuple[str, str] | None] = deque()  # (label, client) of what was learned from, else None
        self._labels: Counter[str] = Counter()
        self._clients: Counter[str] = Counter()

    def decide(self, request: GateRequest, embedding_D: Vector) -> GateDecision:
        """Whether `request` is learned from. `embedding_D` is its embedding, float32 of shape (D,)."""
        decision = self._decide(request, _cosine(embedding_D, self._mean_D))
        self._record(decision)
        if decision.accepted:
            momentum = self.config.mean_momentum if self._mean_D is not None else 0.0
            mean_D = self._mean_D if self._mean_D is not None else 0.0
            self._mean_D = momentum * mean_D + (1.0 - momentum) * embedding_D.astype(float)
        return decision

    @classmethod
    def replay(cls, config: GateConfig, decisions: Iterable[GateDecision]) -> Gate:
        """A gate that has made these decisions, each made again from what it says it followed from.

        Raises GateMismatch naming the first that does not follow: the log is not whole, or of another configuration.
        The embeddings are not in a decision: their cosine is taken as it was told, and the mean begins anew.
        """
        gate = cls(config)
        for decision in decisions:
            gate.repeat(decision)
        return gate

    def repeat(self, decision: GateDecision) -> None:
        """Make a decision again. Raises GateMismatch, and has not made it, where it does not follow."""
        again = self._decide(decision.request, decision.redundancy)
        if again != decision:
            field = next(
                each.name for each in fields(again) if getattr(again, each.name) != getattr(decision, each.name)
            )
            raise GateMismatch(
                f"gate decision on {decision.request.request_id}: {field} is {getattr(decision, field)!r}, but "
                f"{getattr(again, field)!r} follows from what was told before it"
            )
        self._record(decision)

    def _decide(self, request: GateRequest, redundancy: float | None) -> GateDecision:
        label_count, client_count = self._labels[request.label], self._clients[request.client]
        trust = request.buffer_size / (request.buffer_size + self.config.cold_start_threshold)
        reason = self._reason(request, redundancy, label_count, client_count)
        learning_rate = self.config.lr_max * (1.0 - request.confidence) * trust
        learning_rate = min(max(learning_rate, self.config.lr_min), self.config.lr_max) if reason == "accepted" else 0.0
        return GateDecision(request, redundancy, label_count, client_count, trust, learning_rate, reason)

    def _reason(self, request: GateRequest, redundancy: float | None, label_count: int, client_count: int) -> Reason:
        """Comparisons are such that what is no number never passes."""
        config = self.config
        if not config.confidence_min <= request.confidence <= 1.0:
            return "unsure"
        if request.num_answers is None:
            entropy_max = config.entropy_max
        else:
            entropy_max = config.entropy_fraction_max * math.log(max(request.num_answers, 2))
        if not request.entropy < entropy_max:
            return "blurred"
        if redundancy is not None and not redundancy <= config.redundancy_max:
            return "redundant"
        if label_count >= max(1, int(config.label_share_max * config.window)):
            return "label_cap"
        if client_count >= max(1, int(config.client_share_max * config.window)):
            return "client_cap"
        return "accepted"

    def _record(self, decision: GateDecision) -> None:
        """Counts are of the `window - 1` requests before the next one: with it they fill a window."""
        learned = (decision.request.label, decision.request.client) if decision.accepted else None
        self._window.append(learned)
        self._count(learned, 1)
        while len(self._window) >= self.config.window:
            self._count(self._window.popleft(), -1)

    def _count(self, learned: tuple[str, str] | None, by: int) -> None:
        if learned is None:
            return
        for counter, key in zip((self._labels, self._clients), learned, strict=True):
            counter[key] += by
            if not counter[key]:
                del counter[key]


def label_key(answer: str, answer_type: AnswerType, secret: bytes) -> str:
    """The key under which answers that mean the same are counted: 16 hexadecimal digits, which who does not have the
    secret (64 bytes at most) cannot even confirm a guess with."""
    return hashlib.blake2b(canonical(answer, answer_type).encode(), digest_size=8, key=secret).hexdigest()


def entropy_of(shares: Mapping[str, float]) -> float:
    """Entropy in nats of shares that sum to one, as `VotingResult.shares` do."""
    return math.fsum(-share * math.log(share) for share in shares.values() if share > 0.0)


def _cosine(embedding_D: Vector, mean_D: NDArray[np.float64] | None) -> float | None:
    if mean_D is None:
        return None
    lengths = math.sqrt(float(mean_D @ mean_D)) * math.sqrt(float(embedding_D.astype(float) @ embedding_D))
    return min(float(mean_D @ embedding_D) / lengths, 1.0) if lengths else 0.0


__all__ = ["Gate", "GateConfig", "GateDecision", "GateRequest", "Reason", "entropy_of", "label_key"]
