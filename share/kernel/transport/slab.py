"""One anonymous piece of memory that the engine writes and its workers read.

It is a memfd: it has no name, so nothing is left behind whoever is killed, and the kernel frees it with the last
process that maps it. It is mapped once and touched once; what makes shared memory slow is faulting in fresh pages, not
copying.
After the engine has mapped it, the kernel's seals keep everyone else from writing to it or resizing it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import warnings

import torch
from torch import Tensor

_F_SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h; Python's fcntl does not name it
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE


class Slab:
    """The engine's end. `data` is uint8 of shape (size_bytes,) and writable; `fd` is for `map_read_only`."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.fd = os.memfd_create("pixelis-slab", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size_bytes)
        self.data = torch.frombuffer(_map(self.fd, mmap.PROT_READ | mmap.PROT_WRITE), dtype=torch.uint8)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)

    def close(self) -> None:
        """Let go of the memory; it lives on as long as a tensor or another process still shows it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self.data = torch.empty(0, dtype=torch.uint8)


def map_read_only(fd: int) -> Tensor:
    """The slab as a worker sees it: uint8 of shape (size_bytes,).

    torch has no read-only tensors: writing to this one, or to a view of it, ends the process with SIGSEGV. The payload
    must stay as it is, because it is sent again when the worker dies.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(_map(fd, mmap.PROT_READ), dtype=torch.uint8)


def _map(fd: int, protection: int) -> mmap.mmap:
    return mmap.mmap(fd, os.fstat(fd).st_size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=protection)


__all__ = ["Slab", "map_read_only"]
