"""Processes that are killed at any instant, and disks that are full or shut, on the real file system.

A killed process loses nothing that it wrote, so these alone would prove nothing of durability; what they show is that
nothing depends on an orderly end: no lock stays, no half state, no leftover, whoever is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import pickle
import select
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from random import Random
from threading import Thread

import pytest

from share.kernel.errors import BufferFull, BufferProblem, BufferUnavailable, IndexUnavailable
from share.kernel.experience.buffer import ExperienceBuffer, open_buffer
from share.kernel.experience.builder import ProcessBuilder
from share.kernel.experience.disk import RealDisk
from share.kernel.registry import Registry
from tests.crash.buffer import RealWorld, Session, found_in, made
from tests.crash.log import file_storage
from tests.crash.model import BufferModel, BufferState
from tests.crash.test_buffer import STORAGES
from tests.crash.workload import MakeStorage
from tests.experience.making import settings


class ToldModel(BufferModel):
    """Tells its parent what is begun and what was acknowledged, before and after it happens."""

    pipe = -1

    def begin(self, states: Sequence[BufferState], added: Collection[int] = ()) -> None:
        super().begin(states, added)
        _tell(self.pipe, (states, frozenset(added), None))

    def acknowledge(self, state: BufferState) -> None:
        super().acknowledge(state)
        _tell(self.pipe, ((), frozenset(), state))


def _tell(pipe: int, said: object) -> None:
    content = pickle.dumps(said)
    os.write(pipe, len(content).to_bytes(4, "little") + content)


def _heard(pipe: int) -> Iterator[tuple[Sequence[BufferState], frozenset[int], BufferState | None]]:
    with os.fdopen(pipe, "rb") as file:
        while len(head := file.read(4)) == 4:
            content = file.read(int.from_bytes(head, "little"))
            if len(content) < int.from_bytes(head, "little"):
                return
            yield pickle.loads(content)


@pytest.mark.parametrize("kills", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_a_writer_killed_with_its_index_builder_at_work_leaves_all_it_acknowledged(
    kills: int, tmp_path: Path, registry: Registry
) -> None:
    """The builder dies with its writer or finishes what nobody names: the next writer finds all and builds anew."""
    rng = Random(kills)
    directory = tmp_path / "buffer"
    config = settings(registry)
    acknowledged: list[int] = []
    for kill in range(kills):
        receiving, sending = os.pipe()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                builder = ProcessBuilder(directory, config.storage, config.index)
                buffer = open_buffer(directory, config, registry, builder=builder)
                _write_beside_a_builder(buffer, 1000 * kill, sending)
            os._exit(0)
        os.close(sending)
        select.select([receiving], [], [], 60)
        time.sleep(rng.uniform(0.0, 1.2))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the child ended before it was killed"
        with os.fdopen(receiving, "rb") as file:
            acknowledged += [int.from_bytes(word, "little") for word in iter(lambda: file.read(4), b"")]
        builder = ProcessBuilder(directory, config.storage, config.index)
        with open_buffer(directory, config, registry, builder=builder) as buffer:
            found = [item.number for item in found_in(buffer, 0).items]
            assert set(found) - set(acknowledged) <= {max(found)}, "one may be there that was not told"
            assert set(acknowledged) <= set(found)
            acknowledged = found
            if kill == kills - 1:
                buffer.rebuild()
    assert not list(directory.rglob("*.tmp"))


def _write_beside_a_builder(buffer: ExperienceBuffer, number: int, pipe: int) -> None:
    def rebuild() -> None:
        while True:
            buffer.rebuild()

    Thread(target=rebuild, daemon=True).start()
    while True:
        buffer.add(made(number))
        os.write(pipe, number.to_bytes(4, "little"))
        number += 1
        time.sleep(0.002)


def live_and_be_killed(make: MakeStorage, directory: Path, model: BufferModel, number: int, rng: Random) -> int:
    """Let a child work on the buffer until it is killed. The model hears what it was told. Returns the next number."""
    receiving, sending = os.pipe()
    fcntl.fcntl(sending, fcntl.F_SETPIPE_SZ, 1 << 20)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            told = ToldModel()
            told.pipe = sending
            told.states, told.now, told.capacity, told.added = model.states, model.now, model.capacity, model.added
            world = RealWorld(make, rng.randrange(2**32), directory)
            world.model, world.next_number = told, number
            while True:
                [move] = rng.choices(
                    [world.add, world.change, world.rebuild, world.compact, world.close], [9, 6, 2, 1, 1]
                )
                move()
        os._exit(0)
    os.close(sending)
    select.select([receiving], [], [], 60)  # until it has begun, or a busy machine would let it do nothing
    time.sleep(rng.uniform(0.0, 0.15))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child ended before it was killed"
    for states, added, acknowledged in _heard(receiving):
        model.begin(states, added)
        if acknowledged is not None:
            model.acknowledge(acknowledged)
    return max([number, *(each + 1 for each in model.added)])


def kill_often(name: str, directory: Path, kills: int, seed: int) -> None:
    rng, make, model, number = Random(seed), STORAGES[name], BufferModel(), 1
    model.capacity = 12
    for _ in range(kills):
        number = live_and_be_killed(make, directory, model, number, rng)
        session = Session(make(rng), RealDisk(), model.capacity, directory=directory)
        model.adopt(found_in(session.buffer, model.capacity))
        session.close()
    assert number > kills // 4, "nothing was done between the kills"


@pytest.mark.parametrize("name", STORAGES)
def test_a_writer_that_is_killed_leaves_all_it_acknowledged(name: str, tmp_path: Path) -> None:
    kill_often(name, tmp_path / "buffer", 4, 0)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", STORAGES)
def test_a_writer_that_is_killed_leaves_all_it_acknowledged_at_length(name: str, tmp_path: Path) -> None:
    kill_often(name, tmp_path / "buffer", 200, 1)


@pytest.mark.parametrize("kills", [1, pytest.param(60, marks=pytest.mark.slow)])
def test_an_index_builder_that_is_killed_leaves_only_garbage(kills: int, tmp_path: Path, registry: Registry) -> None:
    rng = Random(kills)
    directory = tmp_path / "buffer"
    config = settings(registry)
    builder = ProcessBuilder(directory, config.storage, config.index)
    numbers = list(range(40))
    with open_buffer(directory, config, registry, builder=builder) as buffer:
        buffer.add_many([made(number) for number in numbers])
        for kill in range(kills):
            buffer.add(made(100 + kill))
            numbers.append(100 + kill)
            failed: list[Exception] = []
            thread = Thread(target=_note_failure, args=(buffer.rebuild, failed))
            thread.start()
            while builder.pid is None and thread.is_alive():
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 1.0))
            with contextlib.suppress(ProcessLookupError, TypeError):
                os.kill(builder.pid, signal.SIGKILL)  # type: ignore[arg-type]
            thread.join()
            assert all(isinstance(each, IndexUnavailable) for each in failed)
            assert [item.number for item in found_in(buffer, 0).items] == numbers
        buffer.rebuild()
    assert not list(directory.rglob("*.tmp"))


def _note_failure(call: Callable[[], None], failed: list[Exception]) -> None:
    try:
        call()
    except Exception as error:
        failed.append(error)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1400k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here, so a full disk was NOT tested: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("name", STORAGES)
def test_on_a_full_disk_adding_fails_reading_goes_on_and_space_mends_it(small_disk: Path, name: str) -> None:
    make = STORAGES[name]
    session = Session(make(Random(0)), RealDisk(), 0, directory=small_disk / "buffer")
    session.buffer.add_many([made(number) for number in range(3)])
    with contextlib.suppress(OSError), open(small_disk / "ballast", "wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))
    added = 3

    def add_until_full() -> None:
        nonlocal added
        for _ in range(1000):
            session.buffer.add(made(added))
            added += 1

    with pytest.raises(BufferFull):
        add_until_full()
    assert [item.number for item in found_in(session.buffer, 0).items] == list(range(added))
    (small_disk / "ballast").unlink()
    session.buffer.add(made(10**6))
    session.close()
    session = Session(make(Random(0)), RealDisk(), 0, directory=small_disk / "buffer")
    assert [item.number for item in found_in(session.buffer, 0).items] == [*range(added), 10**6]
    session.close()
    assert list(make(Random(0)).verify(small_disk / "buffer", RealDisk(), progress=lambda done, in_all: None)) == []


def test_a_disk_that_becomes_read_only_refuses_adds_and_is_read(small_disk: Path) -> None:
    session = Session(file_storage(Random(0)), RealDisk(), 0, directory=small_disk / "buffer")
    session.buffer.add(made(0))
    session.close()
    del session  # its mappings of files that were opened to write
    gc.collect()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        with pytest.raises(BufferProblem) as refused:
            Session(file_storage(Random(0)), RealDisk(), 0, directory=small_disk / "buffer")
        assert isinstance(refused.value, BufferUnavailable)
        assert "Read-only" in str(refused.value)
        log = file_storage(Random(0)).open(small_disk / "buffer", RealDisk(), "read")
        assert len(list(log.scan())) >= 1
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    session = Session(file_storage(Random(0)), RealDisk(), 0, directory=small_disk / "buffer")
    session.buffer.add(made(1))
    assert len(session.buffer) == 2
    session.close()
