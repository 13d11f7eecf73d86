"""What every generated source shares: its settings, its random generator, and boxes as a policy would write them."""

from __future__ import annotations

from typing import Annotated
from zlib import crc32

import numpy as np
from pydantic import Field

from share.kernel.config import ConfigModel
from share.kernel.contracts.task import Split
from share.kernel.contracts.vision import Box, Scene, View
from share.kernel.errors import TaskError

DIFFICULTY_MAX = 3


class GeneratedConfig(ConfigModel):
    """Settings of a source that draws its prompts from a seed, without end."""

    seed: int = Field(default=0, ge=0)
    """Fixes every prompt, together with the split and the index."""

    difficulties: tuple[Annotated[int, Field(ge=0, le=DIFFICULTY_MAX)], ...] = Field(default=(0, 1, 2, 3), min_length=1)
    """Difficulty levels, 0 (easiest) to 3, taken in turn by consecutive prompts."""

    def difficulty(self, index: int) -> int:
        return self.difficulties[index % len(self.difficulties)]


def generator(task: str, seed: int, split: Split, index: int) -> np.random.Generator:
    """The random generator of one prompt: a pure function of its arguments, independent between prompts and sources."""
    return np.random.default_rng([crc32(task.encode()), seed, int(split == "held_out"), index])


def view_of(scene: Scene, source: int) -> View:
    """The first view that shows native image `source`. Raises TaskError when the policy was shown none."""
    for view in scene.views.values():
        if view.source == source:
            return view
    raise TaskError(f"a demonstration needs image {source}, but the scene shows it in no view")


def box_in_view(view: View, box: Box, margin: float = 0.0) -> list[int]:
    """A native box, grown on each side by `margin` native pixels, as whole pixels [x1, y1, x2, y2] inside the view."""
    grown = (box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin)
    x1, y1, x2, y2 = view.transform.box_from_native(grown)
    left = int(np.clip(np.floor(x1), 0, view.width - 1))
    top = int(np.clip(np.floor(y1), 0, view.height - 1))
    return [
        left,
        top,
        int(np.clip(np.ceil(x2), left + 1, view.width)),
        int(np.clip(np.ceil(y2), top + 1, view.height)),
    ]


def point_in_view(view: View, x: float, y: float) -> tuple[int, int]:
    """A native point as the whole pixel (x, y) of the view that holds it."""
    view_x, view_y = view.transform.point_from_native(x, y)
    return int(np.clip(view_x, 0, view.width - 1)), int(np.clip(view_y, 0, view.height - 1))


__all__ = ["DIFFICULTY_MAX", "GeneratedConfig", "box_in_view", "generator", "point_in_view", "view_of"]
