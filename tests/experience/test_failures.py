"""A disk that refuses: typed errors, nothing half there, reading goes on, and it works again when the cause is gone."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from share.kernel.contracts.kinds import BuiltIndex
from share.kernel.errors import BufferFull, BufferUnavailable
from share.kernel.experience.disk import RealDisk, RealFile
from share.kernel.experience.reader import ExperienceReader
from share.kernel.index.flat import Flat
from share.kernel.registry import Registry
from tests.experience.making import experience, ids_of, opened

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0


class FailingDisk(RealDisk):
    """Refuses one kind of call on files of a certain name with an error of the operating system."""

    def __init__(self) -> None:
        self.refused: tuple[str, str, int] | None = None  # call, part of "directory/name", number of the error

    def check(self, call: str, path: Path) -> None:
        if (
            self.refused is not None
            and self.refused[0] == call
            and self.refused[1] in f"{path.parent.name}/{path.name}"
        ):
            raise OSError(self.refused[2], os.strerror(self.refused[2]))

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> RealFile:
        if create:
            self.check("create", path)
        flags = os.O_RDWR if write or create else os.O_RDONLY
        descriptor = os.open(path, flags | (os.O_CREAT | os.O_TRUNC if create else 0) | os.O_CLOEXEC, 0o644)
        return FailingFile(descriptor, self, path)

    def link(self, path: Path, name: Path) -> None:
        self.check("link", name)
        super().link(path, name)


class FailingFile(RealFile):
    def __init__(self, descriptor: int, disk: FailingDisk, path: Path) -> None:
        super().__init__(descriptor)
        self._disk = disk
        self._path = path

    def pwrite(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        self._disk.check("pwrite", self._path)
        super().pwrite(parts, offset)

    def begin_sync(self, offset: int, count: int) -> None:
        self._disk.check("begin_sync", self._path)
        super().begin_sync(offset, count)

    def sync(self) -> None:
        self._disk.check("sync", self._path)
        super().sync()


REFUSALS = [
    ("pwrite", "log/", errno.ENOSPC, BufferFull),
    ("pwrite", "log/", errno.EIO, BufferUnavailable),
    ("sync", "log/", errno.EIO, BufferUnavailable),
    ("sync", "log/", errno.EDQUOT, BufferFull),
    ("begin_sync", "log/", errno.EIO, BufferUnavailable),
    ("pwrite", "vectors", errno.ENOSPC, BufferFull),
    ("pwrite", "vectors", errno.EROFS, BufferUnavailable),
]


@pytest.mark.parametrize(
    ("call", "where", "number", "error"),
    REFUSALS,
    ids=[f"{call}-{where[:3]}-{number}" for call, where, number, _ in REFUSALS],
)
def test_a_refused_add_has_not_happened_and_the_next_may(
    tmp_path: Path, registry: Registry, call: str, where: str, number: int, error: type[Exception]
) -> None:
    disk = FailingDisk()
    with opened(tmp_path, registry, disk=disk) as buffer, ExperienceReader(tmp_path, registry) as reader:
        buffer.add_many([experience(1), experience(2)])
        for attempt in range(3):
            disk.refused = call, where, number
            with pytest.raises(error):
                buffer.add(experience(3 + attempt))
            if where == "log/":
                with pytest.raises(error):
                    buffer.remove(["e1"])
                with pytest.raises(error):
                    buffer.record_retrieval(["e1"], True)
            assert len(buffer) == len(reader) == 2 + attempt
            assert buffer.search_index(experience(2).embedding, 1)[0].id == "e2"
            assert reader.get(f"e{3 + attempt}") is None
            disk.refused = None
            buffer.add(experience(3 + attempt))
            assert reader.search_index(experience(3 + attempt).embedding, 1)[0].id == f"e{3 + attempt}"
    with opened(tmp_path, registry) as buffer:
        assert ids_of(buffer) == ["e1", "e2", "e3", "e4", "e5"]
        one = buffer.get("e1")
        assert one is not None
        assert one.retrieval_count == 0


def test_an_index_that_breaks_in_its_own_way_is_tried_again_until_it_works(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = Flat.load
    tried = threading.Event()

    def breaks(self: Flat, content: memoryview) -> BuiltIndex:
        tried.set()
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(Flat, "load", breaks)
    with opened(tmp_path, registry, rebuild_after=3) as buffer:
        for number in range(5):
            buffer.add(experience(number))
        assert tried.wait(PATIENCE_S)
        assert buffer.search_index(experience(4).embedding, 1)[0].id == "e4"
        monkeypatch.setattr(Flat, "load", works)
        deadline = time.monotonic() + PATIENCE_S
        while not buffer.metrics()["rebuilds"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        failed = buffer.metrics()["rebuilds_failed"]
        assert isinstance(failed, int)
        assert failed >= 1


@pytest.mark.parametrize(
    ("call", "where"),
    [("create", "snapshot"), ("sync", "snapshot"), ("sync", "index"), ("sync", "vectors"), ("link", "MANIFEST")],
)
def test_a_rebuild_that_fails_changes_nothing_and_the_next_may(
    tmp_path: Path, registry: Registry, call: str, where: str
) -> None:
    disk = FailingDisk()
    with opened(tmp_path, registry, disk=disk) as buffer:
        buffer.add_many([experience(number) for number in range(20)])
        disk.refused = call, where, errno.ENOSPC
        with pytest.raises(BufferFull):
            buffer.rebuild()
        assert buffer.metrics()["generation"] == 0
        buffer.add(experience(20))
        assert buffer.search_index(experience(20).embedding, 1)[0].id == "e20"
    with opened(tmp_path, registry) as buffer:
        assert len(buffer) == 21
        buffer.rebuild()
        assert buffer.metrics()["generation"] == 1
        buffer.remove(["e3"])
        buffer.rebuild()
    with opened(tmp_path, registry) as buffer:
        assert len(buffer) == 20


READ_ONLY = """
import json, os, sys
from share.kernel.errors import BufferProblem
from share.kernel.experience.reader import ExperienceReader
from share.kernel.registry import load_registry
from tests.experience.making import experience, opened
from pathlib import Path
registry = load_registry()
with opened(Path(sys.argv[2]), registry) as buffer:  # imports what cannot be imported any more by nobody
    buffer.add(experience(1))
    buffer.rebuild()
    ExperienceReader(Path(sys.argv[2]), registry).search_index(experience(1).embedding, 1)
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
directory = Path(sys.argv[1])
try:
    opened(directory, registry)
    refusal = "none"
except BufferProblem as error:
    refusal = f"{type(error).__name__}: {error}"
reader = ExperienceReader(directory, registry)
found = reader.search_index(experience(3).embedding, 1)[0].id
print(json.dumps([refusal, len(reader), found, reader.get("e4").answer]))
"""


def test_without_permission_to_write_it_can_still_be_read(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, registry: Registry
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with opened(tmp_path, registry) as buffer:
        buffer.add_many([experience(number) for number in range(10)])
        buffer.rebuild()
        buffer.add(experience(10))
    for parent in list(tmp_path.parents)[:-2]:
        os.chmod(parent, 0o755)
    for path in [tmp_path, *tmp_path.rglob("*")]:
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    argv = [sys.executable, "-c", READ_ONLY, str(tmp_path), str(elsewhere)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refusal, count, found, answer = json.loads(done.stdout)
    assert refusal.startswith("BufferUnavailable: ")
    assert "cannot be locked for writing: Permission denied" in refusal
    assert (count, found, answer) == (11, "e3", "answer 4")
