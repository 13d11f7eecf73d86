"""Calls to a disk that fail as real ones do: a medium that errs, a disk that is full, read-only, or forgets writes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Literal

from share.kernel.experience.disk import File
from tests.crash.disk import Call, SimulatedFile

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
                return call.name in {
                    "make_directory",
                    "create",
                    "write",
                    "link",
                    "rename",
                    "begin_sync",
                    "sync",
                    "punch",
                }
            case "EROFS" | "EACCES":
                return call.name in {"make_directory", "create", "open to write", "link", "rename", "unlink"}
            case "EMFILE":
                return call.name in {"create", "open to write", "open", "names", "sync_directory"}
            case "short":
                return call.name == "write"
            case "sync lost" | "sync forgotten":
                return call.name == "sync"
