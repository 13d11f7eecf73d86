"""How long an update takes, and how much serving feels of updates that never stop.

    python -m benchmarks.online_updates [--requests 60] [--rounds 4] [--updates 10] [--cores 1|2]

First the way of one update: a corrected answer is submitted, and timed until it is committed and until its version
serves; by phase as the worker says. Then the same requests are answered one after the other by
the batcher, in blocks that take turns: without updates, with a worker that learns all the time under SCHED_IDLE, and
with one under the default scheduling (the baseline); its versions are published and adopted as they come. Prints
milliseconds by block kind and ratios to no updates; exit code 1 when p99 under SCHED_IDLE is above 1.10 times that
without updates. `--cores 1` keeps everything on one processor, where a worker cannot step aside.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import JsonValue
from tqdm import tqdm

from share.kernel.config import Choice, validate
from share.kernel.contracts.kinds import Task as TaskSource
from share.kernel.contracts.serving import Request
from share.kernel.contracts.task import Prompt
from share.kernel.events import StructuredLogger
from share.kernel.media.operator import load_operator
from share.kernel.policy.loading import load_policy
from share.kernel.registry import load_registry
from share.kernel.serving.batching import Batcher, BatchingConfig
from share.kernel.serving.update_config import UpdateConfig, worker_settings
from share.kernel.serving.update_task import LEARN, RESTORE, UpdateResult
from share.kernel.serving.update_worker import PRELOAD, TARGET
from share.kernel.serving.versions import FROZEN, VersionStore
from share.kernel.serving.weights import ServedPolicies
from share.kernel.transport.config import TransportConfig
from share.kernel.transport.supervisor import WorkerSupervisor
from share.kernel.transport.worker import Task

RATIO_MAX = 1.10
LEARNING_RATE = 1e-3
PATIENCE_S = 600.0
Scheduling = Literal["idle", "normal"]
SCHEDULINGS: tuple[Scheduling, ...] = ("idle", "normal")


class Learner:
    """A worker of its own directory, and what it serves."""

    def __init__(
        self, directory: Path, config: UpdateConfig, scheduling: Scheduling, prompts: Sequence[Prompt]
    ) -> None:
        self.store = VersionStore(directory / "versions")
        self.served = ServedPolicies(lambda: load_policy(config.policy), self.store)
        self._prompts = prompts
        self._number = 0
        self.supervisor = WorkerSupervisor(
            TransportConfig(
                num_slots=16, slot_bytes=4 << 20, scheduling=scheduling, preload=PRELOAD, timeout_s=PATIENCE_S
            ),
            target=TARGET,
            settings=worker_settings(config, versions=self.store.directory, directory=directory / "worker"),
            directory=directory / "worker",
            logger=StructuredLogger(None, run_id="benchmark", backend="online_updates"),
        )
        self.supervisor.wait_for(lambda status: None not in (status.pid, status.standby_pid), PATIENCE_S)

    def update(self) -> tuple[UpdateResult, float, float]:
        """One update: its result, and the seconds until it was committed and served."""
        prompt = self._prompts[self._number % len(self._prompts)]
        told: dict[str, JsonValue] = {
            "question": prompt.question,
            "answer": prompt.answer,
            "kind": "corrected",
            "learning_rate": LEARNING_RATE,
        }
        task = Task(f"t{self._number}", LEARN, told, {"image": torch.from_numpy(prompt.images[0])})
        self._number += 1
        times = [time.perf_counter()]
        result = UpdateResult.model_validate(self.supervisor.submit(task).result(PATIENCE_S).result)
        times.append(time.perf_counter())
        if result.version is not None:
            self.served.publish(result.parent, result.version)
            times.append(time.perf_counter())
            self.store.prune()
        return result, times[1] - times[0], times[-1] - times[0]

    def start_over(self) -> None:
        """Serve the shipped policy, so that every block learns as much and is asked the same."""
        self.served.publish(self.store.live(), FROZEN)
        self._number += 1
        self.supervisor.submit(Task(f"r{self._number}", RESTORE, {"version": FROZEN})).result(PATIENCE_S)

    @contextmanager
    def learning(self) -> Iterator[list[UpdateResult]]:
        """Inside, one update follows the other; the last one is waited for."""
        done: list[UpdateResult] = []
        is_over = threading.Event()

        def feed() -> None:
            while not is_over.is_set():
                done.append(self.update()[0])

        feeder = threading.Thread(target=feed)
        feeder.start()
        try:
            yield done
        finally:
            is_over.set()
            feeder.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=60, help="of each block")
    parser.add_argument("--rounds", type=int, default=4, help="blocks of each kind")
    parser.add_argument("--updates", type=int, default=10, help="that are timed one by one")
    parser.add_argument("--cores", type=int, choices=[1, 2], default=2)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    torch.set_num_threads(1)
    print(f"load {os.getloadavg()[0]:.1f}, {arguments.cores} cores, torch {torch.__version__}, one thread each")
    registry = load_registry()
    source: TaskSource = registry.build(Choice("task", "zoom_digits"))
    config = validate(UpdateConfig, {}, registry)
    learned = [source.prompt("train", 10_000 + index) for index in range(64)]
    asked = [source.prompt("held_out", 20_000 + index) for index in range(arguments.requests)]
    with tempfile.TemporaryDirectory() as name:
        learners: dict[Scheduling, Learner] = {}
        for scheduling in SCHEDULINGS:
            learners[scheduling] = Learner(Path(name) / scheduling, config, scheduling, learned)
        try:
            time_updates(learners["idle"], arguments.updates)
            operator = load_operator(registry, config.operations, fit=learners["idle"].served.frozen().policy.fit)
            batchers: dict[Scheduling, Batcher] = {}
            for scheduling, learner in learners.items():
                logger = StructuredLogger(None, run_id="benchmark", backend="online_updates")
                settings = BatchingConfig(turns_max=3, tokens_max=128)
                batchers[scheduling] = Batcher(learner.served, operator, settings, logger)
            gc.collect()
            gc.freeze()  # as the service does when it is ready
            try:
                return compare(learners, batchers, asked, arguments.rounds)
            finally:
                for batcher in batchers.values():
                    batcher.close()
        finally:
            for learner in learners.values():
                learner.supervisor.close(PATIENCE_S)


def time_updates(learner: Learner, number: int) -> None:
    learner.update()  # touches what the first one touches
    updates = [learner.update() for _ in range(number)]
    learned = [each for each in updates if each[0].outcome == "learned"]
    phases = sorted({phase for result, *_ in learned for phase in result.seconds})
    print(f"{len(learned)} of {number} updates gave a version; seconds, medians (worst):")
    for name, values in (
        ("submitted -> committed", [each[1] for each in learned]),
        ("           -> served", [each[2] for each in learned]),
        *((f"  of it {phase}", [each[0].seconds.get(phase, 0.0) for each in learned]) for phase in phases),
    ):
        print(f"  {name:26} {statistics.median(values):7.3f} ({max(values):.3f})")


def compare(
    learners: dict[Scheduling, Learner], batchers: dict[Scheduling, Batcher], asked: Sequence[Prompt], rounds: int
) -> int:
    """Blocks of requests without updates and beside either worker, taking turns."""
    times: dict[str, list[float]] = {"no updates": [], "idle": [], "normal": []}
    updates = {"idle": 0, "normal": 0}
    answer_all(batchers["idle"], asked[:10], 0)
    for number in tqdm(range(rounds), desc="rounds", disable=not sys.stderr.isatty()):
        for place in range(3):
            kind = list(times)[(number + place) % 3]
            if kind == "no updates":
                times[kind] += answer_all(batchers["idle"], asked, number)
                continue
            scheduling: Scheduling = "idle" if kind == "idle" else "normal"
            with learners[scheduling].learning() as done:
                times[kind] += answer_all(batchers[scheduling], asked, number)
            updates[scheduling] += sum(result.version is not None for result in done)
            learners[scheduling].start_over()
    base = times["no updates"]
    print(f"{len(base)} requests of each kind, ms ({rounds} blocks):")
    ratios = {}
    for kind, seconds in times.items():
        p50, p99 = (float(np.percentile(seconds, part)) for part in (50, 99))
        ratios[kind] = p99 / float(np.percentile(base, 99))
        versions = f"; {updates[kind]} versions served meanwhile" if kind in updates else ""
        print(
            f"  {kind:10} p50 {1000 * p50:7.1f} ({p50 / float(np.percentile(base, 50)):.2f}x)  "
            f"p99 {1000 * p99:7.1f} ({ratios[kind]:.2f}x){versions}"
        )
    print(f"p99 beside SCHED_IDLE / without updates: {ratios['idle']:.2f} (bar {RATIO_MAX:.2f})")
    return int(ratios["idle"] > RATIO_MAX)


def answer_all(batcher: Batcher, prompts: Sequence[Prompt], number: int) -> list[float]:
    """Seconds of each request, one after the other."""
    seconds = []
    for index, prompt in enumerate(prompts):
        request = Request(f"{number} {index}", prompt.question, prompt.images, client="benchmark")
        started = time.perf_counter()
        batcher.submit(request).result(PATIENCE_S)
        seconds.append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
