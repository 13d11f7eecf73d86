"""Which error of ours an error of the operating system is."""

from __future__ import annotations

import errno

from share.kernel.errors import BufferFull, BufferUnavailable


def problem(error: OSError, what: str) -> BufferFull | BufferUnavailable:
    """BufferFull if space or a quota ran out, else BufferUnavailable; `what` says where and what failed."""
    reason = f"{what}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BufferFull(f"{reason}; make space and try again, what is stored stays readable")
    return BufferUnavailable(f"{reason}; what is stored stays readable")


__all__ = ["problem"]
