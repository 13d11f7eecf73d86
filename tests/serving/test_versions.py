"""Versions of weights: whole or refused, one live, whoever writes, publishes or is killed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from share.kernel.errors import UnknownVersion, VersionConflict, VersionDamaged
from share.kernel.serving.versions import FROZEN, VersionStore

FACTS = {"accuracy": 0.5, "of": 40}


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(5, 7, generator=generator),
        "b.weight": torch.randn(3, 4, generator=generator).to(torch.bfloat16),
    }


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return VersionStore(tmp_path / "versions")


def test_what_is_read_is_what_was_written(store: VersionStore) -> None:
    written = {
        "whole": torch.randn(3, 4),
        "half": torch.randn(4, 3).to(torch.bfloat16),
        "count": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "turned": torch.randn(6, 5).T,
        "nan": torch.tensor([float("nan"), -0.0]),
    }
    version = store.write(written, FROZEN, FACTS)
    read = store.read(version)
    assert read.keys() == written.keys()
    for name, tensor in written.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name].nan_to_num(5.0), tensor.nan_to_num(5.0))
    manifest = store.manifest(version)
    assert (manifest.parent, manifest.facts) == (FROZEN, FACTS)
    assert store.live() == FROZEN, "writing makes nothing live"


def test_a_name_stands_for_one_content(store: VersionStore) -> None:
    first, second = (store.write(tensors(seed), FROZEN, FACTS) for seed in (1, 2))
    assert [first[:7], second[:7]] == ["v000001", "v000002"]
    assert first[-8:] != second[-8:]
    assert store.newest() == [second, first]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[VersionStore, str]:
    store = VersionStore(tmp_path_factory.mktemp("versions"))
    return store, store.write(tensors(1), FROZEN, FACTS)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_that_is_not_as_it_was_written_is_refused_whole(
    built: tuple[VersionStore, str], data: st.DataObject
) -> None:
    """Torn off, a bit turned, or longer than it was: any file, anywhere."""
    store, version = built
    path = store.directory / version / data.draw(st.sampled_from(["weights.safetensors", "manifest.json"]))
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    damage = data.draw(st.sampled_from(["torn", "turned", "longer"]))
    damaged = {
        "torn": content[:place],
        "turned": content[:place]
        + bytes([content[place] ^ (1 << data.draw(st.integers(0, 7)))])
        + content[place + 1 :],
        "longer": content + bytes(1 + place),
    }[damage]
    try:
        path.write_bytes(damaged)
        with pytest.raises(VersionDamaged):
            store.read(version)
        with pytest.raises(VersionDamaged):
            store.publish(FROZEN, version)
        assert store.live() == FROZEN
    finally:
        path.write_bytes(content)
    assert equal(store.read(version), tensors(1))


def test_a_file_that_is_missing_or_another_versions_is_refused(store: VersionStore) -> None:
    first, second = (store.write(tensors(seed), FROZEN, FACTS) for seed in (1, 2))
    for name in ("weights.safetensors", "manifest.json"):
        path, other = store.directory / first / name, store.directory / second / name
        content = path.read_bytes()
        path.write_bytes(other.read_bytes())
        with pytest.raises(VersionDamaged):
            store.read(first)
        path.unlink()
        with pytest.raises(VersionDamaged):
            store.read(first)
        path.write_bytes(content)
    assert equal(store.read(first), tensors(1))


@pytest.mark.parametrize("name", ["v000009-00000000", "../versions", "", FROZEN, "live"])
def test_what_was_never_written_is_unknown(store: VersionStore, name: str) -> None:
    with pytest.raises(UnknownVersion):
        store.read(name)


def test_only_who_knows_what_is_live_replaces_it(store: VersionStore) -> None:
    first, second = (store.write(tensors(seed), FROZEN, FACTS) for seed in (1, 2))
    store.publish(FROZEN, first)
    with pytest.raises(VersionConflict, match=first):
        store.publish(FROZEN, second)
    assert store.live() == first
    store.publish(first, second)
    store.publish(second, FROZEN)
    assert store.live() == FROZEN
    assert store.published() == [second, first]


def test_of_many_who_replace_the_same_version_one_does(store: VersionStore) -> None:
    candidates = [store.write(tensors(seed), FROZEN, FACTS) for seed in range(8)]
    outcomes: dict[str, str] = {}
    together = threading.Barrier(len(candidates))

    def publish(version: str) -> None:
        together.wait()
        try:
            VersionStore(store.directory).publish(FROZEN, version)
            outcomes[version] = "live"
        except VersionConflict:
            outcomes[version] = "conflict"

    threads = [threading.Thread(target=publish, args=(version,)) for version in candidates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes.values()) == ["conflict"] * 7 + ["live"]
    assert outcomes[store.live()] == "live"


def test_a_damaged_pointer_is_said_and_not_guessed(store: VersionStore) -> None:
    version = store.write(tensors(1), FROZEN, FACTS)
    store.publish(FROZEN, version)
    path = store.directory / "live"
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place])
        with pytest.raises(VersionDamaged, match="remove it"):
            store.live()
    path.write_bytes(content.replace(b"v000001", b"v000002"))
    with pytest.raises(VersionDamaged):
        store.publish(version, FROZEN)
    path.unlink()
    assert store.live() == FROZEN


def test_what_is_needed_stays_when_the_rest_is_removed(tmp_path: Path) -> None:
    store = VersionStore(tmp_path, keep=2)
    names = [store.write(tensors(seed), FROZEN, FACTS) for seed in range(9)]
    before = FROZEN
    for version in names[:5]:
        store.publish(before, version)
        before = version
    store.publish(names[4], names[3])  # rolled back
    assert set(store.prune()) == {*names[:3], names[5], names[6]}
    assert store.newest() == [names[8], names[7], names[4], names[3]]
    assert store.prune() == []
    assert equal(store.read(store.live()), tensors(3))
    assert int(store.write(tensors(9), FROZEN, FACTS)[1:7]) == 10, "a number is not given twice"


def test_a_publisher_who_is_killed_leaves_the_old_or_the_new(store: VersionStore) -> None:
    """Forty publishers, each killed at a random instant of writing and publishing; the next one goes on."""
    rng = random.Random(0)
    seen = {FROZEN}
    for attempt in range(40):
        before = store.live()
        child = in_a_child(lambda attempt=attempt: publish_for_ever(store.directory, attempt))
        time.sleep(rng.uniform(0.0, 0.08))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        live = store.live()
        if live != FROZEN:
            assert equal(store.read(live), tensors(int(store.manifest(live).facts["seed"])))  # type: ignore[arg-type]
        for version in store.newest():
            assert store.read(version), "what has a name is whole"
        assert before == FROZEN or live != FROZEN
        seen.add(live)
        store.prune()
        hidden = [path.name for path in store.directory.iterdir() if path.name.startswith(".writing")]
        assert not hidden, "leftovers of the dead are removed"
        assert len(store.newest()) <= 2 * store.keep + 1
    assert len(seen) > 5, "some of them got as far as publishing"


def test_what_a_living_process_is_writing_is_no_leftover(store: VersionStore) -> None:
    with store._writing() as temporary:
        store.prune()
        assert temporary.is_dir()


def in_a_child(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    return child


def publish_for_ever(directory: Path, attempt: int) -> None:
    store = VersionStore(directory)
    for number in range(10_000):
        seed = 1000 * attempt + number
        live = store.live()
        store.publish(live, store.write(tensors(seed), live, {"seed": seed}))
