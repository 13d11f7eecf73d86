"""Tasks on their way, without any process: each owns its slots until it is settled, and is settled once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch

from share.kernel.errors import QueueFull, SlabFull, TaskQuarantined, TaskWithdrawn, TransportError
from share.kernel.events import StructuredLogger
from share.kernel.transport.backlog import Backlog, Confirmation, Job
from share.kernel.transport.ledger import Ledger
from share.kernel.transport.memory import SharedMemoryManager
from share.kernel.transport.messages import Confirmed
from share.kernel.transport.quarantine import Quarantine
from share.kernel.transport.worker import Task

QUIET = StructuredLogger(None, run_id="test", backend="transport")


@pytest.fixture
def memory() -> Iterator[SharedMemoryManager]:
    memory = SharedMemoryManager(num_slots=4, slot_bytes=4096)
    yield memory
    memory.close()


@pytest.fixture
def quarantine(tmp_path: Path) -> Iterator[Quarantine]:
    ledger = Ledger(tmp_path)
    yield Quarantine(ledger, QUIET)
    ledger.close()


@pytest.fixture
def backlog(memory: SharedMemoryManager, quarantine: Quarantine) -> Backlog:
    return Backlog(memory, quarantine, tasks_max=3, quarantine_deaths=2)


def queue(backlog: Backlog, task_id: str, num_tensors: int = 1) -> Future[Confirmation]:
    tensors = {str(number): torch.zeros(8) for number in range(num_tensors)}
    job = backlog.accept(Task(task_id, "sum", {}, tensors))
    backlog.load(job, tensors)
    backlog.queue(job)
    return job.future


def send(backlog: Backlog) -> list[str]:
    """Tell a worker of all of them; returns what it was told of, in order."""
    sent = []
    while job := backlog.next():
        sent.append(job.task_id)
        backlog.mark_sent()
    return sent


def tell(backlog: Backlog) -> None:
    for settlement in backlog.take_settled():
        settlement.tell()


def test_a_confirmed_task_is_settled_and_its_slots_are_free(backlog: Backlog, memory: SharedMemoryManager) -> None:
    first, second = queue(backlog, "a", num_tensors=2), queue(backlog, "b")
    assert memory.get_status().written_slots == 3
    assert send(backlog) == ["a", "b"]
    assert memory.get_status().sent_slots == 3
    backlog.confirm(Confirmed("a", "v1", 0.5))
    assert not first.done()
    tell(backlog)
    assert first.result(0) == Confirmation("a", "v1", 0.5, repeated=False)
    assert not second.done()
    assert len(backlog) == 1
    assert (memory.get_status().sent_slots, memory.get_status().free_slots) == (1, 3)


def test_what_a_dead_worker_had_is_sent_again_in_its_order_and_the_blamed_alone(
    backlog: Backlog, memory: SharedMemoryManager
) -> None:
    for task_id in "abc":
        queue(backlog, task_id)
    backlog.mark_sent()
    backlog.mark_sent()
    backlog.send_again(("a",), "it was killed")
    assert not backlog.is_any_sent
    assert memory.get_status().written_slots == 3
    jobs: list[Job] = []
    while job := backlog.next():
        jobs.append(job)
        backlog.mark_sent()
    assert [(job.task_id, job.assign.alone) for job in jobs] == [("a", True), ("b", False), ("c", False)]


def test_a_task_that_two_workers_died_over_is_quarantined(
    backlog: Backlog, memory: SharedMemoryManager, quarantine: Quarantine, tmp_path: Path
) -> None:
    poison, innocent = queue(backlog, "a"), queue(backlog, "b")
    for _ in range(2):
        send(backlog)
        backlog.send_again(("a",), "it was killed by SIGSEGV")
    tell(backlog)
    with pytest.raises(TaskQuarantined, match="2 workers died over it, the last because it was killed by SIGSEGV"):
        poison.result(0)
    assert not innocent.done()
    assert send(backlog) == ["b"]
    assert memory.get_status().free_slots == 3
    with pytest.raises(TaskQuarantined, match="release it to try again"):
        quarantine.check("a")
    reopened = Ledger(tmp_path)
    assert reopened.quarantined() == quarantine.reasons()
    reopened.close()
    quarantine.release("a")
    quarantine.check("a")
    assert quarantine.reasons() == {}


def test_a_quarantine_that_cannot_be_stored_holds_until_the_engine_ends(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    path = tmp_path / "events.jsonl"
    logger = StructuredLogger(path, run_id="test", backend="transport")
    quarantine = Quarantine(ledger, logger)
    ledger.close()
    quarantine.add("a", "it is poison")
    logger.close()
    with pytest.raises(TaskQuarantined, match="it is poison"):
        quarantine.check("a")
    assert "quarantine_not_stored" in [json.loads(line)["event"] for line in path.read_text().splitlines()]


def test_a_task_that_does_not_fit_leaves_nothing_behind(backlog: Backlog, memory: SharedMemoryManager) -> None:
    queue(backlog, "a", num_tensors=2)
    tensors = {name: torch.zeros(8) for name in "xyz"}
    job = backlog.accept(Task("b", "sum", {}, tensors))
    with pytest.raises(SlabFull):
        backlog.load(job, tensors)
    backlog.drop(job)
    assert memory.get_status().free_slots == 2
    assert len(backlog) == 1
    queue(backlog, "b")


def test_a_task_is_accepted_once_and_no_more_than_tasks_max(backlog: Backlog) -> None:
    for task_id in "abc":
        queue(backlog, task_id)
    with pytest.raises(TransportError, match="is on its way already"):
        backlog.accept(Task("a", "sum"))
    with pytest.raises(QueueFull, match="3 tasks are on their way, as many as tasks_max allows"):
        backlog.accept(Task("d", "sum"))


def test_what_is_given_up_is_told_so(backlog: Backlog) -> None:
    waiting, sent = queue(backlog, "a"), queue(backlog, "b")
    backlog.mark_sent()
    backlog.give_up()
    tell(backlog)
    for future in (waiting, sent):
        with pytest.raises(TransportError, match="closed before it was done"):
            future.result(0)
    assert len(backlog) == 0


def test_what_is_withdrawn_is_told_so_and_what_the_worker_has_is_left(
    backlog: Backlog, memory: SharedMemoryManager
) -> None:
    sent, waiting = queue(backlog, "a"), queue(backlog, "b")
    backlog.mark_sent()
    backlog.withdraw(["a", "b"])
    tell(backlog)
    with pytest.raises(TaskWithdrawn, match="before the worker had it"):
        waiting.result(0)
    assert not sent.done()
    assert (len(backlog), memory.get_status().free_slots) == (1, 3)
