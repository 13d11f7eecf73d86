"""Engines for tests: starter policy, real buffer, voter, review queue and supervisor, and a worker that is quick."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from share.kernel.config import Choice, validate
from share.kernel.contracts.kinds import Voter
from share.kernel.contracts.serving import Reply, Request
from share.kernel.contracts.task import Prompt
from share.kernel.events import StructuredLogger
from share.kernel.experience.buffer import ExperienceBuffer, open_buffer
from share.kernel.experience.config import ExperienceBufferConfig
from share.kernel.experience.disk import Disk
from share.kernel.media.operator import Operator, load_operator
from share.kernel.policy.loading import Policy
from share.kernel.privacy.redaction import Redactor
from share.kernel.registry import Registry
from share.kernel.serving.batching import Batcher, BatchingConfig
from share.kernel.serving.engine import InferenceEngine
from share.kernel.serving.engine_config import EngineConfig
from share.kernel.serving.update_config import UpdateConfig
from share.kernel.serving.versions import VersionStore
from share.kernel.serving.weights import ServedPolicies
from share.kernel.transport.config import TransportConfig
from share.kernel.transport.supervisor import WorkerSupervisor

EVERYTHING_IS_AUDITED = {"audit_share": 1.0}
LEARNS_FROM_ALL: dict[str, Any] = {
    "review": {"audit_share": 0.0},
    "unsure_below": 0.0,
    "gate": {
        "confidence_min": 0.0,
        "entropy_max": 9.0,
        "redundancy_max": 1.0,
        "client_share_max": 1.0,
        "label_share_max": 1.0,
    },
}
"""Settings of an engine that learns from every answer and asks no reviewer."""

PATIENCE_S = 120.0


@dataclass
class Parts:
    """An engine and what it stands on; `engine.close()` ends it all."""

    engine: InferenceEngine
    buffer: ExperienceBuffer
    served: ServedPolicies
    supervisor: WorkerSupervisor | None
    directory: Path
    operator: Operator

    def ask(self, prompt: Prompt, trace_id: str | None = None, **fields: Any) -> Reply:
        """Ask, and wait until the answer is recorded too."""
        reply = self.engine.infer_and_adapt(ask(prompt, trace_id, **fields))
        self.engine.settle()
        return reply

    def given(self) -> list[str]:
        """What the worker was given, a line each."""
        path = self.directory / "given"
        return path.read_text().splitlines() if path.exists() else []

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what the worker, or the thread behind the answers, is about to do."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.engine.get_statistics()
            time.sleep(0.02)
        self.engine.settle()


@dataclass
class Maker:
    """Makes engines over one loaded policy; a directory can be opened again after its engine was closed."""

    registry: Registry
    policy: Policy
    made: list[InferenceEngine] = field(default_factory=list)

    def __call__(
        self,
        directory: Path,
        *,
        learns: bool = False,
        voter: Voter | None = None,
        clock: Callable[[], float] = time.time,
        disk: Disk | None = None,
        batching: Mapping[str, object] | None = None,
        transport: Mapping[str, object] | None = None,
        logger: StructuredLogger | None = None,
        **settings: Any,
    ) -> Parts:
        settings = {"review": EVERYTHING_IS_AUDITED, "consult_ms": 1000 * PATIENCE_S, **settings}
        config = validate(EngineConfig, settings, self.registry)
        logger = logger or StructuredLogger(None, run_id="", backend="test")
        dimension = self.policy.base.get_input_embeddings().weight.shape[1]
        remembered = ExperienceBufferConfig(dimension=dimension, check_recall_every=0)
        buffer = open_buffer(directory / "buffer", remembered, self.registry, clock=clock, disk=disk)
        served = ServedPolicies(lambda: self.policy, VersionStore(directory / "versions"))
        operations = validate(UpdateConfig, {}, self.registry).operations
        operator = load_operator(self.registry, operations, fit=self.policy.fit)
        engine = InferenceEngine(
            config,
            directory,
            batcher=Batcher(served, operator, BatchingConfig.model_validate(batching or {}), logger),
            buffer=buffer,
            voter=voter or self.registry.build(Choice("voter", "weighted")),
            redactor=Redactor(config.redaction),
            supervisor=(supervisor := self._supervisor(directory, transport or {}, logger) if learns else None),
            worker_directory=directory / "worker",
            logger=logger,
            clock=clock,
        )
        self.made.append(engine)
        return Parts(engine, buffer, served, supervisor, directory, operator)

    def _supervisor(
        self, directory: Path, transport: Mapping[str, object], logger: StructuredLogger
    ) -> WorkerSupervisor:
        weights = directory / "shifted.safetensors"
        save_file(shifted_digits(self.policy), weights)
        return WorkerSupervisor(
            TransportConfig.model_validate({"num_slots": 16, "scheduling": "normal", **transport}),
            target="tests.serving.workers:Learner",
            settings={
                "versions": str(directory / "versions"),
                "weights": str(weights),
                "given": str(directory / "given"),
            },
            directory=directory / "worker",
            logger=logger,
        )


def ask(prompt: Prompt, trace_id: str | None = None, **fields: Any) -> Request:
    """The request that a client makes of a task's prompt."""
    given = {"client": "client-1", "answer_type": "number", **fields}
    question = given.pop("question", prompt.question)
    return Request(trace_id or uuid.uuid4().hex, question, prompt.images, **given)


def shifted_digits(policy: Policy) -> dict[str, Tensor]:
    """The weights of a policy that writes 1 where this one writes 0, and so on: sound, and of another mind."""
    rows = [policy.tokenizer.encode(str(digit), add_special_tokens=False) for digit in range(10)]
    assert all(len(row) == 1 for row in rows)
    ids = [row[0] for row in rows]
    head = policy.model.get_output_embeddings().weight
    shifted = head.detach().clone()
    shifted[[*ids[1:], ids[0]]] = head.detach()[ids]
    name = next(name for name, each in policy.model.named_parameters() if each is head)
    return {name: shifted}
