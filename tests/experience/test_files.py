"""What lies in the directory: derived files may be lost or damaged, damage to the log is refused, erased is erased."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from share.kernel.config import Choice
from share.kernel.contracts.experience import Finding
from share.kernel.contracts.kinds import Storage
from share.kernel.errors import BufferCorrupt
from share.kernel.experience.disk import RealDisk
from share.kernel.experience.inspection import inspect
from share.kernel.experience.manifest import newest_manifest
from share.kernel.experience.reader import ExperienceReader
from share.kernel.registry import Registry
from tests.experience.making import DIMENSION, experience, ids_of, opened

DERIVED = ("MANIFEST-", "snapshot-", "vectors-", "index-", "live")


def findings(directory: Path, registry: Registry) -> list[Finding]:
    storage: Storage = registry.build(Choice("buffer", "file"))
    return list(inspect(directory, RealDisk(), storage, DIMENSION, lambda done, total: None))


def newest(directory: Path, prefix: str) -> Path:
    return max(path for path in directory.iterdir() if path.name.startswith(prefix))


def made(directory: Path, registry: Registry) -> list[tuple[str, int]]:
    """A buffer with a past: evictions, a capacity that shrank and grew, removals, counts, three manifests."""
    with opened(directory, registry, capacity=40) as buffer:
        for number in range(60):
            buffer.add(experience(number))
        buffer.rebuild()
        buffer.remove([f"e{number}" for number in range(25, 58, 3)])
    with opened(directory, registry, capacity=20) as buffer:
        buffer.add_many([experience(number) for number in range(100, 110)])
        buffer.rebuild()
    with opened(directory, registry, capacity=200) as buffer:
        buffer.add_many([experience(number, metadata={"filler": "x" * 4000}) for number in range(200, 260)])
        buffer.record_retrieval(["e205", "e109"], [True, False])
        buffer.rebuild()
        buffer.remove(["e200"])
        buffer.add(experience(300))
        return [(each.id, each.retrieval_count) for each in buffer]


def state_of(directory: Path, registry: Registry) -> list[tuple[str, int]]:
    with opened(directory, registry, capacity=None) as buffer:
        state = [(each.id, each.retrieval_count) for each in buffer]
        for id_, _ in state:
            assert buffer.search_index(experience(id_.removeprefix("e")).embedding, 1)[0].id == id_
    return state


@pytest.mark.parametrize("prefix", DERIVED)
def test_a_derived_file_that_is_gone_loses_nothing(tmp_path: Path, registry: Registry, prefix: str) -> None:
    expected = made(tmp_path, registry)
    for path in list(tmp_path.iterdir()):
        if path.name.startswith(prefix) and (prefix != "MANIFEST-" or path == newest(tmp_path, prefix)):
            path.unlink()
    with ExperienceReader(tmp_path, registry) as reader:
        assert [(each.id, each.retrieval_count) for each in reader] == expected
    assert state_of(tmp_path, registry) == expected
    assert state_of(tmp_path, registry) == expected


@pytest.mark.parametrize("prefix", DERIVED[:4])
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "zeros"])
def test_a_derived_file_that_is_damaged_is_found_and_loses_nothing(
    tmp_path: Path, registry: Registry, prefix: str, harm: str
) -> None:
    expected = made(tmp_path, registry)
    assert findings(tmp_path, registry) == []
    path = newest(tmp_path, prefix)
    content = bytearray(path.read_bytes())
    if harm == "flip":
        manifest = newest_manifest(RealDisk(), tmp_path)
        assert manifest is not None
        # In the vectors, one of a row that lives: nothing reads the others.
        at = (manifest.index_rows - 2) * DIMENSION * 2 + 1 if prefix == "vectors-" else 2 * len(content) // 3
        content[at] ^= 0x10
    elif harm == "cut":
        del content[100:]
    elif harm == "empty":
        content.clear()
    else:
        content[:] = bytes(len(content))
    path.write_bytes(content)
    found = findings(tmp_path, registry)
    assert found
    assert {finding.path for finding in found} == {str(path)}
    assert not any(finding.is_loss for finding in found)
    if prefix == "vectors-" and harm in ("flip", "zeros"):  # only `verify` reads every vector
        with opened(tmp_path, registry, capacity=None) as buffer:
            assert [(each.id, each.retrieval_count) for each in buffer] == expected
        return
    with ExperienceReader(tmp_path, registry) as reader:
        assert [(each.id, each.retrieval_count) for each in reader] == expected
    assert state_of(tmp_path, registry) == expected


def test_damage_in_the_middle_of_the_log_is_refused_and_salvaged(tmp_path: Path, registry: Registry) -> None:
    with opened(tmp_path, registry) as buffer:
        for number in range(20):
            buffer.add(experience(number))
    segment = min((tmp_path / "log").iterdir())
    content = bytearray(segment.read_bytes())
    at = content.index(b"question 7")
    content[at] ^= 1
    segment.write_bytes(content)
    (found,) = findings(tmp_path, registry)
    assert found.is_loss
    assert found.path == str(segment)
    with pytest.raises(BufferCorrupt, match=f"{segment}: offset .*--salvage"):
        opened(tmp_path, registry)
    with opened(tmp_path, registry, salvage=True) as buffer:
        assert ids_of(buffer) == [f"e{number}" for number in range(20) if number != 7]
        buffer.add(experience(7))
    assert len(state_of(tmp_path, registry)) == 20
    assert findings(tmp_path, registry) == []


def test_salvaging_brings_back_nobody_who_was_evicted_or_removed(tmp_path: Path, registry: Registry) -> None:
    with opened(tmp_path, registry, capacity=10) as buffer:
        for number in range(20):
            buffer.add(experience(number))
        buffer.remove(["e13"])
        buffer.rebuild()
        buffer.add(experience(20))
    segment = min((tmp_path / "log").iterdir())
    content = bytearray(segment.read_bytes())
    content[content.index(b"question 15")] ^= 1
    segment.write_bytes(content)
    with opened(tmp_path, registry, capacity=10) as buffer:  # the snapshot stands for what it covers
        with pytest.raises(BufferCorrupt, match="--salvage"):
            buffer.get("e15")
        with ExperienceReader(tmp_path, registry) as reader:
            assert len(reader) == 10
    for _ in range(2):
        with opened(tmp_path, registry, capacity=10, salvage=True) as buffer:
            assert ids_of(buffer) == [f"e{number}" for number in range(10, 21) if number not in (13, 15)]
            buffer.rebuild()
    assert findings(tmp_path, registry) == []


def test_a_log_that_ends_before_its_snapshot_has_lost_something(tmp_path: Path, registry: Registry) -> None:
    with opened(tmp_path, registry) as buffer:
        for number in range(20):
            buffer.add(experience(number))
        buffer.rebuild()
        last = buffer.get("e19")
        assert last is not None
    segment = min((tmp_path / "log").iterdir())
    content = bytearray(segment.read_bytes())
    at = content.index(b"question 19")
    content[at - 100 :] = bytes(len(content) - at + 100)
    segment.write_bytes(content)
    with pytest.raises(BufferCorrupt, match="21 were durable when the snapshot was made"):
        opened(tmp_path, registry)
    (loss,) = (each for each in findings(tmp_path, registry) if each.is_loss)
    assert loss.path == str(tmp_path / "log")
    assert "record 21 is damaged or missing" in loss.problem
    with opened(tmp_path, registry, salvage=True) as buffer:
        assert len(buffer) == 19


def test_old_segments_and_files_go_when_nothing_needs_them(tmp_path: Path, registry: Registry) -> None:
    with opened(tmp_path, registry, capacity=20) as buffer:
        for number in range(400):
            buffer.add(experience(number, metadata={"filler": "x" * 2000}))
            if number % 50 == 49:
                buffer.rebuild()
        assert len(list((tmp_path / "log").iterdir())) <= 5  # of 64 KiB each; all that was added has 800 kB
    names = sorted(path.name.partition("-")[0] for path in tmp_path.iterdir())
    assert names == ["LOCK", "MANIFEST", "MANIFEST", "buffer.json", "index", "live", "log", "snapshot", "vectors"]
    assert [id_ for id_, _ in state_of(tmp_path, registry)] == [f"e{number}" for number in range(380, 400)]
    assert findings(tmp_path, registry) == []


@pytest.mark.parametrize("storage", ["file", "lmdb", "sqlite"])
def test_what_was_erased_is_in_no_file(tmp_path: Path, registry: Registry, storage: str) -> None:
    secret = experience(
        "secret-id", subject="jane@example.org", question="my-medical-question", answer="my-answer-text"
    )
    other = experience("other-id", subject="john@example.org", question="a-kept-question")
    traces = {
        "id": b"esecret-id",
        "subject": b"jane@example.org",
        "question": b"my-medical-question",
        "answer": b"my-answer-text",
        "embedding as float32": secret.embedding.tobytes(),
        "embedding as float16": secret.embedding.astype(np.float16).tobytes(),
        "half of it": secret.embedding[: DIMENSION // 2].tobytes(),
    }

    def found() -> set[str]:
        content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert b"a-kept-question" in content
        return {name for name, trace in traces.items() if trace in content}

    with opened(tmp_path, registry, storage=storage) as buffer:
        buffer.add_many([experience(number) for number in range(30)])
        buffer.add(secret)
        buffer.add(other)
        buffer.add_many([experience(number) for number in range(30, 60)])
        buffer.rebuild()
        buffer.save_snapshot()
        buffer.add_many([experience(number, metadata={"filler": "x" * 3000}) for number in range(60, 120)])
        assert found() == set(traces)
        assert buffer.erase("nobody") == 0
        assert buffer.erase("jane@example.org") == 1
        assert buffer.get(secret.id) is None
        assert buffer.compact() > 0
        assert found() == set()
        assert buffer.compact() == 0
        assert len(buffer) == 121
        assert buffer.search_index(other.embedding, 1)[0].id == other.id
        assert buffer.add(experience(500)) > 0
    assert found() == set()
    with opened(tmp_path, registry, storage=storage) as buffer:
        assert len(buffer) == 122
        assert secret.id not in buffer


def test_what_is_too_old_expires(tmp_path: Path, registry: Registry) -> None:
    day = 86400.0
    with opened(tmp_path, registry, clock=lambda: 100 * day) as buffer:
        for number in range(10):
            buffer.add(experience(number, created_at=number * 10 * day, question=f"of-day-{number * 10}"))
        assert buffer.expire(older_than_days=55) == 5
        assert ids_of(buffer) == ["e5", "e6", "e7", "e8", "e9"]
        buffer.compact()
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"of-day-40" not in content
    assert b"of-day-50" in content
