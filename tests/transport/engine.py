"""An engine as a process, for tests that kill it: `python -m tests.transport.engine DIRECTORY TASKS`.

It submits tasks t0 to t<TASKS-1>, as an engine does that keeps them until they are confirmed, and prints a line of JSON
with the process ids of itself and what it started, then one for every confirmation. It ends with 0 when all are done.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import torch

from share.kernel.errors import QueueFull, SlabFull
from share.kernel.events import StructuredLogger
from share.kernel.transport.config import TransportConfig
from share.kernel.transport.supervisor import Confirmation, WorkerSupervisor
from share.kernel.transport.worker import Task


def task(number: int) -> Task:
    return Task(f"t{number}", "sum", {"number": number}, {"x": torch.full((20_000,), number)})


def total(number: int) -> int:
    return 20_000 * number


def main(directory: Path, num_tasks: int) -> None:
    config = TransportConfig(num_slots=8, slot_bytes=1 << 18, batch_max=4, deaths_max=100_000, scheduling="normal")
    supervisor = WorkerSupervisor(
        config,
        target="tests.transport.handlers:Tally",
        settings={"directory": str(directory), "pause_s": 0.002},
        directory=directory,
        logger=StructuredLogger(None, run_id="engine", backend="transport"),
    )
    supervisor.wait_for(lambda status: status.standby_pid is not None, 300.0)
    status = supervisor.status()
    say({"pids": [os.getpid(), status.nursery_pid, status.pid, status.standby_pid]})
    futures = [submit(supervisor, number) for number in range(num_tasks)]
    for future in futures:
        future.result(300.0)
    supervisor.close()


def submit(supervisor: WorkerSupervisor, number: int) -> Future[Confirmation]:
    while True:
        try:
            future = supervisor.submit(task(number))
        except (SlabFull, QueueFull):
            time.sleep(0.001)
            continue
        future.add_done_callback(lambda done: say({"confirmed": done.result().task_id}))
        return future


def say(line: object) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
