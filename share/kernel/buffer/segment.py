"""A segment: one file of the log, as bytes. Nothing here knows of the segments beside it.

A segment is read in pieces into memory of our own and checked there: what passed cannot change any more, although the
writer may reuse the file of an evicted segment, and a sector that cannot be read is an error, not a signal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

import numpy as np
from isal.isal_zlib import crc32

from share.kernel.contracts.experience import RecordType
from share.kernel.experience.disk import File
from share.kernel.experience.frame import (
    ALIGNMENT,
    HEADER,
    HEADER_BYTES,
    HOLE_BYTES,
    TYPES,
    Frame,
    last_of_hole,
    unpack_frame,
)

MAGIC = b"PIXELOG1"
START = 64
"""Offset of the first frame."""

PIECE_BYTES_MIN = 1 << 16
PIECE_BYTES_MAX = 1 << 18

_FIELDS = Struct("<IIIQQQQ8x")
_BEGINNING = Struct("<8sI")
_NOTHING = memoryview(b"")


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself and of the one before it; see docs/formats/buffer.md."""

    seed: int
    epoch: int
    ordinal: int
    first_sequence: int
    previous_end: int
    oldest: int

    def pack(self) -> bytes:
        fields = _FIELDS.pack(
            self.seed, self.epoch, 0, self.ordinal, self.first_sequence, self.previous_end, self.oldest
        )
        return _BEGINNING.pack(MAGIC, crc32(fields)) + fields

    @staticmethod
    def unpack(content: bytes) -> SegmentHeader | None:
        """None if these are not the bytes of a header."""
        if len(content) < START:
            return None
        magic, checksum = _BEGINNING.unpack_from(content)
        fields = content[_BEGINNING.size : START]
        if magic != MAGIC or crc32(fields) != checksum:
            return None
        seed, epoch, zero, ordinal, first_sequence, previous_end, oldest = _FIELDS.unpack(fields)
        return None if zero else SegmentHeader(seed, epoch, ordinal, first_sequence, previous_end, oldest)


class Placed(NamedTuple):
    """A sound frame and where it lies. `last` is its sequence, or the last one that a HOLE stands for."""

    offset: int
    size: int
    type: RecordType
    sequence: int
    last: int
    durable: int
    payload: memoryview


def walk(
    file: File, seed: int, offset: int, sequence: int, end: int, *, with_payloads: bool = True
) -> Iterator[Placed]:
    """The frames from `offset` on, of which the first has `sequence`, until `end` or the first that is not sound.

    Without payloads those are empty and not checked (but a HOLE's). Raises OSError.
    """
    piece_bytes = PIECE_BYTES_MIN
    view, base = _NOTHING, offset
    unpack, types, hole = HEADER.unpack_from, TYPES, RecordType.HOLE  # a hundred thousand times in a second
    while offset + HEADER_BYTES <= end:
        start = offset - base
        body = start + HEADER_BYTES
        if body > len(view):
            view, base, start, body = (
                memoryview(file.pread(min(piece_bytes, end - offset), offset)),
                offset,
                0,
                HEADER_BYTES,
            )
            piece_bytes = min(4 * piece_bytes, PIECE_BYTES_MAX)
            if len(view) < HEADER_BYTES:
                return
        checksum, payload_checksum, length, _epoch, found, durable, number = unpack(view, start)
        if found != sequence or crc32(view[start + 4 : body], seed) != checksum:
            return
        type_ = types.get(number)
        size = HEADER_BYTES + length + -length % ALIGNMENT
        if type_ is None or offset + size > end:
            return
        payload, last = _NOTHING, sequence
        if with_payloads or type_ is hole:
            checked = HOLE_BYTES if type_ is hole else length
            if body + checked > len(view):
                wanted = max(piece_bytes, HEADER_BYTES + checked)
                view, base, body = memoryview(file.pread(min(wanted, end - offset), offset)), offset, HEADER_BYTES
                piece_bytes = min(4 * piece_bytes, PIECE_BYTES_MAX)
            payload = view[body : body + checked]
            if len(payload) < checked or crc32(payload) != payload_checksum:
                return
            if type_ is hole:
                last = last_of_hole(payload)
        yield Placed(offset, size, type_, sequence, last, durable, payload)
        sequence = last + 1
        offset += size


def search(file: File, seed: int, offset: int, after: int, end: int) -> Iterator[Placed]:
    """Sound frames anywhere from `offset` on, in order and with rising sequences greater than `after`.

    For what lies behind a damaged place: a candidate looks like a header in its fixed bytes, then both checksums tell.
    """
    overlap = HEADER_BYTES - ALIGNMENT
    skip_to = offset
    while offset + HEADER_BYTES <= end:
        content = file.pread(min(PIECE_BYTES_MAX, end - offset), offset)
        words = np.frombuffer(content, "<u8", count=len(content) // ALIGNMENT)
        if len(words) * ALIGNMENT < HEADER_BYTES:
            return
        likely = np.flatnonzero(words[4:] - np.uint64(1) < len(RecordType))  # a type, and zeros behind it
        likely = likely[(words[likely + 2] > after) & (words[likely + 3] < words[likely + 2])]
        for index in likely.tolist():
            place = offset + index * ALIGNMENT
            if place < skip_to:
                continue
            frame = frame_at(file, seed, place, end)
            if frame is not None and frame.sequence > after:
                last = last_of_hole(frame.payload) if frame.type is RecordType.HOLE else frame.sequence
                yield Placed(place, frame.size, frame.type, frame.sequence, last, frame.durable, frame.payload)
                skip_to = place + frame.size
                after = last
        offset += max(len(words) * ALIGNMENT - overlap, ALIGNMENT)
        offset = max(offset, skip_to)


def frame_at(file: File, seed: int, offset: int, end: int) -> Frame | None:
    """The frame at `offset` if it is sound and ends before `end`. Raises OSError."""
    content = file.pread(min(8192, end - offset), offset)
    if len(content) < HEADER_BYTES:
        return None
    _, _, length, _, _, _, number = HEADER.unpack_from(content)
    size = HEADER_BYTES + (HOLE_BYTES if number == RecordType.HOLE else length)
    if size > len(content):
        if crc32(content[4:HEADER_BYTES], seed) != HEADER.unpack_from(content)[0] or offset + size > end:
            return None  # asked before reading what a damaged length says
        content = file.pread(size, offset)
    frame = unpack_frame(content, seed=seed)
    return frame if frame is not None and offset + frame.size <= end else None


@dataclass(frozen=True, slots=True)
class Tail:
    """How a segment ends that no later one has sealed: `end` is its offset, `next_sequence` what would come there.

    `proven` are offset and sequence of the first frame of which no later one says that it is durable. `damage` is an
    offset where an acknowledged record is missing; `torn` counts bytes of one that never was.
    """

    end: int
    next_sequence: int
    proven: tuple[int, int]
    is_closed: bool = False
    damage: int | None = None
    torn: int = 0


def find_tail(file: File, header: SegmentHeader, start: tuple[int, int] | None = None) -> Tail:
    """The end of the log in its last segment, looked for from the frame at `start` on. Raises OSError.

    Payloads that a later frame says are durable are not checked here but by whoever reads them.
    """
    size = file.size
    end, sequence = start or (START, header.first_sequence)
    is_closed, durable = False, 0
    unproven: list[Placed] = []
    for placed in walk(file, header.seed, end, sequence, size, with_payloads=False):
        end, sequence, is_closed = placed.offset + placed.size, placed.last + 1, placed.type is RecordType.CLOSE
        if placed.durable > durable:
            durable = placed.durable
            unproven = [earlier for earlier in unproven if earlier.last > durable]
        unproven.append(placed)
    proven = (unproven[0].offset, unproven[0].sequence) if unproven else (end, sequence)
    for placed in unproven:
        if frame_at(file, header.seed, placed.offset, size) is None:
            end, sequence, is_closed = placed.offset, placed.sequence, False
            break
    if is_closed:
        return Tail(end, sequence, proven, is_closed)
    torn = 0
    for placed in search(file, header.seed, end + ALIGNMENT, sequence, size):
        if placed.durable >= sequence:
            return Tail(end, sequence, proven, damage=end)
        torn = placed.offset + placed.size - end
    if not torn and any(file.pread(HEADER_BYTES, end)):
        torn = HEADER_BYTES
    return Tail(end, sequence, proven, torn=torn)


def read_header(file: File) -> SegmentHeader | None:
    """Raises OSError."""
    return SegmentHeader.unpack(file.pread(START, 0))


__all__ = [
    "MAGIC",
    "START",
    "Placed",
    "SegmentHeader",
    "Tail",
    "find_tail",
    "frame_at",
    "read_header",
    "search",
    "walk",
]
