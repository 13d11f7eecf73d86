from __future__ import annotations

import numpy as np
import pytest
from skimage.color import deltaE_cie76, rgb2lab

from share.kernel.media.color import SHADES, color_distance, color_name, dominant_color, mean_color, texture, to_lab

EVERY = np.ones((40, 50), bool)


def filled(rgb: tuple[int, int, int]) -> np.ndarray:
    return np.full((40, 50, 3), rgb, np.uint8)


def test_lab_is_that_of_scikit_image() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (100, 3))
    # OpenCV interpolates in a table; half a unit is a quarter of what people can see.
    assert to_lab(rgb) == pytest.approx(rgb2lab(rgb / 255.0), abs=0.5)
    assert color_distance((10, 200, 30), (90, 20, 250)) == pytest.approx(
        deltaE_cie76(rgb2lab(np.array([10, 200, 30]) / 255.0), rgb2lab(np.array([90, 20, 250]) / 255.0)), abs=0.5
    )


@pytest.mark.parametrize(("name", "rgb"), SHADES)
def test_every_shade_has_its_own_name(name: str, rgb: tuple[int, int, int]) -> None:
    assert color_name(rgb) == name


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((255, 0, 0), "red"),
        ((0, 255, 0), "lime"),
        ((0, 0, 255), "blue"),
        ((255, 255, 0), "yellow"),
        ((0, 255, 255), "cyan"),
        ((255, 0, 255), "magenta"),
        ((0, 128, 0), "green"),
        ((0, 0, 128), "dark blue"),
        ((128, 0, 128), "purple"),
        ((255, 165, 0), "orange"),
        ((139, 69, 19), "brown"),
        ((255, 192, 203), "pink"),
        ((30, 30, 30), "black"),
        ((245, 245, 245), "white"),
        ((220, 30, 40), "red"),
        ((50, 160, 60), "green"),
        ((60, 100, 200), "blue"),
    ],
)
def test_colours_are_called_what_people_call_them(rgb: tuple[int, int, int], name: str) -> None:
    assert color_name(rgb) == name


def test_the_dominant_colour_is_that_of_the_majority_and_the_mean_is_not() -> None:
    pixels = filled((220, 20, 20))
    pixels[:15] = (20, 20, 220)
    dominant, mean = dominant_color(pixels, EVERY), mean_color(pixels, EVERY)
    assert (dominant.name, dominant.rgb) == ("red", (220, 20, 20))
    assert dominant.share == pytest.approx(25 / 40)
    assert mean.rgb == (145, 20, 95)


def test_colours_are_those_of_the_mask_alone() -> None:
    pixels, mask = filled((0, 0, 0)), np.zeros((40, 50), bool)
    pixels[5:9, 5:9] = (20, 150, 40)
    mask[5:9, 5:9] = True
    assert mean_color(pixels, mask).name == dominant_color(pixels, mask).name == "green"
    assert texture(pixels, mask).contrast == 0


def test_a_mask_between_the_points_of_the_sampling_grid_is_still_seen() -> None:
    pixels, mask = np.zeros((1000, 1000, 3), np.uint8), np.zeros((1000, 1000), bool)
    pixels[501, 503], mask[501, 503] = (250, 235, 30), True
    assert dominant_color(pixels, mask).name == "yellow"
    assert texture(pixels, mask).entropy == 0


def test_texture_tells_flat_from_rough() -> None:
    rough = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    flat, busy = texture(filled((90, 90, 90)), EVERY), texture(rough, EVERY)
    assert (flat.contrast, flat.entropy, flat.edges) == (0, 0, 0)
    assert busy.contrast > 30
    assert busy.entropy > 4
    assert busy.edges > 30
