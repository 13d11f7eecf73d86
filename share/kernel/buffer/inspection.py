"""Finding what is damaged in a log of segments, and salvaging what is sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from isal.isal_zlib import crc32

from share.kernel.buffer.chain import ordinals_in, segment_path
from share.kernel.buffer.compaction import Span, add, write_anew
from share.kernel.buffer.segment import START, Placed, SegmentHeader, frame_at, read_header, search, walk
from share.kernel.contracts.experience import Finding, RecordType
from share.kernel.experience.disk import Disk, File, opened
from share.kernel.experience.frame import ALIGNMENT, HEADER, HEADER_BYTES, HOLE_BYTES

PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Gap:
    """A part of a segment without a sound frame, where the records `first` to `last` should be.

    `is_loss` is false for the tail of the log, which nobody was told is durable.
    """

    offset: int
    end: int
    first: int
    last: int
    is_loss: bool

    def __str__(self) -> str:
        if not self.is_loss:
            return f"{self.end - self.offset} bytes that were never acknowledged; the next writer cuts them"
        lost = f"record {self.first}" if self.first == self.last else f"records {self.first} to {self.last}"
        return f"{self.end - self.offset} bytes are damaged: {lost}"


def survey(file: File, header: SegmentHeader, end: int | None, next_sequence: int) -> Iterator[Placed | Gap]:
    """Everything in a segment, in order. Raises OSError.

    A sealed one ends at `end`, with `next_sequence` to follow; the last one has None. A writer may be at work there.
    """
    limit = file.size if end is None else end
    offset, sequence = START, header.first_sequence
    while True:
        for placed in walk(file, header.seed, offset, sequence, limit):
            yield placed
            offset, sequence = placed.offset + placed.size, placed.last + 1
        if offset == end and sequence == next_sequence:
            return
        found, torn_end, is_proven = None, offset + HEADER_BYTES, end is not None
        for placed in search(file, header.seed, offset + ALIGNMENT, sequence, limit):
            found, torn_end = found or placed, placed.offset + placed.size
            is_proven = is_proven or placed.durable >= sequence
            if is_proven:
                break
        if next(walk(file, header.seed, offset, sequence, limit), None):
            continue  # it was being written when we looked
        if found and is_proven:
            yield Gap(offset, found.offset, sequence, found.sequence - 1, is_loss=True)
            offset, sequence = found.offset, found.sequence
            continue
        if end is not None:
            yield Gap(offset, end, sequence, next_sequence - 1, is_loss=True)
        elif found or any(file.pread(HEADER_BYTES, offset)):
            yield Gap(offset, torn_end, sequence, sequence, is_loss=False)
        return


def findings(directory: Path, disk: Disk, progress: Callable[[int, int], None]) -> Iterator[Finding]:
    """See `Storage.verify`; a writer may be at work meanwhile. Raises OSError."""
    headers = _headers(directory, disk)
    done, in_all = 0, sum(_size(disk, segment_path(directory, ordinal)) for ordinal in headers)
    sequence = None
    for ordinal in _counting(headers):
        path, header, following = segment_path(directory, ordinal), headers.get(ordinal), headers.get(ordinal + 1)
        end, next_sequence = (following.previous_end, following.first_sequence) if following else (None, 0)
        if ordinal not in headers:
            yield Finding(str(path), 0, "the segment is missing", is_loss=True)
        elif header is None:
            yield Finding(str(path), 0, "no segment's header: its records cannot be read", is_loss=True)
        else:
            if sequence is not None and header.first_sequence != sequence:
                problem = f"begins with record {header.first_sequence}, where {sequence} should come"
                yield Finding(str(path), 0, problem, is_loss=True)
            try:
                with opened(disk, path) as file:
                    for part in survey(file, header, end, next_sequence):
                        if isinstance(part, Gap):
                            yield Finding(str(path), part.offset, str(part), part.is_loss)
                        elif (stray := _stray(file, part)) is not None:
                            yield Finding(str(path), stray, "not zero where no record has a byte", is_loss=False)
                        progress(min(done + part.offset, in_all), in_all)
            except FileNotFoundError:  # given back by the writer
                pass
        sequence = next_sequence or None
        done += _size(disk, path)
        progress(min(done, in_all), in_all)


def repair(directory: Path, disk: Disk, random: Random) -> None:
    """Put HOLEs where records are lost, so that the log is whole again without them. Raises OSError.

    A lost header is found again from the first frame; a lost segment becomes one that is all HOLE. Every segment is
    replaced at once or not at all, and what was replaced is found sound by the next repair.
    """
    headers = _headers(directory, disk)
    counting = _counting(headers)
    found = {ordinal: header or _found_header(directory, disk, ordinal) for ordinal, header in headers.items()}
    previous_end, sequence = START, 1
    for ordinal in counting:
        path, header, following = segment_path(directory, ordinal), found.get(ordinal), found.get(ordinal + 1)
        is_sealed = following is not None and headers.get(ordinal + 1) is not None
        end = following.previous_end if following is not None and is_sealed else None
        next_sequence = following.first_sequence if following is not None else 0
        spans: list[Span] = []
        offset = START
        if header is None:
            epoch = max((other.epoch for other in found.values() if other), default=0)
            header = SegmentHeader(random.getrandbits(32), epoch, ordinal, sequence, previous_end, counting.start)
        elif headers[ordinal] is None:
            header = replace(header, previous_end=previous_end, oldest=counting.start)
        if found.get(ordinal) is not None:
            with opened(disk, path) as file:
                for part in survey(file, header, end, next_sequence):
                    span = _span(part)
                    if span is None or (next_sequence and span.first >= next_sequence and not is_sealed):
                        break
                    add(spans, span)
        offset = spans[-1].end if spans else START
        sequence = spans[-1].last + 1 if spans else header.first_sequence
        if following is not None and (sequence < next_sequence or (end is not None and offset < end)):
            span_end = end if end is not None else offset + HEADER_BYTES + HOLE_BYTES
            add(spans, Span(offset, span_end, sequence, next_sequence - 1, is_hole=True))
            offset, sequence = span_end, next_sequence
        is_changed = headers.get(ordinal) is None or any(span.is_hole and span.is_new for span in spans)
        if is_changed:
            write_anew(disk, path, header, spans, offset)
        previous_end = offset


def _span(part: Placed | Gap) -> Span | None:
    """None for what is not to be kept, not even as a HOLE."""
    if isinstance(part, Gap):
        return Span(part.offset, part.end, part.first, part.last, is_hole=True, is_new=True) if part.is_loss else None
    is_hole = part.type is RecordType.HOLE
    return Span(part.offset, part.offset + part.size, part.sequence, part.last, is_hole)


def _headers(directory: Path, disk: Disk) -> dict[int, SegmentHeader | None]:
    """Of the segments that count, by their ordinals; None for one without a sound header. Raises OSError."""
    headers: dict[int, SegmentHeader | None] = {}
    for ordinal in ordinals_in(disk, directory):
        try:
            with opened(disk, segment_path(directory, ordinal)) as file:
                header = read_header(file)
        except FileNotFoundError:  # given back by the writer
            continue
        headers[ordinal] = header if header is not None and header.ordinal == ordinal else None
    oldest = max((header.oldest for header in headers.values() if header), default=0)
    return {ordinal: header for ordinal, header in headers.items() if ordinal >= oldest}


def _counting(headers: Mapping[int, SegmentHeader | None]) -> range:
    """The ordinals that there should be."""
    if not headers:
        return range(0)
    oldest = max((header.oldest for header in headers.values() if header), default=min(headers))
    return range(oldest, max(headers) + 1)


def _found_header(directory: Path, disk: Disk, ordinal: int) -> SegmentHeader | None:
    """What a lost header said, from the first frame: its checksum gives away the seed. Not what it said of others."""
    with opened(disk, segment_path(directory, ordinal)) as file:
        content = file.pread(HEADER_BYTES, START)
        if len(content) < HEADER_BYTES:
            return None
        seed = _seed(content[4:], HEADER.unpack(content)[0])
        frame = frame_at(file, seed, START, file.size)
    return SegmentHeader(seed, frame.epoch, ordinal, frame.sequence, START, ordinal) if frame else None


def _seed(content: bytes, checksum: int) -> int:
    """The seed under which `content` has that checksum: a CRC is linear over GF(2) in what it begins with."""
    zeros = bytes(len(content))
    basis: dict[int, tuple[int, int]] = {}
    for bit in range(32):
        image, source = crc32(zeros, 1 << bit) ^ crc32(zeros), 1 << bit
        while image.bit_length() in basis:
            other, other_source = basis[image.bit_length()]
            image, source = image ^ other, source ^ other_source
        basis[image.bit_length()] = image, source
    rest, seed = checksum ^ crc32(content), 0
    while rest:
        image, source = basis[rest.bit_length()]
        rest, seed = rest ^ image, seed ^ source
    return seed


def _stray(file: File, placed: Placed) -> int | None:
    """Offset of a byte between the payload and the next frame that is not zero."""
    end = placed.offset + placed.size
    for offset in range(placed.offset + HEADER_BYTES + len(placed.payload), end, PIECE_BYTES):
        content = file.pread(min(PIECE_BYTES, end - offset), offset)
        rest = content.lstrip(b"\0")
        if rest:
            return offset + len(content) - len(rest)
    return None


def _size(disk: Disk, path: Path) -> int:
    try:
        with opened(disk, path) as file:
            return file.size
    except FileNotFoundError:
        return 0


__all__ = ["Gap", "findings", "repair", "survey"]
