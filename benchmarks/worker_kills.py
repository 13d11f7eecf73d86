"""How long the death of the update worker lasts: SIGKILL -> next task confirmed, over and over, nothing lost or twice.

    python -m benchmarks.worker_kills [--kills 200] [--seed 0] [--scheduling normal|idle]

Tasks of four tensors flow all the time, a handler sums them up and writes a version, synced, for every batch. At a
random instant the worker is killed; timed is from the kill to the first confirmation of a task that was done after it.
Then a new standby is awaited, as it takes part in the next kill. At the end the last version must have every task once.
Prints median, p95 and maximum in milliseconds, beside it the time that a task takes when nobody is killed. Exit code 1
when a bar is missed: median <= 100 ms, maximum <= 300 ms, 0 lost, 0 twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import torch
from tqdm import tqdm

from share.kernel.errors import QueueFull, SlabFull
from share.kernel.events import StructuredLogger
from share.kernel.transport.config import TransportConfig
from share.kernel.transport.ledger import Ledger
from share.kernel.transport.supervisor import Confirmation, WorkerSupervisor
from share.kernel.transport.worker import Task

MEDIAN_MS_MAX, KILL_MS_MAX = 100.0, 300.0
PATIENCE_S = 600.0
NUMBERS = 4096


class Feeder:
    """Keeps a few tasks on their way, and notes when each was confirmed and whether it was done just then."""

    def __init__(self, supervisor: WorkerSupervisor) -> None:
        self._supervisor = supervisor
        self._changed = threading.Condition()
        self._is_stopped = False
        self.futures: list[Future[Confirmation]] = []
        self.last_done_at = 0.0
        self.last_generation_pid = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def wait_for_one_done_by_another(self, pid: int) -> float:
        """When (seconds, perf_counter) the first task was confirmed that a worker other than `pid` had done."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.last_generation_pid not in (0, pid), PATIENCE_S):
                raise SystemExit(f"no task was confirmed within {PATIENCE_S:g} s")
            return self.last_done_at

    def stop(self) -> None:
        self._is_stopped = True
        self._thread.join()
        for future in self.futures:
            future.result(PATIENCE_S)

    def _run(self) -> None:
        while not self._is_stopped:
            number = len(self.futures)
            tensors = {name: torch.full((NUMBERS,), number) for name in "abcd"}
            try:
                future = self._supervisor.submit(Task(f"t{number}", "sum", {}, tensors))
            except (SlabFull, QueueFull):
                time.sleep(0.001)
                continue
            future.add_done_callback(self._note)
            self.futures.append(future)
            time.sleep(0.005)

    def _note(self, future: Future[Confirmation]) -> None:
        confirmation = future.result()
        if confirmation.repeated:
            return
        assert isinstance(confirmation.result, dict)
        pid = int(str(confirmation.result["pid"]))
        with self._changed:
            if pid != self.last_generation_pid:
                self.last_generation_pid = pid
                self.last_done_at = time.perf_counter()
                self._changed.notify_all()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scheduling", choices=["normal", "idle"], default="normal")
    arguments = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, scheduling {arguments.scheduling}")
    with tempfile.TemporaryDirectory() as name:
        return run(Path(name), arguments.kills, random.Random(arguments.seed), arguments.scheduling)


def run(directory: Path, num_kills: int, chance: random.Random, scheduling: str) -> int:
    config = TransportConfig.model_validate(
        {"deaths_max": 100_000, "quarantine_deaths": 100, "tasks_max": 8, "batch_max": 4, "scheduling": scheduling}
    )
    supervisor = WorkerSupervisor(
        config,
        target="tests.transport.handlers:Tally",
        settings={"directory": str(directory)},
        directory=directory,
        logger=StructuredLogger(None, run_id="benchmark", backend="transport"),
    )
    supervisor.wait_for(lambda status: status.standby_pid is not None, PATIENCE_S)
    undisturbed = time_undisturbed(supervisor)
    feeder = Feeder(supervisor)
    recoveries: list[float] = []
    for _ in tqdm(range(num_kills), desc="kills", disable=not sys.stderr.isatty()):
        supervisor.wait_for(lambda status: status.standby_pid is not None and status.pid is not None, PATIENCE_S)
        time.sleep(chance.uniform(0.0, 0.1))
        pid = supervisor.status().pid
        assert pid is not None
        killed_at = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        recoveries.append(feeder.wait_for_one_done_by_another(pid) - killed_at)
    feeder.stop()
    status = supervisor.status()
    supervisor.close()
    counted = json.loads((directory / f"{Ledger(directory).version()}.json").read_text())
    tasks = {f"t{number}": 4 * NUMBERS * number for number in range(len(feeder.futures))}
    lost = sum(counted.get(task_id, [0, 0])[0] == 0 for task_id in tasks)
    twice = sum(counted.get(task_id, [0, 0])[0] > 1 for task_id in tasks)
    wrong = sum(counted.get(task_id, [0, total])[1] != total for task_id, total in tasks.items())
    milliseconds = sorted(1000 * seconds for seconds in recoveries)
    median, worst = statistics.median(milliseconds), milliseconds[-1]
    p95 = milliseconds[int(0.95 * len(milliseconds))]
    print(
        f"{num_kills} kills, {status.deaths} deaths, {len(tasks)} tasks: {lost} lost, {twice} twice, {wrong} wrong sums"
    )
    print(f"kill -> next task confirmed, ms: median {median:.1f} (bar {MEDIAN_MS_MAX:.0f}), p95 {p95:.1f}, ", end="")
    print(f"max {worst:.1f} (bar {KILL_MS_MAX:.0f}); a task without kills: median {undisturbed:.1f}")
    return int(lost + twice + wrong > 0 or median > MEDIAN_MS_MAX or worst > KILL_MS_MAX)


def time_undisturbed(supervisor: WorkerSupervisor) -> float:
    """Milliseconds from submitting to confirmation, median of 20."""
    times = []
    for number in range(20):
        tensors = {name: torch.full((NUMBERS,), number) for name in "abcd"}
        start = time.perf_counter()
        supervisor.submit(Task(f"warm-up {number}", "sum", {}, tensors)).result(PATIENCE_S)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
