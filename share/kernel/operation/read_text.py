"""READ_TEXT: the text in an image or in a box of it, read from the native pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from share.kernel.config import ConfigModel
from share.kernel.contracts.vision import OperationResult, Scene, View
from share.kernel.media.geometry import BoxArgument, ImageName, native_box
from share.kernel.media.text import TextReader, TextReaderConfig, Word

if TYPE_CHECKING:
    from share.kernel.media.text import Points


class ReadTextConfig(TextReaderConfig):
    """Settings of the reader."""


class ReadTextArguments(ConfigModel):
    bbox: BoxArgument | None = None
    """[x1, y1, x2, y2] in pixels of the image, the whole image if omitted"""
    image: ImageName | None = None
    """Name of the image, the first if omitted"""


class ReadText:
    """Read the text in an image, or in a box of it."""

    Arguments: ClassVar[type[ReadTextArguments]] = ReadTextArguments

    def __init__(self, config: ReadTextConfig) -> None:
        self.reader = TextReader(config)

    def run(self, scene: Scene, arguments: ReadTextArguments, /) -> OperationResult:
        view = scene.view(arguments.image)
        whole = (0.0, 0.0, float(view.width), float(view.height))
        x1, y1, x2, y2 = native_box(scene, view, arguments.bbox or whole)
        lines = self.reader.read(np.ascontiguousarray(scene.native(view.source)[y1:y2, x1:x2]))
        text = "\n".join(line.text for line in lines)
        told = [
            {**_told(line, view, x1, y1), "words": [_told(word, view, x1, y1) for word in line.words]} for line in lines
        ]
        data = {"image": view.name, "text": text, "lines": told}
        return OperationResult(text=text or "no text found", data=data, source=view.source)


def _told(word: Word, view: View, left: int, top: int) -> dict[str, object]:
    """`bbox` and `corners` in pixels of the view; corners clockwise from the upper left of the first letter."""
    corners = _in_view(word.corners + np.array([left, top]), view)
    low, high = corners.min(axis=0), corners.max(axis=0)
    bbox = [float(value) for value in np.concatenate([low, high])]
    return {"text": word.text, "confidence": word.confidence, "bbox": bbox, "corners": corners.tolist()}


def _in_view(points: Points, view: View) -> Points:
    """Native points in pixels of the view, moved onto its edge where text is cut by it."""
    placed = [view.transform.point_from_native(float(x), float(y)) for x, y in points]
    return np.array(placed).clip((0, 0), (view.width, view.height))


__all__ = ["ReadText", "ReadTextArguments", "ReadTextConfig"]
