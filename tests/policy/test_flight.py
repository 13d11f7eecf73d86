"""Rollouts that come and go: whoever joins or leaves, the others are computed as they would be alone."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Action
from share.kernel.media.operator import Operator
from share.kernel.policy.conversation import Conversation
from share.kernel.policy.loading import Policy
from share.kernel.policy.plain import PlainFlight
from share.kernel.policy.rollout import Flight, RolloutConfig, RolloutKey, open_flight, open_prompt, rollout, start
from share.kernel.serving.weights import with_weights

CONFIG = RolloutConfig(group_size=3, turns_max=3, tokens_max=120)
KEY = RolloutKey(0, 0)
OperatorOf = Callable[[Policy], Operator]


class Counter:
    """Counts what it is told, and goes away after so many tokens."""

    def __init__(self, tokens_max: int) -> None:
        self.tokens_max = tokens_max
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.entropies: list[float] = []
        self.actions: list[Action] = []

    def wrote(self, token: int, logprob: float, entropy: float, /) -> None:
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.entropies.append(entropy)

    def acted(self, action: Action, /) -> None:
        self.actions.append(action)

    @property
    def is_gone(self) -> bool:
        return len(self.tokens) >= self.tokens_max


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def begun(policy: Policy, prompts: list[Prompt], operator: Operator) -> list[list[Conversation]]:
    """The groups of the prompts, none of them begun."""
    return [start([open_prompt(policy, prompt, operator.schemas())], CONFIG, KEY) for prompt in prompts]


def expected(policy: Policy, prompts: list[Prompt], operator: Operator) -> list[list[int]]:
    groups = rollout(policy, prompts, operator, CONFIG, KEY)
    return [each.completion_ids.tolist() for group in groups for each in group.rollouts]


@torch.no_grad()
def land(flight: Flight, joining: list[list[Conversation]], rng: random.Random, awake: threading.Event) -> None:
    """Step until everything has ended, groups joining at random steps."""
    waiting, ended = list(joining), set[Conversation]()
    while flight.num_rows or waiting:
        if waiting and (not flight.num_rows or rng.random() < 0.15):
            flight.join(waiting.pop(0))
        if flight.is_idle:
            assert awake.wait(60)
        awake.clear()
        for conversation in flight.step():
            assert conversation not in ended
            ended.add(conversation)
    assert ended == {each for group in joining for each in group}


@pytest.mark.parametrize("seed", range(4))
def test_who_joins_later_writes_what_it_would_have_written_alone(
    caller: Policy, prompts: list[Prompt], operator_of: OperatorOf, threads: ThreadPoolExecutor, seed: int
) -> None:
    """While others decode, act and read; the cache grows in rows and in length."""
    operator, awake, rng = operator_of(caller), threading.Event(), random.Random(seed)
    groups = begun(caller, prompts, operator)
    order = rng.sample(groups, len(groups))
    land(open_flight(caller, operator, threads, awake.set), order, rng, awake)
    assert [each.ids for group in groups for each in group] == expected(caller, prompts, operator)
    assert any(len(each.images) == 2 for group in groups for each in group), "two observations in one rollout"


@pytest.mark.parametrize("is_plain", [False, True])
def test_who_is_gone_leaves_at_the_next_token_and_disturbs_nobody(
    caller: Policy, prompts: list[Prompt], operator_of: OperatorOf, threads: ThreadPoolExecutor, is_plain: bool
) -> None:
    operator, awake, rng = operator_of(caller), threading.Event(), random.Random(1)
    groups = begun(caller, prompts, operator)
    conversations = [each for group in groups for each in group]
    for number, each in enumerate(conversations):
        each.watcher = Counter(1 + number if number % 3 == 0 else 10_000)
    flight = PlainFlight(caller, operator, threads) if is_plain else open_flight(caller, operator, threads, awake.set)
    land(flight, groups, rng, awake)
    for each, ids in zip(conversations, expected(caller, prompts, operator), strict=True):
        assert isinstance(each.watcher, Counter)
        if each.finish is None:
            assert len(each.watcher.tokens) == each.watcher.tokens_max
            assert each.ids == ids[: len(each.ids)]
        else:
            assert each.ids == ids
            assert each.watcher.actions == each.actions
    assert sum(each.finish is None for each in conversations) == 4


def test_a_watcher_is_told_every_token_with_its_probability(
    caller: Policy, prompts: list[Prompt], operator_of: OperatorOf, threads: ThreadPoolExecutor
) -> None:
    operator, awake = operator_of(caller), threading.Event()
    groups = begun(caller, prompts[:2], operator)
    watched = groups[0][1]
    watcher = watched.watcher = Counter(10_000)
    land(open_flight(caller, operator, threads, awake.set), groups, random.Random(0), awake)
    assert watcher.tokens == [token for token, is_own in zip(watched.ids, watched.written, strict=True) if is_own]
    own = [logprob for logprob, is_own in zip(watched.logprobs, watched.written, strict=True) if is_own]
    assert watcher.logprobs == pytest.approx(own, abs=1e-6)  # sampled at temperature 1
    assert all(0.0 <= entropy < 7.0 for entropy in watcher.entropies)  # ln of the vocabulary is 6.9


def test_features_of_images_are_kept_for_a_while_and_not_for_ever(
    caller: Policy, prompts: list[Prompt], operator_of: OperatorOf, threads: ThreadPoolExecutor
) -> None:
    operator = operator_of(caller)
    flight = open_flight(caller, operator, threads, lambda: None)
    runs = []
    handle = caller.base.model.visual.register_forward_pre_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        images = open_prompt(caller, prompts[0], []).images
        first = flight.image_features(images)
        assert torch.equal(first, flight.image_features(images))
        assert len(runs) == 1
        for number in range(40):
            pixels = prompts[0].images[0].copy()
            pixels[:, :, 0] = number
            flight.image_features((caller.images.encode(caller.fit(pixels)),))
        flight.image_features(images)
    handle.remove()
    assert len(runs) == 42


@torch.no_grad()
def test_features_are_shared_by_weights_that_see_alike_and_by_no_others(
    caller: Policy, prompts: list[Prompt], operator_of: OperatorOf, threads: ThreadPoolExecutor
) -> None:
    operator, runs = operator_of(caller), []
    first = open_flight(caller, operator, threads, lambda: None)
    handle = caller.base.model.visual.register_forward_pre_hook(lambda *_: runs.append(1))
    parameters = dict(caller.model.named_parameters())
    speaking, seeing = (
        with_weights(caller, {name: parameters[name].detach() * 2.0})
        for name in ("model.language_model.norm.weight", "model.visual.patch_embed.proj.weight")
    )
    images = open_prompt(caller, prompts[0], []).images
    features = first.image_features(images)
    assert torch.equal(features, open_flight(speaking, operator, threads, lambda: None, first).image_features(images))
    assert len(runs) == 1, "the tower did not run again"
    other = open_flight(seeing, operator, threads, lambda: None, first)
    alone = open_flight(seeing, operator, threads, lambda: None)
    assert not torch.allclose(features, other.image_features(images), atol=1e-2)
    assert torch.equal(alone.image_features(images), other.image_features(images))
    handle.remove()
