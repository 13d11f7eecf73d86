"""The index builder: makes a snapshot and an index from the log, in a process of its own that writing never waits for.

It reads what is durable and writes new files; nothing of it counts before the writer commits a manifest. So it may be
killed at any moment, which is done to one that hangs, and it dies with its writer. In the background it runs only where
the scheduler has nothing else; when somebody waits for it, it still comes behind those who search and add.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from share.kernel.config import Choice, dump, validate
from share.kernel.contracts.kinds import Index, Storage
from share.kernel.errors import BufferUnavailable, IndexUnavailable, PixelisError
from share.kernel.experience.disk import Disk, RealDisk
from share.kernel.experience.envelope import write_envelope
from share.kernel.experience.index_file import INDEX
from share.kernel.experience.state import SNAPSHOT, catch_up, load_state
from share.kernel.experience.table import Rows, Table
from share.kernel.experience.vectors import Vectors
from share.kernel.registry import Registry, load_registry

PR_SET_PDEATHSIG = 1

URGENT_NICENESS = 10
"""Of a builder that somebody waits for: about a tenth of a processor that others want too, all of an idle one."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be built: the state after record `covers`, which has rows below `stop`, `num_alive` of them alive."""

    covers: int
    stop: int
    num_alive: int
    vectors: str
    dimension: int
    dtype: str
    with_index: bool


@dataclass(frozen=True, slots=True)
class Built:
    """Files that were made; `chosen` says what an index that may choose has chosen."""

    snapshot: str
    index: str | None
    chosen: str
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a builder may do nothing, and how much it may do, before it is taken to hang and is ended.

    Time does not tell: in the background of a busy machine a sound one may take hours.
    """

    look_s: float = 5.0
    """Seconds between two looks at what it does."""

    looks_max: int = 12
    """So many looks in a row find that it has neither used the processor nor waited for one. They are counted, not the
    time, in which the machine may have slept, or its writer have been stopped."""

    cpu_s_min: int = 600
    cpu_s_per_number: float = 1e-5
    """Seconds of processor for all, and for each number of the vectors besides: ten times what the slowest index takes.
    """

    def cpu_s_max(self, order: Order) -> int:
        """What building may take, in whole seconds."""
        return self.cpu_s_min + int(self.cpu_s_per_number * order.num_alive * order.dimension)


class Builder(Protocol):
    """Carries out orders, one at a time."""

    def build(self, order: Order, *, is_urgent: bool) -> Built:
        """Raises IndexUnavailable, BufferProblem, OSError."""
        ...

    def hurry(self) -> None:
        """Somebody waits for what is being built now."""

    def stop(self) -> None:
        """Give up what is being built now, and build nothing any more."""


class InlineBuilder:
    """Builds in the calling thread: for simulated disks, and where no process may be started."""

    def __init__(self, directory: Path, disk: Disk, storage: Storage, index: Index) -> None:
        self._directory, self._disk, self._storage, self._index = directory, disk, storage, index

    def build(self, order: Order, *, is_urgent: bool) -> Built:
        return build(self._directory, self._disk, self._storage, self._index, order)

    def hurry(self) -> None:
        """It is as fast as it can be."""

    def stop(self) -> None:
        """It has ended when this can be called."""


class ProcessBuilder:
    """Builds in another process, which has the plugins that are installed."""

    def __init__(self, directory: Path, storage: Choice, index: Choice, patience: Patience = Patience()) -> None:
        self._directory = directory
        self._patience = patience
        self._choices = {"storage": _said(storage), "index": _said(index)}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._is_stopped = False

    @property
    def pid(self) -> int | None:
        """The process that builds at the moment."""
        process = self._process
        return process.pid if process is not None else None

    def build(self, order: Order, *, is_urgent: bool) -> Built:
        asked = {"directory": str(self._directory), "order": asdict(order), "parent": os.getpid(), **self._choices}
        with self._lock:
            if self._is_stopped:
                raise BufferUnavailable(f"{self._directory}: is being closed")
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        try:
            cpu_s = self._patience.cpu_s_max(order)
            with contextlib.suppress(OSError):  # it may have ended
                resource.prlimit(process.pid, resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
            _schedule(process.pid, is_urgent)
            output, errors = self._wait(process, json.dumps(asked))
        except BaseException:
            process.kill()
            process.communicate()
            raise
        finally:
            self._process = None
        if process.returncode != 0:
            reason = errors.strip().rpartition("\n")[2] or f"it ended with {process.returncode}"
            if process.returncode == -signal.SIGXCPU:
                reason = f"process {process.pid} had used {cpu_s} s of the processor and was ended"
            raise IndexUnavailable(f"{self._directory}: the index builder failed: {reason}")
        return Built(**json.loads(output))

    def _wait(self, process: subprocess.Popen[str], asked: str) -> tuple[str, str]:
        """What it prints, when it has ended. Raises IndexUnavailable when it hangs; it is still to be ended then."""
        still = used = 0
        said: str | None = asked
        while True:
            try:
                return process.communicate(said, timeout=self._patience.look_s)
            except subprocess.TimeoutExpired:
                said = None  # it goes on with the rest
            is_waiting, used_now = _looked_at(process.pid)
            still = 0 if is_waiting or used_now != used else still + 1
            used = used_now
            if still == self._patience.looks_max:
                raise IndexUnavailable(
                    f"{self._directory}: the index builder, process {process.pid}, has done nothing for "
                    f"{still * self._patience.look_s:g} s and was ended"
                )

    def hurry(self) -> None:
        process = self._process
        if process is not None:
            _schedule(process.pid, True)

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            process = self._process
        if process is not None:
            process.kill()


def build(directory: Path, disk: Disk, storage: Storage, index: Index, order: Order) -> Built:
    """Replay up to the order's record and write snapshot and index. Raises IndexUnavailable, BufferProblem, OSError."""
    started = time.monotonic()
    state = load_state(disk, directory, dimension=order.dimension, vectors=order.vectors)
    log = storage.open(directory, disk, "read")
    with contextlib.closing(log):
        catch_up(state, log, until=order.covers)
    table = state.table
    if (table.stop, table.num_alive) != (order.stop, order.num_alive):
        raise BufferUnavailable(
            f"{directory}: replaying to record {order.covers} gave {table.num_alive} of {table.stop} rows, "
            f"the writer has {order.num_alive} of {order.stop}"
        )
    snapshot = f"{SNAPSHOT}-{order.covers}"
    write_envelope(disk, directory / snapshot, SNAPSHOT, order.covers, table.stop, table.content(), replace=True)
    if not order.with_index or table.num_alive == 0:
        return Built(snapshot, None, "", time.monotonic() - started)
    rows_N = table.living()
    vectors = Vectors(disk, directory / order.vectors, order.dimension, order.dtype)
    built = index.build(_matrix(vectors, table, rows_N), rows_N, seed=order.covers)
    name = f"{INDEX}-{order.covers}"
    write_envelope(disk, directory / name, INDEX, order.covers, order.stop, [built.save()], replace=True)
    chosen = str(getattr(index, "chosen", "") or "")
    vectors.close()
    return Built(snapshot, name, chosen, time.monotonic() - started)


def _matrix(vectors: Vectors, table: Table, rows_N: Rows) -> NDArray[Any]:
    """The vectors of the living, copied only if some between them are dead."""
    first = int(rows_N[0])
    stored_ND = vectors.stored(first, table.stop)
    return stored_ND if len(rows_N) == len(stored_ND) else stored_ND[rows_N - first]


def _said(choice: Choice) -> dict[str, Any]:
    return {"name": choice.name, **(dump(choice.config) if choice.config is not None else {})}


def _looked_at(pid: int) -> tuple[bool, int]:
    """Whether a process waits for a processor or has one, and the clock ticks that its threads have used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0] == "R", int(fields[11]) + int(fields[12])


def _schedule(pid: int, is_urgent: bool) -> None:
    policy = os.SCHED_OTHER if is_urgent else os.SCHED_IDLE
    with contextlib.suppress(OSError):  # it may have ended, or may not be allowed
        os.sched_setscheduler(pid, policy, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, pid, max(URGENT_NICENESS, os.getpriority(os.PRIO_PROCESS, pid)))


def main() -> int:
    """Read an order from standard input, print what was built."""
    asked = json.loads(sys.stdin.read())
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != asked["parent"]:  # it died before we could ask to die with it
        return 1
    try:
        registry = load_registry()
        storage: Storage = _backend(registry, "buffer", asked["storage"])
        index: Index = _backend(registry, "index", asked["index"])
        built = build(Path(asked["directory"]), RealDisk(), storage, index, Order(**asked["order"]))
    except (PixelisError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    print(json.dumps(asdict(built)))
    return 0


def _backend(registry: Registry, kind: str, said: dict[str, Any]) -> Any:
    name = said.pop("name")
    return registry.build(Choice(kind, name, validate(registry.config_model(kind, name), said, registry)))


if __name__ == "__main__":
    sys.exit(main())

__all__ = [
    "URGENT_NICENESS",
    "Builder",
    "Built",
    "InlineBuilder",
    "Order",
    "Patience",
    "ProcessBuilder",
    "build",
    "main",
]
