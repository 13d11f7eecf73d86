"""What an experience buffer is compared with: files, LMDB and SQLite, each making one record durable at a time."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from share.kernel.contracts.experience import Experience

Append = Callable[[int, bytes], None]

TEXT_BYTES = 3500
SEGMENT_BYTES = 64 << 20


def make_experience(
    rng: np.random.Generator, number: int, dimension: int, *, text_bytes: int = TEXT_BYTES
) -> Experience:
    """Random words and a random direction."""
    vector = rng.standard_normal(dimension).astype(np.float32)
    words = rng.bytes(text_bytes // 2).hex()
    return Experience(
        id=f"experience-{number}",
        question=words[: text_bytes // 10],
        answer=words[text_bytes // 10 :],
        embedding=vector / np.linalg.norm(vector),
        confidence=float(rng.random()),
        created_at=1.7e9 + number,
        subject=f"subject-{number % 1000}",
    )


def growing_file(directory: Path) -> Append:
    """Append to a file that grows, fdatasync."""
    descriptor = os.open(directory / "growing", os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def append(number: int, content: bytes) -> None:
        os.pwrite(descriptor, content, number * len(content))
        os.fdatasync(descriptor)

    return append


def zeroed_file(directory: Path) -> Append:
    """Write into a file that was written with zeros before, fdatasync: what the disk can do."""
    descriptor = os.open(directory / "zeroed", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for offset in range(0, SEGMENT_BYTES, 1 << 20):
        os.pwrite(descriptor, bytes(1 << 20), offset)
    os.fsync(descriptor)

    def append(number: int, content: bytes) -> None:
        os.pwrite(descriptor, content, number * len(content) % (SEGMENT_BYTES - len(content)))
        os.fdatasync(descriptor)

    return append


def lmdb_store(directory: Path) -> Append:
    """A transaction a record, synced as LMDB does by default."""
    import lmdb

    environment = lmdb.open(str(directory / "lmdb"), map_size=4 << 30)

    def append(number: int, content: bytes) -> None:
        with environment.begin(write=True) as transaction:
            transaction.put(number.to_bytes(8, "big"), content)

    return append


def sqlite_store(directory: Path) -> Append:
    """A transaction a record, write-ahead log, synchronous=FULL."""
    import apsw

    connection = apsw.Connection(str(directory / "sqlite"))
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma synchronous=full")
    connection.execute("pragma busy_timeout=60000")
    connection.execute("create table if not exists records(number integer primary key, content blob)")

    def append(number: int, content: bytes) -> None:
        connection.execute("insert into records values(?, ?)", (number, content))

    return append


BASELINES = {
    "growing file": growing_file,
    "zeroed file": zeroed_file,
    "LMDB": lmdb_store,
    "SQLite FULL": sqlite_store,
}


def rate(work: Callable[[int, Barrier, float], int], processes: int, seconds: float) -> float:
    """Appends a second of all processes together; `work(index, start, seconds)` returns how many it made."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(processes + 1)
    receiver, sender = context.Pipe(duplex=False)

    def child(index: int) -> None:
        sender.send(work(index, barrier, seconds))

    children = [context.Process(target=child, args=(index,)) for index in range(processes)]
    for each in children:
        each.start()
    barrier.wait()
    started = time.perf_counter()
    total = sum(receiver.recv() for _ in children)
    elapsed = time.perf_counter() - started
    for each in children:
        each.join()
    return float(total / elapsed)


def baseline_work(
    make: Callable[[Path], Append], directory: Path, content: bytes
) -> Callable[[int, Barrier, float], int]:
    """Each process opens the store itself and appends under numbers of its own."""

    def work(index: int, barrier: Barrier, seconds: float) -> int:
        append = make(directory)
        barrier.wait()
        deadline = time.perf_counter() + seconds
        number = 0
        while time.perf_counter() < deadline:
            append(
                index * 10_000_000 + number if make is not growing_file and make is not zeroed_file else number, content
            )
            number += 1
        return number

    return work
