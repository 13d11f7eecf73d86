"""The stream of benchmarks.online_stream as the service answers it: its evidence, its voter, its audit draw.

Every request runs one policy. Experiences vote as they do in the service, and are found by exact search. What the other
policy would have said is known of audited items alone. Weights, calibration, whom to believe and when a version is
taken back are those of `Evidence`, with the settings that the service has by itself. What stands in is the policy that
learns: the network with a last layer learned from audited items, for a vision-language policy with adapters. Its
candidates are not qualified on anchors, and reviewers decide at once.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from benchmarks.shifted_stream import BATCH, DIGITS, Network, Stream, outputs
from benchmarks.stream_experts import ResidualHead
from share.kernel.adaptation.calibration import calibration_error
from share.kernel.adaptation.review import ReviewConfig, ReviewQueue
from share.kernel.config import validate
from share.kernel.contracts.kinds import Voter
from share.kernel.contracts.serving import Expert
from share.kernel.contracts.voting import Vote
from share.kernel.events import StructuredLogger
from share.kernel.online.config import OnlineConfig
from share.kernel.registry import load_registry
from share.kernel.serving.ballots import Ballot
from share.kernel.serving.consultation import ASKED_TIMES
from share.kernel.serving.evidence import Audit, Evidence
from share.kernel.serving.recording import POLICY
from share.kernel.serving.versions import FROZEN

KEPT_VERSIONS = 3
"""Beside the frozen one, as the service keeps them to go back to."""

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
_Near = list[tuple[int, float]]
Right = NDArray[np.bool_]  # T x 16


@dataclass(frozen=True, slots=True)
class _Answered:
    """`told` is the confidence that the client was told, `confidence` the one before calibration. `opinions` are the
    experts' own answers; the service knows those that it did not ask of audited items alone."""

    given: Expert
    answer: int
    confidence: float
    told: float
    opinions: Mapping[Expert, int]
    version: str
    voters: Mapping[int, Vote]


class Service:
    """Answers one stream; `audited` is the share that is drawn at random, and `seed` draws it."""

    def __init__(self, network: Network, audited: float, seed: int, *, are_reviewers_fooled: bool = False) -> None:
        registry = load_registry()
        config = validate(OnlineConfig, {}, registry)
        self._network = network
        self._config = config.engine
        self._reviews = ReviewConfig(audit_share=audited)
        self._seed = seed
        self._are_reviewers_fooled = are_reviewers_fooled
        self._voter: Voter = registry.build(config.voter)
        self._head = ResidualHead(network.head.in_features, DIGITS)
        self._versions = [(FROZEN, self._head.weights)]
        self._confidences: list[tuple[float, bool, float, bool]] = []
        self.counts = Counter[str]()
        """Answers by whose they were, `versions` and `rollbacks`."""

    def run(self, stream: Stream) -> Right:
        with tempfile.TemporaryDirectory() as directory:
            queue = ReviewQueue(Path(directory) / "reviews.sqlite", self._reviews, seed=self._seed)
            evidence = Evidence(
                Path(directory) / "evidence.json",
                self._config,
                StructuredLogger(None, run_id="", backend="benchmark"),
                clock=lambda: 0.0,
            )
            try:
                return self._run(stream, queue, evidence)
            finally:
                queue.close()

    def calibration(self) -> tuple[float, float]:
        """Expected calibration error of the frozen network, and of what clients were told."""
        told, right, frozen_sure, frozen_right = (np.array(column) for column in zip(*self._confidences, strict=True))
        return calibration_error(frozen_sure, frozen_right), calibration_error(told, right)

    def _run(self, stream: Stream, queue: ReviewQueue, evidence: Evidence) -> Right:
        memory = _Memory(
            self._config.neighbors, self._config.similarity_min, stream.answers.size, self._network.head.in_features
        )
        right = np.zeros(stream.answers.shape, bool)
        for batch, (logits_NC, features_ND) in enumerate(outputs(self._network, stream)):
            truths = stream.answers[batch].tolist()
            found = (stream.reported if self._are_reviewers_fooled else stream.answers)[batch]
            frozen_NC = np.asarray(softmax(logits_NC, axis=1))
            adapted_NC = self._head.predict(logits_NC, features_ND)
            answered = [
                self._answered(evidence, memory, near, frozen_C, adapted_C)
                for near, frozen_C, adapted_C in zip(memory.near(features_ND), frozen_NC, adapted_NC, strict=True)
            ]
            audited = [item for item in range(BATCH) if queue.is_audited(f"{batch}-{item}")]
            for item, (done, truth) in enumerate(zip(answered, truths, strict=True)):
                right[batch, item] = done.answer == truth
                was_right = bool(frozen_NC[item].argmax() == truth)
                self._confidences.append((done.told, done.answer == truth, float(frozen_NC[item].max()), was_right))
                ballot = _ballot(f"client:{stream.clients[batch, item]}", done.answer, done.told)
                if item in audited:
                    ballot = _ballot(f"review:{batch}-{item}", int(found[item]), 1.0)
                memory.add(features_ND[item], ballot)
            for item in audited:
                self._reviewed(answered[item], f"{batch}-{item}", int(found[item]), evidence, memory)
            if audited:
                self._learn(logits_NC[audited], features_ND[audited], found[audited], batch)
        return right

    def _answered(
        self, evidence: Evidence, memory: _Memory, near: _Near, frozen_C: Vector, adapted_C: Vector
    ) -> _Answered:
        """As `Answering` does it: one policy answers, experiences vote with it, and the evidence decides."""
        version, _ = self._versions[-1]
        are_one = version == FROZEN
        ran: Expert = "frozen" if are_one else evidence.policy
        own_C = adapted_C if ran == "adapted" else frozen_C
        answer, confidence = int(own_C.argmax()), float(own_C.max())
        audited, succeeded = evidence.record_of(ran)
        sure = evidence.calibrated("frozen", confidence)
        vote = Vote(POLICY, str(answer), sure, retrieval_count=audited, success_count=succeeded)
        voters = memory.votes(near)
        given, said = ran, answer
        if voters:
            votes = self._voter.vote(vote, tuple(voters.values()), "number")
            said = int(votes.answer)
            trust = len(memory) / (len(memory) + self._config.gate.cold_start_threshold)
            if said != answer and evidence.overrules(ran, trust, are_one=are_one):
                given, answer, confidence = "memory", said, votes.confidence
        self.counts[given] += 1
        opinions: dict[Expert, int] = {
            "frozen": int(frozen_C.argmax()),
            "adapted": int(adapted_C.argmax()),
            "memory": said,
        }
        return _Answered(given, answer, confidence, evidence.calibrated(given, confidence), opinions, version, voters)

    def _reviewed(self, done: _Answered, trace_id: str, right: int, evidence: Evidence, memory: _Memory) -> None:
        """As `Reviews` and `Releases` do it: what was found counts, and a version that does harm is taken back."""
        was_right = {name: opinion == right for name, opinion in done.opinions.items()}
        audit = Audit(done.given, done.confidence, done.told, **was_right, is_whole=True, version=done.version, at=0.0)
        evidence.record(trace_id, audit)
        evidence.settled(trace_id)
        memory.credit(done.voters, str(right))
        version, _ = self._versions[-1]
        if version != FROZEN and evidence.is_harmful():
            self._versions.pop()
            _, self._head.weights = self._versions[-1]
            evidence.distrust(version)
            self.counts["rollbacks"] += 1

    def _learn(self, logits_NC: Matrix, features_ND: Matrix, answers_N: NDArray[np.int64], batch: int) -> None:
        self._head.learn(logits_NC, features_ND, answers_N, batch * BATCH)
        self.counts["versions"] += 1
        kept = [each for each in self._versions if each[0] != FROZEN][1 - KEPT_VERSIONS :]
        self._versions = [self._versions[0], *kept, (f"v{self.counts['versions']}", self._head.weights)]


class _Memory:
    """What the buffer, `Ballots` and `Consultant` do, by exact search."""

    def __init__(self, neighbors: int, similarity_min: float, most: int, dimension: int) -> None:
        self._neighbors = neighbors
        self._similarity_min = similarity_min
        self._features_ND = np.zeros((most, dimension), np.float32)
        self._ballots: list[Ballot] = []

    def __len__(self) -> int:
        return len(self._ballots)

    def near(self, features_ND: Matrix) -> list[_Near]:
        """Of each question the experiences that are asked for their votes, the nearest first, and how similar."""
        most = min(len(self), ASKED_TIMES[-1] * self._neighbors - 1)
        if not most:
            return [[] for _ in features_ND]
        similarities = _unit(features_ND) @ self._features_ND[: len(self)].T
        found: list[_Near] = []
        for similarity_N in similarities:
            top = np.argpartition(-similarity_N, most - 1)[:most]
            top = top[np.argsort(-similarity_N[top])]
            found.append([(int(i), float(similarity_N[i])) for i in top if similarity_N[i] >= self._similarity_min])
        return found

    def votes(self, near: _Near) -> dict[int, Vote]:
        """By experience, one of each source."""
        votes: dict[int, Vote] = {}
        sources = set[str]()
        for index, similarity in near:
            ballot = self._ballots[index]
            if len(votes) == self._neighbors:
                break
            if ballot.source not in sources:
                sources.add(ballot.source)
                votes[index] = ballot.vote(similarity, 0.0)
        return votes

    def credit(self, voters: Mapping[int, Vote], right: str) -> None:
        """Only audited outcomes count for those who voted."""
        for index, vote in voters.items():
            ballot = self._ballots[index]
            self._ballots[index] = replace(
                ballot,
                retrieval_count=ballot.retrieval_count + 1,
                success_count=ballot.success_count + (vote.answer == right),
            )

    def add(self, features_D: Vector, ballot: Ballot) -> None:
        self._features_ND[len(self)] = _unit(features_D[None])[0]
        self._ballots.append(ballot)


def _ballot(source: str, answer: int, confidence: float) -> Ballot:
    return Ballot(source, str(answer), "number", confidence, 0.0, 0, 0)


def _unit(features_ND: Matrix) -> NDArray[np.float32]:
    norms = np.maximum(np.linalg.norm(features_ND, axis=1, keepdims=True), 1e-12)
    return np.asarray(features_ND / norms, np.float32)


__all__ = ["Service"]
