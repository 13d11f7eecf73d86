"""Storages and indexes of strangers: a distribution adds one of each, and the suite tells those that are none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from share.kernel.buffer.file import FileLog, FileStorage, FileStorageConfig
from share.kernel.contracts.experience import Finding
from share.kernel.experience.disk import Disk
from share.kernel.testing import check_index, check_storage
from tests.kernel.wheels import install

ROOT = Path(__file__).parents[2]

PLUGIN = '''
"""A storage and an index."""
from share.kernel import hookimpl


@hookimpl
def register_buffers(register):
    register("ledger", "strange_memory.ledger:Ledger", summary="Files in a place of their own.")


@hookimpl
def register_indexes(register):
    register("plain", "strange_memory.plain:Plain", summary="Multiplies with everything.")
'''

LEDGER = '''
"""A log in segments of a size that nobody else would choose."""
from share.kernel import ConfigModel
from share.kernel.buffer.file import FileStorage, FileStorageConfig


class LedgerConfig(ConfigModel):
    """A ledger."""

    kilobytes: int = 7
    """How long a segment is."""


class Ledger:
    """Keeps what it is given."""

    def __init__(self, config: LedgerConfig) -> None:
        self._files = FileStorage(FileStorageConfig(segment_bytes=config.kilobytes * 1024))

    def open(self, directory, disk, mode, /, *, salvage=False):
        return self._files.open(directory, disk, mode, salvage=salvage)

    def verify(self, directory, disk, /, *, progress):
        return self._files.verify(directory, disk, progress=progress)
'''

PLAIN = '''
"""Exact search by one multiplication."""
import io
from dataclasses import dataclass

import numpy as np

from share.kernel import ConfigModel
from share.kernel.errors import IndexUnavailable


class PlainConfig(ConfigModel):
    """Nothing to set."""


@dataclass
class Built:
    vectors_ND: np.ndarray
    rows_N: np.ndarray
    is_exact = True

    @property
    def num_rows(self):
        return len(self.rows_N)

    def search(self, query_D, k, /):
        similarities_N = self.vectors_ND @ query_D
        best = np.argsort(-similarities_N, kind="stable")[:k]
        return self.rows_N[best], similarities_N[best]

    def save(self):
        file = io.BytesIO()
        np.savez(file, vectors=self.vectors_ND, rows=self.rows_N)
        return file.getvalue()


class Plain:
    """Compares with everything."""

    def __init__(self, config: PlainConfig) -> None:
        pass

    def build(self, vectors_ND, rows_N, /, *, seed=0):
        return Built(np.asarray(vectors_ND, np.float32), np.asarray(rows_N, np.int64))

    def load(self, content, /):
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as kept:
                return Built(kept["vectors"], kept["rows"])
        except Exception as error:
            raise IndexUnavailable(f"is no plain index: {error}") from error
'''

USE = """
import json, sys
from pathlib import Path
from share.kernel.experience.buffer import open_buffer
from share.kernel.experience.reader import ExperienceReader
from share.kernel.registry import load_registry
from share.kernel.testing import build, check_index, check_storage
from tests.experience.making import experience, settings

place = Path(sys.argv[1])
registry = load_registry()
check_index(build(registry, "index", "plain"))
check_storage(build(registry, "buffer", "ledger"), place / "checked")
config = settings(registry, storage={"name": "ledger", "kilobytes": 5}, index="plain", capacity=50)
with open_buffer(place / "buffer", config, registry) as buffer, ExperienceReader(place / "buffer", registry) as reader:
    buffer.add_many([experience(number, subject=f"s{number % 7}") for number in range(60)])
    buffer.rebuild()  # in a process of its own, which has to find the strangers too
    buffer.add(experience("late"))
    metrics = buffer.metrics()
    found = [
        each.search_index(experience(name).embedding, 1)[0].id for each in (buffer, reader) for name in (30, "late")
    ]
print(json.dumps([metrics["index"], metrics["index_rows"], found]))
"""


def test_a_distribution_adds_a_storage_and_an_index_that_are_held_to_the_suite_and_used(tmp_path: Path) -> None:
    files = {"__init__.py": "", "plugin.py": PLUGIN, "ledger.py": LEDGER, "plain.py": PLAIN}
    site = tmp_path / "site"
    install(
        site,
        "strange-memory",
        {f"strange_memory/{name}": text for name, text in files.items()},
        {"memory": "strange_memory.plugin"},
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}

    def run(*argv: str) -> str:
        done = subprocess.run(
            [sys.executable, *argv], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    index, index_rows, found = json.loads(run("-c", USE, str(tmp_path)))
    assert (index, index_rows, found) == ("plain", 60, ["e30", "elate"] * 2)
    kernel = "-m", "share.kernel"
    rows = json.loads(run(*kernel, "plugins", "--json"))["plugins"]
    mine = {(row["kind"], row["name"], row["state"]) for row in rows if row["distribution"] == "strange-memory"}
    assert mine == {("buffer", "ledger", "ok"), ("index", "plain", "ok")}
    buffer = str(tmp_path / "buffer")
    assert run(*kernel, "buffer", "verify", buffer) == f"{buffer}: sound, nothing wrong was found\n"
    assert json.loads(run(*kernel, "buffer", "stat", buffer, "--json"))["storage"] == "ledger"
    assert json.loads(run(*kernel, "buffer", "erase", buffer, "--subject", "s3", "--json"))["removed"] == 7
    assert len(run(*kernel, "buffer", "dump", buffer).splitlines()) == 50 - 7


class Spoiled(FileStorage):
    """Keeps its records well, but for one thing: `spoil` is given each log that is opened, and with what mode."""

    def __init__(self, spoil: Callable[[FileLog, str], None]) -> None:
        super().__init__(FileStorageConfig(segment_bytes=4096))
        self._spoil = spoil

    def open(self, directory: Path, disk: Disk, mode: Literal["write", "read"], /, *, salvage: bool = False) -> FileLog:
        log = super().open(directory, disk, mode, salvage=salvage)
        self._spoil(log, mode)
        return log


def replaced(name: str, make: Callable[[Any], Callable[..., Any]], mode: str = "") -> Callable[[FileLog, str], None]:
    """The method of that name is `make(method)`, in logs of that mode or in all."""

    def spoil(log: FileLog, opened: str) -> None:
        if mode in ("", opened):
            setattr(log, name, make(getattr(log, name)))

    return spoil


MISTAKES: dict[str, tuple[Callable[[FileLog, str], None], str]] = {
    "gives one location to all": (
        replaced("append", lambda real: lambda records: [real(records)[0]] * len(records) if records else []),
        "every record has a location of its own",
    ),
    "scans from the beginning": (
        replaced("scan", lambda real: lambda after=0, until=None: real(0, until=until)),
        "a scan has after < sequence <= until",
    ),
    "does not see what is appended beside it": (
        replaced("scan", lambda real: lambda after=0, until=None: iter(()), "read"),
        "what was appended is read, in order",
    ),
    "lets a reader append": (
        replaced("append", lambda real: lambda records: [], "read"),
        "a log that is open to read refuses to append",
    ),
    "erases nothing": (replaced("compact", lambda real: lambda is_dead: 0), "the bytes erased are told"),
    "erases what lives": (
        replaced("compact", lambda real: lambda is_dead: real(lambda record: record.sequence in {3, 4, 5, 17, 30, 9})),
        "the bytes erased are told",
    ),
    "truncates too much": (
        replaced("truncate", lambda real: lambda before: real(before + 250)),
        "nothing is before the first",
    ),
    "counts from nought": (
        replaced("append", lambda real: lambda records: [at - 1 for at in real(records)]),
        "what was appended is read",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_storage_that_breaks_the_contract_is_told_how(tmp_path: Path, mistake: str) -> None:
    spoil, message = MISTAKES[mistake]
    with pytest.raises(AssertionError, match=message):
        check_storage(Spoiled(spoil), tmp_path)


def test_a_storage_that_finds_no_damage_or_hides_it_is_told(tmp_path: Path) -> None:
    class Blind(FileStorage):
        def verify(self, directory: Path, disk: Disk, /, *, progress: Callable[[int, int], None]) -> Iterator[Finding]:
            return iter(())

    with pytest.raises(AssertionError, match="verify names the damaged record as lost"):
        check_storage(Blind(FileStorageConfig(segment_bytes=4096)), tmp_path)


class Rows:
    """An exact index over rows, spoiled by what a test passes."""

    def __init__(self, vectors_ND: NDArray[Any], rows_N: NDArray[np.int64], **spoiled: Any) -> None:
        self.vectors_ND, self.rows_N = np.asarray(vectors_ND, np.float32), rows_N
        self.spoiled = spoiled
        self.is_exact = True
        self.num_rows = len(rows_N)

    def search(self, query_D: NDArray[np.float32], k: int, /) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        similarities_N = self.vectors_ND @ query_D
        best = np.argsort(-similarities_N)[: max(1, k - self.spoiled.get("short", 0))]
        best = best[:: self.spoiled.get("step", 1)]
        if "twice" in self.spoiled:
            best = np.repeat(best[: (k + 1) // 2], 2)[:k]
        if "far" in self.spoiled:
            best = np.argsort(-similarities_N)[-k:]
        return self.rows_N[best], similarities_N[best] * self.spoiled.get("scale", 1)

    def save(self) -> bytes:
        return b""


class Spoiling:
    """Builds such; loads anything."""

    def __init__(self, **spoiled: Any) -> None:
        self.spoiled = spoiled
        self.built: Rows | None = None

    def build(self, vectors_ND: NDArray[np.generic], rows_N: NDArray[np.int64], /, *, seed: int = 0) -> Rows:
        self.built = Rows(vectors_ND, rows_N, **self.spoiled)
        return self.built

    def load(self, content: memoryview, /) -> Rows:
        assert self.built is not None
        return self.built


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ({"short": 1}, "there are k rows, so k are returned"),
        ({"twice": True}, "no row is returned twice"),
        ({"step": -1}, "best first"),
        ({"scale": 0.9}, "its similarities are exact"),
        ({"far": True}, "recall@"),
        ({}, "what is not an index must be refused"),
    ],
)
def test_an_index_that_breaks_the_contract_is_told_how(spoiled: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_index(Spoiling(**spoiled))


def test_a_spoiled_storage_that_is_not_spoiled_passes(tmp_path: Path) -> None:
    """What is told above is told of the mistakes."""
    seen: list[str] = []
    check_storage(Spoiled(lambda log, mode: seen.append(mode)), tmp_path)
    assert {"read", "write"} <= set(seen)
