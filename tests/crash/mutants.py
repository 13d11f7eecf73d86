"""Mistakes that a protocol can make, each made on purpose: a dropped sync, a swapped step, a check left out.

Most stand between the log and its disk, so that the code under test is the real one in all else. Those that no disk can
make replace one function of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from share.kernel.experience.disk import Disk, File
from tests.crash.disk import Between, Call, Interposed

Perform = Callable[[], object]


@dataclass
class Names:
    """Which file a call is of: one opened under a temporary name and then linked or renamed goes by its new name."""

    names: dict[str, str] = field(default_factory=dict)

    def follow(self, call: Call) -> None:
        if call.name in {"link", "rename"}:
            self.names[call.source] = call.path
        elif call.name == "create":
            self.names.pop(call.path, None)

    def of(self, call: Call) -> str:
        return Path(self.names.get(call.path, call.path)).name

    def is_linked(self, call: Call) -> bool:
        """Whether the file of the call has its final name."""
        return not self.of(call).endswith(".tmp")


Pick = Callable[[Call, Names], bool]
"""Says which calls a mutant is about."""


def dropping(pick: Pick, *, every: int = 1) -> Callable[[Disk], Disk]:
    """Every so many of the picked calls does not happen, and says that it did."""

    def mutate(disk: Disk) -> Disk:
        names = Names()
        count = 0

        def between(call: Call, perform: Perform, file: File | None) -> object:
            nonlocal count
            names.follow(call)
            if pick(call, names):
                count += 1
                if count % every == 0:
                    return None
            return perform()

        return Interposed(disk, between)

    return mutate


def delaying(pick: Pick, until: Pick) -> Callable[[Disk], Disk]:
    """The picked calls say that they happened, and happen right after the next call that is `until`."""

    def mutate(disk: Disk) -> Disk:
        names = Names()
        delayed: list[Perform] = []

        def between(call: Call, perform: Perform, file: File | None) -> object:
            names.follow(call)
            if pick(call, names):
                delayed.append(perform)
                return None
            result = perform()
            if until(call, names):
                for each in delayed:
                    each()
                delayed.clear()
            return result

        return Interposed(disk, between)

    return mutate


def swallowing(pick: Pick) -> Callable[[Disk], Disk]:
    """An error of a picked call is not told to anybody; the call is tried once more."""

    def mutate(disk: Disk) -> Disk:
        names = Names()

        def between(call: Call, perform: Perform, file: File | None) -> object:
            names.follow(call)
            try:
                return perform()
            except OSError:
                if not pick(call, names):
                    raise
            try:
                return perform()
            except OSError:
                return None

        return Interposed(disk, between)

    return mutate


def renaming_instead_of_linking(disk: Disk) -> Disk:
    """A name that is taken is taken over."""

    def between(call: Call, perform: Perform, file: File | None) -> object:
        if call.name == "link":
            disk.rename(Path(call.source), Path(call.path))
            return None
        if call.name == "unlink" and call.path.endswith(".tmp"):
            try:
                return perform()
            except FileNotFoundError:
                return None
        return perform()

    return Interposed(disk, between)


def is_append_sync(call: Call, names: Names) -> bool:
    return call.name == "sync" and names.of(call).endswith(".segment")


def is_new_segment_sync(call: Call, names: Names) -> bool:
    return call.name == "sync" and not names.is_linked(call)


__all__ = ["Between", "delaying", "dropping", "renaming_instead_of_linking", "swallowing"]
