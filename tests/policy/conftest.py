"""A Qwen2.5-VL small enough for a test, made from a configuration, and prompts on images of noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from share.kernel.contracts.task import Call, Demonstration, Prompt
from share.kernel.media.operator import Operator
from share.kernel.operation.zoom_in import ZoomIn, ZoomInConfig
from share.kernel.policy.loading import STARTER, Policy, PolicyConfig, load_policy
from share.kernel.policy.logprobs import token_logprobs
from share.kernel.policy.rollout import teacher_forced
from tests.policy.models import qwen2_5_vl, write_policy

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2.5-VL."""
    tokenizer = AutoTokenizer.from_pretrained(STARTER)
    torch.manual_seed(0)
    return write_policy(tmp_path_factory.mktemp("qwen2_5_vl"), qwen2_5_vl(tokenizer), tokenizer)


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    """Four prompts, the last with two images; lengths differ."""
    rng = np.random.default_rng(0)
    questions = ("What digit is on the red card?", "Read the digit.", "How many red circles are there?", "Which is it?")
    sizes = ((224, 224), (112, 168), (300, 200), (224, 224))
    prompts = []
    for number, (question, size) in enumerate(zip(questions, sizes, strict=True)):
        images = tuple(rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(2 if number == 3 else 1))
        prompts.append(Prompt(f"prompt-{number}", "noise", question, images, answer="7"))
    return prompts


@pytest.fixture(scope="session")
def operator_of() -> Callable[[Policy], Operator]:
    def make(policy: Policy) -> Operator:
        return Operator({"ZOOM_IN": ZoomIn(ZoomInConfig(side_min=56, side_max=84))}, fit=policy.fit)

    return make


@pytest.fixture
def policy(directory: Path) -> Policy:
    """A random policy: it writes anything."""
    return load_policy(PolicyConfig(path=str(directory), device="cpu"))


@pytest.fixture(scope="session")
def caller_directory(
    directory: Path,
    prompts: list[Prompt],
    operator_of: Callable[[Policy], Operator],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A policy that has learned by heart to zoom, at a random place, and then to answer."""
    policy = load_policy(PolicyConfig(path=str(directory), device="cpu"))
    rng, operator = np.random.default_rng(1), operator_of(policy)
    optimizer = torch.optim.Adam(policy.model.parameters(), lr=5e-3, betas=(0.8, 0.95))
    for _ in range(80):
        rollouts = []
        for prompt in prompts:
            corners = [[int(each) for each in rng.choice([0, 10, 20, 30], 2)] for _ in range(rng.integers(1, 3))]
            boxes = [[left, top, left + int(rng.choice([28, 42])), top + 28] for left, top in corners]
            calls = tuple(Call("ZOOM_IN", {"bbox": box}) for box in boxes)
            shown = Demonstration(calls, str(rng.integers(10)))
            rollouts.append(teacher_forced(policy, prompt, shown, operator))
        written = sum(rollout.num_actions for rollout in rollouts)
        loss = -sum(logprobs.sum() for logprobs, _ in token_logprobs(policy, rollouts)) / written
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    target = tmp_path_factory.mktemp("caller")
    policy.save(target)
    return target


@pytest.fixture
def caller(caller_directory: Path) -> Policy:
    return load_policy(PolicyConfig(path=str(caller_directory), device="cpu"))
