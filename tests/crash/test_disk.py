"""The simulated disk loses what a real one may lose, and keeps what a real one keeps."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from share.kernel.experience.disk import Disk, RealDisk, opened, publish
from tests.crash.disk import PowerCut, SimulatedDisk
from tests.crash.faults import FAULTS, FailsAt, Fault
from tests.crash.images import Image
from tests.crash.interposed import Interposed
from tests.crash.nodes import SECTOR

ROOT = Path("/simulated")


def found(disk: SimulatedDisk, count: int = 200, seed: int = 0) -> list[Image]:
    return list(disk.freeze().images(Random(seed), count))


def contents(images: list[Image], name: str) -> set[bytes | None]:
    return {image.contents[image.files[name]] if name in image.files else None for image in images}


def write(disk: Disk, name: str, data: bytes, *, sync: bool = False, root: Path = ROOT) -> None:
    with opened(disk, root / name, create=True) as file:
        file.pwrite([data], 0)
        if sync:
            file.sync()


def test_an_append_without_a_sync_may_be_lost_whole_torn_or_grown_with_zeros() -> None:
    disk = SimulatedDisk(ROOT)
    write(disk, "a", b"old", sync=True)
    disk.sync_directory(ROOT)
    with opened(disk, ROOT / "a", write=True) as file:
        file.pwrite([b"n" * 3 * SECTOR], 3)
    states = contents(found(disk), "a")
    assert None not in states
    assert all(state is not None and state.startswith(b"old") for state in states)
    assert b"old" in states
    assert b"old" + b"n" * 3 * SECTOR in states
    assert b"old" + bytes(3 * SECTOR) in states
    assert any(state is not None and len(state) % SECTOR > 3 and b"\0" not in state for state in states), "torn"
    assert any(state is not None and b"n" in state and b"\0" in state for state in states), "a subset of sectors"


def test_a_synced_write_is_always_there_but_its_name_only_after_the_directory() -> None:
    disk = SimulatedDisk(ROOT)
    write(disk, "a", b"data", sync=True)
    assert contents(found(disk), "a") == {None, b"data"}
    disk.sync_directory(ROOT)
    assert contents(found(disk), "a") == {b"data"}


def test_a_name_may_be_durable_before_the_content() -> None:
    disk = SimulatedDisk(ROOT)
    write(disk, "a", b"data")
    disk.sync_directory(ROOT)
    assert {b"", b"data", bytes(4)} <= contents(found(disk), "a")


def test_a_rename_without_a_sync_of_the_directory_may_vanish() -> None:
    disk = SimulatedDisk(ROOT)
    publish(disk, ROOT / "a", [b"old"])
    write(disk, "b", b"new", sync=True)
    disk.rename(ROOT / "b", ROOT / "a")
    assert contents(found(disk), "a") == {b"old", b"new"}
    disk.sync_directory(ROOT)
    assert contents(found(disk), "a") == {b"new"}
    assert contents(found(disk), "b") == {None}


def test_changes_of_directories_may_be_found_in_any_subset() -> None:
    disk = SimulatedDisk(ROOT)
    write(disk, "a", b"", sync=True)
    disk.sync_directory(ROOT)
    disk.link(ROOT / "a", ROOT / "b")
    disk.unlink(ROOT / "a")
    assert {tuple(image.files) for image in found(disk)} == {("a",), ("a", "b"), ("b",), ()}


def test_a_directory_is_lost_with_all_below_it_until_its_parent_is_synced() -> None:
    disk = SimulatedDisk(ROOT)
    disk.make_directory(ROOT / "x/y")
    write(disk, "x/y/a", b"data", sync=True)
    disk.sync_directory(ROOT / "x/y")
    disk.sync_directory(ROOT / "x")
    assert contents(found(disk), "x/y/a") == {None, b"data"}
    disk.sync_directory(ROOT)
    assert contents(found(disk), "x/y/a") == {b"data"}


def test_resizes_and_holes_are_lost_or_kept_like_writes() -> None:
    disk = SimulatedDisk(ROOT)
    publish(disk, ROOT / "a", [b"0123456789"])
    with opened(disk, ROOT / "a", write=True) as file:
        file.punch(2, 3)
        file.resize(8)
    assert contents(found(disk), "a") == {b"0123456789", b"01\0\0\x0056789", b"01234567", b"01\0\0\x00567"}
    with opened(disk, ROOT / "a", write=True) as file:
        file.sync()
    assert contents(found(disk), "a") == {b"01\0\0\x00567"}


def test_a_hard_link_is_one_file_with_two_names() -> None:
    disk = SimulatedDisk(ROOT)
    publish(disk, ROOT / "a", [b"data"])
    disk.link(ROOT / "a", ROOT / "b")
    disk.sync_directory(ROOT)
    with opened(disk, ROOT / "b", write=True) as file:
        file.pwrite([b"D"], 0)
    again = SimulatedDisk(ROOT, found(disk)[1])
    assert again.open(ROOT / "a").pread(9, 0) == again.open(ROOT / "b").pread(9, 0) == b"Data"


def test_a_mapping_sees_later_writes_and_outlives_the_name() -> None:
    disk = SimulatedDisk(ROOT)
    publish(disk, ROOT / "a", [b"data"])
    view = disk.open(ROOT / "a").map()
    with opened(disk, ROOT / "a", write=True) as file:
        file.pwrite([b"D"], 0)
        file.resize(9)
    disk.unlink(ROOT / "a")
    assert bytes(view) == b"Data"


@pytest.mark.parametrize("is_seen", [True, False])
def test_after_a_failed_sync_a_later_one_that_succeeds_makes_nothing_of_before_durable(is_seen: bool) -> None:
    disk = SimulatedDisk(ROOT)
    publish(disk, ROOT / "a", [b"old"])
    between = FailsAt("sync lost" if is_seen else "sync forgotten", 3, 3)
    with opened(Interposed(disk, between), ROOT / "a", write=True) as file:
        file.pwrite([b"new"], 0)
        with pytest.raises(OSError, match="Input/output error"):
            file.sync()
        file.sync()
        assert file.pread(3, 0) == (b"new" if is_seen else b"old")
        file.pwrite([b"!"], 3)
        file.sync()
    assert {b"old!", b"new!"} <= contents(found(disk), "a")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_hits_the_call_it_is_meant_for(fault: Fault) -> None:
    def work(disk: Disk) -> None:
        publish(disk, ROOT / "a", [b"12345678"])
        disk.names(ROOT)

    counting = Interposed(SimulatedDisk(ROOT), FailsAt(fault, 0, 0))
    work(counting)
    failed = []
    for number in range(1, counting.num_calls + 1):
        disk = SimulatedDisk(ROOT)
        between = FailsAt(fault, number, number)
        with contextlib.suppress(OSError):
            work(Interposed(disk, between))
            assert not between.failed, "an error was raised for what failed"
        failed += [call.name for call in between.failed]
        if fault == "short" and between.failed:
            [name] = disk.names(ROOT)
            assert disk.open(ROOT / name).pread(9, 0) == b"1234"
    assert failed
    if fault == "EIO":
        assert failed == ["create", "write", "sync", "link", "unlink", "sync_directory", "names"]


def test_no_call_gets_through_after_the_power_was_cut() -> None:
    disk = SimulatedDisk(ROOT, crash_after=2)
    with pytest.raises(PowerCut):
        publish(disk, ROOT / "a", [b"data"])
    assert [call.name for call in disk.calls] == ["create", "write"]
    with pytest.raises(PowerCut):
        disk.names(ROOT)


def test_images_are_different_seeded_and_lie_between_the_extremes() -> None:
    disk = SimulatedDisk(ROOT)
    for name in "abc":
        write(disk, name, name.encode() * 1000)
    images = found(disk, 50)
    assert len({image.key() for image in images}) == len(images) == 50
    assert [image.key() for image in images] == [image.key() for image in found(disk, 50)]
    assert images[0].files == {}
    assert [len(images[1].contents[images[1].files[name]]) for name in "abc"] == [1000] * 3
    assert len(list(SimulatedDisk(ROOT, images[1]).freeze().images(Random(0), 9))) == 1, "nothing is pending"


def real(directory: Path) -> tuple[Disk, Path]:
    return RealDisk(), directory


def simulated(_directory: Path) -> tuple[Disk, Path]:
    return SimulatedDisk(ROOT), ROOT


@pytest.mark.parametrize("make", [real, simulated])
def test_both_disks_answer_alike(make: Callable[[Path], tuple[Disk, Path]], tmp_path: Path) -> None:
    disk, root = make(tmp_path)
    disk.make_directory(root / "x/y")
    disk.make_directory(root / "x/y")
    assert disk.names(root / "x") == ["y"]
    assert disk.names(root / "z") == []
    with pytest.raises(FileNotFoundError):
        disk.open(root / "a")
    with pytest.raises(FileNotFoundError):
        disk.unlink(root / "a")
    with pytest.raises(FileNotFoundError):
        disk.rename(root / "a", root / "b")
    with opened(disk, root / "a", create=True) as file:
        assert bytes(file.map()) == b""
        file.pwrite([b"ab", memoryview(b"cd")], 3)
        assert (file.size, file.pread(9, 2), file.pread(9, 99)) == (7, b"\0abcd", b"")
        file.punch(4, 2)
        file.resize(8)
        assert bytes(file.map()) == b"\0\0\0a\0\0d\0"
    with pytest.raises(OSError, match=str(errno.EBADF)), opened(disk, root / "a") as file:
        file.pwrite([b"x"], 0)
    disk.link(root / "a", root / "b")
    with pytest.raises(FileExistsError):
        disk.link(root / "a", root / "b")
    disk.rename(root / "a", root / "b")
    assert disk.names(root) == ["a", "b", "x"], "two names of one file: nothing happens"
    disk.unlink(root / "a")
    with opened(disk, root / "a", create=True) as file:
        file.pwrite([b"new"], 0)
    disk.rename(root / "a", root / "b")
    assert disk.names(root) == ["b", "x"]
    with opened(disk, root / "b", create=True) as file:
        assert file.size == 0
