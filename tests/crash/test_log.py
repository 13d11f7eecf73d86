"""Whatever happens to the power, the disk and the process: a record that was acknowledged is there, and no other."""

from __future__ import annotations

import pytest

from tests.crash.explore import SUBJECTS, explore, table


def test_a_log_survives_a_power_cut_at_any_call() -> None:
    explored = explore(SUBJECTS["log"], 2000)
    assert explored.of_recovery > 200
    assert {"write", "sync", "link", "sync_directory", "create", "unlink", "rename"} <= set(explored.by_call)
    assert {"append", "truncate", "compact", "kill", "cut", "close", "open"} <= set(explored.by_move)


@pytest.mark.slow
def test_a_log_survives_a_power_cut_at_any_call_at_length() -> None:
    explored = explore(SUBJECTS["log"], 100_000, seed=1_000_000)
    print(table(explored, 0))
