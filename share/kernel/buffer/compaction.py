"""Writing a segment anew with HOLEs in it: what is sound stays where it is, what is dead or damaged becomes zeros."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from share.kernel.buffer.chain import OFFSET_BITS, TEMPORARY, Chain, Segment, segment_path
from share.kernel.buffer.segment import START, SegmentHeader
from share.kernel.contracts.experience import Record, RecordType
from share.kernel.experience.disk import Disk, File, opened
from share.kernel.experience.frame import HOLE_BYTES, pack_hole

PIECE_BYTES = 1 << 22
HOLE_BYTES_MAX = 1 << 31


@dataclass(slots=True)
class Span:
    """A part of a segment from `offset` to `end`: sound frames one behind the other, or what becomes one HOLE.

    `is_new` says that not all of it has been a HOLE before.
    """

    offset: int
    end: int
    first: int
    last: int
    is_hole: bool
    is_new: bool = False


def erase(chain: Chain, segment: Segment, is_dead: Callable[[Record], bool]) -> int:
    """Erase the payloads of a sealed segment's dead records, and what it holds beyond its end. Returns bytes erased.

    Raises BufferCorrupt, OSError.
    """
    spans: list[Span] = []
    offset, num_bytes = START, 0
    for placed in chain.walk(segment, START, segment.header.first_sequence):
        is_hole = placed.type is RecordType.HOLE
        if not is_hole and len(placed.payload) >= HOLE_BYTES:  # what is shorter has nothing to erase
            location = segment.ordinal << OFFSET_BITS | placed.offset
            if is_dead(Record(placed.sequence, placed.type, placed.payload, location)):
                is_hole = True
                num_bytes += len(placed.payload)
        offset = placed.offset + placed.size
        add(spans, Span(placed.offset, offset, placed.sequence, placed.last, is_hole))
    if offset != segment.end:
        raise chain.damage(segment.ordinal, offset, spans[-1].last + 1 if spans else segment.header.first_sequence)
    path = segment_path(chain.directory, segment.ordinal)
    if num_bytes:
        try:
            write_anew(chain.disk, path, segment.header, spans, offset)
        finally:
            chain.files.forget(segment.ordinal)
    else:
        with opened(chain.disk, path, write=True) as file:
            if file.size > offset:
                file.punch(offset, file.size - offset)
                file.sync()
    return num_bytes


def add(spans: list[Span], span: Span) -> None:
    """Add a span behind the others, as a part of the last one if they are alike."""
    if spans and spans[-1].is_hole == span.is_hole and span.end - spans[-1].offset <= HOLE_BYTES_MAX:
        spans[-1].end, spans[-1].last = span.end, span.last
        spans[-1].is_new |= span.is_new
    else:
        spans.append(span)


def write_anew(disk: Disk, path: Path, header: SegmentHeader, spans: Sequence[Span], end: int) -> None:
    """Replace the segment at `path`, if there is one, by one of the header and spans, durably. Raises OSError."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(opened(disk, temporary, create=True))
            file.resize(end)
            file.pwrite([header.pack()], 0)
            source = stack.enter_context(opened(disk, path)) if any(not span.is_hole for span in spans) else None
            for span in spans:
                if span.is_hole:
                    size = span.end - span.offset
                    hole = pack_hole(span.first, span.last, size, epoch=header.epoch, seed=header.seed)
                    file.pwrite([hole], span.offset)
                else:
                    assert source is not None
                    _copy(source, file, span)
            file.sync()
        disk.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            disk.unlink(temporary)
        raise
    disk.sync_directory(path.parent)


def _copy(source: File, target: File, span: Span) -> None:
    for offset in range(span.offset, span.end, PIECE_BYTES):
        target.pwrite([source.pread(min(PIECE_BYTES, span.end - offset), offset)], offset)


__all__ = ["Span", "add", "erase", "write_anew"]
