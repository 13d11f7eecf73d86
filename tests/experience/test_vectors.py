"""The matrix of embeddings in its file: written by one, read by all, also while it grows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from share.kernel.errors import BufferProblem
from share.kernel.experience.disk import RealDisk
from share.kernel.experience.vectors import BLOCK_ROWS, Vectors, to_float32


def matrix(rows: int, dimension: int = 8, seed: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_come_back_by_number_and_by_block(tmp_path: Path, dtype: type) -> None:
    vectors = Vectors(RealDisk(), tmp_path / "vectors-1", 8, dtype, row_base=100, write=True)
    rows = matrix(500)
    for start in range(0, 500, 125):
        vectors.append(100 + start, rows[start : start + 125])
    kept = rows.astype(dtype).astype(np.float32)
    wanted = np.array([103, 599, 100, 103])
    assert np.array_equal(vectors.gather(wanted), kept[wanted - 100])
    assert np.array_equal(vectors.block(110, 400), kept[10:300])
    assert vectors.gather(wanted[:0]).shape == (0, 8)
    assert vectors.gather(wanted).dtype == np.float32


def test_a_reader_follows_a_file_that_grows(tmp_path: Path) -> None:
    writer = Vectors(RealDisk(), tmp_path / "v", 8, write=True)
    writer.append(0, matrix(10))
    reader = Vectors(RealDisk(), tmp_path / "v", 8)
    for start in range(10, 3 * BLOCK_ROWS, 1777):
        writer.append(start, matrix(1777, seed=start))
        assert np.array_equal(reader.block(start, start + 1777), writer.block(start, start + 1777))
    with pytest.raises(BufferProblem, match="row 99999"):
        reader.gather(np.array([99_999]))


def test_a_writer_that_opens_again_keeps_the_rows(tmp_path: Path) -> None:
    writer = Vectors(RealDisk(), tmp_path / "v", 8, write=True)
    writer.append(0, matrix(10))
    writer.sync()
    writer.close()
    again = Vectors(RealDisk(), tmp_path / "v", 8, write=True)
    again.append(10, matrix(5, seed=1))
    assert np.array_equal(again.block(0, 10), matrix(10).astype(np.float16).astype(np.float32))


def test_zeroed_and_dropped_rows_are_gone_and_the_others_stay(tmp_path: Path) -> None:
    vectors = Vectors(RealDisk(), tmp_path / "v", 512, row_base=7, write=True)
    rows = matrix(3000, 512)
    vectors.append(7, rows)
    vectors.sync()
    blocks = (tmp_path / "v").stat().st_blocks
    vectors.zero(np.array([2500]))
    vectors.drop_before(2000)
    assert not vectors.block(7, 2000).any()
    assert not vectors.block(2500, 2501).any()
    assert np.array_equal(vectors.block(2000, 2500), rows[1993:2493].astype(np.float16).astype(np.float32))
    assert (tmp_path / "v").stat().st_blocks < blocks * 0.5
    assert rows[2493].astype(np.float16).tobytes() not in (tmp_path / "v").read_bytes()


def test_a_disk_whose_mappings_do_not_follow_is_mapped_again(tmp_path: Path) -> None:
    class CopyingFile:
        """A file whose mapping is a copy, as a simulated disk's may be."""

        def __init__(self, file) -> None:  # type: ignore[no-untyped-def]
            self.file = file

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def map(self) -> memoryview:
            return memoryview(bytes(self.file.map()))

    class CopyingDisk(RealDisk):
        def open(self, path: Path, *, write: bool = False, create: bool = False):  # type: ignore[no-untyped-def]
            return CopyingFile(super().open(path, write=write, create=create))

    vectors = Vectors(CopyingDisk(), tmp_path / "v", 8, write=True)
    for row in range(5):
        vectors.append(row, matrix(1, seed=row))
    assert np.array_equal(vectors.gather(np.array([4]))[0], matrix(1, seed=4)[0].astype(np.float16))


def test_float16_becomes_float32_exactly() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    assert np.array_equal(to_float32(finite), finite.astype(np.float32))
