"""The hybrid embedding: what an experience is found by, made of what was seen and what was asked."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from share.kernel.errors import ExperienceRefused


def hybrid_embedding(visual_D: ArrayLike, text_D: ArrayLike, visual_weight: float = 0.7) -> NDArray[np.float32]:
    """`visual_weight` parts of the visual and the rest of the text embedding, float32 of shape (D,), unit length.

    Both are normalised first, or the longer vector would decide and not the weight; the sum is normalised, so that the
    inner product of two embeddings is their cosine. Raises ExperienceRefused when the shapes differ, a number is not
    finite, or no direction is left.
    """
    if not 0 <= visual_weight <= 1:
        raise ExperienceRefused(f"visual_weight: {visual_weight} is not between 0 and 1")
    visual_D, text_D = np.asarray(visual_D, np.float64), np.asarray(text_D, np.float64)
    if visual_D.ndim != 1 or visual_D.shape != text_D.shape:
        raise ExperienceRefused(
            f"embedding: visual has shape {visual_D.shape}, text {text_D.shape}; both must be (D,) with the same D: "
            "project one of them first"
        )
    mixed_D = visual_weight * _unit(visual_D, "visual") + (1 - visual_weight) * _unit(text_D, "text")
    return _unit(mixed_D, "the weighted sum").astype(np.float32)


def _unit(vector_D: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    length = math.sqrt(vector_D @ vector_D)  # as np.linalg.norm has it, in a fraction of the time
    if not 1e-12 <= length < math.inf:
        raise ExperienceRefused(f"embedding: {name} has length {length:g}, so it has no direction")
    return vector_D / length


__all__ = ["hybrid_embedding"]
