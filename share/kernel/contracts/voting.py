"""What is put to the vote when an answer is sought, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

AnswerType = Literal["text", "number", "choice"]
"""How answers of a task are compared: as words, as one number, as the letter of a choice."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One opinion about the answer.

    `source` is whoever is behind it, and counts once: the id of the experience, or the key of the client that it came
    from where no client may outvote the others. `confidence` in [0, 1] is the probability of being right that was
    stated with the answer. `similarity` in [-1, 1] is the cosine to the request, 1 for the policy's own. `age_s` is
    how many seconds ago it was formed. `retrieval_count` and `success_count` are those of the experience (for the
    policy: items audited, and those it got right); only audited outcomes raise them.
    """

    source: str
    answer: str
    confidence: float
    similarity: float = 1.0
    age_s: float = 0.0
    retrieval_count: int = 0
    success_count: int = 0


@dataclass(frozen=True, slots=True)
class Opinion:
    """What became of a vote: its part of all weight (0 when it did not count), and whether the consensus is its own."""

    vote: Vote
    weight: float
    agrees: bool


@dataclass(frozen=True, slots=True)
class VotingResult:
    """The consensus.

    `answer` is as its heaviest supporter wrote it. `confidence` is the probability of its being right, before
    calibration. `shares` are the parts of the weight by normalised answer, heaviest first; they sum to one.
    `provenance` has every vote that was cast, the policy's first, then by weight.
    """

    answer: str
    confidence: float
    shares: Mapping[str, float]
    provenance: tuple[Opinion, ...]


__all__ = ["AnswerType", "Opinion", "Vote", "VotingResult"]
