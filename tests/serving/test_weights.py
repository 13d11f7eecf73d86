"""Served policies: adopted whole or not at all, taken back without loading, and sharing what they do not change."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from share.kernel.contracts.task import Prompt
from share.kernel.errors import UnknownVersion, VersionConflict, VersionDamaged
from share.kernel.policy.loading import Policy
from share.kernel.serving.versions import FROZEN, VersionStore
from share.kernel.serving.weights import VERSIONS_MAX, ServedPolicies, with_weights
from tests.serving.variants import alone, texts, variant


@pytest.fixture
def served(starter: Policy, tmp_path: Path) -> ServedPolicies:
    return ServedPolicies(lambda: starter, VersionStore(tmp_path))


def write(served: ServedPolicies, seed: int) -> str:
    return served.store.write(variant(served.frozen().policy, seed), FROZEN, {})


def test_what_is_adopted_answers_and_the_frozen_policy_stays(served: ServedPolicies, questions: list[Prompt]) -> None:
    frozen = served.frozen().policy
    before = [texts(alone(frozen, prompt).trajectory) for prompt in questions[:4]]
    assert served.live() is served.frozen()
    version = write(served, 7)
    served.adopt(version)
    assert served.live().version == version
    adapted = served.live().policy
    after = [texts(alone(adapted, prompt).trajectory) for prompt in questions[:4]]
    assert after != before
    assert [texts(alone(frozen, prompt).trajectory) for prompt in questions[:4]] == before
    expected = variant(frozen, 7)
    for name, parameter in adapted.model.named_parameters():
        own = dict(frozen.model.named_parameters())[name]
        assert (parameter is own) == (name not in expected), "only what is changed takes memory"
        assert torch.equal(parameter, expected.get(name, own))
    assert adapted.backbone is not None
    assert adapted.backbone.head.weight is adapted.backbone.embedding.weight, "tied weights stay tied"
    assert served.num_bytes == sum(tensor.numel() * 4 for tensor in expected.values())


def test_what_is_published_serves_and_is_live_in_the_store(served: ServedPolicies) -> None:
    first, second = (write(served, seed) for seed in range(2))
    served.publish(FROZEN, first)
    assert (served.live().version, served.store.live()) == (first, first)
    with pytest.raises(VersionConflict):
        served.publish(FROZEN, second)
    assert (served.live().version, served.store.live()) == (first, first)
    served.publish(first, second)
    served.publish(second, first)
    served.publish(first, FROZEN)
    assert (served.live().version, served.store.live()) == (FROZEN, FROZEN)
    assert served.store.published() == [first, second]


@pytest.mark.parametrize("is_in_memory", [False, True])
def test_what_is_damaged_on_disk_is_not_published(served: ServedPolicies, is_in_memory: bool) -> None:
    version = write(served, 1)
    if is_in_memory:
        served.adopt(version)
        served.adopt(FROZEN)
    path = served.store.directory / version / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VersionDamaged):
        served.publish(FROZEN, version)
    assert (served.live().version, served.store.live()) == (FROZEN, FROZEN)


def test_going_back_takes_the_steps_in_turn_and_ends_at_the_frozen_policy(served: ServedPolicies) -> None:
    versions = [write(served, seed) for seed in range(5)]
    for version in versions:
        served.adopt(version)
    kept = served.num_bytes
    assert kept == VERSIONS_MAX * served.live().num_bytes, "three versions in memory, however many there were"
    for path in served.store.directory.glob("v*/*"):
        path.unlink()  # nothing is loaded from here on
    assert served.previous() == versions[3]
    assert [served.roll_back() for _ in range(4)] == [versions[3], versions[2], FROZEN, FROZEN]
    assert served.live() is served.frozen()
    assert served.num_bytes == 0


def test_a_reset_can_be_taken_back(served: ServedPolicies) -> None:
    version = write(served, 1)
    served.adopt(version)
    adopted = served.live()
    served.adopt(FROZEN)
    assert served.live().version == FROZEN
    assert served.roll_back() == version
    assert served.live() is adopted
    served.adopt(version)
    assert served.previous() == FROZEN, "adopting what is live is no step"


def test_versions_that_take_turns_for_ever_take_bounded_memory(served: ServedPolicies) -> None:
    versions = [write(served, seed) for seed in range(2)]
    for number in range(300):
        served.adopt(versions[number % 2])
    assert len(served._path) <= 65
    for _ in range(64):
        served.roll_back()
    assert served.live() is served.frozen()


@pytest.mark.parametrize("what", ["torn", "unknown parameter", "another shape", "not finite", "unknown"])
def test_what_cannot_be_loaded_whole_changes_nothing(served: ServedPolicies, what: str) -> None:
    good = write(served, 1)
    served.adopt(good)
    tensors = variant(served.frozen().policy, 2)
    name = list(tensors)[-1]
    if what == "unknown parameter":
        tensors["model.language_model.norm.bias"] = torch.zeros(128)
    elif what == "another shape":
        tensors[name] = tensors[name][:-1]
    elif what == "not finite":
        tensors[name][3] = float("inf")
    version = served.store.write(tensors, good, {}) if what != "unknown" else "v000077-00000000"
    if what == "torn":
        path = served.store.directory / version / "weights.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
    before = served.live()
    with pytest.raises((VersionDamaged, UnknownVersion), match=version):
        served.adopt(version)
    with pytest.raises((VersionDamaged, UnknownVersion), match=version):
        served.publish(FROZEN, version)
    assert served.live() is before
    assert served.store.live() == FROZEN
    assert served.previous() == FROZEN


def test_going_back_does_not_wait_for_a_version_that_is_loaded(served: ServedPolicies) -> None:
    first, second = (write(served, seed) for seed in range(2))
    served.adopt(first)
    with served._loading:  # as while a large version is read
        adopting = threading.Thread(target=served.adopt, args=(second,))
        adopting.start()
        assert served.roll_back() == FROZEN
    adopting.join()
    assert served.live().version == second


def test_a_version_knows_whether_it_sees_as_the_frozen_policy(served: ServedPolicies) -> None:
    served.adopt(write(served, 1))
    assert served.live().sees_as_frozen
    weight = dict(served.frozen().policy.model.named_parameters())["model.visual.patch_embed.proj.weight"].detach()
    served.adopt(served.store.write({"model.visual.patch_embed.proj.weight": weight * 2}, FROZEN, {}))
    assert not served.live().sees_as_frozen


def test_a_version_in_other_numbers_becomes_the_policys(starter: Policy) -> None:
    tensors = {name: tensor.double() for name, tensor in variant(starter, 1).items()}
    policy = with_weights(starter, tensors)
    assert {parameter.dtype for parameter in policy.model.parameters()} == {torch.float32}


def test_only_what_holds_a_change_is_made_anew(starter: Policy) -> None:
    """And what listens to it listens to it alone."""
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    adapted = with_weights(starter, {name: torch.zeros_like(starter.model.get_parameter(name))})
    old, new = starter.model.model, adapted.model.model
    assert new.visual is old.visual
    assert adapted.backbone is not None
    assert starter.backbone is not None
    assert adapted.backbone.tower is starter.backbone.tower, "with what it knows of sizes"
    assert new.language_model.layers[0] is old.language_model.layers[0]
    assert new.language_model.layers[1].self_attn is old.language_model.layers[1].self_attn
    assert new.language_model.layers[1].mlp is not old.language_model.layers[1].mlp
    assert old.language_model.layers[1].mlp.up_proj.weight.abs().sum() > 0
    new.language_model.layers[1].mlp.register_forward_hook(lambda *_: None)
    new.language_model.layers[1].mlp.extra = torch.nn.Identity()
    assert not old.language_model.layers[1].mlp._forward_hooks
    assert not hasattr(old.language_model.layers[1].mlp, "extra")
