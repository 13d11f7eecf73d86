"""Rollouts: what is recorded is what was computed, and samples depend on nothing but weights, prompt and key."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from share.kernel.config import ConfigModel
from share.kernel.contracts.task import Call, Demonstration, Prompt
from share.kernel.contracts.vision import OperationResult, Scene
from share.kernel.errors import ImageTokenMismatch, MediaError, PolicyError
from share.kernel.media.operator import Operator
from share.kernel.operation.zoom_in import ZoomIn, ZoomInConfig
from share.kernel.policy.conversation import audit_image_tokens
from share.kernel.policy.loading import Policy
from share.kernel.policy.logprobs import token_logprobs
from share.kernel.policy.plain import run_plain
from share.kernel.policy.rollout import (
    Group,
    Rollout,
    RolloutConfig,
    RolloutKey,
    open_prompt,
    open_scene,
    rollout,
    teacher_forced,
)
from share.kernel.policy.sampling import sample_tokens, uniforms

CONFIG = RolloutConfig(group_size=4, turns_max=3, tokens_max=96)
OperatorOf = Callable[[Policy], Operator]


def written(groups: list[Group]) -> list[list[int]]:
    return [each.completion_ids.tolist() for group in groups for each in group.rollouts]


def rollouts_of(groups: list[Group]) -> list[Rollout]:
    return [each for group in groups for each in group.rollouts]


def test_behavior_logprobs_are_those_of_the_update(
    caller: Policy, prompts: list[Prompt], operator_of: OperatorOf
) -> None:
    """Kept keys across turns, observations with images and retired rows change nothing about what was computed."""
    config = CONFIG.model_copy(update={"tokens_max": 200})
    groups = rollout(caller, prompts, operator_of(caller), config, RolloutKey(0, 0))
    assert any(len(each.completion_images) == 2 for each in rollouts_of(groups)), "two observations in one rollout"
    for each, (logprobs, _) in zip(rollouts_of(groups), token_logprobs(caller, groups, "padded"), strict=True):
        torch.testing.assert_close(each.behavior_logprobs, logprobs.detach(), rtol=1e-4, atol=2e-5)
        assert not each.behavior_logprobs[~each.action_mask].any()


def test_the_same_key_gives_the_same_rollouts_bit_by_bit(
    caller: Policy, prompts: list[Prompt], operator_of: OperatorOf
) -> None:
    first, second = (rollout(caller, prompts, operator_of(caller), CONFIG, RolloutKey(3, 5)) for _ in range(2))
    for one, other in zip(rollouts_of(first), rollouts_of(second), strict=True):
        assert torch.equal(one.completion_ids, other.completion_ids)
        assert torch.equal(one.behavior_logprobs, other.behavior_logprobs)
    assert written(first) != written(rollout(caller, prompts, operator_of(caller), CONFIG, RolloutKey(3, 6)))


def test_samples_do_not_depend_on_the_batch(caller: Policy, prompts: list[Prompt], operator_of: OperatorOf) -> None:
    operator, key = operator_of(caller), RolloutKey(0, 0)
    together = written(rollout(caller, prompts, operator, CONFIG, key))
    one_by_one = [written(rollout(caller, [prompt], operator, CONFIG, key)) for prompt in prompts]
    assert together == [ids for group in one_by_one for ids in group]
    backwards = rollout(caller, prompts[::-1], operator, CONFIG.model_copy(update={"rows_max": 8}), key)
    assert together == written(backwards[::-1])


def test_the_plain_path_samples_the_same(caller: Policy, prompts: list[Prompt], operator_of: OperatorOf) -> None:
    operator, key = operator_of(caller), RolloutKey(0, 0)
    shared = rollout(caller, prompts, operator, CONFIG, key)
    opened = [open_prompt(caller, prompt, operator.schemas()) for prompt in prompts]
    with torch.no_grad():
        plain = run_plain(caller, opened, operator, CONFIG, key)
    assert written(shared) == written(plain)
    assert [each.trajectory.finish for each in rollouts_of(shared)] == [
        each.trajectory.finish for each in rollouts_of(plain)
    ]
    for one, other in zip(rollouts_of(shared), rollouts_of(plain), strict=True):
        torch.testing.assert_close(one.behavior_logprobs, other.behavior_logprobs, rtol=1e-4, atol=2e-5)


def test_prompts_are_computed_once_and_images_once(
    caller: Policy, prompts: list[Prompt], operator_of: OperatorOf
) -> None:
    patches, widths = [], []
    base = caller.base.model
    handles = [
        base.visual.register_forward_pre_hook(lambda module, args: patches.append(len(args[0]))),
        base.language_model.embed_tokens.register_forward_pre_hook(
            lambda module, args: widths.append(tuple(args[0].shape))
        ),
    ]
    twice = [prompts[0], replace(prompts[0], prompt_id="again", question="Read the digit.")]
    groups = rollout(caller, twice, operator_of(caller), CONFIG, RolloutKey(0, 0))
    for handle in handles:
        handle.remove()
    shown = rollouts_of(groups)[0].prompt_images[0]
    assert patches[0] == len(shown.pixel_values), "one image in two prompts of four rollouts"
    assert widths[0][0] == 2, "two prompts, not eight rollouts"
    assert all(tokens == 1 or rows <= 8 for rows, tokens in widths)
    crops = {image.digest: len(image.pixel_values) for each in rollouts_of(groups) for image in each.completion_images}
    assert sum(patches[1:]) == sum(crops.values()), "each distinct crop once"


def test_a_rollout_survives_pickling(caller: Policy, prompts: list[Prompt], operator_of: OperatorOf) -> None:
    groups = rollout(caller, prompts[:1], operator_of(caller), CONFIG, RolloutKey(0, 0))
    again = pickle.loads(pickle.dumps(groups))
    assert written(again) == written(groups)
    assert again[0].rollouts[0].scene.views.keys() == groups[0].rollouts[0].scene.views.keys()


def test_the_greedy_rollout_is_the_likeliest(caller: Policy, prompts: list[Prompt], operator_of: OperatorOf) -> None:
    config = CONFIG.model_copy(update={"temperature": 0.0, "group_size": 1})
    groups = rollout(caller, prompts, operator_of(caller), config, RolloutKey(0, 0))
    assert written(groups) == written(rollout(caller, prompts, operator_of(caller), config, RolloutKey(9, 9)))


@pytest.mark.parametrize("tokens_max", [1, 15, 20, 40, 60])
def test_truncation_takes_whole_observations_with_their_images(
    caller: Policy, prompts: list[Prompt], operator_of: OperatorOf, tokens_max: int
) -> None:
    config = CONFIG.model_copy(update={"tokens_max": tokens_max})
    groups = rollout(caller, prompts, operator_of(caller), config, RolloutKey(0, 0))
    for each in rollouts_of(groups):
        assert len(each.completion_ids) <= tokens_max
        assert each.trajectory.finish != "answer" or each.trajectory.answer is not None
        pads = int((each.completion_ids == caller.chat.image_token_id).sum())
        assert pads == sum(image.num_tokens for image in each.completion_images)
    token_logprobs(caller, groups, "packed")
    token_logprobs(caller, groups, "padded")


def test_the_last_turn_is_not_run_and_says_so(caller: Policy, prompts: list[Prompt], operator_of: OperatorOf) -> None:
    config = CONFIG.model_copy(update={"turns_max": 1})
    cut = [
        each.trajectory
        for each in rollouts_of(rollout(caller, prompts, operator_of(caller), config, RolloutKey(0, 0)))
        if each.trajectory.finish == "turns_max"
    ]
    assert cut
    assert all(trajectory.actions[-1].error == "not run: the rollout had 1 turns" for trajectory in cut)


def test_a_policy_that_writes_image_tokens_ends_its_rollout(
    policy: Policy, prompts: list[Prompt], operator_of: OperatorOf
) -> None:
    image = policy.chat.image_token_id
    with torch.no_grad():
        policy.base.get_input_embeddings().weight[image] *= 40
    config = CONFIG.model_copy(update={"tokens_max": 24, "temperature": 2.0})
    groups = rollout(policy, prompts, operator_of(policy), config, RolloutKey(0, 0))
    ended = [each for each in rollouts_of(groups) if int(each.completion_ids[-1]) == image]
    assert ended
    assert all(each.trajectory.finish == "invalid" for each in ended)
    for each, (logprobs, _) in zip(rollouts_of(groups), token_logprobs(policy, groups), strict=True):
        torch.testing.assert_close(each.behavior_logprobs, logprobs.detach(), rtol=1e-4, atol=1e-4)


def test_what_is_wrong_with_a_call_is_read_by_the_policy(
    caller: Policy, prompts: list[Prompt], operator_of: OperatorOf
) -> None:
    operator = operator_of(caller)
    with pytest.raises(PolicyError, match=r"ZOOM_IN: bbox"):
        teacher_forced(caller, prompts[0], Demonstration((Call("ZOOM_IN", {"bbox": [5, 5, 900, 900]}),), "1"), operator)
    groups = rollout(caller, prompts, Operator({}, fit=caller.fit), CONFIG, RolloutKey(0, 0))
    actions = [action for each in rollouts_of(groups) for action in each.trajectory.operations]
    assert any("no operation" in (action.observation or "") for action in actions)
    decoded = caller.tokenizer.decode(rollouts_of(groups)[0].completion_ids)
    assert "<tool_response>\nerror: no operation" in decoded


def test_a_demonstration_becomes_the_rollout_that_the_policy_would_have_to_write(
    caller: Policy, prompts: list[Prompt], operator_of: OperatorOf
) -> None:
    shown = Demonstration((Call("ZOOM_IN", {"bbox": [0, 0, 28, 28]}),), "7")
    each = teacher_forced(caller, prompts[0], shown, operator_of(caller))
    wrote = caller.tokenizer.decode(each.completion_ids[each.action_mask])
    call = '<tool_call>\n{"name": "ZOOM_IN", "arguments": {"bbox": [0, 0, 28, 28]}}\n</tool_call><|im_end|>'
    assert wrote == call + "<answer>7</answer><|im_end|>"
    assert each.trajectory.answer == "7"
    assert list(each.scene.views) == ["image_1", "image_2"]
    assert not list(open_scene(caller, prompts[0]).regions)


class SlowArguments(ConfigModel):
    bbox: tuple[int, int, int, int]
    """[x1, y1, x2, y2] in pixels."""


class SlowZoom:
    """Zoom, but only once the policy has gone on to write for others."""

    Arguments: ClassVar[type[SlowArguments]] = SlowArguments

    def __init__(self, written_on: threading.Event) -> None:
        self.zoom = ZoomIn(ZoomInConfig(side_min=56, side_max=56))
        self.written_on = written_on
        self.waited: list[bool] = []

    def run(self, scene: Scene, arguments: SlowArguments, /) -> OperationResult:
        self.waited.append(self.written_on.wait(5.0))
        parsed = self.zoom.Arguments.model_validate({"bbox": list(arguments.bbox)})
        return self.zoom.run(scene, parsed)


def test_operations_run_while_other_rollouts_are_decoded(caller: Policy, prompts: list[Prompt]) -> None:
    """The operation returns only after a decoding step that came after its call: it must not hold the others up."""
    stepped, embedding = threading.Event(), caller.base.get_input_embeddings()
    slow = SlowZoom(stepped)
    called = threading.Event()

    def step(module: object, args: tuple[torch.Tensor]) -> None:
        if called.is_set() and args[0].shape[1] == 1:
            stepped.set()
        if slow.waited or threading.active_count() > 2:
            called.set()

    handle = embedding.register_forward_pre_hook(step)
    config = CONFIG.model_copy(update={"group_size": 8, "temperature": 1.3})
    groups = rollout(caller, prompts, Operator({"ZOOM_IN": slow}, fit=caller.fit), config, RolloutKey(0, 0))
    handle.remove()
    assert slow.waited
    assert all(slow.waited)
    assert len(groups) == 4


def test_the_audit_names_the_rollout_and_both_counts(caller: Policy, prompts: list[Prompt]) -> None:
    opened = open_prompt(caller, prompts[0], [])
    image = caller.chat.image_token_id
    audit_image_tokens("rollout 1 of prompt a", opened.ids, opened.images, image)
    short = [token for place, token in enumerate(opened.ids) if token != image or opened.ids[place - 1] != image]
    with pytest.raises(ImageTokenMismatch, match=r"rollout 1 of prompt a: its ids hold images of \[1\] tokens"):
        audit_image_tokens("rollout 1 of prompt a", short, opened.images, image)


def test_an_image_too_long_is_refused_with_its_size(caller: Policy) -> None:
    with pytest.raises(MediaError, match="3000 x 10 px"):
        caller.fit(np.zeros((10, 3000, 3), np.uint8))


def test_random_numbers_are_uniform_and_their_own_for_each_token() -> None:
    keys = np.arange(20_000, dtype=np.uint64)
    zero = np.zeros_like(keys)
    numbers = uniforms(keys, zero, zero)
    assert 0.0 <= numbers.min() <= numbers.max() < 1.0
    assert abs(numbers.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(numbers, uniforms(keys, zero, zero + np.uint64(1)))[0, 1]) < 0.03
    assert abs(np.corrcoef(numbers, uniforms(keys, zero + np.uint64(1), zero))[0, 1]) < 0.03
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.03


def test_sampling_follows_the_distribution_and_top_p_cuts_its_tail() -> None:
    logits = torch.log(torch.tensor([0.05, 0.5, 0.1, 0.35])).expand(20_000, -1)
    numbers = uniforms(np.arange(20_000, dtype=np.uint64), *(np.zeros(20_000, np.uint64),) * 2)
    tokens, logprobs = sample_tokens(logits, 1.0, 1.0, numbers)
    shares = torch.bincount(tokens, minlength=4) / len(tokens)
    torch.testing.assert_close(shares, torch.tensor([0.05, 0.5, 0.1, 0.35]), rtol=0, atol=0.015)
    torch.testing.assert_close(logprobs, logits[0].log_softmax(-1)[tokens])
    assert set(sample_tokens(logits, 1.0, 0.8, numbers)[0].tolist()) == {1, 3}
    assert set(sample_tokens(logits, 0.0, 1.0, numbers)[0].tolist()) == {1}
