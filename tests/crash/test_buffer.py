"""Whatever happens to the power, the disk and the process: the buffer holds what was acknowledged, and finds it."""

from __future__ import annotations

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from share.kernel.buffer.lmdb import LmdbStorage, LmdbStorageConfig
from share.kernel.buffer.sqlite import SqliteStorage, SqliteStorageConfig
from share.kernel.contracts.kinds import Storage
from tests.crash.buffer import RealWorld
from tests.crash.explore import SUBJECTS, Depth, explore, table
from tests.crash.log import MakeStorage, file_storage


def lmdb_storage(random: Random) -> Storage:
    return LmdbStorage(LmdbStorageConfig())


def sqlite_storage(random: Random) -> Storage:
    return SqliteStorage(SqliteStorageConfig())


def test_a_buffer_survives_a_power_cut_at_any_call() -> None:
    explored = explore(SUBJECTS["buffer"], 500, depth=Depth(images=2, images_of_recovery=2, share_of_recoveries=0.01))
    assert {"write", "sync", "link", "sync_directory", "create", "unlink", "rename"} <= set(explored.by_call)
    assert {"add", "remove", "snapshot", "compact", "cut", "close", "open"} <= set(explored.by_move)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_buffer_survives_a_power_cut_at_any_call_at_length() -> None:
    print(table(explore(SUBJECTS["buffer"], 20_000, seed=1_000_000), 0))


class Machine(RuleBasedStateMachine):
    """Any order of moves, on real files, against the plain model."""

    storage: MakeStorage = staticmethod(file_storage)

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.place = TemporaryDirectory()
        self.world = RealWorld(self.storage, seed, Path(self.place.name) / "buffer")

    @rule()
    def add(self) -> None:
        self.world.add()

    @rule()
    def change(self) -> None:
        self.world.change()

    @rule()
    def rebuild(self) -> None:
        self.world.rebuild()

    @rule()
    def compact(self) -> None:
        self.world.compact()

    @rule()
    def change_capacity(self) -> None:
        self.world.change_capacity()

    @rule()
    def reopen(self) -> None:
        self.world.close()

    @rule()
    def crash(self) -> None:
        self.world.kill()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()
            self.place.cleanup()


class LmdbMachine(Machine):
    storage = staticmethod(lmdb_storage)


class SqliteMachine(Machine):
    storage = staticmethod(sqlite_storage)


@pytest.mark.parametrize("machine", [Machine, LmdbMachine, SqliteMachine])
def test_any_order_of_moves_gives_what_the_model_says(machine: type[Machine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=8,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
