"""What an online system remembers: experiences, their neighbors, and the records that a storage keeps of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from share.kernel.contracts.run import Metric
from share.kernel.contracts.trajectory import Trajectory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]  # D


class Status(IntEnum):
    """What is known of an experience's answer. The numbers are those on disk."""

    UNVERIFIED = 0
    APPROVED = 1
    REJECTED = 2
    QUARANTINED = 3


@dataclass(frozen=True, slots=True)
class Experience:
    """One answered request.

    `embedding` is the hybrid embedding that the index is built on, float32 of shape (D,) and unit length. `features`
    are further arrays by name, such as the visual and the text embedding. `confidence` is the probability of being
    right that was stated with the answer, `reward` the total (None = not scored) and `reward_components` its terms.
    `created_at` is in seconds since 1970. `subject` is the key of the person it is about, for erasure.
    `retrieval_count` and `success_count` say how often it was retrieved, and how often the consensus it took part in
    turned out right. `id` has at most 40 bytes of UTF-8. `metadata` holds what JSON can hold.
    """

    id: str
    question: str
    answer: str
    embedding: Vector
    confidence: float
    created_at: float
    trajectory: Trajectory | None = None
    features: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    reward: float | None = None
    reward_components: Mapping[str, float | None] = field(default_factory=dict)
    policy_version: str = ""
    subject: str | None = None
    priority: float | None = None
    retrieval_count: int = 0
    success_count: int = 0
    status: Status = Status.UNVERIFIED
    metadata: Mapping[str, Metric] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Neighbor:
    """An experience found by k-NN search; `similarity` is the cosine of the embeddings, exact."""

    id: str
    sequence: int
    similarity: float


class RecordType(IntEnum):
    """What a record of the log says; docs/formats/buffer.md has the payloads."""

    ADD = 1
    REMOVE = 2
    PRIORITY = 3
    RETRIEVAL = 4
    STATUS = 5
    CAPACITY = 6
    CLOSE = 7
    HOLE = 8


@dataclass(frozen=True, slots=True)
class Record:
    """One record as a storage returns it; `location` finds it again, and stays the same for its life."""

    sequence: int
    type: RecordType
    payload: bytes | memoryview
    location: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a file: where, what, and whether acknowledged records are lost by it."""

    path: str
    offset: int
    problem: str
    is_loss: bool


__all__ = ["Experience", "Finding", "Neighbor", "Record", "RecordType", "Status"]
