"""Handlers that worker processes of the tests run, each named by "module:attribute"."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import JsonValue

from share.kernel.files import write_atomically
from share.kernel.transport.worker import Commit, Task


class Tally:
    """Keeps a count of every task it handled and the sum of its bytes: a weights file in small.

    A version is a file of its own, written whole and synced before it is returned; one that was written and never
    committed is overwritten by the next worker. `metadata` can ask for misbehavior.
    """

    def __init__(self, settings: dict[str, JsonValue]) -> None:
        self.directory = Path(str(settings["directory"]))
        self.pause_s = float(str(settings.get("pause_s", 0)))
        self.state: dict[str, list[int]] = {}
        self.number = 0

    def take_over(self, version: str | None) -> None:
        if version is not None:
            self.state = json.loads((self.directory / f"{version}.json").read_text())
            self.number = int(version)

    def handle(self, tasks: Sequence[Task]) -> Commit:
        results: dict[str, JsonValue] = {}
        for task in tasks:
            misbehave(task)
            total = sum(int(tensor.to(torch.int64).sum()) for tensor in task.tensors.values())
            count = self.state.get(task.task_id, [0])[0] + 1
            self.state[task.task_id] = [count, total]
            results[task.task_id] = {"sum": total, "batch": len(tasks), "pid": os.getpid()}
        time.sleep(self.pause_s)
        self.number += 1
        write_atomically(self.directory / f"{self.number}.json", json.dumps(self.state).encode())
        return Commit(str(self.number), results)


def misbehave(task: Task) -> None:
    match task.metadata.get("do"):
        case "raise":
            raise ValueError("this task cannot be handled")
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "write":
            next(iter(task.tensors.values())).add_(1)
        case "stop_once":
            flag = Path(str(task.metadata["flag"]))
            if not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGSTOP)
        case "sleep":
            time.sleep(float(str(task.metadata["seconds"])))


class Echo:
    """Keeps nothing. Says what it was given, and how its process runs."""

    def __init__(self, settings: dict[str, JsonValue]) -> None:
        self.number = 0

    def take_over(self, version: str | None) -> None:
        self.number = int(version or 0)

    def handle(self, tasks: Sequence[Task]) -> Commit:
        self.number += 1
        return Commit(str(self.number), {task.task_id: self.describe(task) for task in tasks})

    def describe(self, task: Task) -> JsonValue:
        if task.kind == "process":
            return {"scheduler": os.sched_getscheduler(0), "threads": torch.get_num_threads()}
        if task.kind == "bytes":
            return {name: tensor.reshape(-1).view(torch.uint8).tolist() for name, tensor in task.tensors.items()}
        if task.kind == "metadata":
            return dict(task.metadata)
        return sum(int(tensor.sum()) for tensor in task.tensors.values())


def broken_until_repaired(settings: dict[str, JsonValue]) -> Echo:
    if not Path(str(settings["repaired"])).exists():
        raise RuntimeError("no such weights")
    return Echo(settings)


class Wordy(Echo):
    """Returns more than fits into a message."""

    def describe(self, task: Task) -> JsonValue:
        return "word " * 20_000
