"""A SQLite file without SQLite: what is still to be found in its pages when the tree that leads to them is broken.

Leaves of tables hold the rows, and say themselves where a row goes on that does not fit; pages that are free do not
count. What a write-ahead log beside the file has committed lies over the file's pages. The layout is that of
sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from share.kernel.buffer.table import Bounds, mapped
from share.kernel.experience.frame import unpack_frame

PAGE = 4096
"""SQLite's default, with which the files are made."""
LEAF = 0x0D
WAL_HEADER_BYTES, WAL_FRAME_BYTES = 32, 24


class SqlitePages:
    """See `Wreck`."""

    def __init__(self, directory: Path) -> None:
        path = directory / "log.sqlite"
        self._content = mapped(path)
        self._over = _committed(Path(f"{os.fspath(path)}-wal"))
        free = self._free()
        self._rows: dict[int, tuple[int, int]] = {}  # page and offset of the cell, of what has proved to be a frame
        told: list[Bounds] = []
        epoch = 0
        for number in sorted({*range(1, len(self._content) // PAGE + 1), *self._over} - free):
            for offset in self._cells(number):
                rowid, header, values = self._row(number, offset)
                frame = unpack_frame(values)
                if frame is not None and frame.sequence == rowid:
                    self._rows[rowid] = number, offset
                    epoch = max(epoch, frame.epoch)
                elif rowid == 1 and len(header) == 3 and all(kind in _INTEGERS for kind in header):
                    told.append(Bounds(*_integers(header, values)))
        if told:
            first, following, its_epoch = max(told)
            self._bounds = Bounds(first, following - 1, its_epoch)
        else:
            self._bounds = Bounds(min(self._rows, default=1), max(self._rows, default=0), epoch)

    def bounds(self) -> Bounds:
        return self._bounds

    def get(self, sequence: int) -> bytes | None:
        return self._row(*self._rows[sequence])[2] if sequence in self._rows else None

    def _page(self, number: int) -> memoryview:
        return self._over.get(number, self._content[(number - 1) * PAGE : number * PAGE])

    def _free(self) -> set[int]:
        """Numbers of the pages that are in no table: they may hold rows that were deleted."""
        free: set[int] = set()
        trunk = int.from_bytes(self._page(1)[32:36], "big")
        while trunk and trunk not in free:
            free.add(trunk)
            page = self._page(trunk)
            num_leaves = min(int.from_bytes(page[4:8], "big"), PAGE // 4 - 2)
            free.update(int.from_bytes(page[8 + 4 * at : 12 + 4 * at], "big") for at in range(num_leaves))
            trunk = int.from_bytes(page[:4], "big")
        return free

    def _cells(self, number: int) -> Iterator[int]:
        page, start = self._page(number), 100 if number == 1 else 0
        if len(page) == PAGE and page[start] == LEAF:
            for at in range(min(int.from_bytes(page[start + 3 : start + 5], "big"), PAGE // 2)):
                offset = int.from_bytes(page[start + 8 + 2 * at : start + 10 + 2 * at], "big")
                if offset < PAGE:
                    yield offset

    def _row(self, number: int, offset: int) -> tuple[int, list[int], bytes]:
        """Rowid, serial types without those of NULL, and the bytes of the values, as far as they are there."""
        page = self._page(number)
        size, offset = _varint(page, offset)
        rowid, offset = _varint(page, offset)
        content = bytearray()
        following = 0
        local = _local_bytes(size)
        content += page[offset : offset + local]
        if local < size:
            following = int.from_bytes(page[offset + local : offset + local + 4], "big")
        while following and len(content) < size:
            page = self._page(following)
            content += page[4 : 4 + size - len(content)]
            following = int.from_bytes(page[:4], "big") if len(page) == PAGE else 0
        view = memoryview(content)
        header_bytes, at = _varint(view, 0)
        header = []
        while at < min(header_bytes, 32):
            kind, at = _varint(view, at)
            if kind:
                header.append(kind)
        return rowid, header, bytes(view[header_bytes:])


_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 8: 0, 9: 0}
"""Bytes of an integer by its serial type; 8 is the number 0 and 9 the number 1."""


def _integers(header: list[int], values: bytes) -> Iterator[int]:
    at = 0
    for kind in header:
        size = _INTEGERS[kind]
        yield int.from_bytes(values[at : at + size], "big") if size else kind - 8
        at += size


def _local_bytes(size: int) -> int:
    """How much of a row of `size` bytes lies in its leaf."""
    most = PAGE - 35
    if size <= most:
        return size
    least = (PAGE - 12) * 32 // 255 - 23
    wanted = least + (size - least) % (PAGE - 4)
    return wanted if wanted <= most else least


def _varint(view: memoryview, offset: int) -> tuple[int, int]:
    """A number of one to nine bytes and the offset behind it; 0 at the end of the page."""
    number = 0
    for count in range(9):
        if offset >= len(view):
            return 0, offset
        byte = view[offset]
        offset += 1
        if count == 8:
            return number << 8 | byte, offset
        number = number << 7 | byte & 0x7F
        if not byte & 0x80:
            break
    return number, offset


def _committed(path: Path) -> dict[int, memoryview]:
    """Pages by number as the write-ahead log's last transaction that is whole left them."""
    content = mapped(path) if path.exists() else memoryview(b"")
    committed: dict[int, memoryview] = {}
    coming: dict[int, memoryview] = {}
    for start in range(WAL_HEADER_BYTES, len(content) - WAL_FRAME_BYTES - PAGE + 1, WAL_FRAME_BYTES + PAGE):
        head = content[start : start + WAL_FRAME_BYTES]
        if head[8:16] != content[16:24]:  # the salt: of an earlier round
            break
        coming[int.from_bytes(head[:4], "big")] = content[start + WAL_FRAME_BYTES : start + WAL_FRAME_BYTES + PAGE]
        if int.from_bytes(head[4:8], "big"):
            committed |= coming
            coming = {}
    return committed


__all__ = ["LEAF", "PAGE", "WAL_FRAME_BYTES", "WAL_HEADER_BYTES", "SqlitePages"]
