"""What is given up under load, and in which order."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Action
from share.kernel.errors import ServiceFull
from share.kernel.serving.admission import waiting_room
from share.kernel.serving.answering import MEMORY_UNTIL, UPDATES_UNTIL
from share.kernel.serving.batching import BatchingConfig
from share.kernel.serving.gate_log import read_gate_log
from tests.serving.engines import LEARNS_FROM_ALL, PATIENCE_S, Maker, ask

WAITING = 8


class Plug:
    """A listener that keeps the batcher's thread at its first token until it is let go."""

    is_gone = False

    def __init__(self) -> None:
        self.is_reached, self.is_let_go = threading.Event(), threading.Event()

    def wrote(self, text: str, /) -> None:
        self.is_reached.set()
        self.is_let_go.wait(PATIENCE_S)

    def acted(self, action: Action, /) -> None:
        pass


def test_as_shipped_everything_is_given_up_before_anybody_is_turned_away() -> None:
    config = BatchingConfig()
    may_wait = min(config.queue_max, waiting_room(config.rows_max))
    steps = [UPDATES_UNTIL * may_wait, MEMORY_UNTIL * may_wait, may_wait - 1.0]
    assert steps == sorted(steps)
    assert len({int(step) for step in steps}) == 3, "each step is one of its own"
    assert waiting_room(config.rows_max) <= config.queue_max, "places are what is short first, at the door"


def test_learning_goes_first_then_the_memory_then_who_asks(
    make: Maker, tmp_path: Path, questions: list[Prompt]
) -> None:
    parts = make(
        tmp_path,
        learns=True,
        **LEARNS_FROM_ALL,
        # With one thread prompts are made in the order in which they came, so that nobody is overtaken.
        batching={"rows_max": 1, "queue_max": WAITING, "operation_threads": 1},
        transport={"num_slots": 64},  # room for the images of all
    )
    parts.ask(questions[0], "first", client="ann")
    plug = Plug()
    futures = {"plug": parts.engine.submit(ask(questions[0], "plug", client="bob"), plug)}
    assert plug.is_reached.wait(PATIENCE_S), "it is being answered"
    for number in range(3 * WAITING):
        name = f"trace-{number}"
        futures[name] = parts.engine.submit(ask(questions[0], name, client="bob"))
    plug.is_let_go.set()
    problems = {name: future.exception() for name, future in futures.items()}
    answered = [name for name, problem in problems.items() if problem is None]
    assert answered == ["plug", *(f"trace-{number}" for number in range(WAITING))]
    assert all(isinstance(problems[name], ServiceFull) for name in problems.keys() - answered)
    consulted = [name for name in answered if futures[name].result().votes is not None]
    assert consulted == answered[2:], "with 8 and 7 of 8 waiting the policy answered alone"
    assert parts.engine.get_statistics().memory.policy_only == {"busy": 2}
    parts.engine.settle()
    (log,) = (tmp_path / "gate").iterdir()
    learned = [decision.request.request_id for decision in read_gate_log(log)[1]]
    # It is behind the answers that it is decided, when fewer wait: at least of those after which half as many did.
    assert learned == answered[-len(learned) :]
    assert set(answered[5:]) <= set(learned) <= set(consulted)
    assert parts.engine.get_statistics().memory.recorded == len(answered) + 1, "all is recorded"


@pytest.mark.parametrize(("rows_max", "room"), [(1, 8), (4, 8), (32, 16), (64, 32)])
def test_as_many_may_wait_as_are_answered_in_half_the_time_of_an_answer(rows_max: int, room: int) -> None:
    assert waiting_room(rows_max) == room
