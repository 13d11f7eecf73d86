"""Where the log ends: a torn tail is cut and never comes back, damage is told from it, and salvaged around."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from share.kernel.buffer.file import FileStorage
from share.kernel.buffer.segment import START
from share.kernel.contracts.experience import Finding, RecordType
from share.kernel.errors import BufferCorrupt
from tests.buffer.faults import FaultyDisk, small_storage

STORAGE = small_storage()
LONG = small_storage(1 << 16)


def payload(number: int) -> bytes:
    return bytes([number]) * (20 + number)


def fill(directory: Path, *batches: range, close: bool = False, storage: FileStorage = STORAGE) -> list[int]:
    locations = []
    with closing(storage.open(directory, FaultyDisk(), "write")) as log:
        for batch in batches:
            locations += log.append([(RecordType.ADD, [payload(number)]) for number in batch])
        if close:
            locations += log.append([(RecordType.CLOSE, [])])
    return locations


def told(directory: Path, *, salvage: bool = False) -> list[tuple[int, bytes]]:
    with closing(STORAGE.open(directory, FaultyDisk(), "write", salvage=salvage)) as log:
        return [(record.sequence, bytes(record.payload)) for record in log.scan()]


def verified(directory: Path) -> list[Finding]:
    return list(STORAGE.verify(directory, FaultyDisk(), progress=lambda done, in_all: None))


def segments(directory: Path) -> list[Path]:
    return sorted((directory / "log").glob("*.segment"))


def numbered(*numbers: int) -> list[tuple[int, bytes]]:
    return [(number, payload(number)) for number in numbers]


@pytest.mark.parametrize("rest", ["zeros", "garbage"])
def test_a_tail_torn_at_any_byte_is_cut_and_never_comes_back(tmp_path: Path, rest: str) -> None:
    whole = tmp_path / "whole"
    locations = fill(whole, range(1, 3), range(3, 6))
    content = segments(whole)[0].read_bytes()
    begin, end = (locations[2] & 0xFFFFFF), (locations[4] & 0xFFFFFF) + 64
    random = Random(1)
    for cut in range(begin, end + 1):
        torn = tmp_path / "torn"
        shutil.copytree(whole, torn)
        tail = bytes(len(content) - cut) if rest == "zeros" else random.randbytes(len(content) - cut)
        segments(torn)[0].write_bytes(content[:cut] + tail)
        kept = told(torn)
        assert kept == numbered(*range(1, len(kept) + 1)), cut
        assert len(kept) >= 2, f"cut at {cut}, an acknowledged record is lost"
        assert not any(finding.is_loss for finding in verified(torn))
        with closing(STORAGE.open(torn, FaultyDisk(), "write")) as log:
            log.append([(RecordType.ADD, [b"new"])])
        assert told(torn) == [*kept, (len(kept) + 1, b"new")], cut
        shutil.rmtree(torn)


def test_frames_behind_a_torn_one_of_the_same_batch_never_come_back(tmp_path: Path) -> None:
    locations = fill(tmp_path, range(1, 3), range(3, 8))
    path = segments(tmp_path)[0]
    content = bytearray(path.read_bytes())
    torn = locations[3] & 0xFFFFFF  # record 4 did not reach the disk; 5, 6 and 7 did
    content[torn : locations[4] & 0xFFFFFF] = bytes((locations[4] - locations[3]) & 0xFFFFFF)
    path.write_bytes(content)
    with closing(STORAGE.open(tmp_path, FaultyDisk(), "write")) as log:
        assert log.cut is not None
        assert log.cut.offset == torn
        assert not log.cut.is_loss
        log.append([(RecordType.ADD, [payload(4)])])  # as long as the lost one: 5 would follow it in place
    assert told(tmp_path) == numbered(1, 2, 3, 4)
    assert told(tmp_path) == numbered(1, 2, 3, 4)


def test_every_flipped_byte_is_found_and_salvaged_around(tmp_path: Path) -> None:
    """Two sealed segments and the last one, closed in order. Each byte that means something has a bit flipped."""
    whole = tmp_path / "whole"
    fill(whole, range(1, 5), range(5, 9))
    fill(whole, range(9, 13))
    fill(whole, range(13, 15), range(15, 17), close=True)
    all_of = [*numbered(*range(1, 17)), (17, b"")]
    assert told(whole) == all_of
    before = len(os.listdir("/proc/self/fd"))
    for number, path in enumerate(segments(whole)):
        content = path.read_bytes()
        end = -(-len(content.rstrip(b"\0")) // 8) * 8
        for offset in range(end):
            flipped = tmp_path / "flipped"
            shutil.copytree(whole, flipped)
            changed = bytearray(content)
            changed[offset] ^= 1 << offset % 8
            segments(flipped)[number].write_bytes(changed)
            where = f"segment {number + 1}, offset {offset}"
            findings = verified(flipped)
            assert findings, f"{where}: not found"
            assert {Path(finding.path).name for finding in findings} <= {path.name}, where
            try:
                kept = told(flipped)
            except BufferCorrupt as error:
                message = str(error)
                assert any(finding.is_loss for finding in findings), where
                assert path.name in message, where
                assert "--salvage" in message, where
                salvaged = told(flipped, salvage=True)
                assert set(salvaged) <= set(all_of), where
                assert len(salvaged) >= len(all_of) - (offset >= START), f"{where}: more is lost than was damaged"
                assert told(flipped) == salvaged, f"{where}: salvaged for good"
                assert not any(finding.is_loss for finding in verified(flipped)), where
            else:
                assert not any(finding.is_loss for finding in findings), where
                assert kept in (all_of, all_of[:-1]), where  # nobody was told of the CLOSE
            shutil.rmtree(flipped)
    assert len(os.listdir("/proc/self/fd")) == before, "whatever was refused left no file open"


def test_damage_before_the_last_batch_is_not_taken_for_a_torn_tail(tmp_path: Path) -> None:
    locations = fill(tmp_path, range(1, 3), range(3, 6), range(6, 7))
    path = segments(tmp_path)[0]
    content = bytearray(path.read_bytes())
    content[(locations[3] & 0xFFFFFF) : (locations[5] & 0xFFFFFF)] = bytes((locations[5] - locations[3]) & 0xFFFFFF)
    path.write_bytes(content)
    with pytest.raises(BufferCorrupt, match=r"offset \d+: record 4 is damaged"):
        told(tmp_path)
    assert [(finding.is_loss, "records 4 to 5" in finding.problem) for finding in verified(tmp_path)] == [(True, True)]
    assert told(tmp_path, salvage=True) == numbered(1, 2, 3, 6)


@pytest.mark.parametrize("missing", [1, 2])
def test_a_missing_segment_is_damage_and_the_others_are_salvaged(tmp_path: Path, missing: int) -> None:
    for numbers in (range(1, 4), range(4, 7), range(7, 10)):
        fill(tmp_path, numbers)
    path = segments(tmp_path)[missing - 1]
    path.unlink()
    with pytest.raises(BufferCorrupt, match=f"{path.name} is missing"):
        told(tmp_path)
    assert any(finding.path == str(path) and finding.is_loss for finding in verified(tmp_path))
    lost = range(3 * missing - 2, 3 * missing + 1)
    kept = numbered(*(number for number in range(1, 10) if number not in lost))
    assert told(tmp_path, salvage=True) == kept
    assert told(tmp_path) == kept
    with closing(STORAGE.open(tmp_path, FaultyDisk(), "write")) as log:
        assert log.next_sequence == 10


@pytest.mark.parametrize("lost", [(1,), (2,), (3,), (2, 3), (1, 2, 3)])
def test_records_are_found_again_when_the_headers_of_their_segments_are_lost(
    tmp_path: Path, lost: tuple[int, ...]
) -> None:
    for numbers in (range(1, 4), range(4, 7), range(7, 10)):
        fill(tmp_path, numbers)
    for ordinal in lost:
        path = segments(tmp_path)[ordinal - 1]
        path.write_bytes(bytes(START) + path.read_bytes()[START:])
    with pytest.raises(BufferCorrupt, match="no segment's header"):
        told(tmp_path)
    assert told(tmp_path, salvage=True) == numbered(*range(1, 10))
    assert told(tmp_path) == numbered(*range(1, 10))
    assert verified(tmp_path) == []


def test_a_frame_may_be_longer_than_any_piece_that_is_read(tmp_path: Path) -> None:
    long = [Random(number).randbytes(5_000_000 + number) for number in range(3)]
    with closing(LONG.open(tmp_path, FaultyDisk(), "write")) as log:
        for content in long:
            log.append([(RecordType.ADD, [b"short"]), (RecordType.ADD, [content])])
        assert [bytes(record.payload) for record in log.scan()][1::2] == long
        locations = [record.location for record in log.scan()]
        assert log.read(locations[3], 4).payload == long[1]
    assert [content for _, content in told(tmp_path)][1::2] == long
    assert verified(tmp_path) == []
