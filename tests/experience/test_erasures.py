"""Retention leaves nothing that is too old in any file, whatever became of the sweep before."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from share.kernel.errors import BufferProblem
from share.kernel.experience.buffer import ExperienceBuffer
from share.kernel.registry import Registry
from tests.buffer.faults import FaultyDisk
from tests.experience.making import experience, opened

DAY_S = 86400.0
DAYS = 90.0


class Clock:
    now = 1.7e9

    def __call__(self) -> float:
        return self.now


def add(buffer: ExperienceBuffer, clock: Clock, numbers: range) -> None:
    for number in numbers:
        buffer.add(experience(number, question=f"secret-{number:03}", created_at=clock.now))


def on_disk(directory: Path, numbers: range) -> list[int]:
    files = [path.read_bytes() for path in directory.rglob("*") if path.is_file()]
    return [number for number in numbers if any(f"secret-{number:03}".encode() in content for content in files)]


def compactions(buffer: ExperienceBuffer) -> int:
    """One index is built for each, and there are no others here."""
    count = buffer.metrics()["rebuilds"]
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize("ends", [False, True])
def test_what_a_failed_compaction_has_left_goes_with_the_next_sweep(
    tmp_path: Path, registry: Registry, ends: bool
) -> None:
    clock = Clock()
    is_full = [False]

    def fails(operation: str, path: Path) -> BaseException | None:
        is_refused = is_full[0] and operation == "rename" and "log" in path.parts
        return OSError(errno.ENOSPC, "full") if is_refused else None

    disk = FaultyDisk(fails)
    buffer = opened(tmp_path, registry, clock=clock, disk=disk)
    assert buffer.retain(DAYS) == 0
    add(buffer, clock, range(3))
    clock.now += (DAYS + 1) * DAY_S
    add(buffer, clock, range(3, 5))
    is_full[0] = True
    with pytest.raises(BufferProblem):
        buffer.retain(DAYS)
    assert on_disk(tmp_path, range(3)) == [0, 1, 2]
    is_full[0] = False
    if ends:  # as a process that died would
        buffer.close()
        buffer = opened(tmp_path, registry, clock=clock)
    assert buffer.retain(DAYS) == 0, "they were removed before"
    assert on_disk(tmp_path, range(5)) == [3, 4]
    count = compactions(buffer)
    assert buffer.retain(DAYS) == 0
    assert compactions(buffer) == count, "once it is through, nothing is left to do"
    buffer.close()


@pytest.mark.parametrize("ends", [False, True])
def test_what_was_evicted_is_erased_when_it_is_too_old_and_not_before(
    tmp_path: Path, registry: Registry, ends: bool
) -> None:
    clock = Clock()
    buffer = opened(tmp_path, registry, clock=clock, capacity=10)
    buffer.retain(DAYS)
    add(buffer, clock, range(20))
    clock.now += 60 * DAY_S
    add(buffer, clock, range(20, 30))
    if ends:
        buffer.close()
        buffer = opened(tmp_path, registry, clock=clock, capacity=10)
    assert buffer.retain(DAYS) == 0
    assert compactions(buffer) == 0
    clock.now += 40 * DAY_S
    assert buffer.retain(DAYS) == 0, "the living are 40 days old"
    assert on_disk(tmp_path, range(30)) == list(range(20, 30))
    clock.now += 40 * DAY_S
    assert buffer.retain(DAYS) == 0
    assert compactions(buffer) == 1, "nothing that died since is older than the oldest that lived then"
    buffer.close()


def test_a_buffer_of_which_nothing_is_known_is_compacted_once(tmp_path: Path, registry: Registry) -> None:
    clock = Clock()
    buffer = opened(tmp_path, registry, clock=clock)
    add(buffer, clock, range(3))
    buffer.remove(["e0"])
    buffer.close()
    buffer = opened(tmp_path, registry, clock=clock)
    buffer.retain(DAYS)
    assert on_disk(tmp_path, range(3)) == [1, 2]
    buffer.close()
    buffer = opened(tmp_path, registry, clock=clock)
    buffer.retain(DAYS)
    assert compactions(buffer) == 0
    buffer.close()


def test_what_was_old_when_it_was_added_counts_by_its_own_age(tmp_path: Path, registry: Registry) -> None:
    clock = Clock()
    buffer = opened(tmp_path, registry, clock=clock, capacity=2)
    buffer.retain(DAYS)
    then, clock.now = clock.now, clock.now + 80 * DAY_S
    buffer.compact()
    for number in range(3):
        buffer.add(experience(number, question=f"secret-{number:03}", created_at=then if number == 0 else clock.now))
    clock.now += 20 * DAY_S
    assert buffer.retain(DAYS) == 0
    assert on_disk(tmp_path, range(3)) == [1, 2]
    buffer.close()
