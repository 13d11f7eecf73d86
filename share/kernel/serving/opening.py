"""Opens an engine with all that it stands on, from configurations to running threads and processes.

directory/ buffer/  versions/  worker/  and what the engine itself keeps
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from share.kernel.config import Choice
from share.kernel.contracts.kinds import Voter
from share.kernel.events import StructuredLogger
from share.kernel.experience.buffer import open_buffer
from share.kernel.experience.config import ExperienceBufferConfig
from share.kernel.media.operator import load_operator
from share.kernel.policy.loading import PolicyConfig, load_policy
from share.kernel.privacy.redaction import Redactor
from share.kernel.registry import Registry
from share.kernel.serving.batching import Batcher, BatchingConfig
from share.kernel.serving.engine import InferenceEngine
from share.kernel.serving.engine_config import EngineConfig
from share.kernel.serving.update_config import UpdateConfig, worker_settings
from share.kernel.serving.update_worker import PRELOAD, TARGET
from share.kernel.serving.versions import VersionStore
from share.kernel.serving.weights import ServedPolicies
from share.kernel.transport.config import TransportConfig
from share.kernel.transport.supervisor import WorkerSupervisor


def open_engine(
    directory: Path,
    config: EngineConfig,
    registry: Registry,
    logger: StructuredLogger,
    *,
    policy: PolicyConfig,
    operations: Sequence[Choice],
    voter: Choice,
    batching: BatchingConfig,
    waiting_max: int,
    update: UpdateConfig | None,
    transport: TransportConfig,
    seed: int,
) -> InferenceEngine:
    """An engine that answers; `update` None starts no worker, and nothing is learned. As many as `waiting_max` requests
    wait at most, which the load is measured against.

    Raises PixelisError: what is wrong with the policy, a plugin, the buffer, the review queue, or that another engine
    uses the directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as opened:
        store = VersionStore(directory / "versions")
        served = ServedPolicies(lambda: load_policy(policy), store)
        frozen = served.frozen().policy
        remembered = ExperienceBufferConfig(
            dimension=frozen.base.get_input_embeddings().weight.shape[1],
            capacity=config.capacity,
            storage=config.storage,
            index=config.index,
        )
        buffer = open_buffer(directory / "buffer", remembered, registry, logger=logger)
        opened.callback(buffer.close)
        operator = load_operator(registry, operations, fit=frozen.fit)
        chosen: Voter = registry.build(voter)
        batcher = Batcher(served, operator, batching, logger, waiting_max=waiting_max)
        opened.callback(batcher.close)
        worker = directory / "worker"
        supervisor = None
        if update is not None:
            preload = tuple(dict.fromkeys([*PRELOAD, *transport.preload]))
            supervisor = WorkerSupervisor(
                transport.model_copy(update={"preload": preload}),
                target=TARGET,
                settings=worker_settings(update, versions=store.directory, directory=worker),
                directory=worker,
                logger=logger,
            )
            opened.callback(supervisor.close)
        engine = InferenceEngine(
            config,
            directory,
            batcher=batcher,
            buffer=buffer,
            voter=chosen,
            redactor=Redactor(config.redaction),
            supervisor=supervisor,
            worker_directory=worker,
            logger=logger,
            seed=seed,
        )
        opened.pop_all()
    return engine


__all__ = ["open_engine"]
