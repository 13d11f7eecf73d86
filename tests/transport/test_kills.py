"""The kill matrix: SIGKILL to everyone and to everyone together, at random instants. 0 lost, 0 twice, nothing left."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from share.kernel.errors import QueueFull, SlabFull, TaskQuarantined
from share.kernel.transport.ledger import Ledger
from share.kernel.transport.supervisor import Confirmation, SupervisorStatus, WorkerSupervisor
from share.kernel.transport.worker import Task
from tests.transport import engine
from tests.transport.conftest import PATIENCE_S, Supervise
from tests.transport.test_supervisor import wait_until_gone

LONG = pytest.mark.slow


@pytest.fixture(autouse=True)
def _nothing_is_left_in_dev_shm() -> Iterator[None]:
    """No name stays, of a semaphore neither. Names of another program that is running or just ending are no leak."""
    before = set(os.listdir("/dev/shm"))
    yield
    deadline = time.monotonic() + 10
    while (left := orphans() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def orphans() -> set[str]:
    """Files below /dev/shm that no living process has mapped."""
    names = {name for name in os.listdir("/dev/shm") if Path("/dev/shm", name).is_file()}
    mapped = "".join(maps(path) for path in Path("/proc").glob("[0-9]*/maps")) if names else ""
    return {name for name in names if f"/dev/shm/{name}" not in mapped}


def maps(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it ended meanwhile, or is another user's
        return ""


def tally(directory: Path) -> dict[str, list[int]]:
    """Of the version that counts: how often each task was applied, and what its bytes summed up to."""
    version = Ledger(directory).version()
    counted: dict[str, list[int]] = json.loads((directory / f"{version}.json").read_text())
    return counted


def expected(num_tasks: int) -> dict[str, list[int]]:
    return {f"t{number}": [1, engine.total(number)] for number in range(num_tasks)}


def submit(supervisor: WorkerSupervisor, task: Task) -> Future[Confirmation]:
    while True:
        try:
            return supervisor.submit(task)
        except (SlabFull, QueueFull):
            time.sleep(0.001)


def is_complete(status: SupervisorStatus, killed: set[int]) -> bool:
    """Worker, standby and nursery are there, and none of them is one that was killed and not yet found dead."""
    pids = {status.pid, status.standby_pid, status.nursery_pid}
    return None not in pids and not pids & killed


def victims(status: SupervisorStatus, whom: str) -> list[int]:
    pids = {"worker": [status.pid], "standby": [status.standby_pid], "nursery": [status.nursery_pid]}
    pids["both"] = pids["worker"] + pids["standby"]
    return [pid for pid in pids[whom] if pid is not None]


@pytest.mark.parametrize("whom", ["worker", "standby", "both", "nursery"])
@pytest.mark.parametrize(("num_kills", "seed"), [(6, 0), pytest.param(50, 1, marks=LONG)])
def test_no_task_is_lost_or_applied_twice_when_workers_are_killed(
    supervise: Supervise, tmp_path: Path, whom: str, num_kills: int, seed: int
) -> None:
    supervisor = supervise(slot_bytes=1 << 18, batch_max=4, quarantine_deaths=100)
    chance = random.Random(f"{whom} {seed}")
    futures: list[Future[Confirmation]] = []
    killed: set[int] = set()
    num_kills = num_kills if whom != "nursery" else num_kills // 3  # its successor has to import torch
    for _ in range(num_kills):
        assert supervisor.wait_for(lambda status: is_complete(status, killed), PATIENCE_S)
        for _ in range(chance.randint(1, 12)):
            futures.append(submit(supervisor, engine.task(len(futures))))
        time.sleep(chance.uniform(0.0, 0.05))
        for pid in victims(supervisor.status(), whom):
            killed.add(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert [future.result(PATIENCE_S).task_id for future in futures] == [f"t{n}" for n in range(len(futures))]
    supervisor.close(PATIENCE_S)
    assert tally(tmp_path) == expected(len(futures))
    if whom != "standby":
        assert supervisor.status().generation >= num_kills


def test_an_innocent_task_that_was_quarantined_is_done_once_when_released(supervise: Supervise, tmp_path: Path) -> None:
    supervisor = supervise(settings={"pause_s": 0.5}, slot_bytes=1 << 18, quarantine_deaths=1)
    future = submit(supervisor, engine.task(0))
    supervisor.wait_for(lambda status: status.state == "updating", PATIENCE_S)
    pid = supervisor.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(TaskQuarantined):
        future.result(PATIENCE_S)
    supervisor.release("t0")
    supervisor.submit(engine.task(0)).result(PATIENCE_S)
    assert tally(tmp_path) == expected(1)


@pytest.mark.parametrize("whom", ["engine", "engine and worker", "group"])
@pytest.mark.parametrize(("num_kills", "seed"), [(2, 0), pytest.param(50, 1, marks=LONG)])
def test_no_task_is_lost_or_applied_twice_when_the_engine_is_killed(
    tmp_path: Path, whom: str, num_kills: int, seed: int
) -> None:
    chance = random.Random(f"{whom} {seed}")
    num_tasks = 10 * num_kills + 20
    command = [sys.executable, "-m", "tests.transport.engine", str(tmp_path), str(num_tasks)]
    for _ in range(num_kills):
        with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
            assert process.stdout is not None
            pids = json.loads(process.stdout.readline())["pids"]
            known = len(Ledger(tmp_path).entries())
            for _ in range(known + chance.randint(0, 10)):
                process.stdout.readline()
            time.sleep(chance.uniform(0.0, 0.02))
            match whom:
                case "group":
                    os.killpg(process.pid, signal.SIGKILL)
                case "engine and worker":
                    os.kill(process.pid, signal.SIGKILL)
                    with suppress(ProcessLookupError):
                        os.kill(pids[2], signal.SIGKILL)
                case _:
                    os.kill(process.pid, signal.SIGKILL)
            for pid in pids:
                wait_until_gone(pid)
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    assert sum("confirmed" in line for line in done.splitlines()) == num_tasks
    assert tally(tmp_path) == expected(num_tasks)


def test_file_descriptors_and_memory_stay_flat(supervise: Supervise) -> None:
    num_transfers = 10_000
    supervisor = supervise("Echo", tasks_max=64)
    tensor = torch.ones(16_384, dtype=torch.uint8)
    pid: int | None = None
    before: list[tuple[int, int]] = []
    for number in range(num_transfers):
        future = submit(supervisor, Task(f"t{number}", "sum", {}, {"x": tensor, "y": tensor[::3]}))
        if number == num_transfers // 4:
            future.result(PATIENCE_S)
            supervisor.wait_for(lambda status: status.standby_pid is not None, PATIENCE_S)
            pid = supervisor.status().pid
            assert pid is not None
            gc.collect()  # what tests before left to be collected
            before = [open_and_resident(process) for process in (os.getpid(), pid)]
    assert future.result(PATIENCE_S).result == 16_384 + len(tensor[::3])
    assert supervisor.status().pid == pid
    assert pid is not None
    after = [open_and_resident(process) for process in (os.getpid(), pid)]
    assert all(now <= then for (now, _), (then, _) in zip(after, before, strict=True))
    growth = [mib_after - mib_before for (_, mib_after), (_, mib_before) in zip(after, before, strict=True)]
    assert max(growth) <= 8, "MiB; what leaked a tensor or a descriptor for each transfer would be beyond"
    assert supervisor.status().memory.free_slots == 16


def open_and_resident(pid: int) -> tuple[int, int]:
    """Open file descriptors, and resident memory in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return len(os.listdir(f"/proc/{pid}/fd")), pages * os.sysconf("SC_PAGESIZE") >> 20
