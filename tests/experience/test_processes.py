"""One writer, readers and producers in other processes, and what happens to them when some are killed or stopped."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from share.kernel.errors import BufferFenced, BufferLocked, BufferUnavailable, ExperienceRefused, IndexUnavailable
from share.kernel.experience.buffer import open_buffer
from share.kernel.experience.builder import Patience, ProcessBuilder
from share.kernel.experience.disk import RealDisk, RealFile
from share.kernel.experience.intake import Intake
from share.kernel.experience.producer import ExperienceProducer
from share.kernel.experience.reader import ExperienceReader
from share.kernel.registry import Registry
from tests.experience.children import Child, is_whole
from tests.experience.making import experience, ids_of, opened, settings

PATIENCE_S = 300.0
"""How long a test waits for something that must happen, on a machine that has much else to do."""


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class SlowDisk(RealDisk):
    """Every sync takes a while, as on a disk that is made of something."""

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> RealFile:
        flags = os.O_RDWR if write or create else os.O_RDONLY
        return SlowFile(os.open(path, flags | (os.O_CREAT | os.O_TRUNC if create else 0) | os.O_CLOEXEC, 0o644))


class SlowFile(RealFile):
    def sync(self) -> None:
        time.sleep(0.01)
        super().sync()


def test_threads_share_a_sync(tmp_path: Path, registry: Registry) -> None:
    sequences: list[int] = []
    with opened(tmp_path, registry, disk=SlowDisk()) as buffer:

        def add(thread: int) -> None:
            sequences.extend([buffer.add(experience(f"{thread}-{number}")) for number in range(20)])

        threads = [threading.Thread(target=add, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        metrics = buffer.metrics()
        assert sorted(sequences) == list(range(2, 162))
        assert all(is_whole(each) for each in buffer)
        syncs, largest = metrics["syncs"], metrics["records_per_sync_max"]
        assert isinstance(syncs, int)
        assert isinstance(largest, int)
        assert syncs <= 80
        assert 2 <= largest <= 9  # one of each thread, and the capacity


def test_one_that_is_refused_does_not_hold_up_those_it_shares_a_sync_with(tmp_path: Path, registry: Registry) -> None:
    with opened(tmp_path, registry, disk=SlowDisk()) as buffer:
        refused = []

        def add() -> None:
            for number in range(20):
                try:
                    buffer.add(experience(number))
                except ExperienceRefused:
                    refused.append(number)

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(refused) == sorted([*range(20)] * 3)
        assert sorted(ids_of(buffer)) == sorted(f"e{number}" for number in range(20))


def test_producers_and_readers_of_other_processes(tmp_path: Path, registry: Registry) -> None:
    with opened(tmp_path, registry) as buffer, Intake(buffer):
        buffer.add(experience("first"))
        readers = [Child("read", tmp_path) for _ in range(2)]
        producers = [Child("produce", tmp_path) for _ in range(4)]
        for reader in readers:
            reader.send("watch")
        for number, producer in enumerate(producers):
            producer.send("add", f"p{number}", 100)
        buffer.rebuild()
        sequences = [producer.answer() for producer in producers]
        buffer.rebuild()
        for reader in readers:
            looks, torn, backwards, missing = reader.ask("stop")
            assert looks > 0
            assert (torn, backwards, missing) == (0, 0, 0)
            assert reader.ask("look")[0] == 401
        assert all(each == sorted(each) for each in sequences)
        assert len({sequence for each in sequences for sequence in each}) == 400
        assert set(ids_of(buffer)) == {"efirst"} | {f"ep{p}-{number}" for p in range(4) for number in range(100)}
        for child in [*readers, *producers]:
            child.__exit__()
    with ExperienceReader(tmp_path, registry) as reader:
        assert len(reader) == 401
        assert all(is_whole(each) for each in reader)


def test_what_is_acknowledged_is_found_at_once_by_another_process(tmp_path: Path, registry: Registry) -> None:
    with opened(tmp_path, registry, capacity=150) as buffer, Child("read", tmp_path) as reader:
        for number in range(300):
            buffer.add(experience(number))
            assert reader.ask("probe", number) == [f"e{number}", True]
            if number % 3 == 0:
                buffer.remove([f"e{number}"])
                found, is_kept = reader.ask("probe", number)
                assert found != f"e{number}"
                assert not is_kept
            if number % 100 == 50:
                buffer.rebuild()
            if number == 220:
                buffer.compact()
        assert reader.ask("look")[0] == len(buffer)


def test_a_reader_loads_the_new_index_while_it_reads(tmp_path: Path, registry: Registry) -> None:
    with opened(tmp_path, registry) as buffer, Child("read", tmp_path) as reader:
        buffer.add_many([experience(number) for number in range(50)])
        assert reader.ask("look") == [50, 51, 0]
        for generation in (1, 2, 3):
            buffer.rebuild()
            until(lambda generation=generation: reader.ask("look")[2] == generation)  # type: ignore[misc]
            buffer.remove([f"e{generation}"])
            buffer.add(experience(f"after-{generation}"))
            assert reader.ask("probe", f"after-{generation}") == [f"eafter-{generation}", True]
            assert reader.ask("probe", 30) == ["e30", True]
            assert reader.ask("probe", generation)[1] is False


def test_a_reader_that_slept_through_truncation_and_compaction_wakes_up_right(
    tmp_path: Path, registry: Registry
) -> None:
    with opened(tmp_path, registry, capacity=30) as buffer:
        buffer.add_many([experience(number) for number in range(10)])
        with ExperienceReader(tmp_path, registry) as reader:
            assert len(reader) == 10
            for number in range(10, 300):
                buffer.add(experience(number, metadata={"filler": "x" * 3000}))
                if number % 60 == 0:
                    buffer.rebuild()
            buffer.remove(["e290"])
            buffer.compact()
            assert [each.id for each in reader] == ids_of(buffer)
            assert reader.search_index(experience(280).embedding, 1)[0].id == "e280"
            assert reader.get("e290") is None
            buffer.add(experience(300))
            assert reader.search_index(experience(300).embedding, 1)[0].id == "e300"


def test_a_reader_outlives_its_writer_and_follows_the_next(tmp_path: Path, registry: Registry) -> None:
    with Child("write", tmp_path) as writer:
        assert writer.ask("add", 1) == 2
        with ExperienceReader(tmp_path, registry) as reader:
            assert writer.ask("add", 2) == 3
            assert len(reader) == 2
            writer.process.kill()
            writer.process.wait()
            assert reader.search_index(experience(2).embedding, 1)[0].id == "e2"
            with opened(tmp_path, registry) as buffer:
                buffer.add(experience(3))
                assert [each.id for each in reader] == ["e1", "e2", "e3"]
                buffer.rebuild()
                buffer.add(experience(4))
                assert reader.search_index(experience(4).embedding, 1)[0].id == "e4"


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path, registry: Registry) -> None:
    with Child("write", tmp_path) as writer:
        writer.ask("add", 1)
        with pytest.raises(BufferLocked, match=f"process {writer.process.pid} on .* is writing to it"):
            opened(tmp_path, registry)
        assert writer.ask("add", 2) == 3


def test_a_stopped_writer_that_was_taken_over_never_acknowledges_again(tmp_path: Path, registry: Registry) -> None:
    with Child("write", tmp_path, rebuild_after=5) as writer:
        for number in range(3):
            writer.ask("add", number)
        writer.process.send_signal(signal.SIGSTOP)
        with opened(tmp_path, registry, take_over=True) as buffer, ExperienceReader(tmp_path, registry) as reader:
            assert ids_of(buffer) == ["e0", "e1", "e2"]
            buffer.add(experience("new-1"))
            writer.process.send_signal(signal.SIGCONT)
            for number in range(3, 12):
                kind, text = writer.ask("add", number)
                assert kind == "BufferFenced"
                assert f"process {os.getpid()} on " in text
                buffer.add(experience(f"new-{number}"))
                assert reader.search_index(experience(f"new-{number}").embedding, 1)[0].id == f"enew-{number}"
            buffer.rebuild()
            expected = ["e0", "e1", "e2", "enew-1", *(f"enew-{number}" for number in range(3, 12))]
            assert ids_of(buffer) == [each.id for each in reader] == expected
    with opened(tmp_path, registry) as buffer:
        assert ids_of(buffer) == expected


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path, registry: Registry) -> None:
    acknowledged: list[str] = []
    for life in range(3):
        with Child("write", tmp_path, rebuild_after=10) as writer:
            writer.send("flood", f"life{life}")
            acknowledged += [writer.answer() for _ in range(15 + 10 * life)]
            writer.process.kill()
            assert writer.process.stdout is not None
            rest = writer.process.stdout.read()  # not communicate(): it passes over what was read ahead
            acknowledged += [line.strip('"') for line in rest.split("\n")[:-1]]  # said before it died
        with opened(tmp_path, registry) as buffer:
            ids = ids_of(buffer)
            assert [id_ for id_ in ids if id_ in set(acknowledged)] == acknowledged
            assert len(ids) <= len(acknowledged) + life + 1  # one in each life may have been on its way
            assert all(is_whole(each) for each in buffer)
            assert buffer.search_index(experience(acknowledged[-1][1:]).embedding, 1)[0].id == acknowledged[-1]


def test_a_killed_builder_is_replaced_and_nobody_notices(tmp_path: Path, registry: Registry) -> None:
    config = settings(registry)
    builder = ProcessBuilder(tmp_path, config.storage, config.index)
    with open_buffer(tmp_path, config, registry, builder=builder) as buffer:
        buffer.add_many([experience(number) for number in range(50)])
        for round_ in range(2):
            buffer.rebuild(wait=False)
            until(lambda: builder.pid is not None)
            pid = builder.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            until(lambda round_=round_: buffer.metrics()["rebuilds_failed"] == round_ + 1)  # type: ignore[misc]
            buffer.add(experience(f"meanwhile-{round_}"))
            assert buffer.search_index(experience(7).embedding, 1)[0].id == "e7"
            buffer.rebuild(wait=True)
        assert buffer.metrics()["index_rows"] == 52
    with opened(tmp_path, registry) as buffer:
        assert len(buffer) == 52


def test_a_builder_that_hangs_is_ended_and_named_while_the_old_index_serves(tmp_path: Path, registry: Registry) -> None:
    config = settings(registry)
    builder = ProcessBuilder(tmp_path, config.storage, config.index, Patience(look_s=0.2, looks_max=10))
    with open_buffer(tmp_path, config, registry, builder=builder) as buffer, ThreadPoolExecutor(1) as executor:
        buffer.add_many([experience(number) for number in range(50)])
        buffer.rebuild()
        rebuilding = executor.submit(buffer.rebuild)
        until(lambda: builder.pid is not None)
        pid = builder.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        added = 0
        while not rebuilding.done():
            buffer.add(experience(f"meanwhile-{added}"))
            for number in (7, f"meanwhile-{added}"):
                assert buffer.search_index(experience(number).embedding, 1)[0].id == f"e{number}"
            added += 1
            time.sleep(0.05)
        with pytest.raises(IndexUnavailable, match=f"the index builder, process {pid}, has done nothing for 2 s and"):
            rebuilding.result()
        assert added > 0
        assert not Path(f"/proc/{pid}").exists()
        assert buffer.metrics()["index_rows"] == 50
        buffer.rebuild()
        assert buffer.metrics()["index_rows"] == 50 + added


def test_a_builder_that_takes_without_end_is_ended_and_named(tmp_path: Path, registry: Registry) -> None:
    """One that begins to build is far beyond a second of the processor."""
    config = settings(registry, index="hnsw", dimension=512)
    builder = ProcessBuilder(tmp_path, config.storage, config.index, Patience(cpu_s_min=1, cpu_s_per_number=0.0))
    with open_buffer(tmp_path, config, registry, builder=builder) as buffer:
        vectors_ND = np.random.default_rng(0).standard_normal((4000, 512), np.float32)
        vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        buffer.add_many([experience(number, embedding=vector_D) for number, vector_D in enumerate(vectors_ND)])
        with pytest.raises(IndexUnavailable, match=r"process \d+ had used 1 s of the processor and was ended"):
            buffer.rebuild()
        assert buffer.search_index(vectors_ND[7], 1)[0].id == "e7"


def test_a_builder_dies_with_its_writer(tmp_path: Path, registry: Registry) -> None:
    with Child("write", tmp_path, rebuild_after=10, index="hnsw") as writer:
        writer.send("flood", "x")
        for _ in range(30):
            writer.answer()
        children = Path(f"/proc/{writer.process.pid}/task").glob("*/children")
        builders: set[str] = set()
        deadline = time.monotonic() + PATIENCE_S
        while not builders and time.monotonic() < deadline:
            builders = {pid for path in children for pid in path.read_text().split()}
            children = Path(f"/proc/{writer.process.pid}/task").glob("*/children")
            writer.answer()
        assert builders
        writer.process.kill()
        writer.process.communicate()
        until(lambda: not any(_is_running(pid) for pid in builders))


def test_a_producer_is_told_when_nobody_takes_and_goes_on_with_the_next_writer(
    tmp_path: Path, registry: Registry
) -> None:
    producer = ExperienceProducer(tmp_path)
    with pytest.raises(BufferUnavailable, match=r"no writer takes experiences there .* nothing was added"):
        producer.add(experience(1))
    with opened(tmp_path, registry) as buffer:
        with Intake(buffer):
            assert producer.add(experience(1)) == 2
            assert producer.add_many([experience(2), experience(3, retrieval_count=2, success_count=1)]) == [3, 4]
            with pytest.raises(ExperienceRefused, match="'e1' is already taken"):
                producer.add(experience(1))
            with pytest.raises(ExperienceRefused, match="embedding: has shape"):
                producer.add(experience(4, embedding=experience(4).embedding[:5]))
        with pytest.raises(BufferUnavailable, match="whether it was stored is not known"):
            producer.add(experience(5))
        with Intake(buffer):
            assert producer.add(experience(5)) == 6  # record 5 are the counts that e3 brought along
            three = buffer.get("e3")
            assert three is not None
            assert (three.retrieval_count, three.success_count) == (2, 1)
            with opened(tmp_path, registry, take_over=True) as other:
                with pytest.raises(BufferFenced):
                    producer.add(experience(6))
                with Intake(other):
                    producer.add(experience(6))
                    assert ids_of(other) == ["e1", "e2", "e3", "e5", "e6"]
    producer.close()


def _is_running(pid: str) -> bool:
    try:
        return "builder" in Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
