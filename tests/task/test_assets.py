"""Digits and photographs: real, fixed, and sharing nothing between the splits."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from share.kernel.task import assets
from share.kernel.task.assets import PHOTOGRAPHS, digits, photograph


def test_the_digits_are_those_of_scikit_learn_in_two_parts() -> None:
    from sklearn.datasets import load_digits

    images = {np.round(image * (255 / 16)).astype(np.uint8).tobytes() for image in load_digits().images}
    parts = [digits("train")[0], digits("held_out")[0]]
    assert {image.tobytes() for part in parts for image in part} == images
    assert abs(len(parts[1]) / sum(map(len, parts)) - 0.25) < 0.01
    assert all(part.dtype == np.uint8 and part.shape[1:] == (8, 8) for part in parts)


def test_no_digit_image_is_in_both_splits() -> None:
    train, held_out = ({image.tobytes() for image in digits(split)[0]} for split in ("train", "held_out"))
    assert not train & held_out


def test_every_digit_is_as_frequent_in_both_splits() -> None:
    shares = [np.bincount(digits(split)[1]) / len(digits(split)[1]) for split in ("train", "held_out")]
    assert np.abs(shares[0] - shares[1]).max() < 0.005


def test_digits_and_photographs_cannot_be_spoiled_by_a_caller() -> None:
    images, labels = digits("train")
    assert not images.flags.writeable
    assert not labels.flags.writeable
    crop = photograph(np.random.default_rng(1), "train", 64, 64)
    before = crop.copy()
    crop[:] = 0
    assert (photograph(np.random.default_rng(1), "train", 64, 64) == before).all()


def test_a_photograph_has_the_asked_size_and_is_fixed_by_its_generator() -> None:
    for height, width in ((448, 448), (30, 700), (900, 1), (1, 1)):
        crop = photograph(np.random.default_rng(3), "held_out", height, width)
        assert crop.shape == (height, width, 3)
        assert crop.dtype == np.uint8
        assert (crop == photograph(np.random.default_rng(3), "held_out", height, width)).all()


def test_the_splits_cut_each_photograph_into_rectangles_that_tile_it() -> None:
    for name in PHOTOGRAPHS:
        whole, train, held_out = (
            assets._decode(name),
            assets._rectangle(name, "train"),
            assets._rectangle(name, "held_out"),
        )
        axis = 0 if train.shape[1:] == whole.shape[1:] else 1
        assert (np.concatenate([train, held_out], axis=axis) == whole).all()


def test_nothing_is_downloaded_and_the_libraries_are_not_even_imported() -> None:
    program = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "import numpy as np\n"
        "from share.kernel.task.assets import digits, photograph\n"
        "digits('train'), [photograph(np.random.default_rng(n), 'train', 8, 8) for n in range(60)]\n"
        "assert not {'sklearn', 'skimage', 'torch'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
