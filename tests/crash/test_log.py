"""Whatever happens to the power, the disk and the process: a record that was acknowledged is there, and no other."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from random import Random

import pytest

from share.kernel.contracts.experience import RecordType
from share.kernel.errors import BufferUnavailable
from share.kernel.experience.disk import File
from tests.crash.disk import Call, SimulatedDisk
from tests.crash.explore import SUBJECTS, Depth, explore, table
from tests.crash.interposed import Between, Interposed
from tests.crash.log import DIRECTORY, ROOT, file_storage
from tests.crash.workload import Killed


def test_a_log_survives_a_power_cut_at_any_call() -> None:
    explored = explore(SUBJECTS["log"], 1000, depth=Depth(share_of_points=0.3))
    assert explored.of_recovery > 200
    assert {"write", "sync", "link", "sync_directory", "create", "unlink", "rename"} <= set(explored.by_call)
    assert {"append", "truncate", "compact", "kill", "cut", "close", "open"} <= set(explored.by_move)


def test_a_file_made_ahead_never_empties_a_segment_that_still_has_the_temporary_name() -> None:
    """Two writers may have one process id: in containers all have 1. The first died between link and unlink."""
    disk = SimulatedDisk(ROOT)
    disk.make_directory(DIRECTORY)

    def write(payload: bytes, between: Between, *, dies: bool = False) -> None:
        log = file_storage(Random(0)).open(DIRECTORY, Interposed(disk, between), "write")
        with contextlib.suppress(Killed if dies else BufferUnavailable):
            log.append([(RecordType.ADD, [payload])])
            log.close()

    linked: list[Call] = []
    failed: list[Call] = []

    def die_after_the_link(call: Call, perform: Callable[[], object], file: File | None) -> object:
        if linked:
            raise Killed
        if call.name == "link":
            linked.append(call)
        return perform()

    def fail_the_first_unlink(call: Call, perform: Callable[[], object], file: File | None) -> object:
        if call.name == "unlink" and not failed:
            failed.append(call)
            raise OSError(errno.EIO, "bad sector")
        return perform()

    write(b"first", lambda call, perform, file: perform())
    write(b"never acknowledged", die_after_the_link, dies=True)
    assert any(name.endswith(".tmp") for name in disk.names(DIRECTORY / "log"))
    write(b"second", fail_the_first_unlink)
    assert failed
    write(b"third", lambda call, perform, file: perform())
    log = file_storage(Random(0)).open(DIRECTORY, disk, "read")
    found = [bytes(record.payload) for record in log.scan()]
    assert found in ([b"first", b"third"], [b"first", b"second", b"third"])


def test_old_segments_go_only_when_what_follows_them_has_a_durable_name() -> None:
    """A writer that truncates may be killed between the link of the next segment and its sync."""
    disk = SimulatedDisk(ROOT)
    disk.make_directory(DIRECTORY)
    linked: list[Call] = []
    calls: list[Call] = []

    def die_after_the_third_link(call: Call, perform: Callable[[], object], file: File | None) -> object:
        if len(linked) == 3:
            raise Killed
        linked.extend([call] if call.name == "link" else [])
        return perform()

    def note(call: Call, perform: Callable[[], object], file: File | None) -> object:
        calls.append(call)
        return perform()

    log = file_storage(Random(0)).open(DIRECTORY, Interposed(disk, die_after_the_third_link), "write")
    with contextlib.suppress(Killed):
        while True:
            log.append([(RecordType.ADD, [bytes(700)])])
            if len(linked) == 2:
                log.truncate(log.next_sequence)
    assert len(linked) == 3
    file_storage(Random(0)).open(DIRECTORY, Interposed(disk, note), "write")
    names = [call.name for call in calls]
    removed = [number for number, call in enumerate(calls) if call.name == "unlink" and call.path.endswith(".segment")]
    assert removed
    assert "sync_directory" in names[: removed[0]]


@pytest.mark.slow
def test_a_log_survives_a_power_cut_at_any_call_at_length() -> None:
    explored = explore(SUBJECTS["log"], 100_000, seed=1_000_000)
    print(table(explored, 0))
