from __future__ import annotations

import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from share.kernel.errors import MediaError
from share.kernel.media.image import BYTES_MAX, encode_image, load_image


def file_of(pixels: np.ndarray, file_format: str, mode: str | None = None, **options: object) -> bytes:
    image = Image.fromarray(pixels)
    stream = io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, file_format, **options)
    return stream.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims any size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def webp_claiming(width: int, height: int) -> bytes:
    content = file_of(np.zeros((4, 4, 3), np.uint8), "WEBP", lossless=True)
    size = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return content[:21] + size + content[25:]


def jpeg_claiming(width: int, height: int) -> bytes:
    content = bytearray(file_of(np.zeros((8, 8, 3), np.uint8), "JPEG"))
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def gif_claiming(width: int, height: int) -> bytes:
    content = bytearray(file_of(np.zeros((8, 8), np.uint8), "GIF"))
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


def bmp_claiming(width: int, height: int) -> bytes:
    content = bytearray(file_of(np.zeros((8, 8, 3), np.uint8), "BMP"))
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


def tiff_claiming(width: int, height: int) -> bytes:
    content = bytearray(file_of(np.zeros((8, 8, 3), np.uint8), "TIFF"))
    directory = struct.unpack("<I", content[4:8])[0]
    for index in range(struct.unpack("<H", content[directory : directory + 2])[0]):
        entry = directory + 2 + 12 * index
        tag = struct.unpack("<H", content[entry : entry + 2])[0]
        if tag in (256, 257):
            content[entry : entry + 12] = struct.pack("<HHII", tag, 4, 1, width if tag == 256 else height)
    return bytes(content)


RAMP = np.arange(24 * 16 * 3, dtype=np.uint8).reshape(16, 24, 3)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_files_come_back_as_they_were(file_format: str) -> None:
    assert np.array_equal(load_image(file_of(RAMP, file_format)), RAMP)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "GIF"])
def test_lossy_files_come_back_as_rgb_of_the_same_size(file_format: str) -> None:
    pixels = load_image(file_of(RAMP, file_format))
    assert pixels.shape == RAMP.shape
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize(
    "claiming", [png_claiming, webp_claiming, jpeg_claiming, gif_claiming, bmp_claiming, tiff_claiming]
)
def test_a_giant_image_is_refused_by_its_header(claiming: object) -> None:
    content = claiming(16000, 16000)  # type: ignore[operator]
    assert len(content) < 2000
    with pytest.raises(MediaError, match=r"16000 x 16000 = 256,000,000 pixels; at most 4,000,000|header claims more"):
        load_image(content)


def test_the_limit_of_pixels_is_reached_and_not_passed() -> None:
    grey = np.zeros((2000, 2000), np.uint8)
    assert load_image(file_of(grey, "PNG")).shape == (2000, 2000, 3)
    with pytest.raises(MediaError, match="4,002,000 pixels"):
        load_image(file_of(np.zeros((2000, 2001), np.uint8), "PNG"))


def test_sixteen_bits_keep_their_high_byte() -> None:
    deep = np.array([[0, 256, 32768, 65535]], np.uint16)
    stream = io.BytesIO()
    Image.fromarray(deep).save(stream, "PNG")
    assert load_image(stream.getvalue())[0, :, 0].tolist() == [0, 1, 128, 255]


def test_floats_and_wide_integers_are_read_in_the_range_they_fit() -> None:
    for values, expected in (([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.0, 255.0], [0, 100, 255])):
        stream = io.BytesIO()
        Image.fromarray(np.array([values], np.float32)).save(stream, "TIFF")
        assert load_image(stream.getvalue())[0, :, 1].tolist() == expected
    stream = io.BytesIO()
    Image.fromarray(np.array([[0, 65535, 257]], np.int32)).save(stream, "TIFF")
    assert load_image(stream.getvalue())[0, :, 2].tolist() == [0, 255, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 1e9])
def test_floats_that_are_no_brightness_are_refused(value: float) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.array([[0.0, value]], np.float32)).save(stream, "TIFF")
    with pytest.raises(MediaError, match=r"NaN or infinity|no range of brightness"):
        load_image(stream.getvalue())


@pytest.mark.parametrize(("mode", "file_format"), [("1", "PNG"), ("L", "PNG"), ("P", "GIF"), ("CMYK", "TIFF")])
def test_odd_modes_become_rgb(mode: str, file_format: str) -> None:
    half = np.zeros((6, 8, 3), np.uint8)
    half[:, 4:] = 255
    pixels = load_image(file_of(half, file_format, mode))
    assert np.array_equal(pixels, half)


def test_transparent_pixels_lie_on_white() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = (0, 128, 255)
    assert load_image(file_of(rgba, "PNG"))[0, :, 0].tolist() == [255, 127, 0]
    stream = io.BytesIO()
    Image.fromarray(rgba).convert("LA").save(stream, "PNG")
    assert load_image(stream.getvalue())[0, :, 0].tolist() == [255, 127, 0]


def test_a_palette_with_a_transparent_colour_lies_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=0)
    assert load_image(stream.getvalue()).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate clockwise to see it upright
    pixels = load_image(file_of(RAMP, "JPEG", exif=exif, quality=100))
    assert pixels.shape == (24, 16, 3)


def test_a_file_is_named_in_its_error(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    with pytest.raises(MediaError, match=r"picture\.png.*No such file"):
        load_image(path)
    path.write_bytes(b"")
    with pytest.raises(MediaError, match=r"picture\.png.*empty"):
        load_image(path)
    path.write_text("not an image at all")
    with pytest.raises(MediaError, match=r"picture\.png.*not a PNG"):
        load_image(path)
    with pytest.raises(MediaError, match="not a file"):
        load_image(tmp_path)
    with pytest.raises(MediaError, match="null byte"):
        load_image("a\0b.png")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(MediaError, match="not a file"):
        load_image(tmp_path / "pipe.png")


def test_a_file_above_the_limit_of_bytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.bmp"
    with path.open("wb") as file:
        file.truncate(BYTES_MAX + 1)
    with pytest.raises(MediaError, match="at most 67,108,864"):
        load_image(path)


def test_formats_that_start_programs_are_not_tried() -> None:
    with pytest.raises(MediaError, match="not a PNG"):
        load_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damaged_files_are_read_or_refused_and_nothing_else(file_format: str) -> None:
    whole = file_of(RAMP, file_format)
    chance = random.Random(file_format)
    refused = 0
    for _ in range(120):
        damaged = bytearray(whole[: chance.randrange(1, len(whole) + 1)])
        for _ in range(chance.randrange(6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            pixels = load_image(bytes(damaged))
        except MediaError:
            refused += 1
        else:
            assert pixels.ndim == 3
    assert refused > 40


def test_an_encoded_image_decodes_to_itself() -> None:
    assert np.array_equal(load_image(encode_image(RAMP)), RAMP)
    assert load_image(encode_image(RAMP, "jpg")).shape == RAMP.shape
    assert load_image(encode_image(RAMP, "webp")).shape == RAMP.shape
