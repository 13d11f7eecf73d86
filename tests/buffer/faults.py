"""A disk with real files that counts what is asked of it and fails where a test wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from random import Random
from typing import Any

from share.kernel.buffer.file import FileStorage, FileStorageConfig
from share.kernel.experience.disk import RealDisk, RealFile

WRITING = frozenset({"make_directory", "create", "pwrite", "resize", "punch", "link", "rename", "unlink"})
SYNCING = frozenset({"sync", "sync_directory"})


class Inline(Executor):
    """Does at once what a thread would do some time, so that a test is the same every time."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except OSError as error:
            future.set_exception(error)
        return future


class FaultyDisk(RealDisk):
    """`fails(operation, path)` returns what to raise, or None. It does not really sync: no test loses power.

    A `pwrite` that fails has written the first half of its bytes.
    """

    def __init__(self, fails: Callable[[str, Path], BaseException | None] = lambda operation, path: None) -> None:
        self.fails = fails
        self.operations: list[str] = []

    def ask(self, operation: str, path: Path) -> None:
        self.operations.append(operation)
        error = self.fails(operation, path)
        if error is not None:
            raise error

    def make_directory(self, path: Path) -> None:
        if not path.exists():
            self.ask("make_directory", path)
        super().make_directory(path)

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> RealFile:
        self.ask("create" if create else "open_to_write" if write else "open", path)
        return FaultyFile(super().open(path, write=write, create=create), self, path)

    def link(self, path: Path, name: Path) -> None:
        self.ask("link", name)
        super().link(path, name)

    def rename(self, path: Path, name: Path) -> None:
        self.ask("rename", name)
        super().rename(path, name)

    def unlink(self, path: Path) -> None:
        self.ask("unlink", path)
        super().unlink(path)

    def sync_directory(self, directory: Path) -> None:
        self.ask("sync_directory", directory)


class FaultyFile(RealFile):
    def __init__(self, file: RealFile, disk: FaultyDisk, path: Path) -> None:
        super().__init__(file._descriptor)
        self._disk, self._path = disk, path

    def pread(self, count: int, offset: int) -> bytes:
        self._disk.ask("pread", self._path)
        return super().pread(count, offset)

    def pwrite(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        try:
            self._disk.ask("pwrite", self._path)
        except BaseException:
            content = b"".join(parts)
            super().pwrite([content[: len(content) // 2]], offset)
            raise
        super().pwrite(parts, offset)

    def resize(self, size: int) -> None:
        self._disk.ask("resize", self._path)
        super().resize(size)

    def punch(self, offset: int, count: int) -> None:
        self._disk.ask("punch", self._path)
        super().punch(offset, count)

    def begin_sync(self, offset: int, count: int) -> None:
        """No disk is hurried by a test."""

    def sync(self) -> None:
        self._disk.ask("sync", self._path)


def small_storage(segment_bytes: int = 4096) -> FileStorage:
    return FileStorage(FileStorageConfig(segment_bytes=segment_bytes), random=Random(7), executor=Inline())


__all__ = ["SYNCING", "WRITING", "FaultyDisk", "FaultyFile", "Inline", "small_storage"]
