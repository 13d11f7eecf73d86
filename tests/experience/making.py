"""Experiences and buffers for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from share.kernel.config import Choice, validate
from share.kernel.contracts.experience import Experience
from share.kernel.contracts.kinds import Index, Storage
from share.kernel.experience.buffer import ExperienceBuffer, open_buffer
from share.kernel.experience.builder import InlineBuilder
from share.kernel.experience.config import ExperienceBufferConfig
from share.kernel.experience.disk import Disk, RealDisk
from share.kernel.registry import Registry

DIMENSION = 16
FAR = 10**9
"""Never rebuild unless asked to."""


def experience(number: int | str, **fields: Any) -> Experience:
    """Experience `e<number>`; its embedding is of its number, so that any process makes the same one."""
    embedding_D = np.random.default_rng(list(str(number).encode())).standard_normal(DIMENSION)
    embedding_D /= np.linalg.norm(embedding_D)
    values: dict[str, Any] = {
        "id": f"e{number}",
        "question": f"question {number}",
        "answer": f"answer {number}",
        "embedding": embedding_D.astype(np.float32),
        "confidence": 0.5,
        "created_at": 1.7e9,
    }
    return Experience(**{**values, **fields})


def settings(registry: Registry, **values: Any) -> ExperienceBufferConfig:
    told: dict[str, Any] = {
        "dimension": DIMENSION,
        "rebuild_after": FAR,
        "storage": {"name": "file", "segment_bytes": 1 << 16},
        "index": "flat",
        "check_recall_every": 0,
    }
    return validate(ExperienceBufferConfig, {**told, **values}, registry)


def opened(directory: Path, registry: Registry, *, disk: Disk | None = None, **values: Any) -> ExperienceBuffer:
    """A buffer that builds in this process, to save the time of starting another."""
    passed = {key: values.pop(key) for key in ("take_over", "salvage", "clock", "random", "logger") if key in values}
    config = settings(registry, **values)
    storage: Storage = registry.build(Choice("buffer", config.storage.name))
    index: Index = registry.build(config.index)
    disk = disk or RealDisk()
    builder = InlineBuilder(directory, disk, storage, index)
    return open_buffer(directory, config, registry, disk=disk, builder=builder, **passed)


def ids_of(buffer: ExperienceBuffer) -> list[str]:
    return [each.id for each in buffer]
