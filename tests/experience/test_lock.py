"""One writer: the second is refused, a dead one is not in the way, one that was taken over notices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from share.kernel.errors import BufferFenced, BufferLocked, BufferUnavailable
from share.kernel.experience.lock import NAME, WriterLock, holder, is_locked

HOLD = """
import sys, time
from pathlib import Path
from share.kernel.experience.lock import WriterLock
lock = WriterLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def stranger(tmp_path: Path) -> subprocess.Popen[str]:  # type: ignore[misc]
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process  # type: ignore[misc]
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path, stranger: subprocess.Popen[str]) -> None:
    with pytest.raises(BufferLocked, match=f"process {stranger.pid} on "):
        WriterLock(tmp_path)
    assert is_locked(tmp_path)
    assert holder(tmp_path).startswith(f"process {stranger.pid} on ")


def test_the_lock_dies_with_its_process(tmp_path: Path, stranger: subprocess.Popen[str]) -> None:
    stranger.send_signal(signal.SIGKILL)
    stranger.wait()
    assert not is_locked(tmp_path)
    lock = WriterLock(tmp_path)
    assert holder(tmp_path).startswith(f"process {os.getpid()} on ")
    lock.release()
    assert not is_locked(tmp_path)


def test_who_is_taken_over_is_fenced(tmp_path: Path) -> None:
    old = WriterLock(tmp_path)
    old.check()
    new = WriterLock(tmp_path, take_over=True)
    with pytest.raises(BufferFenced, match=f"taken over by process {os.getpid()}"):
        old.check()
    new.check()
    with pytest.raises(BufferLocked):
        WriterLock(tmp_path)
    old.release()
    assert is_locked(tmp_path)  # letting go of the old lock opens nothing
    new.release()


def test_a_fork_is_not_the_writer_and_does_not_keep_its_lock(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            lock.check()
            os._exit(1)
        except BufferFenced:
            os.write(writing, b"fenced")
            signal.pause()
        os._exit(2)
    assert os.read(reading, 16) == b"fenced"
    lock.check()
    lock.release()
    WriterLock(tmp_path).release()  # while the child still lives
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)


def test_looking_at_the_lock_does_not_disturb_it(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    lock = WriterLock(tmp_path)
    assert is_locked(tmp_path)
    lock.check()
    lock.release()


def test_a_lock_file_that_is_gone_fences(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    (tmp_path / NAME).unlink()
    with pytest.raises(BufferFenced, match="is gone"):
        lock.check()
    lock.release()
    with pytest.raises(BufferFenced, match="closed"):
        lock.check()


def test_a_directory_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BufferUnavailable, match="cannot be locked for writing: No such file"):
        WriterLock(tmp_path / "absent")
