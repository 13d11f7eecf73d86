"""ZOOM_IN and GET_PROPERTIES on a photograph of 1920 x 1080: CPU time and exactness, each beside the plainest baseline.

`python -m benchmarks.zoom_and_properties [--rounds 200]`. Times are CPU ms of one call in one thread. Baselines, in the
same run and alternated: Pillow's crop and Lanczos resize; `skimage.measure.regionprops_table` of the same descriptors
on the mask of the whole image, without colour and texture.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

import cv2
import numpy as np
from PIL import Image
from skimage.data import coffee
from skimage.measure import regionprops, regionprops_table

from share.kernel.contracts.vision import Box, Region, Scene, Transform
from share.kernel.media.mask import encode_mask, mask_box
from share.kernel.media.shape import describe_shape
from share.kernel.operation.get_properties import GetProperties, GetPropertiesArguments, GetPropertiesConfig
from share.kernel.operation.zoom_in import ZoomIn, ZoomInArguments, ZoomInConfig

WIDTH, HEIGHT = 1920, 1080
ZOOM_MS_MAX = 1.0
PROPERTIES_MS_MAX = 3.0
RELATIVE_ERROR_MAX = 1e-6
ROUND_TRIP_PX_MAX = 1e-9
BOXES: dict[str, Box] = {
    "small": (400, 200, 480, 260),
    "quarter": (240, 135, 720, 405),
    "whole": (0, 0, 960, 540),
}
DESCRIPTORS = (
    "area",
    "perimeter",
    "axis_major_length",
    "axis_minor_length",
    "eccentricity",
    "orientation",
    "area_convex",
    "solidity",
    "extent",
    "euler_number",
)


def photograph() -> Scene:
    """A photograph of 1920 x 1080, shown at half of its size, with elliptic regions r1 and r2."""
    native = np.asarray(cv2.resize(coffee(), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)  # type: ignore[no-untyped-call]
    scene = Scene((native,))
    shown = np.asarray(cv2.resize(native, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA), np.uint8)
    scene.add_view(shown, 0, Transform(2, 2))
    for axes in ((63, 38), (200, 120)):
        canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask = np.asarray(cv2.ellipse(canvas, (900, 500), axes, 30, 0, 360, 1, -1)) > 0
        name = scene.next_region_name()
        scene.add_region(Region(name, 0, (HEIGHT, WIDTH), encode_mask(mask), mask_box(mask), int(mask.sum()), 1.0))
    return scene


def alternated(rounds: int, *calls: Callable[[], object]) -> list[tuple[float, float]]:
    """(p50, p99) in CPU ms of each call, measured turn by turn so that all see the same machine."""
    times = np.zeros((len(calls), rounds))
    for call in calls:
        call()
    for index in range(rounds):
        for row, call in enumerate(calls):
            begin = time.thread_time()
            call()
            times[row, index] = 1000 * (time.thread_time() - begin)
    return [(float(np.percentile(row, 50)), float(np.percentile(row, 99))) for row in times]


def round_trip_error(scene: Scene, zoom: ZoomIn, rounds: int) -> float:
    """The largest distance, in pixels of the crop, of a point from where it comes back to by way of native pixels."""
    chance, worst = np.random.default_rng(0), 0.0
    for _ in range(rounds):
        x, y = np.sort(chance.uniform(0, WIDTH // 2, 2)), np.sort(chance.uniform(0, HEIGHT // 2, 2))
        if min(x[1] - x[0], y[1] - y[0]) < 1:
            continue
        result = zoom.run(scene, ZoomInArguments(bbox=(float(x[0]), float(y[0]), float(x[1]), float(y[1]))))
        assert result.image is not None
        assert result.transform is not None
        point = chance.uniform(0, 1, 2) * result.image.shape[1::-1]
        back = result.transform.point_from_native(*result.transform.point_to_native(*point))
        worst = max(worst, float(np.abs(np.array(back) - point).max()))
    return worst


def shape_error(rounds: int) -> float:
    """The largest relative difference of any descriptor from regionprops, over random blobs and ellipses."""
    chance, worst = np.random.default_rng(0), 0.0
    for index in range(rounds):
        noise = chance.random((int(chance.integers(4, 120)), int(chance.integers(4, 120))))
        mask = np.asarray(cv2.GaussianBlur(noise, (0, 0), 1 + index % 6)) > 0.5
        if not mask.any():
            continue
        ours, theirs = asdict(describe_shape(mask)), regionprops(mask.astype(np.uint8))[0]  # type: ignore[no-untyped-call]
        for name in DESCRIPTORS:
            if name != "orientation" or ours["eccentricity"] > 0.05:  # of a disc, rounding decides
                expected = float(getattr(theirs, name))
                worst = max(worst, abs(ours[name] - expected) / max(1.0, abs(expected)))
    return worst


def report(rounds: int) -> bool:
    """Print the table; true when every bar is kept."""
    scene, zoom, properties = photograph(), ZoomIn(ZoomInConfig()), GetProperties(GetPropertiesConfig())
    picture, kept = Image.fromarray(scene.natives[0]), True
    print(f"{'CPU ms, median and p99 of ' + str(rounds):34}{'pixelis':>16}{'baseline':>16}   bar")

    def line(name: str, ours: Sequence[float], plain: Sequence[float], bar: float) -> bool:
        verdict = "ok" if ours[0] <= bar else "MISSED"
        print(f"{name:34}{ours[0]:8.2f}{ours[1]:8.2f}{plain[0]:8.2f}{plain[1]:8.2f}   {bar:.1f} {verdict}", flush=True)
        return ours[0] <= bar

    for name, box in BOXES.items():
        arguments = ZoomInArguments(bbox=box)
        image = zoom.run(scene, arguments).image
        assert image is not None
        size, native = (image.shape[1], image.shape[0]), tuple(round(2 * value) for value in box)
        ours, plain = alternated(
            rounds,
            lambda arguments=arguments: zoom.run(scene, arguments),  # type: ignore[misc]
            lambda size=size, native=native: picture.crop(native).resize(size, Image.Resampling.LANCZOS),  # type: ignore[misc]
        )
        kept &= line(f"ZOOM_IN {name}", ours, plain, ZOOM_MS_MAX)
    for region in scene.regions.values():
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        runs = np.cumsum(region.counts)
        for begin, end in zip(runs[::2], runs[1::2], strict=False):
            mask.ravel()[begin:end] = 1
        ours, plain = alternated(
            rounds,
            lambda name=region.name: properties.run(scene, GetPropertiesArguments(region=name)),  # type: ignore[misc]
            lambda mask=mask: regionprops_table(mask, properties=DESCRIPTORS),  # type: ignore[misc, no-untyped-call]
        )
        kept &= line(f"GET_PROPERTIES {region.area:,} px", ours, plain, PROPERTIES_MS_MAX)

    trip, error = round_trip_error(scene, zoom, rounds), shape_error(rounds)
    print(f"ZOOM_IN coordinates there and back: at most {trip:.1e} px off (bar {ROUND_TRIP_PX_MAX:g})")
    print(f"GET_PROPERTIES against regionprops: at most {error:.1e} off, relative (bar {RELATIVE_ERROR_MAX:g})")
    return kept and trip <= ROUND_TRIP_PX_MAX and error <= RELATIVE_ERROR_MAX


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=200, help="calls of each operation")
    cv2.setNumThreads(1)
    return 0 if report(parser.parse_args(arguments).rounds) else 1


if __name__ == "__main__":
    raise SystemExit(main())
