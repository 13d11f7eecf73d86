"""The object under a point, by a SAM or SAM2 checkpoint (Kirillov et al. 2023, arXiv:2304.02643; Ravi et al. 2024,
arXiv:2408.00714) in Hugging Face format.

Pictures are prepared here, because transformers' own processor of SAM2 needs torchvision. The encoder takes nearly all
of the time, so embeddings are kept for the pictures that were clicked last.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from share.kernel.errors import ConfigError
from share.kernel.media.segmentation import Candidate

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels

MEAN = (0.485, 0.456, 0.406)
SPREAD = (0.229, 0.224, 0.225)
"""Of ImageNet's colours, which every released checkpoint was trained with."""


def load_segmenter(checkpoint: str, *, device: str = "cpu", images_cached: int = 4) -> SamSegmenter:
    """The segmenter of a directory with `config.json` and weights. Raises ConfigError."""
    from transformers import AutoConfig, Sam2Model, SamModel

    if not (Path(checkpoint) / "config.json").is_file():
        raise ConfigError(f"checkpoint: no config.json in {checkpoint}; give the directory of a SAM or SAM2 model")
    models: dict[str, Any] = {"sam": SamModel, "sam2": Sam2Model, "sam2_video": Sam2Model}
    try:
        kind = AutoConfig.from_pretrained(checkpoint, local_files_only=True).model_type
        if kind not in models:
            raise ConfigError(f"checkpoint: {checkpoint} holds a {kind!r} model; SAM and SAM2 are known")
        model = models[kind].from_pretrained(checkpoint, local_files_only=True).eval().to(device)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"checkpoint: {checkpoint} cannot be loaded: {error}") from error
    return SamSegmenter(model, keeps_aspect=kind == "sam", images_cached=images_cached)


class SamSegmenter:
    """Calls have the signature of `share.kernel.media.segmentation.segment`; safe from several threads.

    `keeps_aspect`: SAM fits the longer side into its square and pads, SAM2 stretches both sides.
    """

    def __init__(self, model: Any, *, keeps_aspect: bool, images_cached: int) -> None:
        self.model = model
        self.keeps_aspect = keeps_aspect
        self.images_cached = images_cached
        self._side = _image_size(model.config)
        self._embeddings: OrderedDict[bytes, Any] = OrderedDict()
        self._lock = threading.Lock()

    @torch.inference_mode()
    def __call__(self, pixels: Pixels, x: int, y: int, count: int = 3) -> list[Candidate]:
        height, width = pixels.shape[:2]
        inner_width, inner_height = self._fitted(width, height)
        point = [(x + 0.5) * inner_width / width, (y + 0.5) * inner_height / height]
        with self._lock:
            found = self.model(
                image_embeddings=self._embedding(pixels),
                input_points=torch.tensor([[[point]]], dtype=torch.float32, device=self.model.device),
                input_labels=torch.ones((1, 1, 1), dtype=torch.int64, device=self.model.device),
                multimask_output=True,
            )
        scores = found.iou_scores.float().reshape(-1).cpu().numpy()
        logits = found.pred_masks.float().reshape(len(scores), *found.pred_masks.shape[-2:]).cpu().numpy()
        candidates = []
        for index in np.argsort(-scores, kind="stable")[:count]:
            square = cv2.resize(logits[index], (self._side, self._side), interpolation=cv2.INTER_LINEAR)
            inner = np.ascontiguousarray(square[:inner_height, :inner_width])
            mask = cv2.resize(inner, (width, height), interpolation=cv2.INTER_LINEAR) > 0
            mask[y, x] = True  # a region is never empty
            candidates.append(Candidate(mask, float(np.clip(scores[index], 0, 1))))
        return candidates

    def _fitted(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the picture inside the encoder's square."""
        if not self.keeps_aspect:
            return self._side, self._side
        factor = self._side / max(width, height)
        return max(1, round(width * factor)), max(1, round(height * factor))

    def _embedding(self, pixels: Pixels) -> Any:
        """What the encoder makes of a picture, from the cache if it was clicked lately."""
        key = blake2b(np.ascontiguousarray(pixels).tobytes() + repr(pixels.shape).encode(), digest_size=16).digest()
        if key not in self._embeddings:
            while len(self._embeddings) >= self.images_cached:
                self._embeddings.popitem(last=False)
            size = self._fitted(pixels.shape[1], pixels.shape[0])
            inner = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
            square = np.zeros((self._side, self._side, 3), np.float32)
            square[: size[1], : size[0]] = (inner - MEAN) / SPREAD
            values = torch.from_numpy(square.transpose(2, 0, 1)[None].copy()).to(self.model.device, self.model.dtype)
            self._embeddings[key] = self.model.get_image_embeddings(values)
        self._embeddings.move_to_end(key)
        return self._embeddings[key]


def _image_size(config: Any) -> int:
    """Side of the encoder's square, in pixels; SAM2 keeps it with the prompt encoder as well as with its backbone."""
    size = getattr(config.vision_config, "image_size", None) or config.prompt_encoder_config.image_size
    return int(size if isinstance(size, int) else size[0])


__all__ = ["SamSegmenter", "load_segmenter"]
