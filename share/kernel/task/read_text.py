"""What is written on one of several small signs in a large photograph.

Text of 13 to 30 native pixels is lost where a policy sees the scene reduced; ZOOM_IN or READ_TEXT on the sign brings
it back. The words of the held-out split occur in no training prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from pydantic import Field

from share.kernel.contracts.task import Call, Demonstration, Prompt, Split
from share.kernel.contracts.vision import Box, Scene
from share.kernel.data.checkers import edit_similarity
from share.kernel.task.assets import photograph
from share.kernel.task.generated import GeneratedConfig, box_in_view, generator, view_of
from share.kernel.task.painting import Color, blend, grain, places, text_alpha

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from share.kernel.contracts.vision import Pixels


class ReadTextConfig(GeneratedConfig):
    """Settings of the read_text source."""

    height: int = Field(default=672, ge=448, le=2000)
    """Height of the scene, native pixels. The text's size does not depend on it."""

    width: int = Field(default=896, ge=448, le=2000)
    """Width of the scene, native pixels."""


class ReadText:
    """Kind `task`. The answer is the text; a check is its edit similarity, so that almost right is not nothing.

    `truth["box"]` is the asked sign in native pixels, `truth["signs"]` all of them.
    """

    def __init__(self, config: ReadTextConfig) -> None:
        self.config = config

    def size(self, split: Split) -> int | None:
        return None

    def prompt(self, split: Split, index: int) -> Prompt:
        rng = generator("read_text", self.config.seed, split, index)
        difficulty = self.config.difficulty(index)
        level = _LEVELS[difficulty]
        pixels = photograph(rng, split, self.config.height, self.config.width)
        signs = [
            _paint_sign(rng, split, color, _text(rng, split), level)
            for color in rng.permutation(list(_PLATES))[: level.signs]
        ]
        sizes = [(float(sign.alpha.shape[1]), float(sign.alpha.shape[0])) for sign in signs]
        boxes: list[Box] = []
        for sign, (x, y) in zip(signs, places(rng, sizes, self.config.height, self.config.width, gap=8), strict=True):
            height, width = sign.alpha.shape
            left, top = round(x - width / 2), round(y - height / 2)
            blend(pixels[top : top + height, left : left + width], sign.pixels, sign.alpha)
            boxes.append((float(left), float(top), float(left + width), float(top + height)))
        asked = signs[0]
        return Prompt(
            prompt_id=f"read_text-{self.config.seed}-{split}-{index}",
            task="read_text",
            question=f"What is written on the {asked.color} sign?",
            images=(pixels,),
            answer=asked.text,
            difficulty=difficulty,
            truth={
                "box": boxes[0],
                "signs": [
                    {"text": sign.text, "color": sign.color, "box": box, "rotation_degrees": sign.rotation_degrees}
                    for sign, box in zip(signs, boxes, strict=True)
                ],
                "text_height_px": level.text_height_px,
            },
        )

    def check(self, prompt: Prompt, answer: str) -> float:
        return edit_similarity(answer, prompt.answer)

    def demonstrate(self, prompt: Prompt, scene: Scene) -> Demonstration | None:
        """Read the text inside the asked sign's box."""
        box = prompt.truth["box"]
        assert isinstance(box, tuple)
        call = Call("READ_TEXT", {"bbox": box_in_view(view_of(scene, 0), box, margin=4)})
        return Demonstration(calls=(call,), answer=prompt.answer)


@dataclass(frozen=True, slots=True)
class _Level:
    """Height of a capital in native pixels, largest rotation, `ink` contrast to the plate in (0, 1], signs in all."""

    text_height_px: int
    rotation_degrees: float
    ink: float
    signs: int


_LEVELS = (
    _Level(text_height_px=30, rotation_degrees=0, ink=1.0, signs=1),
    _Level(text_height_px=22, rotation_degrees=5, ink=0.9, signs=2),
    _Level(text_height_px=16, rotation_degrees=10, ink=0.75, signs=3),
    _Level(text_height_px=13, rotation_degrees=15, ink=0.6, signs=4),
)

_PLATES: dict[str, Color] = {
    "white": (238, 238, 234),
    "yellow": (232, 205, 60),
    "red": (180, 35, 35),
    "blue": (35, 70, 170),
    "green": (30, 115, 55),
    "black": (28, 28, 30),
}

_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono-Bold")

_SUPERSAMPLING = 3

_WORD_LIST = """
anchor apple arrow autumn bakery balloon bamboo banjo barrel basket beacon bicycle bishop blanket bottle branch
bridge bronze bucket butter button cabin cactus camera candle canyon carbon carpet castle cellar cherry circus
clover coffee comet copper coral cotton cradle crater crown crystal dagger daisy desert diamond dinner dolphin
donkey dragon eagle elbow ember engine falcon feather fiddle finger flower forest fossil fountain galaxy garden
garlic ginger glacier goblet granite guitar hammer harbor hazel helmet hermit hollow honey hunter island ivory
jacket jaguar jasmine jungle kettle kitten ladder lagoon lantern lemon leopard lizard lobster locket magnet mango
maple marble market meadow melon mirror mitten monkey mosaic muffin needle nickel nutmeg oasis ocean olive orange
orchid otter oyster paddle palace panda paper parrot pebble pencil pepper piano pickle pigeon pillow pirate planet
plasma pocket pollen potato prism puzzle quartz rabbit racket radar raven ribbon river rocket saddle salmon sandal
saturn shadow silver socket spider spiral spring squash stable statue summer sunset tablet temple thunder ticket
tiger timber tomato tower trumpet tulip tunnel turtle tuxedo velvet violet violin walnut walrus whale willow window
winter wizard zebra zipper
"""
_WORDS = tuple(_WORD_LIST.split())


@dataclass(frozen=True, slots=True)
class _Sign:
    """A sign ready to be laid on a scene: RGB uint8 [H, W, 3] and its coverage float32 [H, W]."""

    text: str
    color: str
    rotation_degrees: float
    pixels: Pixels
    alpha: NDArray[np.float32]


def _text(rng: np.random.Generator, split: Split) -> str:
    """A word, a number, or both. Every fourth word belongs to the held-out split alone."""
    held_out, train = _WORDS[::4], [word for number, word in enumerate(_WORDS) if number % 4]
    word = str(rng.choice(held_out if split == "held_out" else train))
    number = str(int(rng.integers(10, 100_000)))
    word = (word.upper(), word.capitalize())[int(rng.integers(2))]
    return (word, number, f"{word} {number}")[int(rng.choice(3, p=(0.5, 0.25, 0.25)))]


def _paint_sign(rng: np.random.Generator, split: Split, color: str, text: str, level: _Level) -> _Sign:
    """Draw a sign at three times its size, turn it, and reduce it: small text with the blur that a camera gives it."""
    scale = _SUPERSAMPLING
    ink_alpha = text_alpha(text, str(rng.choice(_FONTS)), level.text_height_px * scale)
    margin = round(level.text_height_px * scale * 0.6)
    ink_alpha = np.pad(ink_alpha, margin)
    height, width = ink_alpha.shape
    plate = np.array(_PLATES[color], dtype=np.float64)
    extreme = 12.0 if plate.mean() > 120 else 245.0
    ink = plate + (extreme - plate) * level.ink
    large = grain(photograph(rng, split, height, width), plate)
    blend(large, np.broadcast_to(np.round(ink).astype(np.uint8), large.shape), ink_alpha)

    rotation = float(rng.uniform(-level.rotation_degrees, level.rotation_degrees))
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rotation, 1.0)
    out_width = _multiple(abs(turn[0, 0]) * width + abs(turn[0, 1]) * height, scale)
    out_height = _multiple(abs(turn[0, 1]) * width + abs(turn[0, 0]) * height, scale)
    turn[:, 2] += (out_width - width) / 2, (out_height - height) / 2
    turned = cv2.warpAffine(large, turn, (out_width, out_height), borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(np.ones((height, width), dtype=np.float32), turn, (out_width, out_height))
    small = (out_width // scale, out_height // scale)
    return _Sign(
        text=text,
        color=color,
        rotation_degrees=rotation,
        pixels=np.asarray(cv2.resize(turned, small, interpolation=cv2.INTER_AREA), dtype=np.uint8),
        alpha=np.asarray(cv2.resize(alpha, small, interpolation=cv2.INTER_AREA), dtype=np.float32),
    )


def _multiple(length: float, of: int) -> int:
    return math.ceil(length / of) * of


__all__ = ["ReadText", "ReadTextConfig"]
