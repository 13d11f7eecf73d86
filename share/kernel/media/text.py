"""Reading text in pixels: PP-OCRv6 detection and recognition on ONNX Runtime, at any orientation.

The models are those that rapidocr's wheel carries; nothing is downloaded. rapidocr's own pipeline is not used: its
call flags stick to the engine, so that one caller changes what another gets, and its detector enlarges every small
crop to 736 pixels, which takes ten times as long. Here every line is cut tightly along its own direction before it is
recognised: horizontal resolution is what keeps a recogniser with one step per 8 pixels from dropping one of two equal
letters.
"""

from __future__ import annotations

import importlib.util
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import onnxruntime
from pydantic import Field

from share.kernel.config import ConfigModel
from share.kernel.errors import MediaError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from share.kernel.contracts.vision import Pixels

    Points = NDArray[np.float64]  # N x 2, (x, y)

_HEIGHT = 48
"""Height of the recogniser's input, in pixels."""
_SQUEEZE = 0.8
"""Width of a line before recognition over its width at that height. Time is proportional to it; errors begin at 0.7."""
_WIDTH_MAX = 2400
"""Width of the recogniser's input from which a line is squeezed, in pixels: some 150 letters."""
_STEP = 32
"""The detector takes sides that are multiples of this, in pixels."""
_SURE = 0.9
"""Confidence below which a line is read upside down as well."""
_SURE_SHORT = 0.7
"""The same for short words, of which many are words upside down as well, like 7 and no."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word or a line of text. `corners` float64 [4, 2]: (x, y) clockwise from where its first letter's top is."""

    text: str
    confidence: float
    corners: Points


@dataclass(frozen=True, slots=True)
class Line(Word):
    words: tuple[Word, ...]


class TextReaderConfig(ConfigModel):
    side_min: int = Field(default=640, ge=32, le=2000)
    """Longer side, in pixels, to which smaller images are enlarged for the detector; at most twice."""
    side_max: int = Field(default=960, ge=32, le=2000)
    """Longer side, in pixels, to which larger images are reduced for the detector; lines are read at full size."""
    mask_threshold: float = Field(default=0.3, gt=0, lt=1)
    """Probability from which the detector's pixels count as text."""
    box_confidence: float = Field(default=0.5, ge=0, lt=1)
    """Mean probability below which a box of such pixels is dropped."""
    box_growth: float = Field(default=1.6, ge=0, le=4)
    """How far boxes grow from the detector's kernels to the text: area times this over circumference, to each side."""
    line_confidence: float = Field(default=0.5, ge=0, lt=1)
    """Confidence of the recogniser below which a line is dropped."""
    lines_max: int = Field(default=60, ge=1, le=1000)
    """Lines that are read of one image, the largest first; each takes about 50 ms."""
    threads: int = Field(default=1, ge=1, le=256)
    """Threads of ONNX Runtime."""


class TextReader:
    """Finds and reads lines of text. The models (31 MB) are loaded when first used; safe in several threads."""

    def __init__(self, config: TextReaderConfig | None = None) -> None:
        self.config = config or TextReaderConfig()
        self._models: _Models | None = None
        self._lock = threading.Lock()

    def read(self, pixels: Pixels) -> list[Line]:
        """The lines in uint8 [height, width, 3] RGB pixels, in reading order, with corners in those pixels.

        Raises MediaError where the models are not installed.
        """
        models = self._loaded()
        strips = detect(models.detector, pixels, self.config)[: self.config.lines_max]
        lines = self._read(models, pixels, _aligned(strips))
        if _is_doubtful(lines) and any(_is_short(strip) for strip in strips):  # short words may as well run upwards
            upwards = self._read(models, pixels, _aligned(strips, np.pi / 2))
            lines = upwards if _letters_known(upwards) > _letters_known(lines) + 0.2 else lines
        return _in_reading_order(lines)

    def _read(self, models: _Models, pixels: Pixels, strips: list[_Strip]) -> list[tuple[_Strip, Line]]:
        lines: list[tuple[_Strip, Line]] = []
        flipped = 0  # lines read upside down so far, minus those read upright
        for strip in strips:
            read, line = _read_either_way(models, pixels, strip, flipped)
            if line.text.strip() and line.confidence >= self.config.line_confidence:
                flipped += 1 if read is not strip else -1
                lines.append((read, line))
        return lines

    def _loaded(self) -> _Models:
        with self._lock:
            if self._models is None:
                self._models = _Models.load(self.config.threads)
            return self._models


@dataclass(frozen=True, slots=True)
class _Strip:
    """Where a line lies: centre, length along the text, height across it (pixels), direction of the text (radians)."""

    x: float
    y: float
    length: float
    height: float
    angle: float

    def corners(self, begin: float = 0.0, end: float = 1.0) -> Points:
        """The corners of the part between two fractions of the length."""
        along = np.array([np.cos(self.angle), np.sin(self.angle)])
        down = np.array([-along[1], along[0]]) * self.height / 2
        first = np.array([self.x, self.y]) + along * self.length * (begin - 0.5)
        last = np.array([self.x, self.y]) + along * self.length * (end - 0.5)
        return np.stack([first - down, last - down, last + down, first + down])

    def turned(self, angle: float) -> _Strip:
        return _Strip(self.x, self.y, self.length, self.height, self.angle + angle)


@dataclass(frozen=True, slots=True)
class _Models:
    detector: onnxruntime.InferenceSession
    recogniser: onnxruntime.InferenceSession
    turn: onnxruntime.InferenceSession
    letters: tuple[str, ...]

    @classmethod
    def load(cls, threads: int) -> _Models:
        found = importlib.util.find_spec("rapidocr")
        if found is None or found.origin is None:
            raise MediaError("text: the models come with rapidocr, which is not installed: pip install rapidocr")
        folder = Path(found.origin).parent / "models"

        def session(pattern: str) -> onnxruntime.InferenceSession:
            files = sorted(folder.glob(pattern))
            if not files:
                raise MediaError(f"text: this rapidocr carries no model {pattern}: pip install 'rapidocr>=3.10,<4'")
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            options.log_severity_level = 4
            # Widths differ from call to call; an arena and memory patterns would keep something for each of them.
            options.enable_cpu_mem_arena = False
            options.enable_mem_pattern = False
            return onnxruntime.InferenceSession(str(files[-1]), options, providers=["CPUExecutionProvider"])

        recogniser = session("PP-OCRv*_rec_*.onnx")
        letters = recogniser.get_modelmeta().custom_metadata_map["character"].splitlines()
        return cls(session("PP-OCRv*_det_*.onnx"), recogniser, session("*_cls_*.onnx"), ("", *letters, " "))


def detect(detector: onnxruntime.InferenceSession, pixels: Pixels, config: TextReaderConfig) -> list[_Strip]:
    """Lines of text, larger ones first. Differentiable binarisation: Liao et al. 2020, arXiv:1911.08947, section 3.5.

    The text kernels that the network marks are smaller than the text; a box of width w and height h grows by
    w h growth / (2 (w + h)) to each side, the paper's offset.
    """
    height, width = pixels.shape[:2]
    longer = max(height, width)
    scale = config.side_max / longer if longer > config.side_max else min(2.0, max(1.0, config.side_min / longer))
    to_size = (max(_STEP, round(width * scale / _STEP) * _STEP), max(_STEP, round(height * scale / _STEP) * _STEP))
    likely = _run(detector, _as_input(cv2.resize(pixels, to_size, interpolation=_filter(scale))))[0, 0]
    mask = cv2.dilate((likely > config.mask_threshold).astype(np.uint8), np.ones((2, 2), np.uint8))
    back = np.array([width / to_size[0], height / to_size[1]])
    strips = []
    for outline in cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]:
        (x, y), (w, h), degrees = cv2.minAreaRect(outline)
        if min(w, h) < 3 or _mean_inside(likely, cv2.boxPoints(((x, y), (w, h), degrees))) < config.box_confidence:
            continue
        grow = w * h * config.box_growth / (w + h)
        strips.append(_strip(cv2.boxPoints(((x, y), (w + grow, h + grow), degrees)) * back))
    return sorted(strips, key=lambda strip: strip.length * strip.height, reverse=True)


def _read_either_way(models: _Models, pixels: Pixels, strip: _Strip, flipped: int) -> tuple[_Strip, Line]:
    """A line, read upright or upside down. The lines before it, then a classifier, say which is tried first.

    The classifier is not asked about short words: it is wrong about them too often.
    """
    upside_down = strip.turned(np.pi)
    first, second = strip, upside_down
    asked = -3 < flipped <= 2 and strip.length >= 3 * strip.height
    if flipped > 2 or (asked and _is_upside_down(models, _cut(pixels, strip))):
        first, second = upside_down, strip
    line = _recognise(models, _cut(pixels, first), first)
    if line.confidence >= (_SURE_SHORT if _is_short(strip) else _SURE):
        return first, line
    other = _recognise(models, _cut(pixels, second), second)
    return (second, other) if other.confidence > line.confidence else (first, line)


def _is_upside_down(models: _Models, line: Pixels) -> bool:
    width = min(192, line.shape[1])
    padded = np.zeros((1, 3, _HEIGHT, 192), np.float32)
    padded[..., :width] = _as_input(cv2.resize(line, (width, _HEIGHT), interpolation=cv2.INTER_LINEAR))
    upright, turned = _run(models.turn, padded)[0]
    return bool(turned > upright)


def _recognise(models: _Models, line: Pixels, strip: _Strip) -> Line:
    """Greedy CTC decoding: the best letter of each step, without repetitions and blanks; steps give places."""
    likely = _run(models.recogniser, _as_input(line))[0]
    best = likely.argmax(axis=1)
    kept = np.flatnonzero((best != 0) & np.concatenate([[True], best[1:] != best[:-1]]))
    letters = [models.letters[index] for index in best[kept]]
    confidences = likely[kept, best[kept]]
    places = (kept + 0.5) / len(best)
    text = "".join(letters)
    confidence = float(confidences.mean()) if len(kept) else 0.0
    return Line(text.strip(), confidence, strip.corners(), _words(letters, confidences, places, strip))


def _words(letters: list[str], confidences: NDArray[Any], places: NDArray[Any], strip: _Strip) -> tuple[Word, ...]:
    half = float(np.median(np.diff(places))) / 2 if len(places) > 1 else 0.5
    words, begin = [], 0
    for index in range(len(letters) + 1):
        if index < len(letters) and not letters[index].isspace():
            continue
        if index > begin:
            corners = strip.corners(max(places[begin] - half, 0.0), min(places[index - 1] + half, 1.0))
            words.append(Word("".join(letters[begin:index]), float(confidences[begin:index].mean()), corners))
        begin = index + 1
    return tuple(words)


def _in_reading_order(lines: list[tuple[_Strip, Line]]) -> list[Line]:
    """Rows from top to bottom as the text stands, pieces of a row from left to right and joined to one line."""
    if not lines:
        return []
    turn = _common_direction([strip for strip, _ in lines])
    down, along = np.array([-np.sin(turn), np.cos(turn)]), np.array([np.cos(turn), np.sin(turn)])
    placed = sorted(
        ((float(down @ (strip.x, strip.y)), float(along @ (strip.x, strip.y)), strip, line) for strip, line in lines),
        key=lambda item: item[0],
    )
    rows: list[list[tuple[float, float, _Strip, Line]]] = []
    for item in placed:
        if rows and item[0] - rows[-1][0][0] < 0.5 * min(item[2].height, rows[-1][0][2].height):
            rows[-1].append(item)
        else:
            rows.append([item])
    return [_joined([line for _, _, _, line in sorted(row, key=lambda item: item[1])]) for row in rows]


def _joined(pieces: list[Line]) -> Line:
    if len(pieces) == 1:
        return pieces[0]
    words = tuple(word for piece in pieces for word in piece.words)
    points = np.concatenate([piece.corners for piece in pieces]).astype(np.float32)
    strip = _strip(cv2.boxPoints(cv2.minAreaRect(points)), near=_direction(pieces[0].corners))
    confidence = sum(piece.confidence * len(piece.text) for piece in pieces) / sum(len(piece.text) for piece in pieces)
    return Line(" ".join(piece.text for piece in pieces), confidence, strip.corners(), words)


def _strip(corners: NDArray[Any], near: float | None = None) -> _Strip:
    """The strip of a rectangle, along its longer side; its direction in (-90, 90] degrees, or nearest to `near`."""
    one, other = corners[1] - corners[0], corners[2] - corners[1]
    along, height = (one, np.hypot(*other)) if np.hypot(*one) >= np.hypot(*other) else (other, np.hypot(*one))
    angle = float(np.arctan2(along[1], along[0]))
    if near is not None:
        angle += round((near - angle) / np.pi) * np.pi
    elif not -np.pi / 2 + 1e-6 < angle <= np.pi / 2 + 1e-6:
        angle -= np.copysign(np.pi, angle)
    x, y = corners.mean(axis=0)
    return _Strip(float(x), float(y), float(np.hypot(*along)), float(height), angle)


def _direction(corners: Points) -> float:
    return float(np.arctan2(corners[1, 1] - corners[0, 1], corners[1, 0] - corners[0, 0]))


def _common_direction(strips: list[_Strip]) -> float:
    """The direction of the strip in the middle, by length: of half of the text, none is turned further."""
    order = sorted(strips, key=lambda strip: strip.angle)
    passed = np.cumsum([strip.length for strip in order])
    return order[int(np.searchsorted(passed, passed[-1] / 2))].angle


def _aligned(strips: list[_Strip], turn: float = 0.0) -> list[_Strip]:
    """Strips too short to tell their direction take that of the longer ones, or `turn` where there are none."""
    long = [strip for strip in strips if not _is_short(strip)]
    turn = _common_direction(long) if long else turn
    return [_towards(strip, turn) if _is_short(strip) else strip for strip in strips]


def _is_short(strip: _Strip) -> bool:
    return strip.length < 2 * strip.height


def _is_doubtful(lines: list[tuple[_Strip, Line]]) -> bool:
    return not lines or min(line.confidence for _, line in lines) < _SURE


def _letters_known(lines: list[tuple[_Strip, Line]]) -> float:
    return sum(line.confidence * len(line.text) for _, line in lines)


def _towards(strip: _Strip, turn: float) -> _Strip:
    corners = strip.corners() - (strip.x, strip.y)
    length = float(np.ptp(corners @ (np.cos(turn), np.sin(turn))))
    height = float(np.ptp(corners @ (-np.sin(turn), np.cos(turn))))
    quarter = round((strip.angle - turn) / (np.pi / 2))
    if abs(strip.angle - turn - quarter * np.pi / 2) < np.radians(10):  # it says its direction well, up to a quarter
        length, height = (strip.length, strip.height) if quarter % 2 == 0 else (strip.height, strip.length)
        return _Strip(strip.x, strip.y, length, height, strip.angle - quarter * np.pi / 2)
    return _Strip(strip.x, strip.y, length, height, turn)


def _cut(pixels: Pixels, strip: _Strip) -> Pixels:
    """The pixels of a strip, upright, at the recogniser's height."""
    scale = _HEIGHT / strip.height
    width = int(np.clip(np.ceil(strip.length * scale * _SQUEEZE), 16, _WIDTH_MAX))
    height = _HEIGHT if scale >= 0.5 else round(strip.height)  # reduced further below, over areas
    columns = width if scale >= 0.5 else max(16, round(strip.length))
    corners = strip.corners().astype(np.float32)
    target = np.array([[0, 0], [columns, 0], [columns, height]], np.float32) - 0.5
    matrix = cv2.getAffineTransform(corners[:3] - 0.5, target)
    border = cv2.BORDER_REPLICATE
    line: Any = cv2.warpAffine(pixels, matrix, (columns, height), flags=cv2.INTER_CUBIC, borderMode=border)
    if height != _HEIGHT or columns != width:
        line = cv2.resize(line, (width, _HEIGHT), interpolation=cv2.INTER_AREA)
    return line  # type: ignore[no-any-return]


def _mean_inside(likely: NDArray[Any], corners: NDArray[Any]) -> float:
    left, top = np.floor(corners.min(axis=0)).astype(int).clip(0)
    right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 1
    part = likely[top:bottom, left:right]
    inside = cv2.fillPoly(np.zeros(part.shape, np.uint8), [(corners - (left, top)).astype(np.int32)], 1)
    return float(cv2.mean(part, inside)[0])


def _filter(scale: float) -> int:
    return cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC


def _as_input(pixels: Any) -> NDArray[np.float32]:
    """float32 [1, 3, height, width] in [-1, 1], BGR: PaddleOCR trains on OpenCV's order of channels."""
    scaled = pixels[:, :, ::-1].astype(np.float32) / 127.5 - 1
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def _run(session: onnxruntime.InferenceSession, values: NDArray[np.float32]) -> NDArray[Any]:
    return np.asarray(session.run(None, {session.get_inputs()[0].name: values})[0])


__all__ = ["Line", "TextReader", "TextReaderConfig", "Word", "detect"]
