"""The starter policy, its prompts, and engines that are closed after the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from share.kernel.config import Choice
from share.kernel.contracts.task import Prompt
from share.kernel.policy.loading import Policy, PolicyConfig, load_policy
from share.kernel.registry import Registry
from tests.serving.engines import Maker

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def starter() -> Policy:
    return load_policy(PolicyConfig())


@pytest.fixture(scope="session")
def questions(registry: Registry) -> list[Prompt]:
    """Ten prompts that the starter policy was made for."""
    task = registry.build(Choice("task", "zoom_digits"))
    return [task.prompt("held_out", index) for index in range(10)]


@pytest.fixture
def make(registry: Registry, starter: Policy) -> Iterator[Maker]:
    maker = Maker(registry, starter)
    yield maker
    for engine in maker.made:
        engine.close()
