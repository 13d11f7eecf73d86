"""A disk at one moment, and the disks that may be found if its power was cut there. What is granted to the machine, and
nothing else:

- what was synced is there; a name is there when its directory was synced;
- a write that was not synced may be there in whole, as a prefix down to the byte, in any subset of its 512-byte
  sectors, as a grown size with zeros for content, or not at all; each independently of all others;
- a change of a directory is there or not, each independently of all others, of older ones, and of the file's content;
- bytes that nobody wrote do not change (SQLite calls it powersafe overwrite).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from random import Random

from tests.crash.nodes import FATES, Change, EntryChange, Fate


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
class FrozenNode:
    """An inode or directory at a call: the durable state, and the changes since."""

    base: bytes = b""
    durable: dict[str, int] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    entry_changes: tuple[tuple[EntryChange, int], ...] = ()
    is_directory: bool = False


Choose = Callable[["Change | EntryChange"], Fate]


@dataclass(frozen=True)
class Frozen:
    """The disk after call number `calls`."""

    root: Path
    calls: int
    nodes: dict[int, FrozenNode]

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
        yield "content without names", lambda change: "whole" if isinstance(change, Change) else "lost"
        yield "names without content", lambda change: "lost" if isinstance(change, Change) else "whole"
        orders = [change.order for node in self.nodes.values() for change in node.changes if not change.is_durable]
        orders += [change.order for node in self.nodes.values() for change, _ in node.entry_changes]
        orders.sort()
        for number in range(count):
            if number % 3 == 0 and orders:
                last = rng.choice(orders)
                end = rng.choice(FATES)

                def in_order(change: Change | EntryChange, last: int = last, end: Fate = end) -> Fate:
                    return "whole" if change.order < last else end if change.order == last else "lost"

                yield "a prefix in order", in_order
            elif number % 3 == 1:
                kept = rng.random()

                def any_subset(change: Change | EntryChange, kept: float = kept) -> Fate:
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
