"""READ_TEXT beside rapidocr as it comes: character error rate and CPU time over heights, fonts, angles and grounds.

`python -m benchmarks.read_text [--lines 24]`. Lines of 4 to 7 words are rendered with the fonts of matplotlib; the
error rate is the edit distance over the number of characters. Both readers are given one thread and the same pixels.
rapidocr is given `limit_type=max, limit_side_len=960`, without which its detector takes ten times as long.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from share.kernel.media.text import TextReader, TextReaderConfig

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels

Reader = Callable[["Pixels"], str]

WORDS = """
the quick brown fox jumps over lazy dog while seven zebras will follow little yellow balloon Illinois  office coffee
all still tall Mississippi parallel bookkeeper invoice total amount balance committee  success address street platform
departs train arrives Monday Friday January closing room floor hospital  ticket number please hold button press exit
danger warning voltage height weight maximum minimum speed  limit north south university library science museum
entrance adult child student price 12.50 3,499 2024  10:45 #42 A7 B12 50% (approx.) no-entry e-mail x-ray
"""

CER_MAX = {"upright": 0.01, "tilted": 0.02, "turned": 0.05}
CPU_MS_MAX = {"upright": 80.0, "tilted": 200.0, "turned": 200.0}


@dataclass(frozen=True, slots=True)
class Case:
    """Lines of text and their pictures. `family` names the bar that they are held to; None = shown, no bar."""

    name: str
    family: str | None
    lines: tuple[str, ...]
    pictures: tuple[Pixels, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """`cer` over all lines, `cpu_ms` the mean CPU time of a line, of all threads."""

    cer: float
    cpu_ms: float


def sentences(count: int, seed: int) -> tuple[str, ...]:
    chance = np.random.default_rng(seed)
    return tuple(" ".join(chance.choice(WORDS.split(), chance.integers(4, 8))) for _ in range(count))


def picture(
    text: str,
    height: int,
    font: str = "DejaVuSans",
    ink: tuple[int, int, int] = (20, 20, 20),
    ground: tuple[int, int, int] = (245, 245, 245),
    margin: float = 0.5,
) -> Pixels:
    """A line of text; `height` is the size of the font in pixels (capitals are 0.73 of it), `margin` in heights."""
    face = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"), height)
    ascent, descent = face.getmetrics()
    edge = round(height * margin)
    width = round(face.getbbox(text)[2])
    image = Image.new("RGB", (width + 2 * edge, ascent + descent + 2 * edge), ground)
    ImageDraw.Draw(image).text((edge, edge), text, font=face, fill=ink)
    return np.array(image)


def turned(pixels: Pixels, degrees: float) -> Pixels:
    """Turned clockwise on a canvas that holds all of it; its edges are continued outwards."""
    if degrees % 90 == 0:
        return np.ascontiguousarray(np.rot90(pixels, round(-degrees / 90)))
    height, width = pixels.shape[:2]
    along, across = abs(np.cos(np.radians(degrees))), abs(np.sin(np.radians(degrees)))
    size = (round(width * along + height * across), round(width * across + height * along))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1)
    matrix[:, 2] += (size[0] / 2 - width / 2, size[1] / 2 - height / 2)
    filled = cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(filled, np.uint8)


def cases(num_lines: int, seed: int = 1) -> Iterator[Case]:
    lines, chance = sentences(num_lines, seed), np.random.default_rng(seed)

    def case(name: str, family: str | None, draw: Callable[[str], Pixels]) -> Case:
        return Case(name, family, lines, tuple(draw(line) for line in lines))

    def noisy(line: str) -> Pixels:
        clean = picture(line, 20)
        return np.clip(clean + chance.normal(0, 25, clean.shape), 0, 255).astype(np.uint8)

    def colored(line: str) -> Pixels:
        dark, light = chance.integers(0, 100, 3).tolist(), chance.integers(130, 255, 3).tolist()
        return picture(line, 20, ink=tuple(dark), ground=tuple(light))

    yield case("upright 10 px", None, lambda line: picture(line, 10))
    for height in (14, 20, 32):
        yield case(f"upright {height} px", "upright", lambda line, height=height: picture(line, height))  # type: ignore[misc]
    for font in ("DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Oblique", "STIXGeneral", "cmr10"):
        yield case(f"upright 14 px {font}", "upright", lambda line, font=font: picture(line, 14, font))  # type: ignore[misc]
    yield case("upright 20 px colours", "upright", colored)
    yield case("upright 20 px noise 25", "upright", noisy)
    for degrees in (-15, -8, 8, 15):
        yield case(f"tilted {degrees} deg 20 px", "tilted", lambda line, by=degrees: turned(picture(line, 20), by))  # type: ignore[misc]
    for degrees in (90, 180, 270):
        for height in (14, 20):
            yield case(
                f"turned {degrees} deg {height} px",
                "turned",
                lambda line, by=degrees, height=height: turned(picture(line, height), by),  # type: ignore[misc]
            )


def read_with_pixelis() -> Reader:
    reader = TextReader(TextReaderConfig(threads=1))
    return lambda pixels: " ".join(line.text for line in reader.read(pixels))


def read_with_rapidocr() -> Reader:
    from rapidocr import RapidOCR

    engine: Any = RapidOCR(
        params={
            "Global.log_level": "critical",
            "Det.limit_type": "max",
            "Det.limit_side_len": 960,
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )

    def read(pixels: Pixels) -> str:
        found = engine(np.ascontiguousarray(pixels[:, :, ::-1]), use_det=True, use_cls=True, use_rec=True)
        return " ".join(getattr(found, "txts", None) or ())

    return read


def measure(read: Reader, case: Case) -> Measured:
    mistakes, begin = 0, time.process_time()
    texts = [read(pixels) for pixels in case.pictures]
    elapsed = time.process_time() - begin
    mistakes = sum(edit_distance(line, text) for line, text in zip(case.lines, texts, strict=True))
    return Measured(mistakes / sum(map(len, case.lines)), 1000 * elapsed / len(case.lines))


def edit_distance(one: str, other: str) -> int:
    """Levenshtein's distance in characters."""
    row = list(range(len(other) + 1))
    for index, left in enumerate(one, 1):
        above, row[0] = row[0], index
        for column, right in enumerate(other, 1):
            above, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, above + (left != right))
    return row[-1]


def report(num_lines: int) -> bool:
    """Print the table; true when every bar is kept."""
    ours, plain = read_with_pixelis(), read_with_rapidocr()
    warm = picture("warm up", 20)
    ours(warm), plain(warm)
    print(f"READ_TEXT, {num_lines} lines a case; CER and CPU ms a line, one thread; bar in brackets")
    print(f"{'case':32}{'pixelis':>18}{'rapidocr':>18}   bar")
    kept = True
    for case in cases(num_lines):
        mine, theirs = measure(ours, case), measure(plain, case)
        bar, verdict = "", ""
        if case.family is not None:
            good = mine.cer <= CER_MAX[case.family] and mine.cpu_ms <= CPU_MS_MAX[case.family]
            bar, verdict = f"{CER_MAX[case.family]:.2f} {CPU_MS_MAX[case.family]:4.0f}", "ok" if good else "MISSED"
            kept &= good
        print(
            f"{case.name:32}{mine.cer:9.4f}{mine.cpu_ms:9.0f}{theirs.cer:9.4f}{theirs.cpu_ms:9.0f}   {bar} {verdict}",
            flush=True,
        )
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lines", type=int, default=24, help="lines of text in each case")
    cv2.setNumThreads(1)
    return 0 if report(parser.parse_args(arguments).lines) else 1


if __name__ == "__main__":
    raise SystemExit(main())
