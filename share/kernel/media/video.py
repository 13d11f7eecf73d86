"""Videos in: frames as uint8 RGB pixels, bounded in number and size."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from share.kernel.contracts.vision import PIXELS_MAX
from share.kernel.errors import MediaError
from share.kernel.media.image import check_size

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels

FRAMES_MAX = 256
"""Frames kept of a video, unless the caller says otherwise."""

VIDEO_PIXELS_MAX = 200_000_000
"""Pixels of all kept frames together: 600 MB of memory."""

FRAMES_READ_MAX = 100_000
"""The longest video that is read, in frames: about an hour at 30 frames a second."""


def load_video(
    path: str | os.PathLike[str],
    frames_max: int = FRAMES_MAX,
    *,
    pixels_max: int = PIXELS_MAX,
    video_pixels_max: int = VIDEO_PIXELS_MAX,
) -> tuple[tuple[Pixels, ...], float | None]:
    """Decode a video file to (frames uint8 [height, width, 3] RGB in order, frames per second or None if unknown).

    A video of more than `frames_max` frames, or whose frames would exceed `video_pixels_max` together, is thinned
    evenly: every k-th frame is kept, and the rate returned is that of the kept frames. Raises MediaError, which names
    the file, for what is missing, broken, longer than `FRAMES_READ_MAX` frames, or of larger frames than `pixels_max`.
    """
    name = f"video {os.fspath(path)!r}"
    if frames_max < 1:
        raise MediaError(f"{name}: frames_max is {frames_max}; at least 1 frame must be kept")
    with _opened(path, name, pixels_max) as (capture, pixels, num_frames):
        kept_max = max(1, min(frames_max, video_pixels_max // pixels))
        stride = max(1, math.ceil(num_frames / kept_max))
        frames = _read(capture, kept_max, stride)
        rate = capture.get(cv2.CAP_PROP_FPS)
    if not frames:
        raise MediaError(f"{name}: no frame could be decoded")
    return frames, (rate / stride if math.isfinite(rate) and rate > 0 else None)


def check_video(path: str | os.PathLike[str], *, pixels_max: int = PIXELS_MAX) -> None:
    """Look at the header of a video file and decode nothing. Raises MediaError as `load_video` does.

    A file that passes may still turn out to be damaged when it is decoded.
    """
    with _opened(path, f"video {os.fspath(path)!r}", pixels_max):
        pass


@contextmanager
def _opened(path: str | os.PathLike[str], name: str, pixels_max: int) -> Iterator[tuple[cv2.VideoCapture, int, int]]:
    """A video whose header was read and accepted, pixels of a frame, number of frames (0: the file does not say)."""
    try:
        is_file = Path(path).is_file()
    except ValueError:  # a path with a NUL byte
        is_file = False
    if not is_file:  # also keeps addresses and number patterns from OpenCV, which would open them
        raise MediaError(f"{name}: not a file")
    capture = cv2.VideoCapture(os.fspath(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise MediaError(f"{name}: no video that can be decoded")
        width, height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        check_size(width, height, name, pixels_max)
        claimed = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        num_frames = int(claimed) if 0 < claimed < 2**31 else 0
        if num_frames > FRAMES_READ_MAX:
            raise MediaError(f"{name}: {num_frames:,} frames; at most {FRAMES_READ_MAX:,} are read: cut it first")
        yield capture, width * height, num_frames
    except cv2.error as error:
        raise MediaError(f"{name}: cannot be decoded: {error.err}") from error
    finally:
        capture.release()


def _read(capture: cv2.VideoCapture, kept_max: int, stride: int) -> tuple[Pixels, ...]:
    frames: list[Pixels] = []
    for index in range(kept_max * stride):
        if not capture.grab():
            break
        if index % stride == 0:
            done, frame = capture.retrieve()
            if not done:
                break
            frames.append(np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8))
    return tuple(frames)


__all__ = ["FRAMES_MAX", "FRAMES_READ_MAX", "VIDEO_PIXELS_MAX", "check_video", "load_video"]
