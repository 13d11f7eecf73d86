"""Frames: what was packed is unpacked, and nothing else is."""

from __future__ import annotations

import pytest

from share.kernel.contracts.experience import RecordType
from share.kernel.experience.frame import frame_bytes, last_of_hole, pack_frame, pack_hole, unpack_frame


def packed(*parts: bytes, seed: int = 5) -> bytes:
    frame, size = pack_frame(RecordType.ADD, parts, sequence=9, epoch=3, durable=8, seed=seed)
    content = b"".join(frame)
    assert len(content) == size == frame_bytes(sum(map(len, parts)))
    assert size % 8 == 0
    return content


@pytest.mark.parametrize("parts", [[], [b""], [b"x"], [b"seven..", b"", b"and more"], [bytes(5632)]])
def test_what_was_packed_is_unpacked(parts: list[bytes]) -> None:
    frame = unpack_frame(b"12345678" + packed(*parts) + b"behind", 8, seed=5)
    assert frame is not None
    assert frame.payload == b"".join(parts)
    assert frame[:2] + frame[3:] == (RecordType.ADD, 9, 8, 3, len(packed(*parts)))


def test_a_golden_frame_stays_as_it_is() -> None:
    assert packed(b"golden").hex() == (
        "3e57571f2786ff330600000003000000090000000000000008000000000000000100000000000000676f6c64656e0000"
    ), "the bytes of docs/formats/buffer.md; a change of them needs a new magic number"


def test_no_other_seed_will_do() -> None:
    assert [seed for seed in range(100) if unpack_frame(packed(b"x"), seed=seed)] == [5]


def test_a_frame_with_any_bit_flipped_or_cut_anywhere_is_none() -> None:
    content = packed(b"payload.")
    for place in range(len(content)):
        assert unpack_frame(content[:place], seed=5) is None
        for bit in range(8):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            assert unpack_frame(flipped, seed=5) is None, (place, bit)


def test_a_hole_stands_for_its_records_and_takes_their_place() -> None:
    content = pack_hole(7, 12, 4000, epoch=2, seed=1)
    frame = unpack_frame(content, seed=1)
    assert frame is not None
    assert (frame.type, frame.sequence, last_of_hole(frame.payload), frame.size) == (RecordType.HOLE, 7, 12, 4000)
    smallest = unpack_frame(pack_hole(7, 7, 40, epoch=2, seed=1), seed=1)
    assert smallest is not None
    assert (smallest.type, smallest.size) == (RecordType.CLOSE, 40)
