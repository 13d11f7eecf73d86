"""Round trips of a tensor to another process: the slab beside a pickled array over multiprocessing.Queue.

    python -m benchmarks.transport [--rounds 40]

At each size all sides are run alternately, and all really move the bytes: the sender hands over an array that was made
just before, the receiver adds up a word of every page of it and answers with the sum, which is checked. (Adding up all
of them would be in both times, and is no transport.) The slab's side has its own work in the time as well: a copy in, a
checksum of every byte on both ends, two packets. `floor` is what is left of it without checksums, messages and tensors:
one copy in and none out, the sum, a packet of eight bytes each way; its ratio is the most that any slab could reach
here. `supervised` is the
whole way through a supervisor and a worker that commits to its ledger, synced to disk, before it confirms; the queue
promises nothing of the kind. Milliseconds, medians; exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from tqdm import tqdm

from share.kernel.events import StructuredLogger
from share.kernel.transport.config import TransportConfig
from share.kernel.transport.memory import SharedMemoryManager, SharedMemoryReconstructor
from share.kernel.transport.messages import Assign, Channel, Confirmed
from share.kernel.transport.slab import Slab, map_read_only
from share.kernel.transport.supervisor import WorkerSupervisor
from share.kernel.transport.worker import Commit, Task

MIB = 1 << 20
PAGE_BYTES = 4096
BARS = {1: 5.0, 10: 15.0}
"""Size in MiB, and how many times faster than the queue the slab must be."""

Words = NDArray[np.uint64]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        side, end_fd, slab_fd = arguments.child
        answer = answer_from_slab if side == "slab" else answer_from_bare_slab
        answer(socket.socket(fileno=int(end_fd)), int(slab_fd))
        return 0
    print(
        f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, torch {torch.__version__}, {arguments.rounds} rounds"
    )
    print(f"{'MiB':>4} {'queue':>9} {'slab':>9} {'ratio':>7} {'bar':>5} {'floor':>9} {'ratio':>7} {'supervised':>11}")
    is_missed = False
    with QueueSide() as queue, SlabSide() as slab, BareSide() as bare, SupervisedSide() as supervised:
        for size, bar in BARS.items():
            sides = [queue.round_trip, slab.round_trip, bare.round_trip, supervised.round_trip]
            times = measure(sides, size * MIB, arguments.rounds)
            queue_ms, slab_ms, bare_ms, supervised_ms = (statistics.median(side) * 1000 for side in times)
            ratio = queue_ms / slab_ms
            is_missed |= ratio < bar
            line = f"{size:4} {queue_ms:9.2f} {slab_ms:9.2f} {ratio:6.1f}x {bar:4.0f}x {bare_ms:9.2f}"
            print(f"{line} {queue_ms / bare_ms:6.1f}x {supervised_ms:11.2f}")
    return int(is_missed)


def measure(sides: Sequence[Callable[[Words], int]], size_bytes: int, rounds: int) -> list[list[float]]:
    """Seconds of every round trip, by side; the first three rounds, which touch fresh memory, are not counted."""
    generator = np.random.default_rng(0)
    times: list[list[float]] = [[] for _ in sides]
    for number in tqdm(
        range(rounds + 3), desc=f"{size_bytes // MIB} MiB", leave=False, disable=not sys.stderr.isatty()
    ):
        for side, its_times in zip(sides, times, strict=True):
            words = generator.integers(0, 2**63, size_bytes // 8, dtype=np.uint64)
            expected = add_up(words)
            start = time.perf_counter()
            answer = side(words)
            elapsed = time.perf_counter() - start
            if answer != expected:
                raise SystemExit(f"{side.__qualname__} answered {answer}, the sum is {expected}")
            if number >= 3:
                its_times.append(elapsed)
    return times


def add_up(words: Words) -> int:
    return int(words[:: PAGE_BYTES // words.itemsize].sum())


class QueueSide:
    """The baseline: pickled arrays over a queue, sums over another."""

    def __enter__(self) -> QueueSide:
        context = multiprocessing.get_context("spawn")
        self._arrays: Queue[Words | None] = context.Queue()
        self._sums: Queue[int] = context.Queue()
        self._process = context.Process(target=answer_from_queue, args=(self._arrays, self._sums))
        self._process.start()
        return self

    def round_trip(self, words: Words) -> int:
        self._arrays.put(words)
        return self._sums.get()

    def __exit__(self, *_: object) -> None:
        self._arrays.put(None)
        self._process.join()


def answer_from_queue(arrays: Queue[Words | None], sums: Queue[int]) -> None:
    while (words := arrays.get()) is not None:
        sums.put(add_up(words))


class SlabSide:
    """The slab and a socket, without supervisor and ledger: what there is to compare with a queue."""

    def __enter__(self) -> SlabSide:
        self._memory = SharedMemoryManager(num_slots=16, slot_bytes=MIB)
        end, self._process = start_child("slab", self._memory.fd)
        self._channel = Channel(end)
        return self

    def round_trip(self, words: Words) -> int:
        info = self._memory.create_shared_tensor(torch.from_numpy(words))
        self._channel.send(Assign("round trip", "sum", {}, {"words": info}))
        packet = self._channel.receive(wait=True)
        assert packet is not None
        assert isinstance(packet.message, Confirmed)
        self._memory.mark_cleaned(info.name)
        return int(str(packet.message.result))

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._process.wait()
        self._memory.close()


def answer_from_slab(end: socket.socket, slab_fd: int) -> None:
    channel = Channel(end)
    memory = SharedMemoryReconstructor(slab_fd, MIB)
    while True:
        try:
            packet = channel.receive(wait=True)
        except EOFError:
            return
        assert packet is not None
        assert isinstance(packet.message, Assign)
        words = memory.reconstruct_tensor_from_info(packet.message.tensors["words"]).numpy()
        channel.send(Confirmed(packet.message.task_id, "", str(add_up(words))))


class BareSide:
    """The least that shared memory can do: nothing is checked and nothing is said."""

    def __enter__(self) -> BareSide:
        self._slab = Slab(max(BARS) * MIB)
        self._end, self._process = start_child("bare", self._slab.fd)
        return self

    def round_trip(self, words: Words) -> int:
        self._slab.content.bytes[: words.nbytes] = words.data.cast("B")
        self._end.send(words.nbytes.to_bytes(8, "little"))
        return int.from_bytes(self._end.recv(8), "little")

    def __exit__(self, *_: object) -> None:
        self._end.close()
        self._process.wait()
        self._slab.close()


def answer_from_bare_slab(end: socket.socket, slab_fd: int) -> None:
    content = map_read_only(slab_fd)
    while size := end.recv(8):
        words = np.frombuffer(content.bytes, np.uint64, int.from_bytes(size, "little") // 8)
        end.send(add_up(words).to_bytes(8, "little"))


def start_child(side: str, slab_fd: int) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Our end of a socket pair to a process that answers for this side."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fds = [theirs.fileno(), slab_fd]
    command = [sys.executable, "-m", "benchmarks.transport", "--child", side, *map(str, fds)]
    with theirs:
        return ours, subprocess.Popen(command, pass_fds=fds)


class SupervisedSide:
    """The whole way: supervisor, worker process, ledger."""

    def __enter__(self) -> SupervisedSide:
        self._directory = tempfile.TemporaryDirectory()
        self._supervisor = WorkerSupervisor(
            TransportConfig(num_slots=16, slot_bytes=MIB, scheduling="normal"),
            target="benchmarks.transport:Adder",
            settings={},
            directory=Path(self._directory.name),
            logger=StructuredLogger(None, run_id="benchmark", backend="transport"),
        )
        self._number = 0
        return self

    def round_trip(self, words: Words) -> int:
        self._number += 1
        task = Task(f"{self._number}", "sum", {}, {"words": torch.from_numpy(words)})
        return int(str(self._supervisor.submit(task).result().result))

    def __exit__(self, *_: object) -> None:
        self._supervisor.close()
        self._directory.cleanup()


class Adder:
    def __init__(self, settings: dict[str, JsonValue]) -> None:
        self._number = 0

    def take_over(self, version: str | None) -> None:
        self._number = int(version or 0)

    def handle(self, tasks: Sequence[Task]) -> Commit:
        self._number += 1
        sums: dict[str, JsonValue] = {task.task_id: str(add_up(task.tensors["words"].numpy())) for task in tasks}
        return Commit(str(self._number), sums)


if __name__ == "__main__":
    sys.exit(main())
