"""Files and directories of a simulated disk: what is durable of each, and every change since."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

SECTOR = 512

Fate = Literal["whole", "lost", "prefix", "torn", "sectors", "grown"]
"""What became of a write: torn is a prefix that ends within a sector, grown a size without the content."""

FATES: tuple[Fate, ...] = ("whole", "lost", "prefix", "torn", "sectors", "grown")


@dataclass(frozen=True, slots=True)
class Change:
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


class Inode:
    def __init__(self, number: int, content: bytes = b"") -> None:
        self.number = number
        self.base = content
        self.changes: list[Change] = []
        self.content = bytearray(content)

    def change(self, change: Change) -> None:
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
            else Change(change.order, change.name, change.offset, change.size, change.data, is_durable=True)
            for change in self.changes
        ]
        if not any(change.is_doubtful for change in self.changes):
            self.base, self.changes = bytes(self.content), []

    def drop(self, *, is_seen: bool) -> None:
        """A sync that failed: dirty pages are marked clean. Some file systems go on showing them, others do not."""
        self.changes = [
            change
            if change.is_durable
            else Change(change.order, change.name, change.offset, change.size, change.data, is_doubtful=True)
            for change in self.changes
        ]
        if not is_seen:
            self.content = bytearray(self.base)
            for change in self.changes:
                if change.is_durable:
                    change.apply(self.content)

    def reread(self, offset: int) -> None:
        """What an earlier sync failed over is on the disk or not, and now one can see which, from `offset` on."""
        if not any(change.is_doubtful for change in self.changes):
            return
        content = bytearray(self.base)
        for change in self.changes:
            if not change.is_doubtful or change.order % 2:
                change.apply(content)
        if all(change.is_doubtful or change.is_durable for change in self.changes):
            self.base, self.changes = bytes(content), []
            assert content[:offset] == self.content[:offset], "what is not looked at again is on the disk"
            self.content = content


@dataclass(frozen=True, slots=True)
class EntryChange:
    order: int
    gone: str | None
    made: str | None
    node: Inode | Directory | None

    def apply(self, entries: dict[str, Inode | Directory]) -> None:
        if self.gone is not None:
            entries.pop(self.gone, None)
        if self.made is not None:
            assert self.node is not None
            entries[self.made] = self.node


class Directory:
    def __init__(self) -> None:
        self.durable: dict[str, Inode | Directory] = {}
        self.changes: list[EntryChange] = []
        self.entries: dict[str, Inode | Directory] = {}

    def change(self, change: EntryChange) -> None:
        self.changes.append(change)
        change.apply(self.entries)

    def settle(self) -> None:
        for change in self.changes:
            change.apply(self.durable)
        self.changes = []
