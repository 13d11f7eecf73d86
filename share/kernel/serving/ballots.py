"""What experiences say at a vote, kept in memory: only the first vote of an experience reads it from the disk.

Of an experience a vote needs a few words, and reading all of it takes as long as finding it. What is kept here is never
newer or older than the buffer says: whoever changes an experience that may have voted says `forget`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from share.kernel.contracts.experience import Experience, Status
from share.kernel.contracts.voting import AnswerType, Vote
from share.kernel.experience.buffer import ExperienceBuffer

BALLOTS_MAX = 16_384
"""Experiences of which it is kept what they say, some hundred bytes each; the first that came go first."""

ANSWER_CHARACTERS_KEPT = 500
"""Of an experience with a longer answer nothing is kept, so that so many ballots bound the memory too."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """What one experience says whenever it is asked. `source` is a person's word (`review:<id>`) where it was approved,
    which is sure; all else counts once for its client (`client:<key id>`)."""

    source: str
    answer: str
    answer_type: AnswerType
    confidence: float
    created_at: float
    retrieval_count: int
    success_count: int

    def vote(self, similarity: float, now: float) -> Vote:
        """At `now`, in seconds since 1970, of a question that is so similar (cosine)."""
        age_s = max(0.0, now - self.created_at)
        return Vote(
            self.source, self.answer, self.confidence, similarity, age_s, self.retrieval_count, self.success_count
        )


class Ballots:
    """The ballots of a buffer's experiences. Thread-safe."""

    def __init__(self, buffer: ExperienceBuffer) -> None:
        self._buffer = buffer
        self._lock = threading.Lock()
        self._kept: dict[str, Ballot | None] = {}
        self._num_changes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, id_: str) -> Ballot | None:
        """What the experience says; None for one that has no vote, or is not there. Raises BufferProblem."""
        try:
            return self._kept[id_]
        except KeyError:
            pass
        num_changes = self._num_changes
        experience = self._buffer.get(id_)
        if experience is None:
            return None
        with self._lock:
            ballot = _ballot(experience)
            if num_changes == self._num_changes:  # or what was read may be what has just been changed
                self._keep(id_, ballot)
        return ballot

    def know(self, experience: Experience) -> None:
        """Of one that has just been added."""
        with self._lock:
            self._keep(experience.id, _ballot(experience))

    def forget(self, ids: Iterable[str]) -> None:
        """They have been changed: what they say is read again."""
        with self._lock:
            self._num_changes += 1
            for id_ in ids:
                self._kept.pop(id_, None)

    def forget_all(self) -> None:
        """Some are gone: nothing that they said stays in memory."""
        with self._lock:
            self._num_changes += 1
            self._kept = {}

    def _keep(self, id_: str, ballot: Ballot | None) -> None:
        if ballot is None or len(ballot.answer) <= ANSWER_CHARACTERS_KEPT:
            self._kept[id_] = ballot
            while len(self._kept) > BALLOTS_MAX:
                del self._kept[next(iter(self._kept))]


def _ballot(experience: Experience) -> Ballot | None:
    metadata, is_audited = experience.metadata, experience.status is Status.APPROVED
    if not experience.answer or experience.status not in (Status.UNVERIFIED, Status.APPROVED):
        return None
    return Ballot(
        source=f"review:{experience.id}" if is_audited else f"client:{metadata.get('client', '')}",
        answer=experience.answer,
        answer_type=cast(AnswerType, metadata.get("answer_type")),
        confidence=1.0 if is_audited else experience.confidence,
        created_at=experience.created_at,
        retrieval_count=experience.retrieval_count,
        success_count=experience.success_count,
    )


__all__ = ["ANSWER_CHARACTERS_KEPT", "BALLOTS_MAX", "Ballot", "Ballots"]
