"""What is done behind an answer that nobody reviews."""

from __future__ import annotations

from pathlib import Path

import pytest

from share.kernel.contracts.task import Prompt
from tests.serving.engines import LEARNS_FROM_ALL, Maker


@pytest.mark.parametrize(("num_slots", "learned"), [(16, True), (1, False)])
def test_the_gate_is_asked_only_about_what_can_be_sent(
    make: Maker, tmp_path: Path, questions: list[Prompt], num_slots: int, learned: bool
) -> None:
    slot_bytes = -(-questions[0].images[0].nbytes // 8)
    parts = make(
        tmp_path,
        learns=True,
        **LEARNS_FROM_ALL,
        transport={"num_slots": num_slots, "slot_bytes": slot_bytes},
    )
    parts.ask(questions[0], "first", client="ann")
    parts.ask(questions[0], "second", client="bob")
    learning = parts.engine.get_statistics().learning
    assert sum(learning.gate.values()) == learned, "what is let through counts in its limits"
    assert learning.sent == learned
    assert learning.not_sent == ({} if learned else {"full": 1})
