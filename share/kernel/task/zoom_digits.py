"""Zoom digits: which digit is on the card of that colour? Legible only after ZOOM_IN.

Coloured cards lie on a real photograph, each with one real handwritten digit of about 25 px in a scene of 896 px. A
policy is shown the scene eight times smaller, where a card is seven pixels of colour and the digit about three.
There the digit is gone: it is drawn without low frequencies, so that it adds nothing to the brightness of its
surroundings (a vanishing optotype, Howland, Ginsburg and Campbell 1978), on a card that is mottled at just the scale
of an overview pixel. What is left for guessing is measured by benchmarks/zoom_digits.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import cv2
import numpy as np
from pydantic import Field

from share.kernel.contracts.task import Call, Demonstration, Prompt, Split
from share.kernel.task.assets import digits, photograph
from share.kernel.task.generated import GeneratedConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from share.kernel.contracts.vision import Box, Pixels, Scene

SCENE_SIDE = 896
"""Side of the square scene, in native pixels."""

GRID = 4
"""Cards lie near the centres of a grid of GRID x GRID cells, at most one in each."""

OVERVIEW_SCALE = 8
"""The overview that hides the digits is this many times smaller than the scene."""

COLORS = {
    "red": (185, 70, 70),
    "orange": (190, 125, 60),
    "yellow": (185, 180, 70),
    "green": (75, 165, 85),
    "cyan": (75, 170, 180),
    "blue": (75, 100, 190),
    "purple": (135, 80, 175),
    "pink": (190, 115, 165),
}
"""Colours of the cards (RGB). All leave room for the digit's strokes above and below."""

LEVELS = ((3, 16, 0), (5, 32, 0), (8, 48, 4))
"""Difficulty 0, 1, 2: number of cards, largest shift of a card from its cell's centre in px, number of grey blanks."""

QUESTIONS = (
    "What digit is on the {} card?",
    "Which digit does the {} card show?",
    "Read the digit on the {} card.",
)

_CARD_SIDE = (56, 64)  # px, both inclusive
_DIGIT_SIDE = (24, 27)  # px, both inclusive
_STROKE_SIGMA = 2.4  # px: what a Gaussian of this width keeps of the digit is taken away from it
_STROKE_PEAK = 115.0  # grey levels: the strongest stroke against its card
_MOTTLE_SIGMA = 5.0  # px
_MOTTLE_DEVIATION = 12.0  # grey levels
_BLANK = (128, 128, 128)


class ZoomDigitsConfig(GeneratedConfig):
    """Scenes of the task zoom_digits."""

    difficulties: tuple[Annotated[int, Field(ge=0, le=len(LEVELS) - 1)], ...] = Field(default=(1,), min_length=1)
    """Difficulty levels, taken in turn by consecutive prompts: 0, 1 or 2 for three, five or eight cards, ever further
    from their cells' centres."""


class ZoomDigits:
    """Task source without end; a prompt is a function of (seed, split, index) alone, made in about 5 ms."""

    def __init__(self, config: ZoomDigitsConfig) -> None:
        self._config = config

    def size(self, split: Split) -> int | None:
        """None: prompts are generated without end."""
        return None

    def prompt(self, split: Split, index: int) -> Prompt:
        """The prompt of that index. `truth` holds the colour asked for, and by colour boxes (native px) and digits."""
        rng = np.random.default_rng([self._config.seed, 0 if split == "train" else 1, index])
        difficulty = self._config.difficulty(index)
        scene, boxes, labels = draw_scene(rng, split, difficulty)
        color = str(rng.choice(list(boxes)))
        return Prompt(
            prompt_id=f"zoom_digits-{self._config.seed}-{split}-{index}",
            task="zoom_digits",
            question=str(rng.choice(QUESTIONS)).format(color),
            images=(scene,),
            answer=str(labels[color]),
            difficulty=difficulty,
            truth={"color": color, "box": boxes[color], "boxes": boxes, "digits": labels},
        )

    def check(self, prompt: Prompt, answer: str) -> float:
        """1.0 when the answer is the digit and nothing else, otherwise 0.0."""
        return float(answer.strip() == prompt.answer)

    def demonstrate(self, prompt: Prompt, scene: Scene) -> Demonstration:
        """Zoom on the card asked for, then name its digit."""
        box = zoom_box(cast("Box", prompt.truth["box"]), scene)
        return Demonstration((Call("ZOOM_IN", {"bbox": box}),), prompt.answer)


def draw_scene(
    rng: np.random.Generator, split: Split, difficulty: int
) -> tuple[Pixels, dict[str, Box], dict[str, int]]:
    """A photograph with cards on it: the scene, and by colour the cards' boxes (native px) and digits."""
    num_cards, shift, num_blanks = LEVELS[difficulty]
    scene = photograph(rng, split, SCENE_SIDE, SCENE_SIDE)
    cells = rng.permutation(GRID * GRID)
    colors = [str(color) for color in rng.permutation(list(COLORS))[:num_cards]]
    boxes: dict[str, Box] = {}
    labels: dict[str, int] = {}
    for cell, color in zip(cells, colors, strict=False):
        card, labels[color] = draw_card(rng, split, COLORS[color])
        boxes[color] = _place(rng, scene, card, int(cell), shift)
    for cell in cells[num_cards : num_cards + num_blanks]:
        side = int(rng.integers(_CARD_SIDE[0], _CARD_SIDE[1] + 1))
        _place(rng, scene, _mottled(rng, side, _BLANK), int(cell), shift)
    return scene, boxes, labels


def draw_card(rng: np.random.Generator, split: Split, color: tuple[int, int, int]) -> tuple[NDArray[np.uint8], int]:
    """One square card of that colour with a random digit of the split near its middle, and the digit."""
    side = int(rng.integers(_CARD_SIDE[0], _CARD_SIDE[1] + 1))
    images, labels = digits(split)
    chosen = int(rng.integers(len(labels)))
    card = _mottled(rng, side, color).astype(np.float32)
    digit_side = int(rng.integers(_DIGIT_SIDE[0], _DIGIT_SIDE[1] + 1))
    digit = cv2.resize(images[chosen], (digit_side, digit_side), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    strokes = np.zeros((side, side), np.float32)
    slack = (side - digit_side) // 2
    top, left = (slack + int(offset) for offset in rng.integers(-6, 7, size=2))
    strokes[top : top + digit_side, left : left + digit_side] = digit
    strokes -= cv2.GaussianBlur(strokes, (0, 0), _STROKE_SIGMA)
    strokes *= _STROKE_PEAK / np.abs(strokes).max()
    card += strokes[:, :, None]
    return np.clip(card, 0, 255).astype(np.uint8), int(labels[chosen])


def zoom_box(box: Box, scene: Scene) -> list[int]:
    """The box to zoom on so that a card (native px) fills the crop: whole pixels of the first view, square, inside."""
    view = scene.view(None)
    x1, y1, x2, y2 = view.transform.box_from_native(box)
    side = round(max(_CARD_SIDE[1] / view.transform.scale_x, 1))
    left = min(max(round((x1 + x2 - side) / 2), 0), max(view.width - side, 0))
    top = min(max(round((y1 + y2 - side) / 2), 0), max(view.height - side, 0))
    return [left, top, left + side, top + side]


def _mottled(rng: np.random.Generator, side: int, color: tuple[int, int, int]) -> NDArray[np.uint8]:
    noise: NDArray[np.float32] = rng.standard_normal((side, side), dtype=np.float32)
    noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), _MOTTLE_SIGMA), dtype=np.float32)
    noise *= _MOTTLE_DEVIATION / noise.std()
    return np.asarray(np.clip(np.asarray(color, np.float32) + noise[:, :, None], 0, 255), dtype=np.uint8)


def _place(rng: np.random.Generator, scene: Pixels, card: NDArray[np.uint8], cell: int, shift: int) -> Box:
    """Paint the card into its cell of the scene; its box."""
    cell_side = SCENE_SIDE // GRID
    side = card.shape[0]
    row, column = divmod(cell, GRID)
    down, right = (int(offset) for offset in rng.integers(-shift, shift + 1, size=2))
    top = row * cell_side + (cell_side - side) // 2 + down
    left = column * cell_side + (cell_side - side) // 2 + right
    scene[top : top + side, left : left + side] = card
    return (float(left), float(top), float(left + side), float(top + side))


__all__ = [
    "COLORS",
    "GRID",
    "LEVELS",
    "OVERVIEW_SCALE",
    "QUESTIONS",
    "SCENE_SIDE",
    "ZoomDigits",
    "ZoomDigitsConfig",
    "draw_card",
    "draw_scene",
    "zoom_box",
]
