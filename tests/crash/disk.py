"""A file system that lives in memory and remembers what it has not made durable, so that its power can be cut.

`SimulatedDisk` is a `Disk`. Every call that changes it is numbered. `freeze()` is its state after a call: what is
durable, and every change since. `Frozen.images` are discs that may be found after the power was cut there. What is
granted to the machine, and nothing else:

- what was synced is there; a name is there when its directory was synced;
- a write that was not synced may be there in whole, as a prefix down to the byte, in any subset of its 512-byte
  sectors, as a grown size with zeros for content, or not at all; each independently of all others;
- a change of a directory is there or not, each independently of all others, of older ones, and of the file's content;
- bytes that nobody wrote do not change (SQLite calls it powersafe overwrite).

`Interposed` puts a function between a caller and a disk; faults and mutants are such functions.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from random import Random
from threading import RLock
from typing import Literal, cast

from share.kernel.experience.disk import Disk, File

SECTOR = 512

Fate = Literal["whole", "lost", "prefix", "torn", "sectors", "grown"]
"""What became of a write: torn is a prefix that ends within a sector, grown a size without the content."""

FATES: tuple[Fate, ...] = ("whole", "lost", "prefix", "torn", "sectors", "grown")


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


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of a file's content. `data` is None for a punch and a resize."""

    order: int
    name: Literal["write", "resize", "punch"]
    offset: int
    size: int
    data: bytes | None
    is_durable: bool = False
    is_doubtful: bool = False
    """A sync has failed over it: a later sync does not make it durable (fsyncgate)."""

    def apply(self, content: bytearray) -> None:
        end = self.offset + self.size
        if self.name == "resize":
            _extend(content, self.size)
            del content[self.size :]
        elif self.name == "punch":
            end = min(end, len(content))
            content[self.offset : end] = bytes(max(0, end - self.offset))
        else:
            assert self.data is not None
            _extend(content, end)
            content[self.offset : end] = self.data

    def apply_in_part(self, content: bytearray, fate: Fate, rng: Random) -> None:
        if fate == "lost":
            return
        if fate == "whole" or self.data is None:
            self.apply(content)
            return
        end = self.offset + self.size
        sectors = range(self.offset // SECTOR, (end + SECTOR - 1) // SECTOR)
        if fate == "grown":
            _extend(content, end)
        elif fate == "prefix":
            cut = min(end, rng.choice(sectors) * SECTOR) if sectors else end
            self._apply_range(content, self.offset, cut)
        elif fate == "torn":
            self._apply_range(content, self.offset, rng.randint(self.offset, end))
        else:
            for sector in sectors:
                if rng.random() < 0.5:
                    self._apply_range(content, max(sector * SECTOR, self.offset), min((sector + 1) * SECTOR, end))

    def _apply_range(self, content: bytearray, start: int, end: int) -> None:
        if end > start:
            assert self.data is not None
            _extend(content, end)
            content[start:end] = self.data[start - self.offset : end - self.offset]


def _extend(content: bytearray, size: int) -> None:
    if size > len(content):
        content.extend(bytes(size - len(content)))


class _Inode:
    def __init__(self, number: int, content: bytes = b"") -> None:
        self.number = number
        self.base = content
        self.changes: list[_Change] = []
        self.content = bytearray(content)

    def change(self, change: _Change) -> None:
        self.changes.append(change)
        size = change.size if change.name == "resize" else change.offset + change.size
        if change.name != "punch" and (size > len(self.content) or change.name == "resize"):
            self.content = bytearray(self.content)  # those who mapped the old one keep it
        change.apply(self.content)

    def settle(self) -> None:
        """A sync that succeeded: all is durable except what an earlier sync failed over."""
        self.changes = [
            change
            if change.is_doubtful
            else _Change(change.order, change.name, change.offset, change.size, change.data, is_durable=True)
            for change in self.changes
        ]
        if not any(change.is_doubtful for change in self.changes):
            self.base, self.changes = bytes(self.content), []

    def drop(self, *, is_seen: bool) -> None:
        """A sync that failed: dirty pages are marked clean. Some file systems go on showing them, others do not."""
        self.changes = [
            change
            if change.is_durable
            else _Change(change.order, change.name, change.offset, change.size, change.data, is_doubtful=True)
            for change in self.changes
        ]
        if not is_seen:
            self.content = bytearray(self.base)
            for change in self.changes:
                if change.is_durable:
                    change.apply(self.content)

    def reread(self) -> None:
        """What an earlier sync failed over is on the disk or not, and now one can see which."""
        if not any(change.is_doubtful for change in self.changes):
            return
        content = bytearray(self.base)
        for change in self.changes:
            if not change.is_doubtful or change.order % 2:
                change.apply(content)
        if all(change.is_doubtful or change.is_durable for change in self.changes):
            self.base, self.changes = bytes(content), []
            self.content = content


@dataclass(frozen=True, slots=True)
class _EntryChange:
    order: int
    gone: str | None
    made: str | None
    node: _Inode | _Directory | None

    def apply(self, entries: dict[str, _Inode | _Directory]) -> None:
        if self.gone is not None:
            entries.pop(self.gone, None)
        if self.made is not None:
            assert self.node is not None
            entries[self.made] = self.node


class _Directory:
    def __init__(self) -> None:
        self.durable: dict[str, _Inode | _Directory] = {}
        self.changes: list[_EntryChange] = []
        self.entries: dict[str, _Inode | _Directory] = {}

    def change(self, change: _EntryChange) -> None:
        self.changes.append(change)
        change.apply(self.entries)

    def settle(self) -> None:
        for change in self.changes:
            change.apply(self.durable)
        self.changes = []


@dataclass(frozen=True)
class Image:
    """A disk as it is found: directories, names of files, contents by inode."""

    root: Path
    kind: str
    directories: tuple[str, ...]
    files: dict[str, int]
    contents: dict[int, bytes]

    def key(self) -> bytes:
        """Equal for equal disks."""
        digest = blake2b(repr((self.directories, sorted(self.files.items()))).encode(), digest_size=16)
        for number in sorted(set(self.files.values())):
            digest.update(number.to_bytes(8, "little") + len(self.contents[number]).to_bytes(8, "little"))
            digest.update(self.contents[number])
        return digest.digest()

    def write_to(self, directory: Path) -> None:
        """Make it of real files below `directory`, which stands for the root."""
        for name in self.directories:
            (directory / name).mkdir(parents=True, exist_ok=True)
        first: dict[int, Path] = {}
        for name, number in self.files.items():
            path = directory / name
            if number in first:
                os.link(first[number], path)
            else:
                path.write_bytes(self.contents[number])
                first[number] = path


@dataclass(frozen=True)
class _FrozenNode:
    """An inode or directory at a call: the durable state, and the changes since."""

    base: bytes = b""
    durable: dict[str, int] = field(default_factory=dict)
    changes: tuple[_Change, ...] = ()
    entry_changes: tuple[tuple[_EntryChange, int], ...] = ()
    is_directory: bool = False


Choose = Callable[["_Change | _EntryChange"], Fate]


@dataclass(frozen=True)
class Frozen:
    """The disk after call number `calls`."""

    root: Path
    calls: int
    nodes: dict[int, _FrozenNode]

    @property
    def pending(self) -> int:
        """Changes that are not durable."""
        return sum(
            sum(not change.is_durable for change in node.changes) + len(node.entry_changes)
            for node in self.nodes.values()
        )

    def images(self, rng: Random, count: int, *, shuffled: bool = False) -> Iterator[Image]:
        """At most `count` different disks that may be found, the plain extremes first unless they are `shuffled`."""
        seen: set[bytes] = set()
        choices = list(self._choices(rng, count * 3))
        if shuffled:
            rng.shuffle(choices)
        for kind, choose in choices:
            image = self._image(kind, choose, rng)
            key = image.key()
            if key not in seen:
                seen.add(key)
                yield image
            if len(seen) == count or (self.pending == 0 and seen):
                return

    def _choices(self, rng: Random, count: int) -> Iterator[tuple[str, Choose]]:
        yield "all lost", lambda change: "lost"
        yield "all kept", lambda change: "whole"
        yield "content without names", lambda change: "whole" if isinstance(change, _Change) else "lost"
        yield "names without content", lambda change: "lost" if isinstance(change, _Change) else "whole"
        orders = [change.order for node in self.nodes.values() for change in node.changes if not change.is_durable]
        orders += [change.order for node in self.nodes.values() for change, _ in node.entry_changes]
        orders.sort()
        for number in range(count):
            if number % 3 == 0 and orders:
                last = rng.choice(orders)
                end = rng.choice(FATES)

                def in_order(change: _Change | _EntryChange, last: int = last, end: Fate = end) -> Fate:
                    return "whole" if change.order < last else end if change.order == last else "lost"

                yield "a prefix in order", in_order
            elif number % 3 == 1:
                kept = rng.random()

                def any_subset(change: _Change | _EntryChange, kept: float = kept) -> Fate:
                    return "whole" if rng.random() < kept else "lost"

                yield "any subset", any_subset
            else:
                yield "torn", lambda change: rng.choice(FATES)

    def _image(self, kind: str, choose: Choose, rng: Random) -> Image:
        directories: list[str] = []
        files: dict[str, int] = {}
        contents: dict[int, bytes] = {}

        def content_of(number: int) -> bytes:
            node = self.nodes[number]
            if not node.changes:
                return node.base
            content = bytearray(node.base)
            for change in node.changes:
                change.apply_in_part(content, "whole" if change.is_durable else choose(change), rng)
            return bytes(content)

        def walk(number: int, name: str) -> None:
            node = self.nodes[number]
            entries = dict(node.durable)
            for change, target in node.entry_changes:
                fate = choose(change)
                if fate == "whole" or (fate != "lost" and rng.random() < 0.5):
                    if change.gone is not None:
                        entries.pop(change.gone, None)
                    if change.made is not None:
                        entries[change.made] = target
            for entry, target in sorted(entries.items()):
                path = f"{name}/{entry}" if name else entry
                if self.nodes[target].is_directory:
                    directories.append(path)
                    walk(target, path)
                else:
                    files[path] = target
                    if target not in contents:
                        contents[target] = content_of(target)

        walk(0, "")
        return Image(self.root, kind, tuple(directories), files, contents)


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
        self._top = _Directory()
        if image is not None:
            self._load(image)

    def _load(self, image: Image) -> None:
        for name in image.directories:
            above, _, last = name.rpartition("/")
            directory = self._directory(self.root / above)
            directory.durable[last] = directory.entries[last] = _Directory()
        inodes: dict[int, _Inode] = {}
        for name, number in image.files.items():
            if number not in inodes:
                self._inodes += 1
                inodes[number] = _Inode(self._inodes, image.contents[number])
            above, _, last = name.rpartition("/")
            directory = self._directory(self.root / above)
            directory.durable[last] = directory.entries[last] = inodes[number]

    def freeze(self) -> Frozen:
        """The state now; later calls do not change it."""
        with self._lock:
            nodes: dict[int, _FrozenNode] = {}
            numbers: dict[int, int] = {}

            def visit(node: _Inode | _Directory) -> int:
                if id(node) in numbers:
                    return numbers[id(node)]
                number = numbers[id(node)] = len(numbers)
                if isinstance(node, _Inode):
                    nodes[number] = _FrozenNode(base=node.base, changes=tuple(node.changes))
                else:
                    nodes[number] = _FrozenNode(
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

    def _find(self, path: Path) -> _Inode | _Directory | None:
        node: _Inode | _Directory | None = self._top
        for part in str(path)[self._root_length :].split("/"):
            if not part:
                continue
            node = node.entries.get(part) if isinstance(node, _Directory) else None
        return node

    def _directory(self, path: Path) -> _Directory:
        node = self._find(path)
        if not isinstance(node, _Directory):
            raise FileNotFoundError(errno.ENOENT, "no such directory", str(path))
        return node

    def _inode(self, path: Path) -> _Inode:
        node = self._find(path)
        if not isinstance(node, _Inode):
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
                    node = _Directory()
                    directory.change(_EntryChange(self._order(), None, part, node))
                    self._end("make_directory", here)
                if not isinstance(node, _Directory):
                    raise FileExistsError(errno.EEXIST, "a file has the name", str(here))
                directory = node

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> SimulatedFile:
        with self._lock:
            self._begin()
            directory = self._directory(path.parent)
            node = directory.entries.get(path.name)
            if node is None and create:
                self._inodes += 1
                node = _Inode(self._inodes)
                directory.change(_EntryChange(self._order(), None, path.name, node))
                self._end("create", path)
            elif isinstance(node, _Inode) and create:
                node.change(_Change(self._order(), "resize", 0, 0, None))
                self._end("resize", path)
            if not isinstance(node, _Inode):
                raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
            return SimulatedFile(self, path, node, write=write or create)

    def names(self, directory: Path) -> list[str]:
        with self._lock:
            self._begin()
            node = self._find(directory)
            return sorted(node.entries) if isinstance(node, _Directory) else []

    def link(self, path: Path, name: Path) -> None:
        with self._lock:
            self._begin()
            inode, directory = self._inode(path), self._directory(name.parent)
            if name.name in directory.entries:
                raise FileExistsError(errno.EEXIST, "the name is taken", str(name))
            directory.change(_EntryChange(self._order(), None, name.name, inode))
            self._end("link", name)

    def rename(self, path: Path, name: Path) -> None:
        with self._lock:
            self._begin()
            assert path.parent == name.parent, "the simulation knows renames within a directory"
            inode, directory = self._inode(path), self._directory(name.parent)
            if directory.entries.get(name.name) is inode:
                return  # POSIX: two names of one file: nothing happens
            directory.change(_EntryChange(self._order(), path.name, name.name, inode))
            self._end("rename", name)

    def unlink(self, path: Path) -> None:
        with self._lock:
            self._begin()
            self._inode(path)
            self._directory(path.parent).change(_EntryChange(self._order(), path.name, None, None))
            self._end("unlink", path)

    def sync_directory(self, directory: Path) -> None:
        with self._lock:
            self._begin()
            self._directory(directory).settle()
            self._end("sync_directory", directory)


class SimulatedFile:
    """An open file of a `SimulatedDisk`."""

    def __init__(self, disk: SimulatedDisk, path: Path, inode: _Inode, *, write: bool) -> None:
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
            self._inode.change(_Change(self._disk._order(), name, offset, size, data))
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

    def sync(self) -> None:
        with self._disk._lock:
            self._begin()
            self._inode.settle()
            self._disk._end("sync", self._path)

    def reread(self) -> None:
        with self._disk._lock:
            self._inode.reread()

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


Between = Callable[[Call, Callable[[], object], "File | None"], object]
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

    def sync(self) -> None:
        self._through("sync", self._file.sync)

    def reread(self) -> None:
        self._file.reread()

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


Fault = Literal["EIO", "ENOSPC", "EDQUOT", "EROFS", "EACCES", "EMFILE", "short", "sync lost", "sync forgotten"]
"""`short` writes a part and then finds the disk full; `sync lost` fails and drops the dirty pages, which are still seen
(ext4, XFS); after `sync forgotten` they are not (btrfs)."""

FAULTS: tuple[Fault, ...] = (
    "EIO",
    "ENOSPC",
    "EDQUOT",
    "EROFS",
    "EACCES",
    "EMFILE",
    "short",
    "sync lost",
    "sync forgotten",
)


class FailsAt:
    """A `Between`: calls number `first` to `last` fail, if the fault can happen to such a call; the others do not."""

    def __init__(self, fault: Fault, first: int, last: int) -> None:
        self.fault = fault
        self.first = first
        self.last = last
        self.failed: list[Call] = []

    def __call__(self, call: Call, perform: Callable[[], object], file: File | None) -> object:
        if not self.first <= call.number <= self.last or not self._can_fail(call):
            return perform()
        self.failed.append(call)
        if self.fault == "short":
            assert file is not None
            file.pwrite([call.data[: len(call.data) // 2]], call.offset)
        if self.fault.startswith("sync") and isinstance(file, SimulatedFile):
            file.drop_unsynced(is_seen=self.fault == "sync lost")
        name = {"short": "ENOSPC", "sync lost": "EIO", "sync forgotten": "EIO"}.get(self.fault, self.fault)
        number: int = getattr(errno, name)
        raise OSError(number, os.strerror(number), call.path)

    def _can_fail(self, call: Call) -> bool:
        match self.fault:
            case "EIO":
                return True
            case "ENOSPC" | "EDQUOT":
                return call.name in {"make_directory", "create", "write", "link", "rename", "sync", "punch"}
            case "EROFS" | "EACCES":
                return call.name in {"make_directory", "create", "open to write", "link", "rename", "unlink"}
            case "EMFILE":
                return call.name in {"create", "open to write", "open", "names", "sync_directory"}
            case "short":
                return call.name == "write"
            case "sync lost" | "sync forgotten":
                return call.name == "sync"
