"""What is kept of an answered request: redacted before it is an experience, and no image.

An experience holds what its review will need, however much later and in whatever process: each expert's own answer, the
votes, and who voted. Of a subject only a key is kept; see `subjects`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from share.kernel.contracts.experience import Experience
from share.kernel.contracts.run import Metric
from share.kernel.contracts.serving import Expert, Reply, Request
from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.contracts.voting import Opinion, Vote
from share.kernel.privacy.redaction import Redactor
from share.kernel.serving.consultation import Consultation

if TYPE_CHECKING:
    from share.kernel.contracts.experience import Vector

POLICY = "policy"
"""The source of the policy's own vote."""


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """A request and all that became of it.

    `embedding` is the hybrid one, None where none can be made. `answers` are the experts' own: None where a policy was
    not asked, empty where it had none. `confidence` is what the expert stated whose answer was given, before
    calibration. `adapted_version` is the version that was live. `begun` is on the clock of `time.monotonic`, `at` in
    seconds since 1970.
    """

    request: Request
    reply: Reply
    embedding: Vector | None
    consultation: Consultation
    answers: Mapping[Expert, str | None]
    confidence: float
    entropy: float
    adapted_version: str
    begun: float
    at: float


class Recorder:
    """Makes experiences. Pure."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def experience(self, answered: Answered, embedding: Vector, subject: str | None) -> Experience:
        """The experience of an answered request; `subject` is the key of whom it is about."""
        request, reply = answered.request, answered.reply
        return Experience(
            id=request.trace_id,
            question=self.redacted(request.question),
            answer=self.redacted(reply.answer),
            embedding=embedding,
            confidence=reply.confidence,
            created_at=answered.at,
            trajectory=self._trajectory(reply.trajectory),
            policy_version=reply.policy_version,
            subject=subject,
            metadata=self._metadata(answered),
        )

    def redacted(self, text: str) -> str:
        return self._redactor.redact(text).text

    def _metadata(self, answered: Answered) -> Mapping[str, Metric]:
        request, consultation = answered.request, answered.consultation
        answers: dict[str, Metric] = {
            name: None if text is None else self.redacted(text) for name, text in answered.answers.items()
        }
        metadata: dict[str, Metric] = {
            "client": request.client,
            "answer_type": request.answer_type,
            "is_video": request.is_video,
            "num_images": len(request.images),
            "expert": answered.reply.expert,
            "raw_confidence": answered.confidence,
            "adapted_version": answered.adapted_version,
            "answers": answers,
        }
        if consultation.votes is not None:
            voters = zip(consultation.voters, consultation.ballots, strict=True)
            metadata["voters"] = [[voter, ballot.answer] for voter, ballot in voters]
            metadata["votes"] = [self._opinion(each) for each in consultation.votes.provenance]
        return metadata

    def _opinion(self, opinion: Opinion) -> Metric:
        return [
            opinion.vote.source,
            self.redacted(opinion.vote.answer),
            opinion.vote.confidence,
            opinion.vote.similarity,
            opinion.weight,
            opinion.agrees,
            opinion.vote.age_s,
            opinion.vote.retrieval_count,
            opinion.vote.success_count,
        ]

    def _trajectory(self, trajectory: Trajectory) -> Trajectory:
        answer = None if trajectory.answer is None else self.redacted(trajectory.answer)
        return replace(trajectory, actions=tuple(map(self._action, trajectory.actions)), answer=answer)

    def _action(self, action: Action) -> Action:
        return replace(
            action,
            text=self.redacted(action.text),
            operation=None if action.operation is None else self.redacted(action.operation),
            arguments=None if action.arguments is None else cast(Mapping[str, object], self._plain(action.arguments)),
            observation=None if action.observation is None else self.redacted(action.observation),
            error=None if action.error is None else self.redacted(action.error),
        )

    def _plain(self, value: object) -> object:
        """JSON with every text in it redacted, names of fields too: a policy writes both, and names of operations."""
        if isinstance(value, str):
            return self.redacted(value)
        if isinstance(value, Mapping):
            return {self.redacted(str(name)): self._plain(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._plain(inner) for inner in value]
        return value


def opinions_of(experience: Experience) -> tuple[Opinion, ...]:
    """The votes that an experience was given by, as they were recorded; empty without a vote."""
    told = cast("list[list[Any]]", experience.metadata.get("votes", []))
    return tuple(
        # Votes of before they were recorded end without age and counts.
        Opinion(Vote(source, answer, confidence, similarity, *rest), weight, agrees)
        for source, answer, confidence, similarity, weight, agrees, *rest in told
    )


__all__ = ["POLICY", "Answered", "Recorder", "opinions_of"]
