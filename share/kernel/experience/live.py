"""The live page: what the writer tells readers of this machine, a mapped file that is never synced.

Words of 8 bytes, each stored at once: magic, two words of the boot's id, process, epoch, generation, durable sequence,
retired. Across a reboot the page says nothing that counts. Every writer makes a page of its own, so that one that was
taken over can only spoil a page that nobody looks at: the old page is marked as retired, and readers look for the new
one.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import uuid
from pathlib import Path
from typing import NamedTuple

from share.kernel.experience.problem import problem

NAME = "live"
SIZE = 4096
_MAGIC = int.from_bytes(b"PIXLIVE1", "little")
_MAGIC_AT, _BOOT_AT, _PID_AT, _EPOCH_AT, _GENERATION_AT, _SEQUENCE_AT, _RETIRED_AT = 0, 1, 3, 4, 5, 6, 7


class LivePage:
    """The writer's page. Raises BufferFull, BufferUnavailable if it cannot be made."""

    def __init__(self, directory: Path, *, epoch: int, generation: int, sequence: int) -> None:
        path = directory / NAME
        temporary = directory / f"{NAME}.{os.getpid()}.tmp"
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                os.posix_fallocate(descriptor, 0, SIZE)  # a mapped hole on a full disk would be SIGBUS
                self._map = mmap.mmap(descriptor, SIZE)
            finally:
                os.close(descriptor)
            self._words = memoryview(self._map).cast("Q")
            first, second = _boot()
            self._words[_BOOT_AT], self._words[_BOOT_AT + 1] = first, second
            self._words[_PID_AT], self._words[_EPOCH_AT] = os.getpid(), epoch
            self._words[_GENERATION_AT], self._words[_SEQUENCE_AT] = generation, sequence
            self._words[_MAGIC_AT] = _MAGIC
            _retire(path)
            os.rename(temporary, path)
        except OSError as error:
            raise problem(error, f"{path}: cannot be made") from error

    def publish(self, sequence: int) -> None:
        """Everything up to `sequence` is durable and may be read."""
        self._words[_SEQUENCE_AT] = sequence

    def announce(self, generation: int) -> None:
        """A new manifest has been committed."""
        self._words[_GENERATION_AT] = generation

    def close(self) -> None:
        self._words.release()
        self._map.close()


class Said(NamedTuple):
    """What a page says: the epoch of its writer, the generation of the manifest, the last durable sequence."""

    epoch: int
    generation: int
    sequence: int


class LiveView:
    """A reader's view of the page; follows from writer to writer."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._boot = _boot()
        self._map: mmap.mmap | None = None
        self._words: memoryview | None = None

    def read(self) -> Said | None:
        """None if no writer has said anything since the machine started."""
        words = self._words
        if words is None or words[_RETIRED_AT]:
            words = self._open()
        return None if words is None else Said(words[_EPOCH_AT], words[_GENERATION_AT], words[_SEQUENCE_AT])

    def close(self) -> None:
        if self._words is not None and self._map is not None:
            self._words.release()
            self._map.close()
        self._words = self._map = None

    def _open(self) -> memoryview | None:
        try:
            with open(self._path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), SIZE, prot=mmap.PROT_READ)
        except (OSError, ValueError):
            return self._words  # between two writers: the last word counts
        words = memoryview(mapped).cast("Q")
        if words[_MAGIC_AT] != _MAGIC or (words[_BOOT_AT], words[_BOOT_AT + 1]) != self._boot:
            words.release()
            mapped.close()
            return None
        self._map, self._words = mapped, words  # the old one goes when no thread looks at it any more
        return words


def _boot() -> tuple[int, int]:
    try:
        number = uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).int
    except (OSError, ValueError):
        return 0, 0
    return number >> 64, number & (2**64 - 1)


def _retire(path: Path) -> None:
    with contextlib.suppress(OSError, ValueError), open(path, "r+b") as file, mmap.mmap(file.fileno(), SIZE) as page:
        page[8 * _RETIRED_AT] = 1


__all__ = ["NAME", "SIZE", "LivePage", "LiveView", "Said"]
