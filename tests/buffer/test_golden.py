"""Whole buffers as version 1 of the format left them, one of each storage, are read by whatever comes later.

`python -m tests.buffer.test_golden` writes them anew: only together with a new version in docs/formats/buffer.md, and
beside the old ones, which stay readable.
"""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from share.kernel.config import Choice
from share.kernel.contracts.experience import Experience, Status
from share.kernel.contracts.kinds import Storage
from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.experience.buffer import ExperienceBuffer
from share.kernel.experience.disk import RealDisk
from share.kernel.experience.inspection import inspect
from share.kernel.experience.reader import ExperienceReader
from share.kernel.registry import Registry, load_registry
from tests.experience.making import DIMENSION, experience, opened

GOLDEN = Path(__file__).parent.parent / "golden"
STORAGES = ("file", "lmdb", "sqlite")
MADE_ANEW = ("LOCK", "live", "lock.mdb")


def rich() -> Experience:
    return experience(
        "rich",
        trajectory=Trajectory("p", (Action("operation", "<call>", "ZOOM_IN", {"bbox": [1, 2, 3, 4]}),), "7", "answer"),
        features={"visual": np.arange(6, dtype=np.float16).reshape(2, 3)},
        reward=-0.25,
        reward_components={"task": 1.0, "coherence": None},
        policy_version="step-40",
        subject="person-9",
        metadata={"camera": "north", "tags": ["ä", None, 1.5]},
    )


def make(directory: Path, registry: Registry, storage: str) -> None:
    """A buffer with every type of record, an index, a snapshot, and records that these do not cover."""
    settings = {"name": storage, "segment_bytes": 4096} if storage == "file" else {"name": storage}
    with opened(directory, registry, storage=settings, capacity=20, clock=lambda: 1.7e9) as buffer:
        buffer.add_many([experience(number, priority=number / 16) for number in range(1, 26)])  # five are evicted
        buffer.add(rich())
        buffer.remove(["e9", "e10"])
        buffer.update_priorities(["e11", "e12"], [0.25, 1.5])
        buffer.compact()
        buffer.record_retrieval(["e13", "e13", "erich"], [True, False, True])
        buffer.update_status(["e14"], Status.APPROVED)
        buffer.add_many([experience("late"), experience("later", subject="person-9")])
        buffer.remove(["e15"])


def state_of(buffer: ExperienceBuffer | ExperienceReader) -> list[tuple[object, ...]]:
    """Everything that is in it; embeddings and features as bytes."""
    fields = [name for name in Experience.__dataclass_fields__ if name not in ("embedding", "features")]
    return [
        (
            *(getattr(each, name) for name in fields),
            each.embedding.tobytes(),
            sorted((name, array.dtype.str, array.shape, array.tobytes()) for name, array in each.features.items()),
        )
        for each in buffer
    ]


@pytest.mark.parametrize("storage", STORAGES)
def test_a_buffer_of_version_1_is_read_whole_and_written_on(tmp_path: Path, registry: Registry, storage: str) -> None:
    with tarfile.open(GOLDEN / f"buffer-1-{storage}.tar.gz") as archive:
        archive.extractall(tmp_path / "golden", filter="data")
    make(tmp_path / "fresh", registry, storage)
    built: Storage = registry.build(Choice("buffer", storage))
    findings = list(inspect(tmp_path / "golden", RealDisk(), built, DIMENSION, lambda done, total: None))
    assert findings == [], "snapshot, vectors, index and manifest are still understood, or they would count as damaged"
    with ExperienceReader(tmp_path / "golden", registry) as reader:
        found = state_of(reader)
    with opened(tmp_path / "fresh", registry, storage=storage, capacity=None) as buffer:
        assert found == state_of(buffer)
        fresh = buffer.metrics()
    with opened(tmp_path / "golden", registry, storage=storage, capacity=None) as buffer:
        metrics = buffer.metrics()
        for name in ("experiences", "capacity", "sequence", "generation", "snapshot_covers", "index"):
            assert metrics[name] == fresh[name], name
        assert buffer.search_index(rich().embedding, 1)[0].id == "erich"
        assert buffer.erase("person-9") == 2
        buffer.add(experience("new"))
        buffer.compact()
        expected = [row for row in found if row[0] not in ("erich", "elater")]
        assert state_of(buffer)[:-1] == expected
    with opened(tmp_path / "golden", registry, storage=storage, capacity=None) as buffer:
        assert state_of(buffer)[:-1] == expected
        assert "enew" in buffer


def _write(storage: str, path: Path) -> None:
    with TemporaryDirectory() as place:
        directory = Path(place) / "buffer"
        make(directory, load_registry(), storage)
        with tarfile.open(path, "w:gz") as archive:
            for each in sorted(directory.rglob("*")):
                if each.is_file() and each.name not in MADE_ANEW:
                    archive.add(each, each.relative_to(directory), filter=_nameless)


def _nameless(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


if __name__ == "__main__":
    for name in STORAGES:
        _write(name, GOLDEN / f"buffer-1-{name}.tar.gz")
        print(GOLDEN / f"buffer-1-{name}.tar.gz", file=sys.stderr)
