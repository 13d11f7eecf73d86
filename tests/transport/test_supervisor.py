"""The supervisor with real worker processes: what is accepted is done once, whatever becomes of the worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from pydantic import JsonValue

from share.kernel.errors import (
    LearningSuspended,
    QueueFull,
    SlabFull,
    TaskQuarantined,
    TensorTooLarge,
    TransportError,
)
from share.kernel.transport.ledger import Ledger
from share.kernel.transport.messages import readable
from share.kernel.transport.supervisor import Confirmation, SupervisorStatus, WorkerState, WorkerSupervisor
from share.kernel.transport.worker import Task
from tests.transport.conftest import PATIENCE_S, Supervise


def confirmed(future: Future[Confirmation]) -> Confirmation:
    return future.result(PATIENCE_S)


def part(confirmation: Confirmation, name: str) -> int:
    """A number of the result that Tally returns."""
    assert isinstance(confirmation.result, dict)
    number = confirmation.result[name]
    assert isinstance(number, int)
    return number


def wait(supervisor: WorkerSupervisor, condition: Callable[[SupervisorStatus], object]) -> SupervisorStatus:
    assert supervisor.wait_for(lambda status: bool(condition(status)), PATIENCE_S), supervisor.status()
    return supervisor.status()


def numbered(number: int, **metadata: str) -> Task:
    return Task(f"t{number}", "sum", metadata, {"x": torch.full((10,), number)})


def wait_until_gone(pid: int) -> None:
    """Until it has ended, be it waited for by its parent or not."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = readable([pidfd], round(1000 * PATIENCE_S))
    os.close(pidfd)
    assert ended


def test_a_task_s_tensors_and_metadata_reach_the_handler_and_its_result_comes_back(supervise: Supervise) -> None:
    supervisor = supervise("Echo")
    tensors = {
        "bf16": torch.tensor([[1.5, -2.0], [float("nan"), float("inf")]], dtype=torch.bfloat16).t(),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 3),
    }
    expected = {name: t.contiguous().reshape(-1).view(torch.uint8).tolist() for name, t in tensors.items()}
    assert confirmed(supervisor.submit(Task("a", "bytes", {}, tensors))).result == expected
    metadata: dict[str, JsonValue] = {"reward": 0.1, "labels": ["x", None, True], "nested": {"n": 2**60}}
    assert confirmed(supervisor.submit(Task("b", "metadata", metadata))).result == metadata
    memory = supervisor.status().memory
    assert memory.free_slots == memory.num_slots


def test_the_worker_runs_idle_and_with_its_own_thread_limit(supervise: Supervise) -> None:
    supervisor = supervise("Echo", scheduling="idle", threads=2)
    result = confirmed(supervisor.submit(Task("a", "process"))).result
    assert result == {"scheduler": os.SCHED_IDLE, "threads": 2}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_every_task_is_applied_once_and_in_order(supervise: Supervise, tmp_path: Path) -> None:
    supervisor = supervise(batch_max=4)
    futures = [supervisor.submit(numbered(number)) for number in range(16)]
    results = [confirmed(future) for future in futures]
    assert [part(result, "sum") for result in results] == [10 * number for number in range(16)]
    assert max(part(result, "batch") for result in results) <= 4
    versions = [int(result.version) for result in results]
    assert versions == sorted(versions)
    assert [entry.task_id for entry in Ledger(tmp_path).entries()] == [f"t{number}" for number in range(16)]


def test_what_the_ledger_has_is_confirmed_without_being_applied(supervise: Supervise) -> None:
    first = supervise()
    before = confirmed(first.submit(numbered(3)))
    first.close()
    again = confirmed(supervise().submit(numbered(3)))
    assert (again.version, again.result, again.repeated) == (before.version, before.result, True)


def test_the_standby_takes_over_what_a_killed_worker_had(supervise: Supervise) -> None:
    supervisor = supervise(quarantine_deaths=100)
    status = wait(supervisor, lambda status: status.pid and status.standby_pid)
    assert status.pid is not None
    os.kill(status.pid, signal.SIGSTOP)
    futures = [supervisor.submit(numbered(number)) for number in range(5)]
    os.kill(status.pid, signal.SIGKILL)
    assert {confirmed(future).version for future in futures} <= {"1", "2", "3", "4", "5"}
    after = supervisor.status()
    assert after.pid == status.standby_pid
    assert after.generation == status.generation + 1
    assert after.deaths == 1
    assert after.last_death == "it was killed by SIGKILL"


def test_a_worker_that_hangs_is_killed_and_its_task_done_by_the_next(supervise: Supervise, tmp_path: Path) -> None:
    supervisor = supervise(timeout_s=5.0, quarantine_deaths=100)
    future = supervisor.submit(numbered(1, do="stop_once", flag=str(tmp_path / "flag")))
    assert part(confirmed(future), "sum") == 10
    assert supervisor.status().last_death == "it was silent for 5 s and was killed"


def test_a_killed_nursery_is_replaced(supervise: Supervise) -> None:
    supervisor = supervise(quarantine_deaths=100)
    status = wait(supervisor, lambda status: status.standby_pid)
    assert status.nursery_pid is not None
    os.kill(status.nursery_pid, signal.SIGKILL)
    assert confirmed(supervisor.submit(numbered(1))).version == "1"
    wait(supervisor, lambda now: now.standby_pid and now.nursery_pid not in (None, status.nursery_pid))


@pytest.mark.parametrize(
    ("misdeed", "reason"),
    [("raise", "ValueError: this task cannot be handled"), ("crash", "SIGSEGV"), ("write", "SIGSEGV")],
)
def test_a_task_that_killed_two_workers_goes_to_quarantine_alone(
    supervise: Supervise, misdeed: str, reason: str
) -> None:
    supervisor = supervise()
    wait(supervisor, lambda status: status.state is WorkerState.READY)
    poison = supervisor.submit(numbered(0, do=misdeed))
    innocent = [supervisor.submit(numbered(number)) for number in range(1, 6)]
    assert [confirmed(future).task_id for future in innocent] == ["t1", "t2", "t3", "t4", "t5"]
    with pytest.raises(TaskQuarantined, match="2 workers died over it") as raised:
        confirmed(poison)
    assert reason in str(raised.value)
    assert set(supervisor.status().quarantined) == {"t0"}
    memory = supervisor.status().memory
    assert memory.free_slots == memory.num_slots


def test_quarantine_outlives_the_engine_until_it_is_released(supervise: Supervise) -> None:
    first = supervise(quarantine_deaths=1)
    with pytest.raises(TaskQuarantined):
        confirmed(first.submit(numbered(0, do="raise")))
    first.close()
    second = supervise()
    with pytest.raises(TaskQuarantined, match="release it to try again"):
        second.submit(numbered(0))
    second.release("t0")
    assert confirmed(second.submit(numbered(0))).version == "1"


def test_three_deaths_suspend_learning_until_an_operator_resumes(supervise: Supervise, tmp_path: Path) -> None:
    settings = {"repaired": str(tmp_path / "repaired")}
    supervisor = supervise("broken_until_repaired", settings, deaths_max=3, deaths_window_s=1e6)
    waiting = supervisor.submit(numbered(1))
    status = wait(supervisor, lambda status: status.state is WorkerState.SUSPENDED)
    assert status.deaths == 3
    assert status.last_death is not None
    assert "RuntimeError: no such weights" in status.last_death
    with pytest.raises(LearningSuspended, match="resume it"):
        supervisor.submit(numbered(2))
    (tmp_path / "repaired").touch()
    supervisor.resume()
    assert confirmed(waiting).result == 10
    assert confirmed(supervisor.submit(numbered(2))).result == 20


def test_a_nursery_that_cannot_import_suspends_learning(supervise: Supervise) -> None:
    supervisor = supervise(preload=("no_such_module",), deaths_max=3, deaths_window_s=1e6)
    status = wait(supervisor, lambda status: status.state is WorkerState.SUSPENDED)
    assert status.last_death is not None
    assert "No module named 'no_such_module'" in status.last_death


def test_a_result_that_cannot_be_told_is_not_committed(supervise: Supervise, tmp_path: Path) -> None:
    supervisor = supervise("Wordy", quarantine_deaths=1)
    with pytest.raises(TaskQuarantined, match="put what is large into tensors or files"):
        confirmed(supervisor.submit(numbered(1)))
    assert Ledger(tmp_path).entries() == []


def test_what_does_not_fit_is_refused_and_leaves_nothing_behind(supervise: Supervise) -> None:
    supervisor = supervise(num_slots=4, slot_bytes=4096, tasks_max=5)
    status = wait(supervisor, lambda status: status.pid)
    assert status.pid is not None
    os.kill(status.pid, signal.SIGSTOP)
    page = torch.zeros(4096, dtype=torch.uint8)
    with pytest.raises(TensorTooLarge):
        supervisor.submit(Task("large", "sum", {}, {"x": torch.zeros(5 * 4096, dtype=torch.uint8)}))
    with pytest.raises(TransportError, match="put what is large"):
        supervisor.submit(Task("wordy", "sum", {"text": "x" * 100_000}, {"x": page}))
    accepted = [supervisor.submit(Task(f"t{number}", "sum", {}, {"x": page})) for number in range(3)]
    with pytest.raises(SlabFull):
        supervisor.submit(Task("two", "sum", {}, {"x": page, "y": page}))
    with pytest.raises(TransportError, match="is on its way already"):
        supervisor.submit(Task("t0", "sum"))
    accepted += [supervisor.submit(Task(f"t{number}", "sum")) for number in (3, 4)]
    with pytest.raises(QueueFull, match="as many as tasks_max allows"):
        supervisor.submit(Task("t5", "sum"))
    assert supervisor.status().memory.free_slots == 1
    os.kill(status.pid, signal.SIGCONT)
    assert [confirmed(future).task_id for future in accepted] == ["t0", "t1", "t2", "t3", "t4"]
    assert confirmed(supervisor.submit(Task("two", "sum", {}, {"x": page, "y": page}))).task_id == "two"


def test_more_than_the_socket_holds_is_sent_as_room_comes(supervise: Supervise) -> None:
    supervisor = supervise("Echo")
    status = wait(supervisor, lambda status: status.pid)
    assert status.pid is not None
    os.kill(status.pid, signal.SIGSTOP)
    texts = [f"{number}" * 20_000 for number in range(40)]
    futures = [supervisor.submit(Task(f"t{n}", "metadata", {"text": text})) for n, text in enumerate(texts)]
    os.kill(status.pid, signal.SIGCONT)
    assert [confirmed(future).result for future in futures] == [{"text": text} for text in texts]


def test_closing_drains_and_leaves_no_process(supervise: Supervise, tmp_path: Path) -> None:
    supervisor = supervise(settings={"pause_s": 0.05}, batch_max=2)
    status = wait(supervisor, lambda status: status.standby_pid)
    futures = [supervisor.submit(numbered(number)) for number in range(9)]
    supervisor.close(PATIENCE_S)
    assert [future.result(0).task_id for future in futures] == [f"t{number}" for number in range(9)]
    assert supervisor.status().state is WorkerState.DEAD
    assert supervisor.status().deaths == 0
    for pid in (status.pid, status.standby_pid, status.nursery_pid):
        assert pid is not None
        wait_until_gone(pid)
    with pytest.raises(TransportError, match="closed"):
        supervisor.submit(numbered(9))
    supervisor.close()
    assert len(Ledger(tmp_path).entries()) == 9


def test_closing_without_patience_tells_what_was_not_done(supervise: Supervise) -> None:
    supervisor = supervise()
    status = wait(supervisor, lambda status: status.pid)
    assert status.pid is not None
    os.kill(status.pid, signal.SIGSTOP)
    future = supervisor.submit(numbered(1))
    supervisor.close(timeout_s=0.0)
    with pytest.raises(TransportError, match="was closed before it was done"):
        future.result(0)


def test_a_worker_that_is_asked_to_end_hands_over_and_is_no_death(supervise: Supervise, tmp_path: Path) -> None:
    supervisor = supervise(settings={"pause_s": 0.05}, batch_max=1)
    status = wait(supervisor, lambda status: status.standby_pid)
    futures = [supervisor.submit(numbered(number)) for number in range(8)]
    wait(supervisor, lambda status: status.tasks_confirmed >= 2)
    assert status.pid is not None
    os.kill(status.pid, signal.SIGTERM)
    assert [confirmed(future).repeated for future in futures] == [False] * 8
    assert wait(supervisor, lambda now: now.pid == status.standby_pid).deaths == 0


def test_a_future_s_callback_may_submit_the_next_task(supervise: Supervise) -> None:
    supervisor = supervise()
    second: Future[Future[Confirmation]] = Future()
    supervisor.submit(numbered(1)).add_done_callback(lambda _: second.set_result(supervisor.submit(numbered(2))))
    assert confirmed(second.result(PATIENCE_S)).task_id == "t2"


def test_one_directory_has_one_engine(supervise: Supervise) -> None:
    supervise()
    with pytest.raises(TransportError, match="another engine uses it"):
        supervise()
