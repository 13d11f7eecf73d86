"""Images of what waits for a review: in memory within a bound, and on disk only where the operator wants that.

On disk they are PNGs made from pixels, so that nothing that came with the file is left: no EXIF, no place, no camera.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from share.kernel.adaptation.review import DAY_S
from share.kernel.errors import MediaError
from share.kernel.files import write_atomically
from share.kernel.media.image import load_image

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels

_NOBODY = "0" * 32
_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")


class Pictures:
    """The images of requests by their ids. Thread-safe.

    None is written unless `writes`; what lies below `directory` from before is found, and goes, all the same. None
    keeps to memory. `clock` gives seconds since 1970.

    A quarter of `bytes_max` holds those that were just answered, the rest those that wait: a flood of the one never
    takes the place of the other.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        bytes_max: int,
        writes: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._writes = writes
        self._clock = clock
        self._lock = threading.Lock()
        self._recent = _Shelf(bytes_max // 4)
        self._waiting = _Shelf(bytes_max - bytes_max // 4)

    def hold(self, trace_id: str, images: tuple[Pixels, ...], subject: str | None) -> None:
        """Have images (uint8 HWC RGB) of a request in memory for a while, in case that somebody doubts its answer.
        `subject` is a key that may stand in the name of a file."""
        with self._lock:
            self._recent.put(trace_id, images, subject or _NOBODY)

    def keep(self, trace_id: str) -> None:
        """Keep those images until they are released. Raises OSError when the disk refuses: they are in memory then."""
        with self._lock:
            held = self._recent.take(trace_id)
            if held is None:
                return
            images, subject = held
            self._waiting.put(trace_id, images, subject)
        if self._directory is None or not self._writes or not _NAME.fullmatch(trace_id):
            return
        folder = self._directory / f"{subject}-{trace_id}"
        folder.mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(images):
            is_encoded, png = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
            assert is_encoded, "pixels are always a PNG"
            write_atomically(folder / f"{number:04}.png", png.tobytes())
        now = self._clock()
        os.utime(folder, (now, now))

    def kept(self) -> set[str]:
        """The requests whose images are kept until they are released. Raises OSError."""
        with self._lock:
            kept = set(self._waiting.trace_ids())
        if self._directory is not None and self._directory.is_dir():
            kept |= {folder.name[len(_NOBODY) + 1 :] for folder in self._directory.iterdir()}
        return kept

    def of(self, trace_id: str) -> tuple[Pixels, ...]:
        """The images of a request, empty when they are not held any more."""
        with self._lock:
            held = self._waiting.get(trace_id) or self._recent.get(trace_id)
        if held is not None:
            return held[0]
        try:
            return tuple(load_image(path) for folder in self._folders(trace_id) for path in sorted(folder.iterdir()))
        except (MediaError, OSError):
            return ()

    def release(self, trace_id: str) -> None:
        """They are needed no more: gone from memory and disk."""
        with self._lock:
            self._waiting.take(trace_id)
            self._recent.take(trace_id)
        for folder in self._folders(trace_id):
            shutil.rmtree(folder, ignore_errors=True)

    def erase(self, subject: str) -> None:
        """Everything of a subject. Raises OSError."""
        with self._lock:
            self._waiting.drop(subject)
            self._recent.drop(subject)
        if self._directory is not None:
            for folder in self._directory.glob(f"{subject}-*"):
                shutil.rmtree(folder)

    def expire(self, older_than_days: float) -> None:
        """Remove from disk what was written longer ago. Raises OSError."""
        if self._directory is None or not self._directory.is_dir():
            return
        oldest = self._clock() - older_than_days * DAY_S
        for folder in self._directory.iterdir():
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder)

    def _folders(self, trace_id: str) -> list[Path]:
        if self._directory is None or not _NAME.fullmatch(trace_id):
            return []
        return list(self._directory.glob(f"{'[0-9a-f]' * len(_NOBODY)}-{trace_id}"))


class _Shelf:
    """Images with their subjects, the oldest first to go."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held: OrderedDict[str, tuple[tuple[Pixels, ...], str]] = OrderedDict()
        self._num_bytes = 0

    def put(self, trace_id: str, images: tuple[Pixels, ...], subject: str) -> None:
        self.take(trace_id)
        self._held[trace_id] = images, subject
        self._num_bytes += _size(images)
        while self._num_bytes > self._bytes_max:
            self.take(next(iter(self._held)))

    def get(self, trace_id: str) -> tuple[tuple[Pixels, ...], str] | None:
        return self._held.get(trace_id)

    def take(self, trace_id: str) -> tuple[tuple[Pixels, ...], str] | None:
        held = self._held.pop(trace_id, None)
        if held is not None:
            self._num_bytes -= _size(held[0])
        return held

    def trace_ids(self) -> list[str]:
        return list(self._held)

    def drop(self, subject: str) -> None:
        for trace_id in [trace_id for trace_id, held in self._held.items() if held[1] == subject]:
            self.take(trace_id)


def _size(images: tuple[Pixels, ...]) -> int:
    return sum(image.nbytes for image in images)


__all__ = ["Pictures"]
