"""The few things that an experience buffer asks of a file system, so that a test can be the file system.

`Disk` and `File` are all that touches bytes below a buffer's directory (besides the databases of other storages, the
lock and the live page). What is not synced may be lost, in part or torn, when the machine dies; a name is durable when
its directory was synced. `RealDisk` is the real one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, cast

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
SYNC_FILE_RANGE_WRITE = 2
_PIECE_BYTES_MAX = mmap.PAGESIZE * mmap.PAGESIZE // 8  # a huge page: as many pages as fit 8-byte entries into one


class File(Protocol):
    """An open file. Every method may raise OSError (ENOSPC, EIO, EROFS, …)."""

    def pread(self, count: int, offset: int) -> bytes:
        """Up to `count` bytes; fewer at the end of the file."""
        ...

    def pwrite(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        """Write all parts one behind the other from `offset` on; the file grows as needed."""
        ...

    def resize(self, size: int) -> None:
        """Cut or extend with zeros, which take no space until written."""
        ...

    def punch(self, offset: int, count: int) -> None:
        """Turn a range into zeros and give its space back where the file system can."""
        ...

    def begin_sync(self, offset: int, count: int) -> None:
        """Let the disk begin with what was written there, where the system can, and do not wait for it.

        Nothing is durable by that, only `sync` makes it so; an OSError is to be taken as one of `sync`.
        """
        ...

    def sync(self) -> None:
        """Content and size are durable at return. After an OSError nothing since the last sync is to be trusted."""
        ...

    def reread(self, offset: int) -> None:
        """Let later reads from `offset` on see what is on the disk, as far as the system can: it keeps what a failed
        sync did not write.

        To be called after a sync that succeeded.
        """
        ...

    def map(self) -> memoryview:
        """The content as it is now and, on a real disk, as it becomes; read only; empty for an empty file."""
        ...

    @property
    def size(self) -> int: ...

    def close(self) -> None: ...


class Disk(Protocol):
    """A file system. Every method may raise OSError."""

    def make_directory(self, path: Path) -> None:
        """With its parents; nothing happens if it exists. Durable only after `sync_directory` of the parent."""
        ...

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> File:
        """Raises FileNotFoundError unless `create`; a created file that exists is emptied."""
        ...

    def names(self, directory: Path) -> list[str]:
        """Sorted; empty if the directory does not exist."""
        ...

    def link(self, path: Path, name: Path) -> None:
        """A second name for a file. Raises FileExistsError if the name is taken."""
        ...

    def rename(self, path: Path, name: Path) -> None:
        """Replaces what had the name, atomically."""
        ...

    def unlink(self, path: Path) -> None: ...

    def sync_directory(self, directory: Path) -> None:
        """Names made, replaced and removed in it are durable when this returns."""
        ...


def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Of Linux, which begins to write pages and returns; None elsewhere."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return cast("Callable[[int, int, int, int], int] | None", function)


_begin_writing = _sync_file_range()
_REFUSED_HERE = {errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}
"""What a sandbox or a file system says that does not know the call: then `sync` does all."""


class RealFile:
    """A file of the operating system."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def pread(self, count: int, offset: int) -> bytes:
        content = os.pread(self._descriptor, count, offset)
        while 0 < len(content) < count:
            more = os.pread(self._descriptor, count - len(content), offset + len(content))
            if not more:
                break
            content += more
        return content

    def pwrite(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        count = sum(len(part) for part in parts)
        written = os.pwritev(self._descriptor, parts, offset) if len(parts) <= 1024 else 0
        if written < count:  # a short write: a signal, a limit, or too many parts for one call
            rest = memoryview(b"".join(parts))[written:]
            while rest:
                written_now = os.pwrite(self._descriptor, rest, offset + count - len(rest))
                if written_now == 0:
                    raise OSError(errno.EIO, "the disk writes nothing")
                rest = rest[written_now:]

    def resize(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def punch(self, offset: int, count: int) -> None:
        if count == 0:
            return
        libc = ctypes.CDLL(None, use_errno=True)
        mode = ctypes.c_int(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)
        if libc.fallocate(self._descriptor, mode, ctypes.c_long(offset), ctypes.c_long(count)) != 0:
            number = ctypes.get_errno()
            if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise OSError(number, os.strerror(number))
            zeros = bytes(1 << 20)
            for start in range(offset, min(offset + count, self.size), len(zeros)):
                self.pwrite([zeros[: min(len(zeros), offset + count - start)]], start)

    def begin_sync(self, offset: int, count: int) -> None:
        if _begin_writing is None or _begin_writing(self._descriptor, offset, count, SYNC_FILE_RANGE_WRITE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _REFUSED_HERE:
            raise OSError(number, os.strerror(number))

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def reread(self, offset: int) -> None:
        # What Linux keeps in one piece it forgets as a whole or not at all: no piece is larger, or across a multiple.
        os.posix_fadvise(self._descriptor, offset - offset % _PIECE_BYTES_MAX, 0, os.POSIX_FADV_DONTNEED)

    def map(self) -> memoryview:
        size = self.size
        if size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(self._descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ))

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        os.close(self._descriptor)


class RealDisk:
    """The file system of the operating system."""

    def make_directory(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> RealFile:
        flags = os.O_RDWR if write or create else os.O_RDONLY
        return RealFile(os.open(path, flags | (os.O_CREAT | os.O_TRUNC if create else 0) | os.O_CLOEXEC, 0o644))

    def names(self, directory: Path) -> list[str]:
        try:
            return sorted(os.listdir(directory))
        except FileNotFoundError:
            return []

    def link(self, path: Path, name: Path) -> None:
        os.link(path, name)

    def rename(self, path: Path, name: Path) -> None:
        os.rename(path, name)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def sync_directory(self, directory: Path) -> None:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def opened(disk: Disk, path: Path, *, write: bool = False, create: bool = False) -> Iterator[File]:
    """An open file that is closed behind."""
    file = disk.open(path, write=write, create=create)
    try:
        yield file
    finally:
        file.close()


def publish(disk: Disk, path: Path, parts: Sequence[bytes | memoryview], *, replace: bool = False) -> None:
    """Make a whole file appear under its name: temporary name, sync, link (or rename), sync of the directory.

    Raises FileExistsError if the name is taken and `replace` is false.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with opened(disk, temporary, create=True) as file:
        file.pwrite(parts, 0)
        file.sync()
    if replace:
        disk.rename(temporary, path)
    else:
        disk.link(temporary, path)
        disk.unlink(temporary)
    disk.sync_directory(path.parent)


__all__ = ["Disk", "File", "RealDisk", "RealFile", "opened", "publish"]
