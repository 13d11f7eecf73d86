"""The worker's state: what ends draining and suspension, and what does not."""

from __future__ import annotations

import pytest

from share.kernel.events import StructuredLogger
from share.kernel.transport.state import State, WorkerState


@pytest.fixture
def state() -> State:
    return State(2, 60.0, "v7", StructuredLogger(None, run_id="test", backend="transport"))


def test_suspension_is_ended_by_hand_and_not_by_what_a_worker_goes_through(state: State) -> None:
    state.record_death("it was killed by SIGSEGV", 1, now=10.0)
    assert not state.is_suspended
    state.record_death("it was killed by SIGKILL", 2, now=11.0)
    for value in (WorkerState.READY, WorkerState.UPDATING, WorkerState.DEAD):
        state.become(value)
        assert state.value is WorkerState.SUSPENDED
    assert (state.num_deaths, state.last_death) == (2, "it was killed by SIGKILL")
    assert state.start_at > 11.0
    state.resume(2, has_worker=False)
    assert (state.value, state.is_suspended, state.start_at) == (WorkerState.RESTARTING, False, 0.0)
    state.become(WorkerState.READY)
    assert state.value is WorkerState.READY


def test_draining_lasts_until_the_end(state: State) -> None:
    state.become(WorkerState.DRAINING)
    state.become(WorkerState.UPDATING)
    for now in (10.0, 11.0):
        state.record_death("it was killed by SIGKILL", 1, now)
    state.resume(1, has_worker=True)
    assert (state.value, state.is_suspended) == (WorkerState.DRAINING, True)
    state.end()
    assert state.value is WorkerState.DEAD


def test_a_task_that_was_done_has_the_next_death_replaced_at_once(state: State) -> None:
    state.record_death("it was killed by SIGKILL", 1, now=10.0)
    state.confirm("v8")
    state.record_death("it was killed by SIGKILL", 2, now=100.0)
    assert (state.version, state.num_confirmed, state.start_at) == ("v8", 1, 100.0)


def test_resuming_what_is_not_suspended_changes_nothing(state: State) -> None:
    state.record_death("it was killed by SIGKILL", 1, now=10.0)
    state.resume(1, has_worker=True)
    assert (state.value, state.start_at) == (WorkerState.STARTING, 10.0)
