from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from share.kernel.errors import MediaError
from share.kernel.media.video import FRAMES_READ_MAX, load_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty frames of 64 x 48 at 10 a second; frame i is of grey 8 i."""
    path = tmp_path_factory.mktemp("video") / "ramp.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for index in range(30):
        writer.write(np.full((48, 64, 3), 8 * index, np.uint8))
    writer.release()
    return path


def greys(frames: tuple[np.ndarray, ...]) -> list[int]:
    return [round(float(frame.mean()) / 8) for frame in frames]


def test_a_video_comes_back_as_its_frames_in_order(video: Path) -> None:
    frames, rate = load_video(video)
    assert greys(frames) == list(range(30))
    assert frames[0].shape == (48, 64, 3)
    assert frames[0].dtype == np.uint8
    assert rate == 10


def test_a_video_is_thinned_evenly_to_the_frames_that_are_kept(video: Path) -> None:
    frames, rate = load_video(video, frames_max=10)
    assert greys(frames) == list(range(0, 30, 3))
    assert rate == pytest.approx(10 / 3)


def test_a_video_is_thinned_to_the_pixels_that_are_kept(video: Path) -> None:
    frames, _ = load_video(video, video_pixels_max=64 * 48 * 5)
    assert greys(frames) == [0, 6, 12, 18, 24]


def test_frames_above_the_limit_of_pixels_are_refused(video: Path) -> None:
    with pytest.raises(MediaError, match=r"ramp\.avi.*64 x 48 = 3,072 pixels; at most 3,000"):
        load_video(video, pixels_max=3000)


def test_a_video_of_more_frames_than_are_read_is_refused(video: Path, tmp_path: Path) -> None:
    content = bytearray(video.read_bytes())
    for mark, offset in ((b"avih", 24), (b"strh", 40)):  # where an AVI says how many frames it has
        start = content.index(mark) + offset
        content[start : start + 4] = (FRAMES_READ_MAX + 1).to_bytes(4, "little")
    index = content.index(b"idx1")
    (tmp_path / "long.avi").write_bytes(bytes(content[:index]))
    with pytest.raises(MediaError, match="at most 100,000 are read"):
        load_video(tmp_path / "long.avi")


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="not a file"):
        load_video(tmp_path / "missing.mp4")
    with pytest.raises(MediaError, match="not a file"):
        load_video("http://127.0.0.1:1/video.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(range(256)))
    with pytest.raises(MediaError, match=r"broken\.mp4"):
        load_video(tmp_path / "broken.mp4")
    with pytest.raises(MediaError, match="at least 1 frame"):
        load_video(tmp_path / "broken.mp4", frames_max=0)
