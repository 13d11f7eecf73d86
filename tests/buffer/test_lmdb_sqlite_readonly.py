"""Storages without permission to write: what is stored is read all the same, and never beside a writer."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from share.kernel.__main__ import main
from share.kernel.errors import BufferUnavailable
from share.kernel.experience.reader import ExperienceReader
from share.kernel.registry import Registry
from tests.experience.making import experience, opened

STORAGES = ("file", "lmdb", "sqlite")
NOBODY = 65534
COMMANDS = ("stat", "verify", "dump")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that anybody may enter, unlike pytest's own."""
    place = Path(tempfile.mkdtemp(prefix="pixelis-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def make(directory: Path, registry: Registry, storage: str) -> None:
    with opened(directory, registry, storage=storage, index="flat") as buffer:
        buffer.add_many([experience(number) for number in range(20)])
        buffer.rebuild()
        buffer.add(experience("last"))


def as_nobody(work: Callable[[], str]) -> str:
    """What `work` says in a child without any rights; what it imports must be imported before."""
    if os.getuid() != 0:
        pytest.skip("not root, so nobody's rights cannot be taken: reading without permission was NOT tested")
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            said = work()
        except BaseException:
            said = traceback.format_exc()
        os.write(sending, said.encode())
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as file:
        said = file.read()
    os.waitpid(child, 0)
    return said


def ran(directory: Path) -> str:
    """Exit codes of the commands that read, and the lines of the dump."""
    codes, output = [], io.StringIO()
    for command in COMMANDS:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            codes.append(main(["buffer", command, str(directory)]))
    return f"{codes} {len(output.getvalue().splitlines())}"


@pytest.mark.parametrize("storage", STORAGES)
def test_somebody_without_permission_to_write_reads(place: Path, registry: Registry, storage: str) -> None:
    make(place / "buffer", registry, storage)
    shutil.copytree(place / "buffer", place / "own")
    assert ran(place / "own") == "[0, 0, 0] 21"
    before = sorted(place.rglob("*"))
    assert as_nobody(lambda: ran(place / "buffer")) == "[0, 0, 0] 21"
    assert [path for path in sorted(place.rglob("*")) if "own" not in path.parts] == [
        path for path in before if "own" not in path.parts
    ]


@pytest.mark.parametrize("storage", ["lmdb", "sqlite"])
def test_without_locks_nothing_is_read_beside_a_writer(place: Path, registry: Registry, storage: str) -> None:
    directory = place / "buffer"
    make(directory, registry, storage)

    def read() -> str:
        with ExperienceReader(directory, registry) as reader:
            before = len(list(reader))
            os.write(told, b"r")
            os.read(go_on, 1)
            with pytest.raises(BufferUnavailable) as refused:
                list(reader)
            return f"{before} {refused.value}"

    read_told, told = os.pipe()
    go_on, let_go_on = os.pipe()
    writer = os.fork()
    if writer == 0:  # comes when the reader has read, and goes away before it reads again
        os.read(read_told, 1)
        with opened(directory, registry, storage=storage, index="flat") as buffer:
            buffer.add(experience("more"))
        os.write(let_go_on, b"g")
        os._exit(0)
    said = as_nobody(read)
    os.waitpid(writer, 0)
    assert said.startswith("21 ")
    assert "open it again" in said


@pytest.mark.parametrize(
    ("storage", "expected"), [("file", "20 read"), ("lmdb", "when nobody writes"), ("sqlite", "20 read")]
)
def test_beside_a_living_writer_only_what_has_locks_that_can_be_read_is_read(
    place: Path, registry: Registry, storage: str, expected: str
) -> None:
    directory = place / "buffer"
    make(place / "other", registry, storage)
    assert ran(place / "other") == "[0, 0, 0] 21", "all is imported by now"

    def read() -> str:
        try:
            with ExperienceReader(directory, registry) as reader:
                return f"{len(list(reader))} read"
        except BufferUnavailable as refused:
            return str(refused)

    opened_already, tell = os.pipe()
    wait, let_go = os.pipe()
    writer = os.fork()
    if writer == 0:
        with opened(directory, registry, storage=storage, index="flat") as buffer:
            buffer.add_many([experience(number) for number in range(20)])
            os.write(tell, b"o")
            os.read(wait, 1)
        os._exit(0)
    os.read(opened_already, 1)
    said = as_nobody(read)
    os.write(let_go, b"g")
    os.waitpid(writer, 0)
    assert expected in said


@pytest.mark.parametrize("storage", STORAGES)
def test_what_a_killed_writer_left_is_read_without_permission(place: Path, registry: Registry, storage: str) -> None:
    writer = os.fork()
    if writer == 0:
        buffer = opened(place / "buffer", registry, storage=storage, index="flat")
        buffer.add_many([experience(number) for number in range(20)])
        os._exit(0)
    os.waitpid(writer, 0)
    shutil.copytree(place / "buffer", place / "own")
    assert ran(place / "own") == "[0, 0, 0] 20"
    assert as_nobody(lambda: ran(place / "buffer")) == "[0, 0, 0] 20"


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("is_full", [False, True], ids=["read-only", "full"])
def test_a_read_only_mount_and_a_full_disk_are_read(
    place: Path, registry: Registry, storage: str, is_full: bool
) -> None:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here, so NEITHER read-only NOR full was tested: {done.stderr.decode()}")
    try:
        writer = os.fork()
        if writer == 0:  # its mappings go with it
            make(place / "buffer", registry, storage)
            os._exit(0)
        os.waitpid(writer, 0)
        if is_full:
            with contextlib.suppress(OSError), open(place / "ballast", "wb", buffering=0) as ballast:
                while ballast.write(bytes(4096)):
                    pass
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        assert ran(place / "buffer") == "[0, 0, 0] 21"
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
