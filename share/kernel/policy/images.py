"""Images as a policy sees them: resized, then as the numbers that its vision tower is given.

The resized image is a value of its own, because operations take coordinates in its pixels. `PatchEncoder` is the
arithmetic of transformers' `Qwen2VLImageProcessorPil`, which a test compares: sides are multiples of a token's, and
the aspect is kept. `SquareEncoder` is for families whose images all have one size (LLaVA, Gemma 3), and so is
`Idefics3Encoder`, for SmolVLM too.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image

from share.kernel.errors import MediaError

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels

ASPECT_MAX = 200.0
"""Longer side over shorter side from which Qwen2-VL refuses an image."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """What the vision tower is given of one image.

    `pixel_values` float32[patches, channels * temporal_patch * patch * patch] of a `PatchEncoder`, float32[1, 3, side,
    side] of the others; `grid_thw` int64[3] in patches; `num_tokens` the image tokens it becomes. `digest`
    identifies the pixels: equal images are encoded once.
    """

    pixel_values: torch.Tensor
    grid_thw: torch.Tensor
    num_tokens: int
    digest: bytes


class ImageEncoder(Protocol):
    """Makes the images of a policy."""

    def fit(self, pixels: Pixels) -> Pixels:
        """The image (uint8 HWC RGB) resized to what the policy is shown. Raises MediaError when it cannot be."""
        ...

    def encode(self, pixels: Pixels) -> EncodedImage:
        """What the vision tower is given of a fitted image (uint8 HWC RGB)."""
        ...

    def model_inputs(self, images: Sequence[EncodedImage]) -> dict[str, torch.Tensor]:
        """The images as arguments of the model's own forward."""
        ...

    def settings(self) -> dict[str, Any]:
        """What preprocessor_config.json says about it."""
        ...


@dataclass(frozen=True, slots=True)
class PatchEncoder:
    """Qwen-VL's images. `pixels_min` and `pixels_max` bound the area of the resized image, in pixels."""

    pixels_min: int
    pixels_max: int
    patch: int
    merge: int
    temporal_patch: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) at which an image of that size is shown: multiples of patch * merge, aspect nearly kept."""
        if max(height, width) > ASPECT_MAX * min(height, width):
            raise MediaError(f"an image of {width} x {height} px is too long: at most {ASPECT_MAX:g} times its width")
        step = self.patch * self.merge
        tall, wide = round(height / step) * step, round(width / step) * step
        if tall * wide > self.pixels_max:
            shrink = math.sqrt(height * width / self.pixels_max)
            tall = max(step, math.floor(height / shrink / step) * step)
            wide = max(step, math.floor(width / shrink / step) * step)
        elif tall * wide < self.pixels_min:
            grow = math.sqrt(self.pixels_min / (height * width))
            tall, wide = math.ceil(height * grow / step) * step, math.ceil(width * grow / step) * step
        return tall, wide

    def fit(self, pixels: Pixels) -> Pixels:
        """The image (uint8 HWC RGB) resized to what the policy is shown."""
        height, width = self.size(*pixels.shape[:2])
        if (height, width) == pixels.shape[:2]:
            return pixels
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))

    def encode(self, pixels: Pixels) -> EncodedImage:
        """The patches of a fitted image (uint8 HWC RGB)."""
        height, width = pixels.shape[:2]
        step = self.patch * self.merge
        assert height % step == 0, f"{height} px high, not a multiple of {step}: fit() comes first"
        assert width % step == 0, f"{width} px wide, not a multiple of {step}: fit() comes first"
        scale = (1.0 / (255.0 * np.asarray(self.std))).astype(np.float32)
        shift = (np.asarray(self.mean) / np.asarray(self.std)).astype(np.float32)
        values = pixels.astype(np.float32) * scale - shift
        rows, columns = height // self.patch, width // self.patch
        blocks = values.reshape(
            rows // self.merge, self.merge, self.patch, columns // self.merge, self.merge, self.patch, 3
        ).transpose(0, 3, 1, 4, 6, 2, 5)
        blocks = np.repeat(blocks[:, :, :, :, :, None], self.temporal_patch, axis=5)
        return EncodedImage(
            pixel_values=torch.from_numpy(blocks.reshape(rows * columns, -1)),
            grid_thw=torch.tensor([1, rows, columns]),
            num_tokens=rows * columns // self.merge**2,
            digest=_digest(pixels),
        )

    def model_inputs(self, images: Sequence[EncodedImage]) -> dict[str, torch.Tensor]:
        if not images:
            return {}
        return {
            "pixel_values": torch.cat([image.pixel_values for image in images]),
            "image_grid_thw": torch.stack([image.grid_thw for image in images]),
        }

    def settings(self) -> dict[str, Any]:
        return {
            "image_processor_type": "Qwen2VLImageProcessor",
            **_settings(self.mean, self.std),
            "min_pixels": self.pixels_min,
            "max_pixels": self.pixels_max,
            "patch_size": self.patch,
            "merge_size": self.merge,
            "temporal_patch_size": self.temporal_patch,
        }


@dataclass(frozen=True, slots=True)
class SquareEncoder:
    """Images of one size: `side` px high and wide, whatever they were, and `num_tokens` tokens each."""

    kind: str
    side: int
    num_tokens: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def fit(self, pixels: Pixels) -> Pixels:
        if pixels.shape[:2] == (self.side, self.side):
            return pixels
        return np.asarray(Image.fromarray(pixels).resize((self.side, self.side), Image.Resampling.BICUBIC))

    def encode(self, pixels: Pixels) -> EncodedImage:
        values = (pixels / 255.0 - np.asarray(self.mean)) / np.asarray(self.std)
        return EncodedImage(
            pixel_values=torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)),
            grid_thw=torch.tensor([1, self.side, self.side]),
            num_tokens=self.num_tokens,
            digest=_digest(pixels),
        )

    def model_inputs(self, images: Sequence[EncodedImage]) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.cat([image.pixel_values for image in images])} if images else {}

    def settings(self) -> dict[str, Any]:
        size = {"height": self.side, "width": self.side}
        return {"image_processor_type": self.kind, **_settings(self.mean, self.std), "size": size}


@dataclass(frozen=True, slots=True)
class Idefics3Encoder(SquareEncoder):
    """Whole images of one size, never split into tiles; the model wants those of all rows in one."""

    def model_inputs(self, images: Sequence[EncodedImage]) -> dict[str, torch.Tensor]:
        return {name: tensor[None] for name, tensor in SquareEncoder.model_inputs(self, images).items()}

    def settings(self) -> dict[str, Any]:
        side = {"longest_edge": self.side}
        return {**SquareEncoder.settings(self), "size": side, "max_image_size": side, "do_image_splitting": False}


def _settings(mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
        "rescale_factor": 1 / 255,
        "resample": 3,
    }


def _digest(pixels: Pixels) -> bytes:
    shape = "x".join(map(str, pixels.shape)).encode()
    return hashlib.blake2b(pixels.tobytes(), digest_size=16, key=shape).digest()


__all__ = ["ASPECT_MAX", "EncodedImage", "Idefics3Encoder", "ImageEncoder", "PatchEncoder", "SquareEncoder"]
