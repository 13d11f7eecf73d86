"""Whatever happens to the power, the disk and the process: the buffer holds what was acknowledged, and finds it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from zlib import crc32

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from share.kernel.buffer.lmdb import LmdbStorage, LmdbStorageConfig
from share.kernel.buffer.sqlite import SqliteStorage, SqliteStorageConfig
from share.kernel.config import Choice
from share.kernel.contracts.kinds import Storage
from share.kernel.errors import BufferUnavailable
from share.kernel.experience.disk import File
from share.kernel.index import auto
from share.kernel.index.ivfpq import ROWS_NEEDED
from share.kernel.registry import Registry
from tests.crash.buffer import BufferCheck, BufferWorld, RealWorld
from tests.crash.disk import Call, SimulatedFile
from tests.crash.explore import SUBJECTS, Depth, explore, table
from tests.crash.log import file_storage
from tests.crash.workload import MakeStorage, Point


def lmdb_storage(random: Random) -> Storage:
    return LmdbStorage(LmdbStorageConfig())


def sqlite_storage(random: Random) -> Storage:
    return SqliteStorage(SqliteStorageConfig())


STORAGES: dict[str, MakeStorage] = {"file": file_storage, "lmdb": lmdb_storage, "sqlite": sqlite_storage}
INDEXES = ("flat", "hnsw", "ivf", "ivfpq", "sketch", "auto")


def test_a_buffer_survives_a_power_cut_at_any_call() -> None:
    depth = Depth(share_of_points=0.2, images=2, images_of_recovery=2, share_of_recoveries=0.01)
    explored = explore(SUBJECTS["buffer"], 500, depth=depth)
    assert {"write", "sync", "link", "sync_directory", "create", "unlink", "rename"} <= set(explored.by_call)
    assert {"add", "remove", "snapshot", "compact", "cut", "close", "open"} <= set(explored.by_move)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_buffer_survives_a_power_cut_at_any_call_at_length() -> None:
    print(table(explore(SUBJECTS["buffer"], 20_000, seed=1_000_000), 0))


@pytest.mark.parametrize("is_seen", [True, False])
def test_vectors_of_which_a_sync_failed_are_not_believed_when_the_next_one_succeeds(is_seen: bool) -> None:
    """The failed one has marked pages clean that are not on the disk, so the next one has nothing to write."""
    failed: list[Call] = []

    def fail(call: Call, perform: Callable[[], object], file: File | None) -> object:
        if call.name != "sync" or not Path(call.path).name.startswith("vectors-"):
            return perform()
        assert isinstance(file, SimulatedFile)
        file.drop_unsynced(is_seen=is_seen)
        failed.append(call)
        raise OSError(errno.EIO, "bad sector", call.path)

    world = BufferWorld(file_storage, 0)
    world.model.capacity = 0
    world.add_numbers(range(1, 9))
    world.buffer.rebuild()
    world.add_numbers(range(9, 12))
    world.writer.fault = fail
    with pytest.raises(BufferUnavailable, match="bad sector"):
        world.buffer.save_snapshot()
    assert failed
    world.writer.fault = None
    world.buffer.save_snapshot()
    point = Point(world.disk.calls[-1], world.disk.freeze(), world.model.copy())
    for image in point.frozen.images(Random(0), 40):
        BufferCheck(file_storage)(image, point, deep=False)


def test_every_storage_and_every_index_is_put_through_the_moves(registry: Registry) -> None:
    assert set(STORAGES) == set(registry.names("buffer"))
    assert set(INDEXES) == set(registry.names("index"))


def run_machine(
    registry: Registry,
    storage: str,
    index: str,
    *,
    examples: int,
    moves: int,
    ballast: int = 0,
    is_repeatable: bool = True,
) -> None:
    """Any order of moves, on real files, against the plain model, which the buffer is held against after each of them.

    Hypothesis leaves out some of the moves for a while, so each order begins with those that matter together.
    `is_repeatable` does the same each time, another for every storage and index.
    """
    built = index, registry.build(Choice("index", index))

    class Machine(RuleBasedStateMachine):
        @initialize(seed=st.integers(0, 2**32))
        def begin(self, seed: int) -> None:
            self.place = TemporaryDirectory()
            self.world = RealWorld(
                STORAGES[storage], seed, Path(self.place.name) / "buffer", index=built, ballast=ballast
            )
            for move in (
                self.add,
                self.rebuild,
                self.change,
                self.add,
                self.crash,
                self.compact,
                self.add,
                self.reopen,
            ):
                move()

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
            if not ballast:  # a small one would throw it out
                self.world.change_capacity()

        @rule()
        def reopen(self) -> None:
            self.world.close()

        @rule()
        def crash(self) -> None:
            self.world.kill()

        @invariant()
        def is_as_the_model_says(self) -> None:
            if hasattr(self, "world"):
                self.world.look()

        def teardown(self) -> None:
            if hasattr(self, "world"):
                self.world.close()
                self.place.cleanup()

    if is_repeatable:
        # By `derandomize` all storages and indexes would be put through the same few orders.
        seed(crc32(f"{storage} {index} {ballast}".encode()))(Machine)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=moves,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("storage", STORAGES)
def test_any_order_of_moves_gives_what_the_model_says(registry: Registry, storage: str, index: str) -> None:
    run_machine(registry, storage, index, examples=6, moves=12)


@pytest.mark.parametrize("index", ["hnsw", "ivf", "ivfpq"])
def test_any_order_of_moves_of_an_index_that_has_enough_to_be_trained(registry: Registry, index: str) -> None:
    run_machine(registry, "file", index, examples=3, moves=10, ballast=ROWS_NEEDED + 100)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("storage", STORAGES)
def test_any_order_of_moves_at_length(
    registry: Registry, storage: str, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_machine(registry, storage, index, examples=60, moves=25, is_repeatable=False)
    monkeypatch.setattr(auto, "FLAT_NUMBERS_MAX", 0)  # so that `auto` has lists, too
    run_machine(registry, storage, index, examples=6, moves=25, ballast=2100)
