"""The one writer of a buffer: who it is, and whether it still is.

`flock` lasts as long as its process, whatever kills it. A writer that hangs cannot be killed by it, so another may
take over: it puts a lock file of its own in the place of the old one, and the old writer, when it wakes up, finds that
the file with the name is not the one that it locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
import weakref
from pathlib import Path

from share.kernel.errors import BufferFenced, BufferLocked
from share.kernel.experience.problem import problem

NAME = "LOCK"


class WriterLock:
    """Held from its making to `release`. Raises BufferLocked naming the holder, BufferFull, BufferUnavailable.

    With `take_over` it is had in any case, and the holder until then is fenced.
    """

    def __init__(self, directory: Path, *, take_over: bool = False) -> None:
        self._path = directory / NAME
        self._pid = os.getpid()
        try:
            self._descriptor = self._replace() if take_over else self._acquire()
        except OSError as error:
            raise problem(error, f"{self._path}: cannot be locked for writing") from error
        self._inode = os.fstat(self._descriptor).st_ino
        _let_go_in_children(self)

    def check(self) -> None:
        """Raises BufferFenced unless this process is still the writer."""
        self.check_process()
        if self._descriptor < 0:
            raise BufferFenced(f"{self._path.parent}: has been closed")
        try:
            inode = os.stat(self._path).st_ino
        except OSError as error:
            raise BufferFenced(f"{self._path}: is gone, so another may write by now: {error.strerror}") from error
        if inode != self._inode:
            raise BufferFenced(f"{self._path.parent}: was taken over by {holder(self._path.parent)}")

    def check_process(self) -> None:
        """Raises BufferFenced in a fork of the writer."""
        if self._pid != os.getpid():
            raise BufferFenced(f"{self._path.parent}: this is a fork of the writer; open an ExperienceProducer here")

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _acquire(self) -> int:
        looks = 0
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.stat(self._path).st_ino == os.fstat(descriptor).st_ino:
                    self._sign(descriptor)
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                looks += 1
                if looks < 4:  # it may be somebody in `is_locked`, who is gone in a moment
                    time.sleep(0.01)
                    continue
                raise BufferLocked(
                    f"{self._path.parent}: {holder(self._path.parent)} is writing to it; wait for its end, read with "
                    "ExperienceReader, add with ExperienceProducer, or take over"
                ) from None
            except FileNotFoundError:
                pass
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)  # replaced in between: the next round meets who did it

    def _replace(self) -> int:
        temporary = self._path.with_name(f"{NAME}.{os.getpid()}.tmp")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._sign(descriptor)
            os.rename(temporary, self._path)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    @staticmethod
    def _sign(descriptor: int) -> None:
        # In place and of one length, so that it needs no space on a disk that is full.
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        os.pwrite(descriptor, text.ljust(256), 0)


def holder(directory: Path) -> str:
    """Who holds or last held the lock, in words."""
    try:
        said = json.loads((directory / NAME).read_text())
        return f"process {said['pid']} on {said['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def is_locked(directory: Path) -> bool:
    """Whether a living writer holds the lock; takes nothing away from it."""
    try:
        descriptor = os.open(directory / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _let_go_in_children(lock: WriterLock) -> None:
    """A forked child shares the lock's open file: it would keep the lock alive after the writer's death."""
    reference = weakref.ref(lock)

    def release() -> None:
        held = reference()
        if held is not None:
            held.release()

    os.register_at_fork(after_in_child=release)


__all__ = ["NAME", "WriterLock", "holder", "is_locked"]
