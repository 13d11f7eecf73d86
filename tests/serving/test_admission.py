"""What is let in: a rate per client, a bound on what is under way, images that fit before they are decoded."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from share.kernel.errors import MediaError, ServiceFull, TooManyRequests
from share.kernel.media.image import encode_image
from share.kernel.serving.admission import Places, TokenBuckets, decode_image, waiting_room


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def data_url(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of 80 bytes whose header claims so many pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@given(st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60), st.integers(1, 8), st.floats(0.5, 20.0))
def test_no_client_gets_more_than_a_burst_and_its_rate(pauses: list[float], burst: int, rate: float) -> None:
    clock = Clock()
    buckets = TokenBuckets(rate, burst, clock=clock)
    taken = 0
    for pause in pauses:
        clock.now += pause
        try:
            buckets.take("a")
            taken += 1
        except TooManyRequests as refused:
            clock.now += min(refused.retry_after_s, 1.0 / rate) + 1e-6
            buckets.take("a")  # what it says is true
            taken += 1
    assert taken <= burst + clock.now * rate + 1e-6


def test_clients_do_not_share_a_bucket() -> None:
    buckets = TokenBuckets(1.0, 1, clock=Clock())
    buckets.take("a")
    buckets.take("b")
    with pytest.raises(TooManyRequests):
        buckets.take("a")


def test_a_place_is_given_back_also_after_an_error() -> None:
    places = Places(1)

    def work(problem: Exception) -> None:
        with places.one():
            with pytest.raises(TooManyRequests):
                places.one().__enter__()
            raise problem

    with pytest.raises(ZeroDivisionError):
        work(ZeroDivisionError())
    with places.one():
        assert places.num_taken == 1
    assert places.num_taken == 0


def test_a_place_is_kept_until_what_was_begun_in_it_is_done() -> None:
    places, answer = Places(1), Future[str]()
    with places.one() as place:
        place.until(answer)
    with pytest.raises(ServiceFull, match="1 questions are being answered already"):
        places.one().__enter__()
    answer.set_result("7")
    assert places.num_taken == 0


def test_an_image_comes_as_pixels_and_its_exif_does_not() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(decode_image(data_url(encode_image(pixels)), "image"), pixels)
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    decoded = decode_image(data_url(file.getvalue()), "image")
    assert b"taken at home" in file.getvalue()
    assert b"taken at home" not in decoded.tobytes()
    assert np.array_equal(decoded, pixels)


def test_a_header_that_claims_too_much_is_refused_before_decoding() -> None:
    with pytest.raises(MediaError, match=r"^messages\.0: its header claims more than the 4,000,000 pixels"):
        decode_image(data_url(png_that_claims(100_000, 100_000)), "messages.0")
    with pytest.raises(MediaError, match="2001 x 2000 = 4,002,000 pixels"):
        decode_image(data_url(png_that_claims(2_001, 2_000)), "image")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://169.254.169.254/latest", "http: is not fetched"),
        ("https://example.com/a.png", "https: is not fetched; send the image itself"),
        ("file:///etc/passwd", "file: is not fetched"),
        ("/etc/passwd", "what is no URL is not fetched; send the image itself"),
        ("", "what is no URL is not fetched; send the image itself"),
        ("data:text/html;base64,PGI+", "must begin with"),
        ("data:image/png,abc", "must begin with"),
        ("data:image/png;base64,!!!", "base64 is broken"),
        ("data:image/png;base64,", "the file is empty"),
        ("data:image/png;base64,AAAA", "not a PNG"),
        (data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg+xml"), "not a PNG"),
    ],
)
def test_what_is_no_image_is_refused_with_its_name(url: str, problem: str) -> None:
    with pytest.raises(MediaError, match=f"^image 2: .*{problem}"):
        decode_image(url, "image 2")


@pytest.mark.parametrize(
    ("rows_max", "requests_max", "room"),
    [(32, None, 16), (4, None, 8), (32, 200, 168), (32, 33, 8), (32, 12, 8), (32, 3, 3), (1, 60, 59), (1, 1, 1)],
)
def test_as_many_may_wait_as_are_let_in_and_not_answered(rows_max: int, requests_max: int | None, room: int) -> None:
    assert waiting_room(rows_max, requests_max) == room
