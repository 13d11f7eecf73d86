from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from share.kernel.errors import MediaError
from share.kernel.media.mask import decode_mask, decode_part, encode_mask, mask_box

masks = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.booleans())


@given(masks)
@settings(max_examples=200, deadline=None)
def test_a_mask_is_what_its_run_lengths_say(mask: np.ndarray) -> None:
    counts = encode_mask(mask)
    assert np.array_equal(decode_mask(counts, mask.shape), mask)
    assert sum(counts[1::2]) == mask.sum()
    assert all(count > 0 for count in counts[1:])


@given(masks)
@settings(max_examples=200, deadline=None)
def test_the_part_of_a_mask_is_its_smallest_box(mask: np.ndarray) -> None:
    if not mask.any():
        with pytest.raises(MediaError, match="no pixel"):
            decode_part(encode_mask(mask), mask.shape)
        with pytest.raises(MediaError, match="no pixel"):
            mask_box(mask)
        return
    part, (x1, y1, x2, y2) = decode_part(encode_mask(mask), mask.shape)
    assert (x1, y1, x2, y2) == mask_box(mask)
    assert np.array_equal(part, mask[y1:y2, x1:x2])
    assert mask.sum() == part.sum()


def test_run_lengths_begin_with_zeros() -> None:
    assert encode_mask(np.array([[True, True, False]])) == (0, 2, 1)
    assert encode_mask(np.array([[False, True, True]])) == (1, 2)
    assert encode_mask(np.zeros((2, 3), bool)) == (6,)


@pytest.mark.parametrize("counts", [(), (5,), (3, 4), (-1, 7), (8, -2)])
def test_run_lengths_that_do_not_fill_the_image_are_refused(counts: tuple[int, ...]) -> None:
    for decode in (decode_mask, decode_part):
        with pytest.raises(MediaError, match="do not fill 2 x 3"):
            decode(counts, (2, 3))
