"""A page of trajectories: what the policy saw, wrote and was told, and what that was worth.

One HTML file that needs nothing else: images are inside it, nothing is fetched, and whatever a question, a policy or
an operation wrote is text and stays text (escaped by the template; the page's security policy allows its own script
alone).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import jinja2
import numpy as np
from markupsafe import Markup, escape

from share.kernel.contracts.task import Prompt, Split
from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.contracts.vision import Box, Scene, View
from share.kernel.files import write_atomically
from share.kernel.media.image import encode_image

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels

ITEMS_MAX = 400
"""Rollouts on one page."""

IMAGE_BYTES_MAX = 40_000_000
"""Encoded images on one page, in bytes; what comes after is left out and the page says how much."""

NATIVE_SIDE_MAX = 720
"""Longer side, in pixels, to which native images are reduced for the page."""

TEXT_CHARACTERS_MAX = 20_000
"""Of any one text on the page."""

_LOSSLESS_PIXELS = 160 * 160  # up to here PNG is as small as JPEG, and shows what the policy saw exactly


@dataclass(frozen=True, slots=True)
class GalleryItem:
    """One rollout to look at.

    `correctness` in [0, 1]; `rewards` by component, unweighted (None = not scored); `reward` their weighted sum.
    `advantage` is None where there is none (an evaluation). `scene` is the rollout's own, after its last turn.
    """

    step: int
    split: Split
    prompt: Prompt
    trajectory: Trajectory
    scene: Scene
    correctness: float
    reward: float | None = None
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    advantage: float | None = None


def write_gallery(
    path: Path,
    items: Sequence[GalleryItem],
    title: str = "Trajectories",
    *,
    items_max: int = ITEMS_MAX,
    image_bytes_max: int = IMAGE_BYTES_MAX,
) -> None:
    """Write the page, atomically. The first `items_max` items are shown, fewer where their images are too large."""
    images = _Images()
    cards = []
    for number, item in enumerate(items[:items_max], start=1):
        cards.append(_card(number, item, images))
        if images.bytes > image_bytes_max:
            break
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("gallery.html.jinja").render(
        title=title,
        cards=cards,
        steps=sorted({card.step for card in cards}),
        splits=sorted({card.split for card in cards}),
        left_out=len(items) - len(cards),
        images=images.sources,
        nonce=sha256("".join(images.sources).encode() + str(len(items)).encode()).hexdigest()[:32],
    )
    write_atomically(path, page.encode(errors="replace"))  # a question may hold half a character


@dataclass(frozen=True, slots=True)
class _Mark:
    """A box (or a point, when `width` is 0) on a picture, in its pixels. `kind` is asked, region or truth."""

    kind: str
    label: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class _Picture:
    """An image of the page with marks; `width` and `height` are those of the coordinates, not of the encoded image."""

    image: str
    caption: str
    width: int
    height: int
    marks: tuple[_Mark, ...]
    pixelated: bool


@dataclass(frozen=True, slots=True)
class _Turn:
    number: int
    kind: str
    title: str
    text: Markup
    observation: str | None
    error: str | None
    elapsed_ms: float
    picture: _Picture | None


@dataclass(frozen=True, slots=True)
class _Bar:
    """A reward component; `left` and `width` in percent of a scale from -1 to 1."""

    name: str
    value: str
    left: float
    width: float
    negative: bool


@dataclass(frozen=True, slots=True)
class _Card:
    number: int
    step: int
    split: str
    outcome: str
    question: str
    truth: str
    answer: str | None
    finish: str
    prompt_id: str
    difficulty: int
    correctness: float
    reward: float | None
    advantage: float | None
    operations: str
    bars: tuple[_Bar, ...]
    pictures: tuple[_Picture, ...]
    turns: tuple[_Turn, ...]


class _Images:
    """Encoded images by name, each kept once however many rollouts show it."""

    def __init__(self) -> None:
        self.sources: dict[str, str] = {}
        self.bytes = 0

    def add(self, pixels: Pixels) -> str:
        name = "i" + sha256(pixels.tobytes() + repr(pixels.shape).encode()).hexdigest()[:16]
        if name not in self.sources:
            lossless = pixels.shape[0] * pixels.shape[1] <= _LOSSLESS_PIXELS
            content = encode_image(pixels, "png" if lossless else "jpg", quality=85)
            kind = "png" if lossless else "jpeg"
            self.sources[name] = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
            self.bytes += len(self.sources[name])
        return name


def _card(number: int, item: GalleryItem, images: _Images) -> _Card:
    prompt, trajectory = item.prompt, item.trajectory
    made = {action.view for action in trajectory.actions if action.view is not None}
    shown = [view for name, view in item.scene.views.items() if name not in made]
    outcome = "correct" if item.correctness >= 1 else "wrong" if item.correctness <= 0 else "partly"
    return _Card(
        number=number,
        step=item.step,
        split=item.split.replace("_", "-"),
        outcome=outcome,
        question=_cut(prompt.question),
        truth=_cut(prompt.answer),
        answer=None if trajectory.answer is None else _cut(trajectory.answer),
        finish=trajectory.finish,
        prompt_id=prompt.prompt_id,
        difficulty=prompt.difficulty,
        correctness=item.correctness,
        reward=item.reward,
        advantage=item.advantage,
        operations=", ".join(str(action.operation) for action in trajectory.operations) or "no operation",
        bars=tuple(_bar(name, value) for name, value in item.rewards.items()),
        pictures=tuple(picture for view in shown for picture in _pictures_of(view, item, images)),
        turns=tuple(_turn(turn, action, item, images) for turn, action in enumerate(trajectory.actions, start=1)),
    )


def _pictures_of(view: View, item: GalleryItem, images: _Images) -> list[_Picture]:
    """The image at its native size with every box on it, and as the policy saw it where that is much smaller."""
    native = item.scene.native(view.source)
    height, width = native.shape[:2]
    marks = [_moved(mark, on) for mark, on in _marks(item) if on.source == view.source]
    truth = item.prompt.truth.get("box")
    if isinstance(truth, tuple) and len(truth) == 4 and view.source == 0:
        marks.append(_box_mark("truth", "truth", (truth[0], truth[1], truth[2], truth[3])))
    caption = f"{view.name}: {width} x {height} px"
    if item.prompt.is_video:
        caption = f"{view.name}: frame {view.source + 1} of {len(item.scene.natives)}, {width} x {height} px"
    pictures = [_Picture(images.add(_reduced(native)), caption, width, height, tuple(marks), False)]
    if view.width < width * 0.75:
        seen = f"as the policy saw it: {view.width} x {view.height} px"
        pictures.append(_Picture(images.add(view.pixels), seen, view.width, view.height, (), True))
    return pictures


def _reduced(native: Pixels) -> Pixels:
    reduction = NATIVE_SIDE_MAX / max(native.shape[:2])
    if reduction >= 1:
        return native
    return np.asarray(cv2.resize(native, None, fx=reduction, fy=reduction, interpolation=cv2.INTER_AREA), np.uint8)


def _marks(item: GalleryItem) -> list[tuple[_Mark, View]]:
    """What the calls pointed at and found, each in the pixels of the view that it was said in."""
    marks: list[tuple[_Mark, View]] = []
    for turn, action in enumerate(item.trajectory.actions, start=1):
        view = _view_of(action, item.scene)
        if view is None or action.arguments is None:
            continue
        label = f"{turn} {action.operation}"
        box = action.arguments.get("bbox")
        if isinstance(box, list | tuple) and len(box) == 4 and all(_is_number(value) for value in box):
            marks.append((_box_mark("asked", label, (box[0], box[1], box[2], box[3])), view))
        x, y = action.arguments.get("x"), action.arguments.get("y")
        if _is_number(x) and _is_number(y):
            marks.append((_Mark("asked", label, float(str(x)), float(str(y)), 0, 0), view))
        region = item.scene.regions.get(action.region or "")
        if region is not None and region.source == view.source:
            marks.append((_box_mark("region", region.name, view.transform.box_from_native(region.box)), view))
    return marks


def _turn(number: int, action: Action, item: GalleryItem, images: _Images) -> _Turn:
    view = item.scene.views.get(action.view or "")
    picture = None
    if view is not None:
        caption = f"{view.name}: {view.width} x {view.height} px"
        marks = tuple(mark for mark, on in _marks(item) if on.name == view.name)
        picture = _Picture(images.add(view.pixels), caption, view.width, view.height, marks, view.width < 200)
    titles = {"operation": str(action.operation), "answer": "answer", "invalid": "neither a call nor an answer"}
    return _Turn(
        number=number,
        kind=action.kind,
        title=titles[action.kind],
        text=_highlighted(_cut(action.text)),
        observation=None if action.observation is None else _cut(action.observation),
        error=None if action.error is None else _cut(action.error),
        elapsed_ms=action.elapsed_ms,
        picture=picture,
    )


def _view_of(action: Action, scene: Scene) -> View | None:
    name = (action.arguments or {}).get("image")
    return next(iter(scene.views.values()), None) if name is None else scene.views.get(str(name))


def _box_mark(kind: str, label: str, box: Box) -> _Mark:
    return _Mark(kind, label, float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1]))


def _moved(mark: _Mark, view: View) -> _Mark:
    """A mark of a view in the native pixels of its source."""
    x1, y1, x2, y2 = view.transform.box_to_native((mark.x, mark.y, mark.x + mark.width, mark.y + mark.height))
    return _Mark(mark.kind, mark.label, x1, y1, x2 - x1, y2 - y1)


def _bar(name: str, value: float | None) -> _Bar:
    if value is None:
        return _Bar(name, "not scored", 50, 0, False)
    length = min(abs(value), 1.0) * 50
    return _Bar(name, f"{value:+.3f}", 50 - length if value < 0 else 50, length, value < 0)


_MARKED = re.compile(r"&lt;(tool_call|answer|think)&gt;(.*?)&lt;/\1&gt;", re.DOTALL)


def _highlighted(text: str) -> Markup:
    """The text, escaped, with its calls and its answer set off. The tags stay: they are what the policy wrote."""
    return Markup(_MARKED.sub(lambda match: f'<span class="{match[1]}">{match[0]}</span>', str(escape(text))))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def _cut(text: str) -> str:
    if len(text) <= TEXT_CHARACTERS_MAX:
        return text
    return f"{text[:TEXT_CHARACTERS_MAX]} … ({len(text) - TEXT_CHARACTERS_MAX:,} more characters)"


__all__ = ["IMAGE_BYTES_MAX", "ITEMS_MAX", "NATIVE_SIDE_MAX", "TEXT_CHARACTERS_MAX", "GalleryItem", "write_gallery"]
