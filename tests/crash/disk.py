"""A file system that lives in memory and remembers what it has not made durable, so that its power can be cut.

`SimulatedDisk` is a `Disk`. Every call that changes it is numbered. `freeze()` is its state after a call: what is
durable, and every change since; the disks that may be found after the power was cut there are its `images`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Literal

from tests.crash.images import Frozen, FrozenNode, Image
from tests.crash.nodes import Change, Directory, EntryChange, Inode


class PowerCut(BaseException):
    """The machine is off. No program can catch it, so nothing but the test may."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call to a disk. `size` is a count of bytes, or the new size; `source` what a link or rename is of."""

    number: int
    name: str
    path: str
    offset: int = 0
    size: int = 0
    source: str = ""
    data: bytes = field(default=b"", repr=False)

    def __str__(self) -> str:
        extent = f" {self.offset}+{self.size}" if self.name in {"write", "punch", "resize"} else ""
        return f"{self.number:4} {self.name} {Path(self.path).name}{extent}"


class SimulatedDisk:
    """A disk below `root`, which is there and durable; begins empty or as `image`.

    `observe` is called after every change with its `Call`. After `crash_after` changes every call raises `PowerCut`.
    """

    def __init__(
        self,
        root: Path,
        image: Image | None = None,
        *,
        observe: Callable[[Call], None] | None = None,
        crash_after: int | None = None,
    ) -> None:
        self.root = root
        self._root_length = len(str(root))
        self.calls: list[Call] = []
        self.observe = observe
        self.crash_after = crash_after
        self._lock = RLock()
        self._orders = 0
        self._inodes = 0
        self._top = Directory()
        if image is not None:
            self._load(image)

    def _load(self, image: Image) -> None:
        for name in image.directories:
            above, _, last = name.rpartition("/")
            directory = self._directory(self.root / above)
            directory.durable[last] = directory.entries[last] = Directory()
        inodes: dict[int, Inode] = {}
        for name, number in image.files.items():
            if number not in inodes:
                self._inodes += 1
                inodes[number] = Inode(self._inodes, image.contents[number])
            above, _, last = name.rpartition("/")
            directory = self._directory(self.root / above)
            directory.durable[last] = directory.entries[last] = inodes[number]

    def freeze(self) -> Frozen:
        """The state now; later calls do not change it."""
        with self._lock:
            nodes: dict[int, FrozenNode] = {}
            numbers: dict[int, int] = {}

            def visit(node: Inode | Directory) -> int:
                if id(node) in numbers:
                    return numbers[id(node)]
                number = numbers[id(node)] = len(numbers)
                if isinstance(node, Inode):
                    nodes[number] = FrozenNode(base=node.base, changes=tuple(node.changes))
                else:
                    nodes[number] = FrozenNode(
                        durable={name: visit(child) for name, child in node.durable.items()},
                        entry_changes=tuple(
                            (change, -1 if change.node is None else visit(change.node)) for change in node.changes
                        ),
                        is_directory=True,
                    )
                return number

            visit(self._top)
            return Frozen(self.root, len(self.calls), nodes)

    def _begin(self) -> None:
        if self.crash_after is not None and len(self.calls) >= self.crash_after:
            raise PowerCut

    def _end(self, name: str, path: Path, offset: int = 0, size: int = 0) -> None:
        call = Call(len(self.calls) + 1, name, str(path), offset, size)
        self.calls.append(call)
        if self.observe is not None:
            self.observe(call)

    def _order(self) -> int:
        self._orders += 1
        return self._orders

    def _find(self, path: Path) -> Inode | Directory | None:
        node: Inode | Directory | None = self._top
        for part in str(path)[self._root_length :].split("/"):
            if not part:
                continue
            node = node.entries.get(part) if isinstance(node, Directory) else None
        return node

    def _directory(self, path: Path) -> Directory:
        node = self._find(path)
        if not isinstance(node, Directory):
            raise FileNotFoundError(errno.ENOENT, "no such directory", str(path))
        return node

    def _inode(self, path: Path) -> Inode:
        node = self._find(path)
        if not isinstance(node, Inode):
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return node

    def make_directory(self, path: Path) -> None:
        with self._lock:
            self._begin()
            directory, here = self._top, self.root
            for part in path.relative_to(self.root).parts:
                here = here / part
                node = directory.entries.get(part)
                if node is None:
                    node = Directory()
                    directory.change(EntryChange(self._order(), None, part, node))
                    self._end("make_directory", here)
                if not isinstance(node, Directory):
                    raise FileExistsError(errno.EEXIST, "a file has the name", str(here))
                directory = node

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> SimulatedFile:
        with self._lock:
            self._begin()
            directory = self._directory(path.parent)
            node = directory.entries.get(path.name)
            if node is None and create:
                self._inodes += 1
                node = Inode(self._inodes)
                directory.change(EntryChange(self._order(), None, path.name, node))
                self._end("create", path)
            elif isinstance(node, Inode) and create:
                node.change(Change(self._order(), "resize", 0, 0, None))
                self._end("resize", path)
            if not isinstance(node, Inode):
                raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
            return SimulatedFile(self, path, node, write=write or create)

    def names(self, directory: Path) -> list[str]:
        with self._lock:
            self._begin()
            node = self._find(directory)
            return sorted(node.entries) if isinstance(node, Directory) else []

    def link(self, path: Path, name: Path) -> None:
        with self._lock:
            self._begin()
            inode, directory = self._inode(path), self._directory(name.parent)
            if name.name in directory.entries:
                raise FileExistsError(errno.EEXIST, "the name is taken", str(name))
            directory.change(EntryChange(self._order(), None, name.name, inode))
            self._end("link", name)

    def rename(self, path: Path, name: Path) -> None:
        with self._lock:
            self._begin()
            assert path.parent == name.parent, "the simulation knows renames within a directory"
            inode, directory = self._inode(path), self._directory(name.parent)
            if directory.entries.get(name.name) is inode:
                return  # POSIX: two names of one file: nothing happens
            directory.change(EntryChange(self._order(), path.name, name.name, inode))
            self._end("rename", name)

    def unlink(self, path: Path) -> None:
        with self._lock:
            self._begin()
            self._inode(path)
            self._directory(path.parent).change(EntryChange(self._order(), path.name, None, None))
            self._end("unlink", path)

    def sync_directory(self, directory: Path) -> None:
        with self._lock:
            self._begin()
            self._directory(directory).settle()
            self._end("sync_directory", directory)


class SimulatedFile:
    """An open file of a `SimulatedDisk`."""

    def __init__(self, disk: SimulatedDisk, path: Path, inode: Inode, *, write: bool) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode
        self._write = write
        self._is_open = True

    def _begin(self, *, write: bool = False) -> None:
        self._disk._begin()
        if not self._is_open or (write and not self._write):
            raise OSError(errno.EBADF, "closed, or not open for writing", str(self._path))

    def _change(self, name: Literal["write", "resize", "punch"], offset: int, size: int, data: bytes | None) -> None:
        with self._disk._lock:
            self._begin(write=True)
            self._inode.change(Change(self._disk._order(), name, offset, size, data))
            self._disk._end(name, self._path, offset, size)

    def pread(self, count: int, offset: int) -> bytes:
        with self._disk._lock:
            self._begin()
            return bytes(self._inode.content[offset : offset + count])

    def pwrite(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        data = b"".join(parts)
        self._change("write", offset, len(data), data)

    def resize(self, size: int) -> None:
        self._change("resize", 0, size, None)

    def punch(self, offset: int, count: int) -> None:
        self._change("punch", offset, count, None)

    def begin_sync(self, offset: int, count: int) -> None:
        """What was written may be lost afterwards as it may before."""
        with self._disk._lock:
            self._begin(write=True)

    def sync(self) -> None:
        with self._disk._lock:
            self._begin()
            self._inode.settle()
            self._disk._end("sync", self._path)

    def reread(self, offset: int) -> None:
        with self._disk._lock:
            self._inode.reread(offset)

    def map(self) -> memoryview:
        with self._disk._lock:
            self._begin()
            return memoryview(self._inode.content).toreadonly()

    @property
    def size(self) -> int:
        with self._disk._lock:
            self._begin()
            return len(self._inode.content)

    def close(self) -> None:
        self._is_open = False

    def drop_unsynced(self, *, is_seen: bool) -> None:
        """What a failed fsync does: dirty pages are clean, and not on the disk."""
        with self._disk._lock:
            self._inode.drop(is_seen=is_seen)
