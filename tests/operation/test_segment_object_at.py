from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from share.kernel.contracts.vision import Scene, Transform
from share.kernel.errors import ConfigError, OperationError
from share.kernel.media.mask import decode_mask
from share.kernel.media.operator import Limits, Operator
from share.kernel.media.segmentation import SAME, WEIGHTS, features, partition, segment
from share.kernel.operation.segment_object_at import SegmentObjectAt, SegmentObjectAtArguments, SegmentObjectAtConfig

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels

SEGMENT = SegmentObjectAt(SegmentObjectAtConfig())


def disc(height: int = 120, width: int = 160, center: tuple[int, int] = (70, 60), radius: int = 30) -> Pixels:
    """A bright, noisy disc on a darker, noisy ground."""
    y, x = np.mgrid[:height, :width]
    inside = (x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2
    pixels = np.where(inside[..., None], (220, 160, 60), (40, 70, 90)) + np.random.default_rng(0).normal(
        0, 6, (height, width, 3)
    )
    return np.clip(pixels, 0, 255).astype(np.uint8)


def shown(pixels: Pixels, reduction: int = 1) -> Scene:
    """A scene whose view is the picture, reduced."""
    scene = Scene((pixels,))
    size = (pixels.shape[1] // reduction, pixels.shape[0] // reduction)
    scale = Transform(scale_x=pixels.shape[1] / size[0], scale_y=pixels.shape[0] / size[1])
    scene.add_view(np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8), 0, scale)
    return scene


def iou_with_disc(mask: np.ndarray, center: tuple[int, int], radius: int) -> float:
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    truth = (x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2
    return float((mask & truth).sum() / (mask | truth).sum())


def test_a_click_on_a_disc_returns_its_mask_in_native_pixels() -> None:
    scene = shown(disc())
    result = SEGMENT.run(scene, SegmentObjectAtArguments(x=75, y=55))
    assert result.region is not None
    mask = decode_mask(result.region.counts, result.region.shape)
    assert iou_with_disc(mask, (70, 60), 30) > 0.97
    assert result.region.area == mask.sum()
    assert result.region.box == pytest.approx((40, 30, 101, 91), abs=1)
    assert result.region.confidence > 0.7
    assert result.text.startswith("r1: [40, 3")
    assert "of image_1, area " in result.text
    assert result.text.endswith("candidate 1 of 2, drawn in image_2") or "of 3, drawn in image_2" in result.text


def test_the_view_may_be_smaller_than_the_native_pixels() -> None:
    scene = shown(disc(480, 640, (280, 240), 120), reduction=4)
    result = SEGMENT.run(scene, SegmentObjectAtArguments(x=70, y=60))
    assert result.region is not None
    mask = decode_mask(result.region.counts, result.region.shape)
    assert mask.shape == (480, 640)
    assert iou_with_disc(mask, (280, 240), 120) > 0.97
    told = result.data["candidates"][0]  # type: ignore[index]
    assert told["bbox"] == pytest.approx([40, 30, 100, 90], abs=1)
    assert told["area"] == pytest.approx(np.pi * 30**2, rel=0.03)


def test_the_picture_is_the_clicked_view_with_the_mask_drawn_in() -> None:
    scene = shown(disc(480, 640, (280, 240), 120), reduction=4)
    before = scene.views["image_1"].pixels.copy()
    result = SEGMENT.run(scene, SegmentObjectAtArguments(x=70, y=60))
    view = scene.views["image_1"]
    assert result.image is not None
    assert result.image.shape == view.pixels.shape
    assert result.transform == view.transform
    assert (result.image[60, 70] != view.pixels[60, 70]).any()
    assert (result.image[5, 5] == view.pixels[5, 5]).all()
    assert (view.pixels == before).all()


def test_a_click_on_a_crop_segments_within_the_crop() -> None:
    pixels = disc(480, 640, (280, 240), 60)
    scene = Scene((pixels,))
    scene.add_view(pixels, 0, Transform())
    crop = pixels[160:320, 200:360]
    scene.add_view(np.ascontiguousarray(crop), 0, Transform(offset_x=200, offset_y=160))
    result = SEGMENT.run(scene, SegmentObjectAtArguments(x=80, y=80, image="image_2"))
    assert result.region is not None
    assert result.region.shape == (480, 640)
    assert iou_with_disc(decode_mask(result.region.counts, (480, 640)), (280, 240), 60) > 0.97


def test_a_ring_and_its_hub_are_different_candidates() -> None:
    pixels = disc(200, 200, (100, 100), 70)
    y, x = np.mgrid[:200, :200]
    pixels[(x - 100) ** 2 + (y - 100) ** 2 <= 25**2] = (30, 30, 200)
    scene = shown(pixels)
    results = [SEGMENT.run(scene, SegmentObjectAtArguments(x=100, y=100, candidate=number)) for number in (1, 2, 3)]
    masks = [decode_mask(result.region.counts, (200, 200)) for result in results if result.region]
    assert max(iou_with_disc(mask, (100, 100), 25) for mask in masks) > 0.95
    assert max(iou_with_disc(mask, (100, 100), 70) for mask in masks) > 0.95
    assert [result.data["candidate"] for result in results] == [1, 2, 3]
    confidences = [result.region.confidence for result in results if result.region]
    assert confidences == sorted(confidences, reverse=True)


def test_each_candidate_holds_the_point_and_no_two_are_alike() -> None:
    found = segment(disc(), 75, 55)
    assert all(candidate.mask[55, 75] for candidate in found)
    for one, other in combinations(found, 2):
        assert (one.mask & other.mask).sum() / (one.mask | other.mask).sum() < SAME


@pytest.mark.parametrize("row", [40, 100, 150])
def test_a_thin_tower_of_several_colours_is_a_candidate_wherever_it_is_clicked(row: int) -> None:
    rng = np.random.default_rng(0)
    pixels = np.full((200, 160, 3), (40, 60, 110)) + rng.normal(0, 3, (200, 160, 3))
    tower = np.zeros((200, 160), np.bool_)
    tower[30:180, 72:88] = True
    shade = np.linspace(-25, 25, 16)[:, None]
    pixels[30:80, 72:88] = np.array((205, 200, 190)) + shade
    pixels[80:180, 72:88] = np.array((175, 170, 130)) + shade
    pixels[50:58, 76:84] = (150, 60, 60)
    masks = [candidate.mask for candidate in segment(np.clip(pixels, 0, 255).astype(np.uint8), 80, row)]
    assert max((mask & tower).sum() / (mask | tower).sum() for mask in masks) > 0.9


def test_the_ranker_has_one_weight_per_feature() -> None:
    for chain in partition(disc(), 75, 55):
        assert features(chain).shape == (len(chain.areas), len(WEIGHTS))
        assert np.isfinite(features(chain)).all()


def test_a_point_at_the_end_of_a_long_thing_is_as_near_its_middle_as_one_at_the_side_of_a_round_thing() -> None:
    column = list(WEIGHTS).index("point off its middle")
    long = np.zeros((120, 160, 3), np.uint8)
    long[20:100, 76:84] = 200
    ends = partition(long, 80, 24)[0], partition(disc(), 70 + 27, 60)[0]
    far = [
        features(chain)[np.abs(chain.areas - area).argmin(), column]
        for chain, area in zip(ends, (640, 2827), strict=True)
    ]
    assert far == pytest.approx([1.5, 1.8], abs=0.2)  # a uniform stretch and a disc, in standard deviations


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"x": 160, "y": 5}, "x: 160 is not inside image_1"),
        ({"x": 5, "y": -1}, "y: -1 is not inside image_1"),
        ({"x": float("nan"), "y": 5}, "x: "),
        ({"x": "5", "y": 5}, "x: "),
        ({"x": 5}, "y: "),
        ({"x": 5, "y": 5, "image": "image_9"}, "image: no image 'image_9'"),
        ({"x": 5, "y": 5, "candidate": 4}, "candidate: "),
        ({"x": 5, "y": 5, "candidate": True}, "candidate: "),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, object], said: str) -> None:
    outcome = Operator({"SEGMENT_OBJECT_AT": SEGMENT}).run("SEGMENT_OBJECT_AT", arguments, shown(disc()))
    assert outcome.status == "refused"
    assert outcome.error is not None
    assert outcome.error.startswith(said)


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["flat", "noise", "black", "halves"]),
    x=st.floats(0, 1, exclude_max=True),
    y=st.floats(0, 1, exclude_max=True),
    candidate=st.integers(1, 3),
)
def test_any_picture_and_point_give_a_region_that_holds_the_point(
    height: int, width: int, seed: int, kind: str, x: float, y: float, candidate: int
) -> None:
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 0 if kind == "black" else 120, np.uint8)
    if kind == "noise":
        pixels = rng.integers(0, 256, pixels.shape, dtype=np.uint8)
    elif kind == "halves":
        pixels[:, width // 2 :] = 250
    arguments = {"x": x * width, "y": y * height, "candidate": candidate}
    scene = shown(pixels)
    outcome = Operator({"S": SEGMENT}, Limits(timeout_s=60)).run("S", arguments, scene)
    assert outcome.status == "ok", outcome.error
    region = scene.regions["r1"]
    assert decode_mask(region.counts, region.shape)[int(y * height), int(x * width)]
    assert 0 <= region.confidence <= 1


def sam(directory: Path) -> None:
    from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    vision = SamVisionConfig(
        hidden_size=16, output_channels=16, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=8,
        window_size=4, global_attn_indexes=[0], mlp_dim=16, num_pos_feats=8,
    )  # fmt: skip
    prompt = SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4)
    decoder = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    SamModel(config).save_pretrained(directory)


def sam2(directory: Path) -> None:
    from transformers import Sam2Config, Sam2MaskDecoderConfig, Sam2Model, Sam2PromptEncoderConfig, Sam2VisionConfig

    backbone = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1, "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2], "window_size_per_stage": [4, 4, 4, 4],
        "window_positional_embedding_background_size": [4, 4], "global_attention_blocks": [3],
    }  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]], fpn_hidden_size=32,
    )  # fmt: skip
    prompt = Sam2PromptEncoderConfig(hidden_size=32, image_size=64, patch_size=16, mask_input_channels=4)
    decoder = Sam2MaskDecoderConfig(
        hidden_size=32, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    Sam2Model(config).save_pretrained(directory)


@pytest.mark.parametrize("save", [sam, sam2])
def test_a_sam_checkpoint_keeps_the_contract_and_remembers_pictures(save: object, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    assert callable(save)
    save(tmp_path)
    operation = SegmentObjectAt(SegmentObjectAtConfig(checkpoint=str(tmp_path), images_cached=2))
    encoded: list[int] = []
    segmenter = operation.segmenter
    segmenter.model.vision_encoder.register_forward_hook(  # type: ignore[attr-defined]
        lambda *_: encoded.append(1)
    )
    scene = shown(disc(), reduction=2)
    first = SEGMENT.run(scene, SegmentObjectAtArguments(x=35, y=30))
    for x, candidate in ((35, 1), (10, 2), (79, 3)):
        result = operation.run(scene, SegmentObjectAtArguments(x=x, y=30, candidate=candidate))
        assert result.region is not None
        assert set(result.data) == set(first.data)
        assert decode_mask(result.region.counts, (120, 160))[61, 2 * x + 1]
        assert len(result.data["candidates"]) == 3  # type: ignore[arg-type]
    assert len(encoded) == 1, "the second click on a picture needs no encoder"
    for radius in (10, 20, 30):
        operation.run(shown(disc(radius=radius)), SegmentObjectAtArguments(x=70, y=60))
    assert len(segmenter._embeddings) == 2  # type: ignore[attr-defined]


def test_a_checkpoint_that_is_none_is_refused_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^checkpoint: no config.json"):
        SegmentObjectAt(SegmentObjectAtConfig(checkpoint=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match=r"^checkpoint: .* holds a 'bert' model"):
        SegmentObjectAt(SegmentObjectAtConfig(checkpoint=str(tmp_path)))


def test_a_scene_without_an_image_is_refused() -> None:
    with pytest.raises(OperationError, match="image: the scene holds no image"):
        SEGMENT.run(Scene(()), SegmentObjectAtArguments(x=1, y=1))
