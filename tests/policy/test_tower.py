"""The vision tower without its modules: the same bits, of weights as they are now, and of no tower but its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from share.kernel.policy.images import EncodedImage
from share.kernel.policy.loading import Policy, PolicyConfig, load_policy
from share.kernel.policy.tower import Tower

SIZES = ((56, 56), (112, 112), (84, 168), (224, 140), (112, 112))
"""Height and width in px; some are no multiple of a window."""


def encoded(policy: Policy, sizes: tuple[tuple[int, int], ...] = SIZES) -> list[EncodedImage]:
    rng = np.random.default_rng(0)
    return [policy.images.encode(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def through_modules(policy: Policy, images: list[EncodedImage]) -> list[torch.Tensor]:
    pixels = torch.cat([image.pixel_values for image in images]).to(policy.base.dtype)
    grids = torch.stack([image.grid_thw for image in images])
    return list(policy.base.model.get_image_features(pixels, grids, return_dict=True).pooler_output)


def seen(policy: Policy, images: list[EncodedImage]) -> list[torch.Tensor]:
    assert policy.backbone is not None
    return policy.backbone.image_features(images)


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_starter", [False, True])
def test_features_are_the_models_own_bit_by_bit(
    directory: Path, dtype: Literal["float32", "bfloat16"], is_starter: bool
) -> None:
    policy = load_policy(PolicyConfig(path=None if is_starter else str(directory), device="cpu", dtype=dtype))
    assert policy.backbone is not None
    assert policy.backbone.tower is not None
    images = encoded(policy)
    for some in (images, images[:1], images[1::3]):
        mine, own = seen(policy, some), through_modules(policy, some)
        assert all(torch.equal(one, other) for one, other in zip(mine, own, strict=True))
        assert [len(each) for each in mine] == [image.num_tokens for image in some]


def test_gradients_flow_through_the_modules(policy: Policy) -> None:
    weight = policy.base.model.visual.blocks[0].attn.qkv.weight
    (gradient,) = torch.autograd.grad(torch.cat(seen(policy, encoded(policy))).square().sum(), [weight])
    assert gradient.abs().sum() > 0


@torch.no_grad()
def test_a_change_of_the_weights_is_seen(policy: Policy) -> None:
    images = encoded(policy)
    before = torch.cat(seen(policy, images))
    policy.base.model.visual.blocks[1].mlp.up_proj.weight *= -1.0
    after = torch.cat(seen(policy, images))
    assert not torch.equal(before, after)
    assert torch.equal(after, torch.cat(through_modules(policy, images)))


def _hooked(visual: Any) -> None:
    visual.blocks[0].mlp.down_proj.register_forward_hook(lambda module, inputs, output: output * 2.0)


def _replaced(visual: Any) -> None:
    norm = visual.blocks[1].norm1
    forward = norm.forward
    norm.forward = lambda states: forward(states) * 2.0


@torch.no_grad()
@pytest.mark.parametrize("change", [_hooked, _replaced])
def test_a_changed_tower_runs_through_its_modules(policy: Policy, change: Callable[[Any], None]) -> None:
    images = encoded(policy)
    before = torch.cat(seen(policy, images))
    change(policy.base.model.visual)
    after = torch.cat(seen(policy, images))
    assert not torch.allclose(before, after)
    assert torch.equal(after, torch.cat(through_modules(policy, images)))


def test_another_layer_in_its_place_is_no_tower_of_ours(policy: Policy) -> None:
    visual = policy.base.model.visual
    assert Tower.fits(visual)
    visual.blocks[0].attn.proj.__class__ = type("QuantisedLinear", (torch.nn.Linear,), {})
    assert not Tower.fits(visual)


@torch.no_grad()
def test_what_is_kept_of_sizes_is_bounded(policy: Policy) -> None:
    tower = Tower(policy.base.model.visual)
    for number in range(70):
        (image,) = encoded(policy, ((28, 28 * (1 + number)),))
        (features,) = tower.features(image.pixel_values, [image.grid_thw.tolist()])
        assert len(features) == image.num_tokens
        assert len(tower._sizes) <= 64
