"""The storages of the experience buffer that ship with Pixelis; names and targets only."""

from __future__ import annotations

from share.kernel import Register, hookimpl


@hookimpl
def register_buffers(register: Register) -> None:
    pass
