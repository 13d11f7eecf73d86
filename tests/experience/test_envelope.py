"""No derived file is believed that was cut, flipped or swapped."""

from __future__ import annotations

from pathlib import Path

import pytest

from share.kernel.experience.disk import RealDisk
from share.kernel.experience.envelope import HEADER_BYTES, Damaged, read_envelope, write_envelope


def test_a_file_comes_back_with_what_it_covers(tmp_path: Path) -> None:
    checksum = write_envelope(RealDisk(), tmp_path / "index-7", "index:ivf", 7, 3, [b"abc", memoryview(b"defg")])
    envelope = read_envelope(RealDisk(), tmp_path / "index-7", "index:ivf")
    assert (envelope.covers, envelope.rows, envelope.checksum, bytes(envelope.content)) == (7, 3, checksum, b"abcdefg")
    assert [path.name for path in tmp_path.iterdir()] == ["index-7"]


def test_every_bit_and_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "snapshot-1"
    write_envelope(RealDisk(), path, "snapshot", 1, 1, [b"contents"])
    whole = path.read_bytes()
    assert len(whole) == HEADER_BYTES + 8
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(Damaged, match="snapshot-1"):
            read_envelope(RealDisk(), path, "snapshot")
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(Damaged):
            read_envelope(RealDisk(), path, "snapshot")
    path.write_bytes(whole + b"x")
    with pytest.raises(Damaged):
        read_envelope(RealDisk(), path, "snapshot")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_envelope(RealDisk(), tmp_path / "a", "snapshot", 1, 1, [])
    with pytest.raises(Damaged, match="holds 'snapshot', not 'index'"):
        read_envelope(RealDisk(), tmp_path / "a", "index")


def test_a_taken_name_is_an_error_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    write_envelope(RealDisk(), tmp_path / "a", "snapshot", 1, 1, [b"old"])
    with pytest.raises(FileExistsError):
        write_envelope(RealDisk(), tmp_path / "a", "snapshot", 2, 1, [b"new"])
    write_envelope(RealDisk(), tmp_path / "a", "snapshot", 2, 1, [b"new"], replace=True)
    assert bytes(read_envelope(RealDisk(), tmp_path / "a", "snapshot").content) == b"new"
