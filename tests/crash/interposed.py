"""A function between a caller and a disk: faults and mutants are such functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import RLock
from typing import cast

from share.kernel.experience.disk import Disk, File
from tests.crash.disk import Call

Between = Callable[[Call, Callable[[], object], File | None], object]
"""Stands between a caller and a disk: given a call, what performs it and the file it is of, does as it likes."""


class Interposed:
    """A disk whose every call, reading ones too, goes through `between`; they are numbered from 1."""

    def __init__(self, disk: Disk, between: Between) -> None:
        self.disk = disk
        self.between = between
        self.num_calls = 0
        self._lock = RLock()

    def through(
        self,
        name: str,
        path: Path,
        perform: Callable[[], object],
        *,
        offset: int = 0,
        data: bytes = b"",
        size: int = 0,
        source: Path | None = None,
        file: File | None = None,
    ) -> object:
        with self._lock:
            self.num_calls += 1
            call = Call(self.num_calls, name, str(path), offset, size or len(data), str(source or ""), data)
            return self.between(call, perform, file)

    def make_directory(self, path: Path) -> None:
        self.through("make_directory", path, lambda: self.disk.make_directory(path))

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> InterposedFile:
        name = "create" if create else "open to write" if write else "open"
        file = self.through(name, path, lambda: self.disk.open(path, write=write, create=create))
        return InterposedFile(self, path, cast(File, file))

    def names(self, directory: Path) -> list[str]:
        return cast(list[str], self.through("names", directory, lambda: self.disk.names(directory)))

    def link(self, path: Path, name: Path) -> None:
        self.through("link", name, lambda: self.disk.link(path, name), source=path)

    def rename(self, path: Path, name: Path) -> None:
        self.through("rename", name, lambda: self.disk.rename(path, name), source=path)

    def unlink(self, path: Path) -> None:
        self.through("unlink", path, lambda: self.disk.unlink(path))

    def sync_directory(self, directory: Path) -> None:
        self.through("sync_directory", directory, lambda: self.disk.sync_directory(directory))


class InterposedFile:
    """A file of an `Interposed` disk."""

    def __init__(self, disk: Interposed, path: Path, file: File) -> None:
        self._disk = disk
        self._path = path
        self._file = file

    def pread(self, count: int, offset: int) -> bytes:
        read = self._through("read", lambda: self._file.pread(count, offset), offset=offset, size=count)
        return cast(bytes, read)

    def pwrite(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        data = b"".join(parts)
        self._through("write", lambda: self._file.pwrite([data], offset), offset=offset, data=data)

    def resize(self, size: int) -> None:
        self._through("resize", lambda: self._file.resize(size), size=size)

    def punch(self, offset: int, count: int) -> None:
        self._through("punch", lambda: self._file.punch(offset, count), offset=offset, size=count)

    def begin_sync(self, offset: int, count: int) -> None:
        self._through("begin_sync", lambda: self._file.begin_sync(offset, count), offset=offset, size=count)

    def sync(self) -> None:
        self._through("sync", self._file.sync)

    def reread(self, offset: int) -> None:
        self._file.reread(offset)

    def map(self) -> memoryview:
        return cast(memoryview, self._through("map", self._file.map))

    @property
    def size(self) -> int:
        return self._file.size

    def close(self) -> None:
        self._file.close()

    def _through(
        self, name: str, perform: Callable[[], object], *, offset: int = 0, data: bytes = b"", size: int = 0
    ) -> object:
        return self._disk.through(name, self._path, perform, offset=offset, data=data, size=size, file=self._file)
