"""Files for the segments to come: made ahead in the background, whole and zeroed, so that no append waits for them.

An append that overwrites zeros in place needs no change of the file's metadata, which halves the time of its sync.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from share.kernel.buffer.chain import TEMPORARY
from share.kernel.experience.disk import Disk, opened

FIRST_BYTES = 1 << 20
GROWTH = 4
"""Segments grow from 1 MiB to their full size, so that a small buffer is small and a first append is soon done."""

PIECE_BYTES = 1 << 22
"""Zeros are synced in pieces: one sync of all would hold up the syncs of the appends meanwhile."""


@dataclass(frozen=True, slots=True)
class Blank:
    """A file that may become a segment. `is_zeroed` is false for one that holds the frames of an evicted segment."""

    path: Path
    size: int
    is_zeroed: bool = True


class Ahead:
    """At most one file made ahead, and one to be used again. For one thread, which `executor` works for."""

    def __init__(self, directory: Path, disk: Disk, segment_bytes: int, executor: Executor | None) -> None:
        self._directory = directory
        self._disk = disk
        self._bytes_max = segment_bytes
        self._bytes = min(FIRST_BYTES, segment_bytes)
        self._executor = executor
        self._own_executor: ThreadPoolExecutor | None = None
        self._numbers = itertools.count(1)
        self._made: Future[Blank] | None = None
        self._spare: Blank | None = None

    def begin(self) -> None:
        """Let the next file be made in the background."""
        if self._made is None and self._spare is None:
            if self._executor is None:
                self._executor = self._own_executor = ThreadPoolExecutor(1, "segment")
            self._made = self._executor.submit(self._make, self._bytes)

    def take(self, size: int, *, must_be_zeroed: bool = False) -> Blank:
        """A file of at least `size` bytes, made now if none is ready. Raises OSError."""
        for take in (self._take_spare, self._take_made):
            blank = take()
            if blank is not None:
                if blank.size >= size and (blank.is_zeroed or not must_be_zeroed):
                    return blank
                self._disk.unlink(blank.path)
        return self._make(max(self._bytes, size))

    def put(self, path: Path, size: int) -> None:
        """Use the file of a segment that is of the chain no more for another one, or give its space back."""
        if self._spare is not None or size < self._bytes_max:
            self._disk.unlink(path)
            return
        spare = self._path()
        self._disk.rename(path, spare)
        self._spare = Blank(spare, size, is_zeroed=False)

    def close(self) -> None:
        """Give back what was made for nothing."""
        for blank in (self._take_spare(), self._take_made()):
            if blank is not None:
                with contextlib.suppress(OSError):
                    self._disk.unlink(blank.path)
        if self._own_executor is not None:
            self._own_executor.shutdown()
            self._executor = self._own_executor = None

    def _take_spare(self) -> Blank | None:
        spare, self._spare = self._spare, None
        return spare

    def _take_made(self) -> Blank | None:
        """None also if it could not be made: whoever needs it then tries once more, and is told why not."""
        made, self._made = self._made, None
        try:
            return made.result() if made is not None else None
        except OSError:
            return None

    def _make(self, size: int) -> Blank:
        path = self._path()
        try:
            with contextlib.suppress(FileNotFoundError):  # never emptied: it may be a segment by another name, left by
                self._disk.unlink(path)  # a writer that died between link and unlink and had our process id
            with opened(self._disk, path, create=True) as file:
                for offset in range(0, size, PIECE_BYTES):
                    file.pwrite([bytes(min(PIECE_BYTES, size - offset))], offset)
                    file.sync()
        except OSError:
            self._bytes = min(FIRST_BYTES, self._bytes_max)  # a disk that is nearly full may have room for a small one
            with contextlib.suppress(OSError):
                self._disk.unlink(path)
            raise
        self._bytes = min(GROWTH * self._bytes, self._bytes_max)
        return Blank(path, size)

    def _path(self) -> Path:
        return self._directory / f"next-{next(self._numbers)}.{os.getpid()}{TEMPORARY}"


__all__ = ["Ahead", "Blank"]
