"""The hybrid embedding: weights decide, not lengths."""

from __future__ import annotations

import numpy as np
import pytest

from share.kernel.errors import ExperienceRefused
from share.kernel.experience.embedding import hybrid_embedding


def test_the_weight_decides_and_not_the_length() -> None:
    mixed = hybrid_embedding([1000.0, 0], [0, 0.001])
    assert mixed.dtype == np.float32
    assert mixed == pytest.approx(np.array([0.7, 0.3]) / np.hypot(0.7, 0.3))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_it_has_unit_length(weight: float) -> None:
    rng = np.random.default_rng(0)
    mixed = hybrid_embedding(rng.normal(size=512), rng.normal(size=512).astype(np.float16), weight)
    assert np.linalg.norm(mixed) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("visual", "text", "weight", "message"),
    [
        ([1.0, 0], [1.0, 0, 0], 0.7, r"\(2,\).*\(3,\)"),
        ([0.0, 0], [1.0, 0], 0.7, "visual has length 0"),
        ([1.0, 0], [np.nan, 0], 0.7, "text has length nan"),
        ([1.0, 0], [-1.0, 0], 0.5, "weighted sum"),
        ([1.0, 0], [1.0, 0], 1.5, "visual_weight"),
    ],
)
def test_what_has_no_direction_is_refused(visual: list[float], text: list[float], weight: float, message: str) -> None:
    with pytest.raises(ExperienceRefused, match=message):
        hybrid_embedding(visual, text, weight)
