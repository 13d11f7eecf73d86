"""The decoder computes what the model's own forward does, and steps aside where it cannot know that it would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from share.kernel.contracts.task import Prompt
from share.kernel.media.operator import Operator
from share.kernel.policy.attention import CachePlan
from share.kernel.policy.backbone import Backbone, PatchProjection
from share.kernel.policy.cache import RolloutCache
from share.kernel.policy.decoder import Decoder
from share.kernel.policy.loading import STARTER, LoRAConfig, Policy, PolicyConfig, load_policy
from share.kernel.policy.plain import padded_inputs
from share.kernel.policy.rollout import RolloutConfig, RolloutKey, how_rollouts_run, open_prompt, rollout
from tests.policy.models import qwen2_5_vl, qwen2_vl, qwen3_vl, write_policy

LORA = LoRAConfig(rank=4)


@pytest.fixture(scope="module", params=[qwen2_vl, qwen2_5_vl, qwen3_vl])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose norms and biases are not the ones and zeros that they start as."""
    tokenizer = AutoTokenizer.from_pretrained(STARTER)
    torch.manual_seed(0)
    model = request.param(tokenizer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter += 0.2 * torch.randn_like(parameter)
    return write_policy(tmp_path_factory.mktemp(request.param.__name__), model, tokenizer)


@pytest.fixture(params=[None, LORA], ids=["plain", "lora"])
def each_policy(family: Path, request: pytest.FixtureRequest) -> Policy:
    policy = load_policy(PolicyConfig(path=str(family), device="cpu", lora=request.param))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    return policy


def kept_logits(
    policy: Policy, forward: Decoder | Backbone, prompt: Prompt, written: list[int], turn: int
) -> torch.Tensor:
    """Logits [1 + written, vocabulary] after the prompt and each token; the first `turn` are read at once."""
    backbone = policy.backbone
    assert backbone is not None
    opened = open_prompt(policy, prompt, [])
    positions, place = backbone.positions(opened.ids, opened.images, 0)
    length = len(opened.ids)
    cache = RolloutCache(1, length, backbone.device, backbone.dtype)
    cache.fill([length], 1)
    features = torch.cat(backbone.image_features(opened.images))
    hidden = [forward.hidden(torch.tensor([opened.ids]), features, positions[:, None], CachePlan(None), cache)[:, -1:]]
    for tokens in [written[:turn], *([token] for token in written[turn:])]:
        mask = cache.extend(0, [length], [len(tokens)])
        steps = torch.arange(place, place + len(tokens)).expand(3, 1, -1)
        hidden.append(forward.hidden(torch.tensor([tokens]), None, steps, CachePlan(mask), cache))
        length, place = length + len(tokens), place + len(tokens)
    logits: torch.Tensor = backbone.head(torch.cat(hidden, dim=1))
    return logits[0]


@torch.no_grad()
def test_logits_are_those_of_the_models_own_forward(each_policy: Policy, prompts: list[Prompt]) -> None:
    policy, backbone = each_policy, each_policy.backbone
    assert backbone is not None
    assert Decoder.fits(backbone)
    written = torch.randint(0, 900, (90,), generator=torch.Generator().manual_seed(0)).tolist()
    written = [token for token in written if token > 20]
    for prompt in prompts:
        opened = open_prompt(policy, prompt, [])
        ids = [*opened.ids, *written]
        inputs = padded_inputs(policy, ["row"], [ids], [opened.images], "right")
        own = policy.base(**inputs).logits[0, len(opened.ids) - 1 :]
        assert float(own.std()) > 0.1
        for forward in (Decoder(backbone, len(ids)), Decoder(backbone, len(ids), joined_bytes_max=0), backbone):
            kept = kept_logits(policy, forward, prompt, written, turn=9)
            torch.testing.assert_close(kept, own, rtol=1e-5, atol=1e-5)


def test_greedy_rollouts_are_what_the_model_generates(each_policy: Policy, prompts: list[Prompt]) -> None:
    config = RolloutConfig(group_size=1, turns_max=1, tokens_max=24, temperature=0.0)
    groups = rollout(each_policy, prompts, Operator({}, fit=each_policy.fit), config, RolloutKey(0, 0))
    for prompt, group in zip(prompts, groups, strict=True):
        opened = open_prompt(each_policy, prompt, [])
        inputs = padded_inputs(each_policy, ["row"], [opened.ids], [opened.images], "left")
        length, written = len(opened.ids), group.rollouts[0].completion_ids.tolist()
        with torch.no_grad():
            generated = each_policy.base.generate(**inputs, do_sample=False, max_new_tokens=24)[0, length:].tolist()
        assert written == generated[: len(written)]


def _hooked(policy: Policy) -> None:
    policy.base.model.language_model.layers[1].mlp.register_forward_hook(lambda *_: None)


def _replaced(policy: Policy) -> None:
    layer = policy.base.model.language_model.layers[0]
    layer.forward = layer.forward


def _another_layer(policy: Policy) -> None:
    layer = policy.base.model.language_model.layers[0]
    layer.__class__ = type("DriftedLayer", (type(layer),), {})


@pytest.mark.parametrize("change", [_hooked, _replaced, _another_layer])
def test_a_changed_model_runs_through_its_own_layers_and_samples_the_same(
    change: Callable[[Policy], None], caller: Policy, prompts: list[Prompt], operator_of: Callable[[Policy], Operator]
) -> None:
    config = RolloutConfig(group_size=4, turns_max=3, tokens_max=96)
    assert how_rollouts_run(caller) == "direct"
    direct = rollout(caller, prompts, operator_of(caller), config, RolloutKey(0, 0))
    change(caller)
    assert how_rollouts_run(caller) == "shared"
    shared = rollout(caller, prompts, operator_of(caller), config, RolloutKey(0, 0))
    for one, other in zip(direct, shared, strict=True):
        for mine, theirs in zip(one.rollouts, other.rollouts, strict=True):
            assert mine.completion_ids.tolist() == theirs.completion_ids.tolist()
            torch.testing.assert_close(mine.behavior_logprobs, theirs.behavior_logprobs, rtol=1e-5, atol=1e-5)


def test_a_round_uses_the_weights_of_its_time(caller: Policy, prompts: list[Prompt]) -> None:
    """Joined weights are copies: a policy that was trained between two rounds must not be sampled as it was."""
    config = RolloutConfig(group_size=1, turns_max=1, tokens_max=12, temperature=0.0)
    operator = Operator({}, fit=caller.fit)
    before = rollout(caller, prompts, operator, config, RolloutKey(0, 0))
    with torch.no_grad():
        for layer in caller.base.model.language_model.layers:
            layer.self_attn.v_proj.weight *= -1.0
            layer.mlp.up_proj.weight *= -1.0
    after = rollout(caller, prompts, operator, config, RolloutKey(0, 0))
    _hooked(caller)
    through_layers = rollout(caller, prompts, operator, config, RolloutKey(0, 0))
    ids = [
        [group.rollouts[0].completion_ids.tolist() for group in groups] for groups in (before, after, through_layers)
    ]
    assert ids[1] == ids[2] != ids[0]


def test_patches_are_projected_as_the_convolution_does(family: Path) -> None:
    projection = load_policy(PolicyConfig(path=str(family), device="cpu")).base.model.visual.patch_embed.proj
    assert type(projection) is PatchProjection
    plain: Any = torch.nn.Conv3d(3, 64, (2, 14, 14), (2, 14, 14), bias=projection.bias is not None)
    plain.load_state_dict(projection.state_dict())
    patches = torch.randn(10, 3, 2, 14, 14)
    torch.testing.assert_close(projection(patches), plain(patches), rtol=1e-5, atol=1e-5)
