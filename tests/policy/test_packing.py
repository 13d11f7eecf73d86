"""The packed update is exact: log-probabilities, entropies and gradients are those of the plain forward."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from share.kernel.contracts.task import Prompt
from share.kernel.errors import ImageTokenMismatch
from share.kernel.media.operator import Operator
from share.kernel.policy.attention import Branch, TreePlan, grouped_attention, image_attention
from share.kernel.policy.loading import LoRAConfig, Policy, PolicyConfig, load_policy
from share.kernel.policy.logprobs import head_logprobs, token_logprobs
from share.kernel.policy.packing import pack
from share.kernel.policy.reference import ReferencePolicy
from share.kernel.policy.rollout import Group, Rollout, RolloutConfig, RolloutKey, rollout

CONFIG = RolloutConfig(group_size=6, turns_max=3, tokens_max=96)


def plain_logprobs(policy: Policy, each: Rollout) -> tuple[torch.Tensor, torch.Tensor]:
    """One rollout through transformers' own forward with all its logits: nothing of ours but the tokens."""
    ids = torch.cat([each.prompt_ids, each.completion_ids])[None]
    images = [*each.prompt_images, *each.completion_images]
    logits = policy.base(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=torch.cat([image.pixel_values for image in images]),
        image_grid_thw=torch.stack([image.grid_thw for image in images]),
        mm_token_type_ids=(ids == policy.base.config.image_token_id).int(),
    ).logits[0, len(each.prompt_ids) - 1 : -1]
    every = torch.log_softmax(logits.float() / each.temperature, dim=-1)
    logprobs = every.gather(1, each.completion_ids[:, None])[:, 0]
    return logprobs * each.action_mask, -(every.exp() * every).sum(-1) * each.action_mask


def plain_of(policy: Policy) -> Policy:
    """The same weights with transformers' own eager attention, without anything of ours in the model."""
    plain = load_policy(policy.config.model_copy(update={"attention": "eager"}))
    assert plain.backbone is None
    plain.model.load_state_dict(policy.model.state_dict())
    return plain


def gradients(policy: Policy, results: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """The gradient of some loss of all results, flat."""
    loss = torch.zeros(())
    for number, (logprobs, entropies) in enumerate(results):
        weight = torch.cos(torch.arange(len(logprobs)) + number)
        loss = loss + (weight * logprobs).sum() + 0.3 * (weight * entropies).sum()
    policy.model.zero_grad()
    loss.backward()
    return torch.cat([each.grad.flatten() for each in policy.model.parameters() if each.grad is not None])


def assert_plain(policy: Policy, rollouts: Sequence[Rollout], mine: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """The numbers and gradients of `mine` are those of the plain forward."""
    oracle = plain_of(policy)
    plain = [plain_logprobs(oracle, each) for each in rollouts]
    for (logprobs, entropies), (plain_logprob, plain_entropy) in zip(mine, plain, strict=True):
        torch.testing.assert_close(logprobs, plain_logprob, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(entropies, plain_entropy, rtol=1e-5, atol=1e-5)
    gradient, plain_gradient = gradients(policy, mine), gradients(oracle, plain)
    assert float(plain_gradient.norm()) > 1e-2
    assert float((gradient - plain_gradient).norm() / plain_gradient.norm()) < 1e-5
    assert float((gradient - plain_gradient).abs().max()) < 1e-4


@pytest.fixture
def groups(caller: Policy, prompts: list[Prompt], operator_of: Callable[[Policy], Operator]) -> list[Group]:
    return rollout(caller, prompts, operator_of(caller), CONFIG, RolloutKey(0, 0))


def test_packed_equals_the_plain_forward_of_every_rollout(caller: Policy, groups: list[Group]) -> None:
    rollouts = [each for group in groups for each in group.rollouts]
    assert sum(len(each.completion_images) for each in rollouts) > len(rollouts) / 2, "operations are in the loop"
    assert_plain(caller, rollouts, token_logprobs(caller, groups, "packed"))


def test_padded_equals_the_plain_forward_of_every_rollout(caller: Policy, groups: list[Group]) -> None:
    rollouts = [each for group in groups for each in group.rollouts]
    assert_plain(caller, rollouts, token_logprobs(caller, groups, "padded"))


def test_packed_equals_the_plain_forward_at_another_temperature(
    policy: Policy, prompts: list[Prompt], operator_of: Callable[[Policy], Operator]
) -> None:
    config = CONFIG.model_copy(update={"temperature": 0.7, "tokens_max": 24})
    groups = rollout(policy, prompts[:2], operator_of(policy), config, RolloutKey(0, 0))
    rollouts = [each for group in groups for each in group.rollouts]
    assert_plain(policy, rollouts, token_logprobs(policy, groups))


def test_an_adapter_gets_the_gradients_of_the_plain_forward(
    caller_directory: object, groups: list[Group], caller: Policy
) -> None:
    lora = LoRAConfig(rank=4)
    policy = load_policy(PolicyConfig(path=str(caller_directory), device="cpu", lora=lora))
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    assert_plain(policy, groups[0].rollouts, token_logprobs(policy, groups[:1]))
    reference = ReferencePolicy(policy).token_logprobs(groups[:1])
    without = token_logprobs(caller, groups[:1])
    for mine, (theirs, _) in zip(reference, without, strict=True):
        torch.testing.assert_close(mine, theirs.detach(), rtol=1e-5, atol=1e-5)


def test_gradients_are_the_same_when_activations_are_computed_again(caller: Policy, groups: list[Group]) -> None:
    again = load_policy(caller.config.model_copy(update={"gradient_checkpointing": True}))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.numel()) or tensor, lambda each: each
    ):
        results = token_logprobs(again, groups[:1])
        few, kept = sum(kept), []
        plain = token_logprobs(caller, groups[:1])
    assert few < sum(kept) / 2
    mine, theirs = gradients(again, results), gradients(caller, plain)
    assert float((mine - theirs).norm() / theirs.norm()) < 1e-5


def test_the_reference_of_a_fully_trained_policy_stays_what_it_was(caller: Policy, groups: list[Group]) -> None:
    reference = ReferencePolicy(caller)
    before = [logprobs.detach() for logprobs, _ in token_logprobs(caller, groups[:1])]
    with torch.no_grad():
        for parameter in caller.model.parameters():
            parameter.mul_(0.5)
    for mine, theirs in zip(reference.token_logprobs(groups[:1]), before, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_what_rollouts_share_stands_in_the_stream_once(caller: Policy, groups: list[Group]) -> None:
    assert caller.backbone is not None
    one = groups[0].rollouts[0]
    alone = pack(caller.backbone, [Group(groups[0].prompt, (one,))])
    eight = pack(caller.backbone, [Group(groups[0].prompt, (one,) * 8)])
    assert len(eight.ids) == len(alone.ids) == len(one.prompt_ids) + len(one.completion_ids) - 1
    assert len(eight.images) == len(alone.images)
    packed = pack(caller.backbone, groups)
    assert len(packed.ids) < 0.6 * packed.num_padded


def test_a_rollout_alone_has_the_numbers_that_it_has_in_its_group(caller: Policy, groups: list[Group]) -> None:
    together = token_logprobs(caller, groups[:1])
    alone = token_logprobs(caller, groups[0].rollouts)
    for (mine, _), (theirs, _) in zip(together, alone, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_positions_are_those_of_the_model(caller: Policy, groups: list[Group]) -> None:
    assert caller.backbone is not None
    for each in (group.rollouts[0] for group in groups):
        ids = torch.cat([each.prompt_ids, each.completion_ids])
        images = [*each.prompt_images, *each.completion_images]
        mine, following = caller.backbone.positions(ids.tolist(), images, 0)
        theirs, deltas = caller.base.model.get_rope_index(
            ids[None],
            mm_token_type_ids=(ids == caller.base.config.image_token_id).int()[None],
            image_grid_thw=torch.stack([image.grid_thw for image in images]),
        )
        assert torch.equal(mine, theirs[:, 0])
        assert following == len(ids) + int(deltas[0])


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_missing_image_names_the_rollout(caller: Policy, groups: list[Group], layout: str) -> None:
    broken = next(each for each in groups[1].rollouts if each.completion_images)
    broken = replace(broken, completion_images=())
    with pytest.raises(ImageTokenMismatch, match=f"rollout {broken.sample} of prompt prompt-1"):
        token_logprobs(caller, [broken], layout)  # type: ignore[arg-type]


def test_a_tree_of_branches_attends_as_a_square_mask_would() -> None:
    torch.manual_seed(0)
    branches = [
        Branch(0, 5, ()),
        Branch(5, 9, tuple(range(5))),
        Branch(9, 12, (*range(5), 5, 6)),
        Branch(12, 15, ()),
        Branch(15, 16, (12, 13, 14)),
    ]
    seen = torch.zeros(16, 16, dtype=torch.bool)
    for branch in branches:
        for token in range(branch.start, branch.stop):
            seen[token, list(branch.past)] = True
            seen[token, branch.start : token + 1] = True
    query, key, value = torch.randn(1, 4, 16, 8), torch.randn(1, 2, 16, 8), torch.randn(1, 2, 16, 8)
    mine = TreePlan(branches, torch.device("cpu"), torch.float32).attend(query, key, value, None)
    mask = torch.zeros(1, 1, 16, 16).masked_fill(~seen, torch.finfo(torch.float32).min)
    torch.testing.assert_close(mine, grouped_attention(query, key, value, mask, None).transpose(1, 2))


def test_images_attend_within_themselves_whatever_their_sizes() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 4, 24, 8)
    for bounds in ([0, 8, 16, 24], [0, 4, 16, 20, 24]):
        mine, _ = image_attention(torch.nn.Module(), query, key, value, None, torch.tensor(bounds))
        for first, stop in itertools.pairwise(bounds):
            part = (each[:, :, first:stop] for each in (query, key, value))
            plain = torch.nn.functional.scaled_dot_product_attention(*part)
            torch.testing.assert_close(mine[:, first:stop], plain.transpose(1, 2))


def test_the_head_in_chunks_has_the_gradient_of_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("share.kernel.policy.logprobs._CHUNK_LOGITS", 100)
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 30, bias=False).double()
    biased = torch.nn.Linear(8, 30).double()
    targets, temperatures = torch.randint(30, (11,)), torch.linspace(0.5, 1.5, 11).double()
    for module in (head, biased):
        hidden = torch.randn(11, 8, dtype=torch.double, requires_grad=True)

        def results(hidden: torch.Tensor, module: torch.nn.Module = module) -> tuple[torch.Tensor, torch.Tensor]:
            return head_logprobs(module, hidden, targets, temperatures)

        every = torch.log_softmax(module(hidden).float() / temperatures[:, None], dim=-1)
        logprobs, entropies = results(hidden)
        torch.testing.assert_close(logprobs, every.gather(1, targets[:, None])[:, 0])
        torch.testing.assert_close(entropies, -(every.exp() * every).sum(-1))
        weights = torch.randn(2, 11)
        mine = torch.autograd.grad((weights[0] * logprobs + weights[1] * entropies).sum(), (hidden, module.weight))
        plain_loss = (weights[0] * every.gather(1, targets[:, None])[:, 0]).sum()
        plain_loss = plain_loss - (weights[1] * (every.exp() * every).sum(-1)).sum()
        plain = torch.autograd.grad(plain_loss, (hidden, module.weight))
        for one, other in zip(mine, plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
