from __future__ import annotations

import threading

import numpy as np
import pytest

from benchmarks.read_text import edit_distance, picture, sentences, turned
from share.kernel.media.text import TextReader, TextReaderConfig

LINES = sentences(3, seed=4)


@pytest.fixture(scope="module")
def reader() -> TextReader:
    return TextReader()


def error_rate(reader: TextReader, pictures: list[np.ndarray], lines: tuple[str, ...] = LINES) -> float:
    read = [" ".join(line.text for line in reader.read(pixels)) for pixels in pictures]
    return sum(map(edit_distance, lines, read)) / sum(map(len, lines))


@pytest.mark.parametrize("height", [14, 20, 32])
@pytest.mark.parametrize("font", ["DejaVuSans", "DejaVuSerif"])
def test_upright_lines_are_read(reader: TextReader, height: int, font: str) -> None:
    assert error_rate(reader, [picture(line, height, font) for line in LINES]) <= 0.01


@pytest.mark.parametrize("degrees", [-15, 15])
def test_tilted_lines_are_read(reader: TextReader, degrees: int) -> None:
    assert error_rate(reader, [turned(picture(line, 20), degrees) for line in LINES]) <= 0.02


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_lines_are_read(reader: TextReader, degrees: int) -> None:
    assert error_rate(reader, [turned(picture(line, 20), degrees) for line in LINES]) <= 0.05


@pytest.mark.parametrize("word", ["7", "42", "A7", "Exit", "Room 12", "$3.50", "OK"])
def test_short_words_are_read(reader: TextReader, word: str) -> None:
    assert [line.text for line in reader.read(picture(word, 24))] == [word]


@pytest.mark.parametrize("degrees", [0, 180])
def test_lines_come_in_reading_order_however_the_page_lies(reader: TextReader, degrees: int) -> None:
    rows = [picture(line, 20) for line in LINES]
    page = np.full((sum(map(len, rows)), max(row.shape[1] for row in rows), 3), 245, np.uint8)
    top = 0
    for row in rows:
        page[top : top + row.shape[0], : row.shape[1]] = row
        top += row.shape[0]
    assert [line.text for line in reader.read(turned(page, degrees))] == list(LINES)


def test_pieces_of_a_row_are_one_line(reader: TextReader) -> None:
    left, right = picture("Gate B12", 24), picture("departs 10:45", 24)
    gap = np.full((left.shape[0], 300, 3), 245, np.uint8)
    (line,) = reader.read(np.concatenate([left, gap, right], axis=1))
    assert line.text == "Gate B12 departs 10:45"
    assert [word.text for word in line.words] == ["Gate", "B12", "departs", "10:45"]


@pytest.mark.parametrize("degrees", [0, 90, 180])
def test_words_lie_where_they_are_read(reader: TextReader, degrees: int) -> None:
    pixels = picture("left middle right", 32)
    # The ink of each word, found as the columns between gaps of a space's width.
    inked = (pixels.min(axis=(0, 2)) < 128).nonzero()[0]
    groups = np.split(inked, np.flatnonzero(np.diff(inked) > 10) + 1)
    (line,) = reader.read(turned(pixels, degrees))
    for word, group in zip(line.words, groups, strict=True):
        x, y = word.corners.mean(axis=0)
        along = {0: x, 90: y, 180: pixels.shape[1] - x}[degrees]
        assert along == pytest.approx(group.mean(), abs=10)
        begin, end = word.corners[0], word.corners[1]
        assert np.hypot(*(end - begin)) == pytest.approx(np.ptp(group), abs=20)
        direction = np.degrees(np.arctan2(end[1] - begin[1], end[0] - begin[0])) % 360
        assert abs((direction - degrees + 180) % 360 - 180) < 5


def test_no_text_is_no_line(reader: TextReader) -> None:
    assert reader.read(np.full((80, 200, 3), 200, np.uint8)) == []
    assert reader.read(np.zeros((1, 1, 3), np.uint8)) == []


@pytest.mark.parametrize("shape", [(1, 900, 3), (900, 1, 3), (3, 3, 3), (31, 2000, 3)])
def test_odd_shapes_are_read_without_complaint(reader: TextReader, shape: tuple[int, int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert isinstance(reader.read(noise), list)


def test_lines_are_read_up_to_their_limit() -> None:
    rows = [picture(word, 24, margin=1.0) for word in ("one", "two", "three")]
    width = max(row.shape[1] for row in rows)
    page = np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), mode="edge") for row in rows])
    assert len(TextReader(TextReaderConfig(lines_max=2)).read(page)) == 2


def test_threads_may_share_a_reader(reader: TextReader) -> None:
    pictures, texts = [picture(word, 24) for word in ("alpha", "bravo", "delta")], {}

    def read(index: int) -> None:
        texts[index] = reader.read(pictures[index % 3])[0].text

    threads = [threading.Thread(target=read, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {index: ("alpha", "bravo", "delta")[index % 3] for index in range(6)}
