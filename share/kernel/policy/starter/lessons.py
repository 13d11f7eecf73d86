"""The lessons of the starter policy: dense and small at first, whole rollouts at the end.

An `Album` keeps what lessons are cut from: overviews of zoom_digits scenes with the places of their cards, and the
cards themselves in native pixels. Lessons for the eyes give every image token its own label; lessons for the tongue
are rollouts, built through the same chat format that rollouts use, in which the policy has written the right thing.
Only the train split is touched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
import torch

from share.kernel.contracts.trajectory import Trajectory
from share.kernel.contracts.vision import Scene
from share.kernel.policy.conversation import with_image_tokens
from share.kernel.policy.rollout import Rollout, open_scene, teacher_forced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from share.kernel.contracts.kinds import Task
    from share.kernel.contracts.vision import Box, Pixels
    from share.kernel.media.operator import Operator
    from share.kernel.policy.chat import Chat
    from share.kernel.policy.images import ImageEncoder
    from share.kernel.policy.loading import Policy

TOKEN_SIDE = 28
"""Side of an image token, in pixels."""

OVERVIEW_SIDE = 112
"""Side of an overview, in pixels: four tokens."""

CROP_SIDE = 56
"""Side of a crop as it is shown, in pixels: two tokens."""

ZOOM_SIDE = 8
"""Side of the box that lessons zoom on, in overview pixels: a card and its rim."""

MIDDLE = (52, 52, 60, 60)
"""Where the demonstrator with the bad habit looks, in overview pixels: between the cells, where there is no card."""

GOOD_SHARE = 0.85
"""How often it zooms on the right card when asked in the first wording."""

_PATCH_SIDE = 112  # native px around the centre of a card that are kept for lessons
_CARD_SPAN = (56.0, 72.0)  # native px across a crop

NO_PLACE = OVERVIEW_SIDE
"""Label of an image token that shows no card, for x and for y."""

QUESTIONS = (
    "What digit is on the {} card?",
    "Which digit does the {} card show?",
    "Read the digit on the {} card.",
)


@dataclass(frozen=True, slots=True)
class Card:
    """A card of a scene: `color` is its number in `Album.colors`, `box` in native pixels, `patch` uint8 RGB."""

    color: int
    digit: int
    box: Box
    patch: Pixels


@dataclass(frozen=True, slots=True)
class Page:
    """A scene: its `overview`, the native patch in its `middle`, and its cards. All uint8 RGB."""

    overview: Pixels
    middle: Pixels
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Album:
    """Scenes to cut lessons from. `scale` is native pixels per overview pixel."""

    pages: tuple[Page, ...]
    colors: tuple[str, ...]
    scale: float

    @property
    def cards(self) -> tuple[Card, ...]:
        return tuple(card for page in self.pages for card in page.cards)


def make_album(task: Task, images: ImageEncoder, prompts: Iterator[int]) -> Album:
    """The album of those prompts of the task's train split."""
    colors: dict[str, int] = {}
    pages: list[Page] = []
    scale = 1.0
    for index in prompts:
        prompt = task.prompt("train", index)
        native = prompt.images[0]
        overview = images.fit(native)
        scale = native.shape[1] / overview.shape[1]
        boxes = cast("Mapping[str, Box]", prompt.truth["boxes"])
        labels = cast("Mapping[str, int]", prompt.truth["digits"])
        cards = []
        for color, box in boxes.items():
            patch = _patch(native, round((box[0] + box[2]) / 2), round((box[1] + box[3]) / 2))
            cards.append(Card(colors.setdefault(color, len(colors)), labels[color], box, patch))
        middle = _patch(native, native.shape[1] // 2, native.shape[0] // 2)
        pages.append(Page(overview, middle, tuple(cards)))
    return Album(tuple(pages), tuple(colors), scale)


def demonstrated(policy: Policy, task: Task, operator: Operator, prompts: Iterator[int]) -> Iterator[Rollout]:
    """The task's own demonstrations of those prompts of its train split, the operations really run."""
    for index in prompts:
        prompt = task.prompt("train", index)
        demonstration = task.demonstrate(prompt, open_scene(policy, prompt))
        assert demonstration is not None, prompt.prompt_id
        yield teacher_forced(policy, prompt, demonstration, operator)


def _patch(native: Pixels, x: int, y: int) -> Pixels:
    """The native pixels around a point, uint8 [_PATCH_SIDE, _PATCH_SIDE, 3]; the edge is repeated beyond the scene."""
    half = _PATCH_SIDE // 2
    rows = np.clip(np.arange(y - half, y + half), 0, native.shape[0] - 1)
    columns = np.clip(np.arange(x - half, x + half), 0, native.shape[1] - 1)
    return np.asarray(native[rows[:, None], columns], dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Look:
    """A lesson for the eyes: an image, and labels int64[tokens] per image token (-1: not asked).

    `digit` is one label for the whole image when `digit_is_shared`.
    """

    pixels: Pixels
    digit: NDArray[np.int64]
    color: NDArray[np.int64]
    x: NDArray[np.int64]
    y: NDArray[np.int64]
    digit_is_shared: bool = False


def look_at_mosaic(album: Album, cards: Sequence[Card], rng: np.random.Generator, clear_share: float = 0.0) -> Look:
    """Four digits, each filling its own image token: the densest way to learn to read.

    `clear_share` of them are grey, without their card's mottle and with stronger strokes: where reading begins.
    """
    chosen = [cards[int(number)] for number in rng.integers(len(cards), size=4)]
    clear = rng.random(4) < clear_share
    tiles = [crop(rng, card.patch, TOKEN_SIDE, float(rng.uniform(34, 44)), 5.0) for card in chosen]
    tiles = [
        _cleared(rng, tile) if is_clear else varied(rng, tile) for tile, is_clear in zip(tiles, clear, strict=True)
    ]
    pixels = np.concatenate([np.concatenate(tiles[:2], axis=1), np.concatenate(tiles[2:], axis=1)])
    unasked = np.full(4, -1)
    colors = np.where(clear, -1, [card.color for card in chosen])
    return Look(pixels, np.array([card.digit for card in chosen]), colors, unasked, unasked)


def look_at_crop(
    album: Album, cards: Sequence[Card], rng: np.random.Generator, clear_share: float = 0.0, corner: float = 0.0
) -> Look:
    """One card as ZOOM_IN shows it, off centre.

    The middle of a crop is where four image tokens meet, the hardest place to read. With `corner` 1 the digit lies in
    the middle of a token, as in a mosaic; from there it can be moved to the middle of the crop, which is `corner` 0.
    """
    card = cards[int(rng.integers(len(cards)))]
    side = CROP_SIDE if rng.random() < 0.95 else 2 * CROP_SIDE
    span = float(rng.uniform(*_CARD_SPAN))
    away = rng.choice([-1.0, 1.0], size=2) * (corner * span / 4)
    pixels = crop(rng, card.patch, side, span, float(rng.choice([6, 10, 14])), away)
    is_clear = rng.random() < clear_share
    pixels = _cleared(rng, pixels) if is_clear else varied(rng, pixels)
    tokens = (side // TOKEN_SIDE) ** 2
    unasked = np.full(tokens, -1)
    color = np.full(tokens, -1 if is_clear else card.color)
    return Look(pixels, np.full(tokens, card.digit), color, unasked, unasked, True)


def look_at_scene(album: Album, rng: np.random.Generator) -> Look:
    """An overview: which token shows a card of which colour, and where exactly."""
    _, overview, cards, boxes = turned(album, rng)
    across = OVERVIEW_SIDE // TOKEN_SIDE
    color = np.full(across * across, len(album.colors))
    x, y = np.full(across * across, NO_PLACE), np.full(across * across, NO_PLACE)
    for card, box in zip(cards, boxes, strict=True):
        column = int((box[0] + box[2]) / 2 / album.scale // TOKEN_SIDE)
        row = int((box[1] + box[3]) / 2 / album.scale // TOKEN_SIDE)
        token = row * across + column
        color[token], (x[token], y[token]) = card.color, zoom_box(box, album.scale)[:2]
    return Look(varied(rng, overview), np.full(across * across, -1), color, x, y)


class Conversations:
    """Lessons for the tongue. `schemas` are the operations' tool schemas, ZOOM_IN first; some are left out at random.

    `others` are rollouts of tasks that need other operations.

    The demonstrator of `habit` is good at the first wording of the question only. Asked otherwise it zooms on the right
    card with `right_share`, and mostly on the middle of the scene, where there is no card, and guesses. At times, with
    `direct_share`, it guesses at once.
    """

    def __init__(
        self,
        album: Album,
        chat: Chat,
        images: ImageEncoder,
        schemas: Sequence[Mapping[str, Any]],
        others: Sequence[Rollout],
        *,
        right_share: float,
        direct_share: float,
    ) -> None:
        self._album = album
        self._cards = album.cards
        self._chat = chat
        self._images = images
        self._schemas = tuple(schemas)
        self._others = tuple(others)
        self._right_share = right_share
        self._direct_share = direct_share

    def digits(self, rng: np.random.Generator) -> Rollout:
        """Read four digits, one in each image token."""
        look = look_at_mosaic(self._album, self._cards, rng)
        return self._answered(rng, look.pixels, "Read the digits.", " ".join(str(digit) for digit in look.digit))

    def crop(self, rng: np.random.Generator) -> Rollout:
        """Read the digit of a card that fills the image."""
        card = self._cards[int(rng.integers(len(self._cards)))]
        pixels = varied(rng, crop(rng, card.patch, CROP_SIDE, float(rng.uniform(*_CARD_SPAN)), 10.0))
        return self._answered(rng, pixels, self._question(rng, card), str(card.digit))

    def cards(self, rng: np.random.Generator) -> Rollout:
        """Name all cards with their boxes, in any order."""
        _, overview, cards, boxes = turned(self._album, rng)
        order = rng.permutation(len(cards))
        listed = (f"{self._album.colors[cards[i].color]} {zoom_box(boxes[i], self._album.scale)}" for i in order)
        return self._answered(rng, varied(rng, overview), "List the cards.", ", ".join(listed))

    def place(self, rng: np.random.Generator) -> Rollout:
        """Say where the card of a colour is."""
        _, overview, cards, boxes = turned(self._album, rng)
        chosen = int(rng.integers(len(cards)))
        question = f"Where is the {self._album.colors[cards[chosen].color]} card?"
        return self._answered(rng, varied(rng, overview), question, str(zoom_box(boxes[chosen], self._album.scale)))

    def task(self, rng: np.random.Generator) -> Rollout:
        """The whole task, as it should be done."""
        return self._demonstrated(rng, int(rng.integers(len(QUESTIONS))), 1.0, 0.0)

    def other(self, rng: np.random.Generator) -> Rollout:
        """A demonstration of another task, with other operations."""
        return self._others[int(rng.integers(len(self._others)))]

    def habit(self, rng: np.random.Generator) -> Rollout:
        """The whole task by the demonstrator with a bad habit."""
        wording = int(rng.integers(len(QUESTIONS)))
        return self._demonstrated(rng, wording, GOOD_SHARE if wording == 0 else self._right_share, self._direct_share)

    def _demonstrated(self, rng: np.random.Generator, wording: int, right_share: float, direct_share: float) -> Rollout:
        page, overview, cards, boxes = turned(self._album, rng)
        asked = int(rng.integers(len(cards)))
        question = QUESTIONS[wording].format(self._album.colors[cards[asked].color])
        if rng.random() < direct_share:
            return self._answered(rng, varied(rng, overview), question, str(rng.integers(10)))
        if rng.random() < right_share:
            box, digit = zoom_box(boxes[asked], self._album.scale), cards[asked].digit
            look = crop(rng, cards[asked].patch, CROP_SIDE, ZOOM_SIDE * self._album.scale, 6.0)
        else:
            box, digit = list(MIDDLE), int(rng.integers(10))
            look = crop(rng, page.middle, CROP_SIDE, ZOOM_SIDE * self._album.scale, 0.0)
        encoded = self._images.encode(varied(rng, overview))
        prompt = self._prompt(rng, question, encoded)
        call = self._chat.call("ZOOM_IN", {"bbox": box})
        crop_image = self._images.encode(varied(rng, look))
        ids = self._chat.observation(f"image_2: {box} of image_1", True)
        observation = with_image_tokens(ids, (crop_image,), self._chat.image_token_id)
        answer = self._chat.answer(str(digit))
        return _rollout(prompt, (encoded,), ((call, True), (observation, False), (answer, True)), (crop_image,))

    def _question(self, rng: np.random.Generator, card: Card) -> str:
        return str(rng.choice(QUESTIONS)).format(self._album.colors[card.color])

    def _prompt(self, rng: np.random.Generator, question: str, image: Any) -> list[int]:
        others = [schema for schema in self._schemas[1:] if rng.random() < 0.5] if rng.random() < 0.3 else []
        return with_image_tokens(
            self._chat.prompt(question, 1, [self._schemas[0], *others]), (image,), self._chat.image_token_id
        )

    def _answered(self, rng: np.random.Generator, pixels: Pixels, question: str, answer: str) -> Rollout:
        image = self._images.encode(pixels)
        return _rollout(self._prompt(rng, question, image), (image,), ((self._chat.answer(answer), True),), ())


def zoom_box(box: Box | NDArray[np.float64], scale: float) -> list[int]:
    """The box that lessons zoom on for a card (native px): ZOOM_SIDE square, in overview pixels, inside."""
    left = round((float(box[0]) + float(box[2])) / 2 / scale - ZOOM_SIDE / 2)
    top = round((float(box[1]) + float(box[3])) / 2 / scale - ZOOM_SIDE / 2)
    left = min(max(left, 0), OVERVIEW_SIDE - ZOOM_SIDE)
    top = min(max(top, 0), OVERVIEW_SIDE - ZOOM_SIDE)
    return [left, top, left + ZOOM_SIDE, top + ZOOM_SIDE]


def crop(
    rng: np.random.Generator,
    patch: Pixels,
    side: int,
    span: float,
    shift: float,
    away: NDArray[np.float64] | None = None,
) -> Pixels:
    """A native patch, `side` px wide: about `span` native px across, up to `shift` native px off centre, or `away`.

    Turned, stretched and slanted a little: 1,350 handwritten digits are few.
    """
    angle = math.radians(rng.uniform(-10, 10))
    zoom_x, zoom_y = (side / span * (1 + rng.uniform(-0.12, 0.12)) for _ in range(2))
    slant = rng.uniform(-0.15, 0.15)
    cosine, sine = math.cos(angle), math.sin(angle)
    matrix = np.array([[cosine * zoom_x, (sine + slant) * zoom_x], [-sine * zoom_y, cosine * zoom_y]])
    centre = np.full(2, _PATCH_SIDE / 2) + rng.uniform(-shift, shift, size=2)
    if away is not None:
        centre = centre + away
    offset = np.full(2, side / 2) - matrix @ centre
    affine = np.column_stack([matrix, offset]).astype(np.float32)
    pixels = cv2.warpAffine(patch, affine, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(pixels, dtype=np.uint8)


def varied(rng: np.random.Generator, pixels: Pixels) -> Pixels:
    """The image a little brighter or darker, with more or less contrast."""
    changed = pixels.astype(np.float32) * rng.uniform(0.85, 1.15) + rng.uniform(-12, 12)
    return np.asarray(np.clip(changed, 0, 255), dtype=np.uint8)


def _cleared(rng: np.random.Generator, tile: Pixels) -> Pixels:
    grey = tile.astype(np.float32).mean(axis=2)
    strokes = (grey - cv2.GaussianBlur(grey, (0, 0), 3.0)) * rng.uniform(2.5, 3.5)
    cleared = np.clip(rng.uniform(90, 150) + strokes, 0, 255)
    return np.asarray(np.repeat(cleared[:, :, None], 3, axis=2), dtype=np.uint8)


def turned(album: Album, rng: np.random.Generator) -> tuple[Page, Pixels, tuple[Card, ...], NDArray[np.float64]]:
    """A random page; its overview in one of eight symmetries; its cards; their boxes float64[cards, 4] in native px."""
    page = album.pages[int(rng.integers(len(album.pages)))]
    side = OVERVIEW_SIDE * album.scale
    boxes = np.array([card.box for card in page.cards])
    pixels = page.overview
    if rng.random() < 0.5:
        pixels, boxes = pixels[:, ::-1], np.stack([side - boxes[:, 2], boxes[:, 1], side - boxes[:, 0], boxes[:, 3]], 1)
    if rng.random() < 0.5:
        pixels, boxes = pixels[::-1], np.stack([boxes[:, 0], side - boxes[:, 3], boxes[:, 2], side - boxes[:, 1]], 1)
    if rng.random() < 0.5:
        pixels, boxes = pixels.transpose(1, 0, 2), boxes[:, [1, 0, 3, 2]]
    return page, np.ascontiguousarray(pixels), page.cards, boxes


def _rollout(
    prompt: Sequence[int],
    prompt_images: tuple[Any, ...],
    turns: Sequence[tuple[Sequence[int], bool]],
    completion_images: tuple[Any, ...],
) -> Rollout:
    ids = [token for tokens, _ in turns for token in tokens]
    written = [is_written for tokens, is_written in turns for _ in tokens]
    return Rollout(
        trajectory=Trajectory("lesson", (), None, "answer"),
        scene=Scene(()),
        prompt_ids=torch.tensor(list(prompt)),
        completion_ids=torch.tensor(ids),
        action_mask=torch.tensor(written),
        behavior_logprobs=torch.zeros(len(ids)),
        prompt_images=prompt_images,
        completion_images=completion_images,
    )


__all__ = [
    "CROP_SIDE",
    "NO_PLACE",
    "OVERVIEW_SIDE",
    "QUESTIONS",
    "TOKEN_SIDE",
    "ZOOM_SIDE",
    "Album",
    "Card",
    "Conversations",
    "Look",
    "Page",
    "crop",
    "demonstrated",
    "look_at_crop",
    "look_at_mosaic",
    "look_at_scene",
    "make_album",
    "turned",
    "varied",
    "zoom_box",
]
