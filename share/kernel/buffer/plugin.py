"""The storages of the experience buffer that ship with Pixelis; names and targets only."""

from __future__ import annotations

from share.kernel import Register, hookimpl

HERE = "share.kernel.buffer"


@hookimpl
def register_buffers(register: Register) -> None:
    register("file", f"{HERE}.file:FileStorage", summary="A write-ahead log in files of its own: the fastest.")
    register("lmdb", f"{HERE}.lmdb:LmdbStorage", summary="The log in LMDB: needs no recovery.", extra="lmdb")
    register("sqlite", f"{HERE}.sqlite:SqliteStorage", summary="The log in one SQLite file.", extra="sqlite")
