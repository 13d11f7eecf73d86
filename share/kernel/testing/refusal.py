"""A block that must be refused with an error of a kind, or else the contract is broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def refused(expected: type[Exception], otherwise: str) -> Iterator[None]:
    try:
        yield
    except expected:
        return
    raise AssertionError(otherwise)


__all__ = ["refused"]
