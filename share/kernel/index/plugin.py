"""The k-NN indexes of the experience buffer that ship with Pixelis; names and targets only."""

from __future__ import annotations

from share.kernel import Register, hookimpl


@hookimpl
def register_indexes(register: Register) -> None:
    pass
