"""A reader's vectors are the writer's as far as a manifest vouches for them, and its own beyond, wherever they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from share.kernel.experience.disk import RealDisk
from share.kernel.experience.followed import BLOCK_ROWS, FollowedVectors
from share.kernel.experience.vectors import Vectors

DIMENSION = 8


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_read_the_same_whoever_keeps_them(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    rows_ND = rng.standard_normal((3 * BLOCK_ROWS + 1000, DIMENSION)).astype(dtype).astype(np.float32)
    written = Vectors(RealDisk(), tmp_path / "vectors-1", DIMENSION, dtype, write=True)
    written.append(0, rows_ND[:500])
    followed = FollowedVectors(DIMENSION, dtype, written, 500)

    def agrees() -> None:
        asked = rng.integers(0, followed.stop, 300)
        assert (followed.gather(asked) == rows_ND[asked]).all()
        assert len(followed.gather(asked[:0])) == 0
        for start, stop in [np.sort(rng.integers(0, followed.stop + 1, 2)) for _ in range(20)]:
            assert (followed.block(int(start), int(stop)) == rows_ND[start:stop]).all()

    agrees()
    done = 500
    for size in [1, 9, BLOCK_ROWS - 10, 1, 2 * BLOCK_ROWS - 1, 3]:  # to the end of a block, over it, over a whole one
        followed.append(done, rows_ND[done : done + size])
        done += size
        assert followed.stop == done
        agrees()
    for shared_stop in [501, 500 + BLOCK_ROWS, 700 + 2 * BLOCK_ROWS, done]:
        written.append(0, rows_ND[:shared_stop])
        followed.share(written, shared_stop)
        rest = followed.block(shared_stop, done)
        assert (rest == rows_ND[shared_stop:done]).all()
        agrees()
    followed.append(done, rows_ND[done : done + 50])
    agrees()


def test_without_a_file_all_rows_are_its_own() -> None:
    rows_ND = np.random.default_rng(0).standard_normal((20, DIMENSION)).astype(np.float32)
    followed = FollowedVectors(DIMENSION, "float32")
    assert followed.block(0, 0).shape == (0, DIMENSION)
    followed.append(0, rows_ND)
    assert (followed.gather(np.array([19, 0, 7])) == rows_ND[[19, 0, 7]]).all()
    assert (followed.stored(3, 20) == rows_ND[3:]).all()
