"""Images in and out: any common file becomes uint8 RGB pixels, or a MediaError that says why not.

The size is read from the header and checked before anything is decoded: a file of a few bytes can claim a picture of
gigabytes. EXIF orientation is applied, so that pixels lie as a person sees them.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from share.kernel.contracts.vision import PIXELS_MAX
from share.kernel.errors import MediaError

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""The decoders that are tried; JPEG also opens MPO. Others that Pillow knows start programs or have no bound."""

BYTES_MAX = 64 * 2**20
"""The largest image file that is read, in bytes: an uncompressed 16-bit RGBA image of PIXELS_MAX takes half of it."""

BACKGROUND = (255, 255, 255)
"""What lies behind transparent pixels, RGB."""

# Everything Pillow's decoders were seen to raise on damaged files. Warnings are among them because a caller may have
# turned warnings into errors; a file that warns is damaged as well.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    Warning,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def load_image(source: str | os.PathLike[str] | bytes, *, pixels_max: int = PIXELS_MAX) -> Pixels:
    """Decode an image file, or the bytes of one, to uint8 [height, width, 3] RGB.

    Of an animation, the first frame. Palette, grey, 1-bit, CMYK and 16-bit images are converted; transparent pixels
    are laid over `BACKGROUND`. Raises MediaError, which names the file, for what is missing, broken, of an unknown
    format, larger than `BYTES_MAX`, or of more than `pixels_max` pixels.
    """
    name = "image" if isinstance(source, bytes) else f"image {os.fspath(source)!r}"
    content = source if isinstance(source, bytes) else read_file(source, name, BYTES_MAX)
    if not content:
        raise MediaError(f"{name}: the file is empty")
    with _opened(io.BytesIO(content), name, pixels_max) as image:
        return _to_rgb(ImageOps.exif_transpose(image), name)


def check_image(path: str | os.PathLike[str], *, pixels_max: int = PIXELS_MAX) -> None:
    """Look at the header of an image file and decode nothing: about 0.1 ms. Raises MediaError as `load_image` does.

    A file that passes may still turn out to be damaged when it is decoded.
    """
    name = f"image {os.fspath(path)!r}"
    try:
        if _file_size(path, name, BYTES_MAX) == 0:
            raise MediaError(f"{name}: the file is empty")
        with open(path, "rb") as file, _opened(file, name, pixels_max):
            pass
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) of an image as `load_image` would return it, by what stands before its pixels; decodes nothing.

    An orientation that stands behind the pixels of a PNG is not seen. Raises MediaError.
    """
    name = f"image {os.fspath(path)!r}"
    try:
        with open(path, "rb") as file, _opened(file, name, PIXELS_MAX) as image:
            width, height = image.size
            # Not the PNG plugin's own `getexif`, which decodes an image to find none. A TIFF's size is turned already.
            orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
            is_turned = orientation in (5, 6, 7, 8) and image.format != "TIFF"
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error
    return (height, width) if is_turned else (width, height)


def read_file(path: str | os.PathLike[str], name: str, bytes_max: int) -> bytes:
    """The bytes of a regular file. Raises MediaError beginning with `name`."""
    try:
        _file_size(path, name, bytes_max)
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error


def _file_size(path: str | os.PathLike[str], name: str, bytes_max: int) -> int:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"{name}: not a file")
    if status.st_size > bytes_max:
        raise MediaError(f"{name}: {status.st_size:,} bytes; at most {bytes_max:,} are read")
    return status.st_size


def _unreadable(name: str, error: OSError | ValueError) -> MediaError:
    """ValueError: a path with a NUL byte."""
    return MediaError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}")


def check_size(width: int, height: int, name: str, pixels_max: int) -> None:
    """Refuse a size that is empty or above the limit. Raises MediaError beginning with `name`."""
    if width < 1 or height < 1:
        raise MediaError(f"{name}: the image has no pixels ({width} x {height})")
    if width * height > pixels_max:
        raise MediaError(
            f"{name}: {width} x {height} = {width * height:,} pixels; "
            f"at most {pixels_max:,} are accepted: reduce it first"
        )


def encode_image(pixels: Pixels, file_type: str = "png", quality: int = 90) -> bytes:
    """The bytes of a `png`, `jpg` or `webp` file. `pixels` is uint8 [height, width, 3] RGB."""
    options = {"jpg": [cv2.IMWRITE_JPEG_QUALITY, quality], "webp": [cv2.IMWRITE_WEBP_QUALITY, quality]}
    done, content = cv2.imencode(f".{file_type}", np.ascontiguousarray(pixels[:, :, ::-1]), options.get(file_type, []))
    if not done:
        raise MediaError(f"image: cannot be encoded as {file_type}")
    return content.tobytes()


@contextmanager
def _opened(file: BinaryIO, name: str, pixels_max: int) -> Iterator[Image.Image]:
    """A file whose header was read and accepted. What the decoder raises inside the block becomes a MediaError."""
    try:
        if (size := _webp_size(file.read(30))) is not None:
            check_size(*size, name, pixels_max)
        file.seek(0)
        with Image.open(file, formats=FORMATS) as image:
            check_size(*image.size, name, pixels_max)
            yield image
    except MediaError:
        raise
    except UnidentifiedImageError as error:
        raise MediaError(f"{name}: not a {', '.join(FORMATS)} image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(f"{name}: its header claims more than the {pixels_max:,} pixels accepted") from error
    except _DECODER_ERRORS as error:
        raise MediaError(f"{name}: cannot be decoded: {type(error).__name__}: {error}") from error


def _webp_size(content: bytes) -> tuple[int, int] | None:
    """(width, height) in the header of a WebP file, None for any other file.

    Pillow's WebP decoder reserves the whole canvas when it opens a file; all others read the header alone.
    Container: RFC 9649, sections 2.5 to 2.7.
    """
    if len(content) < 30 or content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return None
    chunk, payload = content[12:16], content[20:30]
    if chunk == b"VP8X":
        return int.from_bytes(payload[4:7], "little") + 1, int.from_bytes(payload[7:10], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(payload[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        return int.from_bytes(payload[6:8], "little") & 0x3FFF, int.from_bytes(payload[8:10], "little") & 0x3FFF
    return None


def _to_rgb(image: Image.Image, name: str) -> Pixels:
    if image.mode.startswith("I") or image.mode == "F":
        grey = _grey_to_uint8(np.asarray(image), name)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (*BACKGROUND, 255))
        ground.alpha_composite(rgba)
        image = ground
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _grey_to_uint8(values: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """16-bit integers keep their high byte; wider integers and floats are read in the range they fit: 1, 255, 65535."""
    if values.dtype.itemsize == 2:
        return (values.astype(np.uint16) >> 8).astype(np.uint8)
    if not np.isfinite(values).all():
        raise MediaError(f"{name}: its pixels hold NaN or infinity")
    low, high = float(values.min()), float(values.max())
    ranges = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
    white = next((white for white in ranges if high <= white), None)
    if low < 0 or white is None:
        raise MediaError(f"{name}: its pixels lie in {low:g} to {high:g}, which is no range of brightness")
    return np.rint(values * (255.0 / white)).astype(np.uint8)


__all__ = [
    "BACKGROUND",
    "BYTES_MAX",
    "FORMATS",
    "check_image",
    "check_size",
    "encode_image",
    "image_size",
    "load_image",
    "read_file",
]
