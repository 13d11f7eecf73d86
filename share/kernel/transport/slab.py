"""One anonymous piece of memory that the engine writes and its workers read: how bytes get in, and are seen as tensors.

It is a memfd: it has no name, so nothing is left behind whoever is killed, and the kernel frees it with the last
process that maps it. It is mapped once and touched once; what makes shared memory slow is faulting in fresh pages, not
copying.
After the engine has mapped it, the kernel's seals keep everyone else from writing to it or resizing it.

There is as little of torch on the way as can be: after a megabyte was moved nothing of it is left in the processor's
cache, and then each of its operations costs 20 to 60 µs, a third of what moving the megabyte does.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import warnings

import torch
import xxhash
from torch import Tensor

from share.kernel.errors import TransportError

_F_SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h; Python's fcntl does not name it
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE

_PIECE_BYTES = 512 * 1024
"""What is copied at once and then checked while it is still in the processor's cache."""
_DIGEST_BYTES = 64 * 1024
"""What is checked at once. For more than this xxhash lets go of the interpreter's lock, and a thread that is busy in
Python gives it back up to 5 ms later, at every piece."""

_memmove = ctypes.PyDLL(None).memmove  # PyDLL keeps the lock too, which ctypes.memmove and torch's copy_ do not
_memmove.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_memmove.restype = None


class Content:
    """A mapped slab: `bytes`, and the tensors that can be seen in it."""

    def __init__(self, data: Tensor) -> None:
        self.bytes = data.numpy().data
        self.address = data.data_ptr()
        self._data = {torch.uint8: data}

    def tensor(self, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """What lies from byte `start` on, a multiple of the dtype's size, in row-major order. Nothing is copied."""
        if (data := self._data.get(dtype)) is None:
            data = self._data[dtype] = self._data[torch.uint8].view(dtype)
        strides = []
        stride = 1
        for size in reversed(shape):
            strides.append(stride)
            stride *= max(1, size)
        return data.as_strided(shape, strides[::-1], start // dtype.itemsize)

    def checksum(self, start: int, size_bytes: int) -> int:
        """XXH3 of these bytes: reads as fast as memory does, and what is stale, torn, missing, moved or of another slot
        goes unseen by a chance of 2**-64. It guards against mistakes, not against forgers."""
        return xxhash.xxh3_64_intdigest(self.bytes[start : start + size_bytes])


class Slab:
    """The engine's end. `content` is writable; `fd` is for `map_read_only`."""

    def __init__(self, size_bytes: int) -> None:
        self.fd = os.memfd_create("pixelis-slab", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size_bytes)
        mapped = _map(self.fd, mmap.PROT_READ | mmap.PROT_WRITE)
        self.content = Content(torch.frombuffer(mapped, dtype=torch.uint8))
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)

    def put(self, source: Tensor, start: int) -> int:
        """Copy a dense tensor to byte `start`, row-major; returns the checksum of what then lies there.

        Raises TransportError when there is no such place: the slab was closed.
        """
        content = self.content  # keeps it mapped, whoever closes the slab meanwhile
        end = start + source.nbytes
        if end > len(content.bytes):
            raise TransportError("the slab is closed")
        if not source.is_cpu or not source.is_contiguous() or source.is_conj() or source.is_neg():
            content.tensor(start, source.shape, source.dtype).copy_(source.detach())
            return content.checksum(start, end - start)
        to_slab = content.address
        to_source = source.data_ptr() - start
        digest = xxhash.xxh3_64()
        for at in range(start, end, _PIECE_BYTES):
            until = min(at + _PIECE_BYTES, end)
            _memmove(to_slab + at, to_source + at, until - at)
            for part in range(at, until, _DIGEST_BYTES):
                digest.update(content.bytes[part : min(part + _DIGEST_BYTES, until)])
        return digest.intdigest()

    def close(self) -> None:
        """Let go of the memory; it lives on as long as a tensor or another process still shows it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self.content = Content(torch.empty(0, dtype=torch.uint8))


def map_read_only(fd: int) -> Content:
    """The slab as a worker sees it.

    torch has no read-only tensors: writing to one of these ends the process with SIGSEGV. The payload must stay as it
    is, because it is sent again when the worker dies.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return Content(torch.frombuffer(_map(fd, mmap.PROT_READ), dtype=torch.uint8))


def _map(fd: int, protection: int) -> mmap.mmap:
    return mmap.mmap(fd, os.fstat(fd).st_size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=protection)


__all__ = ["Content", "Slab", "map_read_only"]
