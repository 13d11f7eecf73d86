"""Files for the segments to come: made ahead in the background, so that no append waits for them.

An append that overwrites zeros in place needs no change of the file's metadata, which halves the time of its sync, so
files are zeroed. But that writes every byte twice: where appends are so large that the zeros cost the disk as much time
as they save, files are made of their size only, and where segments were evicted their files are used again.
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

LARGE_BYTES = 1 << 17
"""Bytes of an append from which on zeros pay no more: of 128 KiB they cost 119 us and save 123 (docs/benchmarks.md)."""

PIECE_BYTES = 1 << 22
"""Zeros are synced in pieces: one sync of all would hold up the syncs of the appends meanwhile."""


@dataclass(frozen=True, slots=True)
class Blank:
    """A file that may become a segment. `is_clean` is false for one that holds the frames of an evicted segment."""

    path: Path
    size: int
    is_clean: bool = True


class Ahead:
    """At most one file made ahead, and some to be used again. For one thread, which `executor` works for.

    `mark` is of this writer alone: another one of the same process id must not have files of the same names.
    """

    def __init__(self, directory: Path, disk: Disk, segment_bytes: int, executor: Executor | None, mark: str) -> None:
        self._directory = directory
        self._disk = disk
        self._bytes_max = segment_bytes
        self._bytes = min(FIRST_BYTES, segment_bytes)
        self._executor = executor
        self._mark = mark
        self._own_executor: ThreadPoolExecutor | None = None
        self._numbers = itertools.count(1)
        self._made: Future[Blank] | None = None
        self._spares: list[Blank] = []

    def begin(self, append_bytes: float) -> None:
        """Let the next file be made in the background, for appends of so many bytes each."""
        if self._made is None and not self._spares:
            if self._executor is None:
                self._executor = self._own_executor = ThreadPoolExecutor(1, "segment")
            self._made = self._executor.submit(self._make, self._bytes, append_bytes < LARGE_BYTES)

    def take(self, size: int, *, must_be_clean: bool = False) -> Blank:
        """A file with room for an append of `size` bytes, made now if none is ready. Raises OSError."""
        for spare in self._spares:
            if spare.size >= size and not must_be_clean:
                self._spares.remove(spare)
                return spare
        made = self._take_made()
        if made is not None:
            if made.size >= size:
                return made
            self._disk.unlink(made.path)
        return self._make(max(self._bytes, size), size < LARGE_BYTES)

    def put(self, path: Path, size: int, spares_max: int) -> None:
        """Use the file of a segment that is of the chain no more for another one, or give its space back."""
        if len(self._spares) >= spares_max or size < self._bytes_max:
            self._disk.unlink(path)
            return
        spare = self._path()
        self._disk.rename(path, spare)
        self._spares.append(Blank(spare, size, is_clean=False))

    def close(self) -> None:
        """Give back what was made for nothing."""
        made = self._take_made()
        blanks, self._spares = [*self._spares, *([made] if made is not None else [])], []
        for blank in blanks:
            with contextlib.suppress(OSError):
                self._disk.unlink(blank.path)
        if self._own_executor is not None:
            self._own_executor.shutdown()
            self._executor = self._own_executor = None

    def _take_made(self) -> Blank | None:
        """None also if it could not be made: whoever needs it then tries once more, and is told why not."""
        made, self._made = self._made, None
        try:
            return made.result() if made is not None else None
        except OSError:
            return None

    def _make(self, size: int, is_zeroed: bool) -> Blank:
        path = self._path()
        try:
            with contextlib.suppress(FileNotFoundError):  # never emptied: it may be a segment by another name, left by
                self._disk.unlink(path)  # a writer that died between link and unlink and had our process id
            with opened(self._disk, path, create=True) as file:
                if not is_zeroed:
                    file.resize(size)
                    file.sync()
                for offset in range(0, size if is_zeroed else 0, PIECE_BYTES):
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
        return self._directory / f"next-{next(self._numbers)}.{os.getpid()}.{self._mark}{TEMPORARY}"


__all__ = ["FIRST_BYTES", "LARGE_BYTES", "Ahead", "Blank"]
