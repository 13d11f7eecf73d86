"""An LMDB file without LMDB: what is still to be found in its pages when the tree that leads to them is broken.

Pages that the newest tree reaches count first, then those whose way from the root is lost, if they do not contradict
each other. Pages that are free do not count: they may hold what was dropped, or refused. Nothing is followed out of the
file, so a damaged one cannot end the process. The layout is that of LMDB 0.9's `mdb.c`.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

from share.kernel.buffer.table import Bounds, mapped
from share.kernel.experience.frame import Frame, unpack_frame

PAGE = mmap.PAGESIZE
BRANCH, LEAF, OVERFLOW = 0x01, 0x02, 0x04
BIG = 0x01
"""Flag of a node whose value lies in overflow pages, of which it holds the number."""
MAGIC = 0xBEEFC0DE

_PAGE = Struct("<QHHHH")  # number, padding, flags, end of the nodes' offsets, begin of the nodes
_NODE = Struct("<HHHH")  # size of the value, or in a branch the page's number, low and high; flags; size of the key
_NUMBER = Struct("<Q")
_BOUNDS = Struct("<QQQ")
_BOUNDS_KEY = bytes(8)
_MAGIC_AT = 16
_META_AT = 80, 128, 136, 144  # root of what is free, root of the log, last page, transaction


class LmdbPages:
    """See `Wreck`."""

    def __init__(self, directory: Path) -> None:
        self._content = mapped(directory / "data.mdb")
        self._size = len(self._content) // PAGE
        root_of_free, root, last = self._newest()
        reached = self._reached(root)
        free = self._free(self._reached(root_of_free))
        self._tree: dict[int, int] = {}
        self._others: dict[int, list[int]] = {}
        told: list[tuple[bool, Bounds]] = []
        epoch = 0
        for number in sorted(set(range(2, min(self._size, last + 1))) - free):
            for offset in self._values(number):
                frame = unpack_frame(self._content, offset)
                if frame is not None:
                    epoch = max(epoch, frame.epoch)
                    if number in reached:
                        self._tree[frame.sequence] = offset
                    else:
                        self._others.setdefault(frame.sequence, []).append(offset)
                elif bytes(self._content[offset - 8 : offset]) == _BOUNDS_KEY:
                    first, following, its_epoch = _BOUNDS.unpack_from(self._content, offset)
                    told.append((number in reached, Bounds(first, following - 1, its_epoch)))
        told.sort(key=lambda each: (each[0], each[1].last, each[1].first, each[1].epoch))
        if told and told[-1][0]:
            self._bounds = told[-1][1]
            return
        sequences = self._tree.keys() | self._others.keys()
        first, last, its_epoch = told[-1][1] if told else Bounds(min(sequences, default=1), 0, 0)
        self._bounds = Bounds(first, max(last, max(sequences, default=0)), max(epoch, its_epoch))

    def bounds(self) -> Bounds:
        return self._bounds

    def get(self, sequence: int) -> bytes | None:
        if sequence in self._tree:
            return self._bytes(self._tree[sequence])
        contents = {self._bytes(offset) for offset in self._others.get(sequence, ())}
        return contents.pop() if len(contents) == 1 else None

    def _bytes(self, offset: int) -> bytes:
        frame = unpack_frame(self._content, offset)
        assert isinstance(frame, Frame)
        return bytes(self._content[offset : offset + frame.size])

    def _newest(self) -> tuple[int, int, int]:
        """Pages of the roots of what is free and of the log, and the last page that is used, as far as it is known."""
        found = [(0, 0, 0, self._size)]
        for start in range(0, min(2, self._size) * PAGE, PAGE):
            if int.from_bytes(self._content[start + _MAGIC_AT : start + _MAGIC_AT + 4], "little") == MAGIC:
                of_free, root, last, transaction = (
                    _NUMBER.unpack_from(self._content, start + at)[0] for at in _META_AT
                )
                found.append((transaction, of_free, root, last))
        return max(found)[1:]

    def _reached(self, root: int) -> set[int]:
        """Numbers of the pages that a root leads to."""
        reached: set[int] = set()
        coming = [root]
        while coming:
            number = coming.pop()
            if 2 <= number < self._size and number not in reached:
                reached.add(number)
                coming += self._children(number)
        return reached

    def _free(self, pages: set[int]) -> set[int]:
        """The numbers that the lists in these pages hold, each with its length before it."""
        free: set[int] = set()
        for number in pages:
            for offset in self._values(number, _NUMBER.size):
                (count,) = _NUMBER.unpack_from(self._content, offset)
                count = min(count, (len(self._content) - offset) // _NUMBER.size - 1)
                free.update(self._content[offset + 8 : offset + 8 + 8 * count].cast("Q"))
        return free

    def _children(self, number: int) -> Iterator[int]:
        kind, nodes = self._nodes(number)
        for low, high, flags, key_bytes, offset in nodes:
            if kind == BRANCH:
                yield low | high << 16 | flags << 32
            elif flags & BIG and offset + key_bytes + _NUMBER.size <= len(self._content):
                yield _NUMBER.unpack_from(self._content, offset + key_bytes)[0]

    def _values(self, number: int, size_min: int = _BOUNDS.size) -> Iterator[int]:
        """Offsets of what may be frames, or the log's bounds, in a page."""
        kind, nodes = self._nodes(number)
        if kind == OVERFLOW:
            yield number * PAGE + _PAGE.size
        elif kind == LEAF:
            for low, high, flags, key_bytes, offset in nodes:
                is_value = key_bytes == len(_BOUNDS_KEY) and not flags & BIG and (low | high << 16) >= size_min
                if is_value and offset + key_bytes + _BOUNDS.size <= len(self._content):
                    yield offset + key_bytes

    def _nodes(self, number: int) -> tuple[int, list[tuple[int, int, int, int, int]]]:
        """Kind of a page, 0 if it is none, and of its nodes the four fields and the offset of the key."""
        start = number * PAGE
        said, _, flags, lower, _ = _PAGE.unpack_from(self._content, start)
        kind = flags & (BRANCH | LEAF | OVERFLOW)
        if said != number or kind not in (BRANCH, LEAF, OVERFLOW):
            return 0, []
        nodes = []
        if kind != OVERFLOW:
            for at in range(start + _PAGE.size, start + min(lower, PAGE), 2):
                offset = start + int.from_bytes(self._content[at : at + 2], "little")
                if offset + _NODE.size <= start + PAGE:
                    nodes.append((*_NODE.unpack_from(self._content, offset), offset + _NODE.size))
        return kind, nodes


__all__ = ["BIG", "BRANCH", "LEAF", "MAGIC", "OVERFLOW", "PAGE", "LmdbPages"]
