"""Frames: how a record lies in any storage, with its checksums. docs/formats/buffer.md has the bytes.

The header's checksum begins with a seed, so that frames left in a reused file never count; it covers the payload's
checksum, so that a header never passes with another frame's payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from isal.isal_zlib import crc32

from share.kernel.contracts.experience import RecordType
from share.kernel.errors import ExperienceRefused

HEADER = Struct("<IIIIQQB7x")
HEADER_BYTES = HEADER.size
ALIGNMENT = 8
PAYLOAD_BYTES_MAX = 1 << 30
HOLE_BYTES = 8
"""What the payload's checksum covers of a HOLE: its last sequence. The zeros behind take no space and are not read."""

TYPES = {type_.value: type_ for type_ in RecordType}
"""Record types by their number on disk."""

_FIELDS = Struct("<IIIQQB7x")  # the header without its checksum
_CHECKSUM = Struct("<I")
_LAST = Struct("<Q")
_ZEROS = bytes(ALIGNMENT)


class Frame(NamedTuple):
    """One frame that passed its checksums. `durable` is the greatest sequence that was durable when it was written."""

    type: RecordType
    sequence: int
    payload: memoryview
    durable: int
    epoch: int
    size: int


def pack_frame(
    type_: RecordType,
    parts: Sequence[bytes | memoryview],
    *,
    sequence: int,
    epoch: int,
    durable: int,
    seed: int = 0,
) -> tuple[list[bytes | memoryview], int]:
    """The frame as parts to be written one behind the other, and its bytes. Memoryviews must be of bytes.

    Raises ExperienceRefused for a payload of more than PAYLOAD_BYTES_MAX.
    """
    length = checksum = 0
    for part in parts:
        length += len(part)
        checksum = crc32(part, checksum)
    if length > PAYLOAD_BYTES_MAX:
        raise ExperienceRefused(f"a record of {length:,} bytes; at most {PAYLOAD_BYTES_MAX:,} can be stored in one")
    fields = _FIELDS.pack(checksum, length, epoch, sequence, durable, type_)
    frame = [_CHECKSUM.pack(crc32(fields, seed)) + fields, *parts]
    padding = -length % ALIGNMENT
    if padding:
        frame.append(_ZEROS[:padding])
    return frame, HEADER_BYTES + length + padding


def pack_hole(first: int, last: int, size: int, *, epoch: int, seed: int) -> bytes:
    """The beginning of a HOLE of `size` bytes in all, in place of the records `first` to `last`; zeros follow it.

    Where not even a HOLE has room it is a CLOSE, the only record that has been there.
    """
    payload = _LAST.pack(last)
    type_ = RecordType.HOLE
    if size == HEADER_BYTES:
        assert first == last
        payload, type_ = b"", RecordType.CLOSE
    fields = _FIELDS.pack(crc32(payload), size - HEADER_BYTES, epoch, first, first - 1, type_)
    return _CHECKSUM.pack(crc32(fields, seed)) + fields + payload


def unpack_frame(content: bytes | memoryview, offset: int = 0, *, seed: int = 0) -> Frame | None:
    """The frame at `offset`, or None if none is there whole and sound."""
    view = memoryview(content)
    start = offset + HEADER_BYTES
    if start > len(view):
        return None
    checksum, payload_checksum, length, epoch, sequence, durable, number = HEADER.unpack_from(view, offset)
    if crc32(view[offset + 4 : start], seed) != checksum or number not in TYPES:
        return None
    checked = HOLE_BYTES if number == RecordType.HOLE else length
    payload = view[start : start + checked]
    if len(payload) < checked or crc32(payload) != payload_checksum:
        return None
    return Frame(TYPES[number], sequence, payload, durable, epoch, frame_bytes(length))


def frame_bytes(length: int) -> int:
    """Bytes that a payload of `length` takes with its header and padding."""
    return HEADER_BYTES + length + -length % ALIGNMENT


def last_of_hole(payload: bytes | memoryview) -> int:
    """The last sequence that a HOLE stands for."""
    last: int = _LAST.unpack_from(payload)[0]
    return last


__all__ = [
    "ALIGNMENT",
    "HEADER",
    "HEADER_BYTES",
    "HOLE_BYTES",
    "PAYLOAD_BYTES_MAX",
    "TYPES",
    "Frame",
    "frame_bytes",
    "last_of_hole",
    "pack_frame",
    "pack_hole",
    "unpack_frame",
]
