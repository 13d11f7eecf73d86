"""A scene to try plugins on."""

from __future__ import annotations

import numpy as np

from share.kernel.contracts.vision import Scene, Transform


def example_scene(*, is_video: bool = False, num_frames: int = 12) -> Scene:
    """A scene to try operations on: one image (96 x 128), or a video, of a bright disc on a textured dark ground.

    The disc has a radius of 14 pixels; its centre is at (x=40, y=48) and moves 3 pixels to the right each frame.
    """
    y, x = np.mgrid[:96, :128]
    ground = 40 + 20 * np.sin(x / 5) * np.cos(y / 7)
    frames = []
    for frame in range(num_frames if is_video else 1):
        disc = (x - 40 - 3 * frame) ** 2 + (y - 48) ** 2 <= 14**2
        grey = np.where(disc, 200 + 20 * np.sin(x / 3 - frame), ground)
        frames.append(np.stack([grey, grey * 0.8, grey * 0.6], axis=-1).astype(np.uint8))
    scene = Scene(tuple(frames), is_video=is_video, frames_per_second=10.0 if is_video else None)
    scene.add_view(frames[0], 0, Transform())
    return scene


__all__ = ["example_scene"]
