"""The experience buffer in one process: what it does, and what is there again when it is opened anew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from share.kernel.contracts.experience import Status
from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.errors import BufferUnavailable, ConfigError, ExperienceRefused
from share.kernel.events import StructuredLogger
from share.kernel.experience.buffer import open_buffer
from share.kernel.registry import Registry
from tests.experience.making import DIMENSION, experience, ids_of, opened, settings

STORAGES = ("file", "lmdb", "sqlite")


def test_what_was_added_comes_back_whole(tmp_path: Path, registry: Registry) -> None:
    action = Action("operation", "<tool_call>", operation="ZOOM_IN", arguments={"bbox": [0, 0, 9, 9]}, elapsed_ms=1.5)
    rich = experience(
        1,
        trajectory=Trajectory("p1", (action, Action("answer", "seven")), "seven", "answer"),
        features={"visual": np.arange(6, dtype=np.float16).reshape(2, 3)},
        reward=-0.25,
        reward_components={"task": 0.0, "coherence": None},
        policy_version="v7",
        subject="somebody",
        metadata={"camera": "left", "tags": ["a", "b"]},
    )
    with opened(tmp_path, registry) as buffer:
        assert buffer.add(rich) == 2  # after the record that says the capacity
        assert buffer.add(experience(2)) == 3
    with opened(tmp_path, registry) as buffer:
        found = buffer.get("e1")
        assert found is not None
        for name in ("question", "trajectory", "reward", "reward_components", "policy_version", "subject", "metadata"):
            assert getattr(found, name) == getattr(rich, name)
        assert np.array_equal(found.features["visual"], rich.features["visual"])
        assert np.array_equal(found.embedding, rich.embedding)
        assert found.priority == pytest.approx(0.5 + 0.25)
        assert ids_of(buffer) == ["e1", "e2"]
        assert buffer.get("e3") is None
        assert "e2" in buffer
        assert "e3" not in buffer


def test_the_first_priority_is_weighted_and_clipped(tmp_path: Path, registry: Registry) -> None:
    priority = {"uncertainty": 2.0, "reward": 0.5, "age": 0.1, "priority_min": 0.1, "priority_max": 3.0}
    with opened(tmp_path, registry, priority=priority, clock=lambda: 1.7e9 + 86400.0) as buffer:
        buffer.add(experience(1, confidence=0.75, reward=-2.0))
        buffer.add(experience(2, confidence=0.0, reward=9.0))
        buffer.add(experience(3, confidence=1.0, created_at=1.7e9 + 86400.0))
        buffer.add(experience(4, priority=0.7))
        priorities = [each.priority for each in buffer]
    assert priorities == pytest.approx([0.5 + 1.0 + 0.1, 3.0, 0.1, 0.7])


def test_a_fresh_experience_is_found_at_once_and_a_removed_one_never_again(tmp_path: Path, registry: Registry) -> None:
    with opened(tmp_path, registry) as buffer:
        for number in range(50):
            buffer.add(experience(number))
            assert buffer.search_index(experience(number).embedding, 1)[0].id == f"e{number}"
        buffer.rebuild()
        neighbor = buffer.search_index(experience(7).embedding, 3)[0]
        assert (neighbor.id, neighbor.similarity) == ("e7", pytest.approx(1.0, abs=1e-3))
        assert buffer.search_index(experience(7).embedding, 1, exclude={"e7"})[0].id != "e7"
        assert buffer.remove(["e7", "unknown"]) == 1
        assert "e7" not in [each.id for each in buffer.search_index(experience(7).embedding, 50)]
        assert len(buffer.search_index(experience(7).embedding, 100)) == 49
        assert buffer.remove(["e7"]) == 0
    with opened(tmp_path, registry) as buffer:
        assert len(buffer) == 49
        for unknown in ("e7", "e" * 41, "é" * 1000, "", "e8\0"):
            assert buffer.get(unknown) is None
            assert unknown not in buffer
            assert buffer.remove([unknown]) == buffer.record_retrieval([unknown], succeeded=True) == 0
        assert "e7" not in [each.id for each in buffer.search_index(experience(7).embedding, 50)]
        buffer.add(experience(7))  # a removed id may come back
        assert buffer.search_index(experience(7).embedding, 1)[0].id == "e7"


def test_the_query_needs_a_direction_and_the_right_shape(tmp_path: Path, registry: Registry) -> None:
    with opened(tmp_path, registry) as buffer:
        assert buffer.search_index(experience(1).embedding, 3) == []
        buffer.add(experience(1))
        assert buffer.search_index(5 * experience(1).embedding, 1)[0].similarity == pytest.approx(1.0, abs=1e-3)
        for wrong in (np.zeros(DIMENSION), np.full(DIMENSION, np.nan), np.ones(3)):
            with pytest.raises(ExperienceRefused, match="embedding: has"):
                buffer.search_index(wrong, 1)


def test_the_oldest_are_evicted_like_from_a_deque(tmp_path: Path, registry: Registry) -> None:
    with opened(tmp_path, registry, capacity=5) as buffer:
        for number in range(12):
            buffer.add(experience(number))
        buffer.remove(["e9"])
        buffer.add_many([experience(12), experience(13)])
        assert ids_of(buffer) == ["e8", "e10", "e11", "e12", "e13"]
        assert buffer.get("e7") is None
        assert {each.id for each in buffer.search_index(experience(7).embedding, 20)} == set(ids_of(buffer))
    with opened(tmp_path, registry, capacity=3) as buffer:  # smaller: at once
        assert ids_of(buffer) == ["e11", "e12", "e13"]
    with opened(tmp_path, registry, capacity=None) as buffer:  # as it was
        assert buffer.capacity == 3
    with opened(tmp_path, registry, capacity=100) as buffer:
        buffer.add_many([experience(number) for number in range(20, 30)])
        assert len(buffer) == 13


def test_counts_priorities_and_status_are_durable(tmp_path: Path, registry: Registry) -> None:
    with opened(tmp_path, registry) as buffer:
        buffer.add_many([experience(number) for number in range(4)])
        assert buffer.record_retrieval(["e1", "e1", "e2"], [True, False, True]) == 2
        assert buffer.record_retrieval(["e1"], True) == 1
        assert buffer.update_priorities(["e1", "e3", "gone"], [0.25, 99.0, 1.0]) == 2
        assert buffer.update_status(["e2"], Status.APPROVED) == 1

    def check() -> None:
        one, two, three = (buffer.get(f"e{number}") for number in (1, 2, 3))
        assert one is not None
        assert two is not None
        assert three is not None
        assert (one.retrieval_count, one.success_count, one.priority) == (3, 2, 0.25)
        assert (two.retrieval_count, two.success_count, two.status) == (1, 1, Status.APPROVED)
        assert three.priority == 2.0  # the greatest that the configuration allows

    with opened(tmp_path, registry) as buffer:
        check()
        buffer.save_snapshot()
    with opened(tmp_path, registry) as buffer:
        check()


def test_counts_that_an_experience_brings_along_are_kept(tmp_path: Path, registry: Registry) -> None:
    with opened(tmp_path, registry) as buffer:
        buffer.add_many([experience(1, retrieval_count=7, success_count=4), experience(2)])
        buffer.record_retrieval(["e1"], True)
    with opened(tmp_path, registry) as buffer:
        one = buffer.get("e1")
        assert one is not None
        assert (one.retrieval_count, one.success_count) == (8, 5)
        assert ids_of(buffer) == ["e1", "e2"]


def test_sampling_follows_priority_and_success(tmp_path: Path, registry: Registry) -> None:
    settings_of_priority = {"exponent": 1.0, "importance_exponent": 1.0, "prior_successes": 1.0, "prior_failures": 1.0}
    with opened(tmp_path, registry, priority=settings_of_priority, random=np.random.default_rng(5)) as buffer:
        with pytest.raises(BufferUnavailable, match="is empty"):
            buffer.sample(1)
        buffer.add_many([experience(number, priority=1.0) for number in range(4)])
        buffer.update_priorities(["e1"], [2.0])
        assert buffer.sample(1)
        buffer.record_retrieval(["e2"] * 2, True)  # (2 + 1) / (2 + 2) of its priority instead of 1 / 2
        buffer.remove(["e3"])
        expected = {"e0": 0.5 / 2.25, "e1": 1.0 / 2.25, "e2": 0.75 / 2.25}
        samples = buffer.sample(4000)
    counts = {name: sum(each.experience.id == name for each in samples) for name in expected}
    assert sum(counts.values()) == 4000
    for name, probability in expected.items():
        assert counts[name] == pytest.approx(4000 * probability, rel=0.15)
    for each in samples[:50]:
        assert each.probability == pytest.approx(expected[each.experience.id], rel=1e-5)
        assert each.weight == pytest.approx(expected["e0"] / expected[each.experience.id], rel=1e-4)


def test_an_id_is_taken_once(tmp_path: Path, registry: Registry) -> None:
    with opened(tmp_path, registry) as buffer:
        buffer.add(experience(1))
        sequence = buffer.metrics()["sequence"]
        for refused in ([experience(1)], [experience(2), experience(2)], [experience(3), experience(1)]):
            with pytest.raises(ExperienceRefused, match="already taken"):
                buffer.add_many(refused)
        assert buffer.metrics()["sequence"] == sequence  # all or nothing
        assert ids_of(buffer) == ["e1"]


def test_metrics_are_in_the_log_when_it_opens_after_every_rebuild_and_at_the_end(
    tmp_path: Path, registry: Registry
) -> None:
    logger = StructuredLogger(tmp_path / "events.jsonl", run_id="run", backend="test")
    with opened(tmp_path / "buffer", registry, logger=logger) as buffer:
        buffer.add_many([experience(number) for number in range(3)])
        buffer.rebuild()
        buffer.search_index(experience(1).embedding, 1)
    logger.close()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    told = [event for event in events if event["event"] == "buffer_metrics"]
    assert [(each["experiences"], each["rebuilds"], each["searches"]) for each in told] == [
        (0, 0, 0),
        (3, 1, 0),
        (3, 1, 1),
    ]
    assert told[0]["recovery_s"] > 0


def test_what_cannot_be_stored_is_refused_by_field(tmp_path: Path, registry: Registry) -> None:
    with opened(tmp_path, registry) as buffer:
        with pytest.raises(ExperienceRefused, match="embedding: has shape"):
            buffer.add(experience(1, embedding=np.ones(3, np.float32)))
        with pytest.raises(ExperienceRefused, match="priority: 1 finite numbers are needed, not 2"):
            buffer.update_priorities(["e1"], [1.0, 2.0])
        with pytest.raises(ExperienceRefused, match="ids: is the one text 'e1'"):
            buffer.remove("e1")
        with pytest.raises(ExperienceRefused, match="exclude: is the one text 'e1'"):
            buffer.search_index(experience(1).embedding, 1, exclude="e1")
        with pytest.raises(ExperienceRefused, match="k: -1 is below 0"):
            buffer.search_index(experience(1).embedding, -1)
        with pytest.raises(ExperienceRefused, match="succeeded: 2 values for 1 ids"):
            buffer.record_retrieval(["e1"], [True, False])


@pytest.mark.parametrize("storage", STORAGES)
def test_every_storage_gives_everything_back(tmp_path: Path, registry: Registry, storage: str) -> None:
    with opened(tmp_path, registry, storage=storage, capacity=30) as buffer:
        for number in range(40):
            buffer.add(experience(number, subject="bob" if number % 4 == 0 else None))
        buffer.rebuild()
        buffer.record_retrieval(["e20"], True)
        assert buffer.erase("bob") == 7
        before = [(each.id, each.retrieval_count) for each in buffer]
        buffer.compact()
        assert [(each.id, each.retrieval_count) for each in buffer] == before
        buffer.add(experience(100))
    with opened(tmp_path, registry, storage=storage, capacity=30) as buffer:
        assert [(each.id, each.retrieval_count) for each in buffer] == [*before, ("e100", 0)]
        assert buffer.search_index(experience(21).embedding, 1)[0].id == "e21"


def test_a_buffer_stays_of_one_dimension_and_storage(tmp_path: Path, registry: Registry) -> None:
    opened(tmp_path, registry).close()
    with pytest.raises(ConfigError, match=f"dimension: is {DIMENSION} in .*, not 8"):
        opened(tmp_path, registry, dimension=8)
    with pytest.raises(ConfigError, match=r"storage: is 'file' in .*, not 'sqlite'"):
        opened(tmp_path, registry, storage="sqlite")
    with opened(tmp_path, registry, vectors="float32", index="sketch") as buffer:  # these may change
        assert len(buffer) == 0


def test_after_its_end_a_buffer_says_so(tmp_path: Path, registry: Registry) -> None:
    buffer = opened(tmp_path, registry)
    buffer.add(experience(1))
    buffer.close()
    buffer.close()
    for ask in (lambda: buffer.add(experience(2)), lambda: buffer.get("e1"), lambda: list(buffer), buffer.rebuild):
        with pytest.raises(BufferUnavailable, match="has been closed"):
            ask()


def test_opening_writes_no_record(tmp_path: Path, registry: Registry) -> None:
    with opened(tmp_path, registry) as buffer:
        buffer.add(experience(1))
    for _ in range(3):
        with opened(tmp_path, registry) as buffer:
            assert buffer.metrics()["syncs"] == 0
            assert buffer.metrics()["sequence"] == 3  # capacity, add, close
            assert ids_of(buffer) == ["e1"]


def test_metrics_name_sizes_latencies_and_rebuilds(tmp_path: Path, registry: Registry) -> None:
    with opened(tmp_path, registry) as buffer:
        buffer.add_many([experience(number) for number in range(10)])
        buffer.search_index(experience(1).embedding, 2)
        buffer.rebuild()
        metrics = buffer.metrics()
    assert metrics["experiences"] == 10
    assert (metrics["adds"], metrics["searches"], metrics["syncs"], metrics["rebuilds"]) == (1, 1, 1, 1)
    assert metrics["records_per_sync"] == 11
    assert (metrics["index"], metrics["index_rows"], metrics["snapshot_covers"]) == ("flat", 10, 11)
    for name in ("add_ms_p50", "add_ms_p99", "search_ms_p50", "search_ms_p99", "recovery_s", "rebuild_s", "log_bytes"):
        value = metrics[name]
        assert isinstance(value, int | float)
        assert value > 0


def test_the_builder_process_builds_when_it_is_due(tmp_path: Path, registry: Registry) -> None:
    with open_buffer(tmp_path, settings(registry, rebuild_after=20), registry) as buffer:
        for number in range(30):
            buffer.add(experience(number))
        buffer.rebuild(wait=True)  # also waits for one that is under way
        metrics = buffer.metrics()
        assert metrics["index_rows"] == 30
        assert metrics["rebuilds_failed"] == 0
        assert buffer.search_index(experience(3).embedding, 1)[0].id == "e3"
        buffer.add(experience(100))
    with open_buffer(tmp_path, settings(registry), registry) as buffer:
        assert buffer.metrics()["snapshot_covers"] == metrics["snapshot_covers"]
        assert len(buffer) == 31
        assert buffer.search_index(experience(100).embedding, 1)[0].id == "e100"
