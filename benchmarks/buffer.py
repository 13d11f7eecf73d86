"""The experience buffer beside plain files, LMDB and SQLite, in one run: `python -m benchmarks.buffer [--parts …]`.

Search and sampling have commands of their own: benchmarks.buffer_search, benchmarks.buffer_sampling.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import psutil
from tqdm import tqdm

from benchmarks import slow_flushes
from benchmarks.buffer_baselines import BASELINES, baseline_work, lmdb_store, make_experience, rate, zeroed_file
from share.kernel.config import Choice
from share.kernel.contracts.experience import Experience
from share.kernel.experience.buffer import ExperienceBuffer, open_buffer
from share.kernel.experience.codec import encode_experience
from share.kernel.experience.config import ExperienceBufferConfig
from share.kernel.experience.disk import RealDisk, RealFile
from share.kernel.experience.intake import Intake
from share.kernel.experience.producer import ExperienceProducer
from share.kernel.experience.reader import ExperienceReader
from share.kernel.index.built import load_faiss
from share.kernel.registry import load_registry

DIMENSION = 512
STILL_ROWS = 3000
"""Rows of the scan beside the searches: about as long as one of these takes when nothing else runs."""

NEVER = 1 << 40
"""Records after which an index is built, where none shall be."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.buffer", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--directory", type=Path, help="on the disk to measure (default: a temporary one)")
    parser.add_argument("--rows", type=int, help="experiences, where a part takes many (defaults differ)")
    parser.add_argument("--flush-ms", type=float, help="hold up every flush, of all stores, by so much")
    options = parser.parse_args(arguments)
    if options.flush_ms and not slow_flushes.is_on():
        given = sys.argv[1:] if arguments is None else arguments
        return slow_flushes.run_again(options.flush_ms, ["benchmarks.buffer", *given])
    directory = Path(tempfile.mkdtemp(prefix="buffer-", dir=options.directory))
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, {directory}")
    try:
        for part in options.parts:
            place = directory / part
            place.mkdir()
            PARTS[part](place, options.rows)
            shutil.rmtree(place)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def durable_add(directory: Path, rows: int | None) -> None:
    """One producer: the stores take turns record by record, so that all see the same disk."""
    rng = np.random.default_rng(0)
    rounds = rows or 1000
    experiences = [make_experience(rng, number, DIMENSION) for number in range(rounds)]
    content = b"".join(bytes(part) for part in encode_experience(experiences[0], 1.0))
    baselines = {name: make(directory) for name, make in BASELINES.items()}
    times: dict[str, list[float]] = {name: [] for name in (*baselines, "ours")}
    disk = CountingDisk()
    with _buffer(directory / "ours", disk=disk) as buffer:
        buffer.add(make_experience(rng, rounds, DIMENSION))  # the first segment is made by the first add
        before = disk.syncs
        for number, experience in enumerate(tqdm(experiences, desc="durable add", leave=False)):
            stores: list[tuple[str, Callable[[], object]]] = [
                *((name, partial(append, number, content)) for name, append in baselines.items()),
                ("ours", partial(buffer.add, experience)),
            ]
            for turn in range(len(stores)):  # in turn: what one leaves to the disk, another pays for
                name, add = stores[(turn + number) % len(stores)]
                with _timed(times[name]):
                    add()
        syncs = disk.syncs - before
        for experience in experiences[:100]:
            buffer.search_index(experience.embedding, 10)
            buffer.get(experience.id)
            buffer.sample(16)
        read_syncs = disk.syncs - before - syncs
    p50 = {name: float(np.median(values)) for name, values in times.items()}
    print(f"durable add, one producer, {len(content)} bytes, p50 of {rounds} rounds:")
    for name in times:
        print(f"  {name:14}{1e6 * p50[name]:9.0f} us  p99 {1e6 * np.percentile(times[name], 99):9.0f} us")
    for name in baselines:
        print(f"  ours / {name}: {p50['ours'] / p50[name]:.2f}")
    print(f"  syncs for {rounds} adds: {syncs} (a new segment has its own); for 300 reads: {read_syncs}")


def producers(directory: Path, rows: int | None) -> None:
    """Eight processes add through the writer's socket."""
    rng = np.random.default_rng(0)
    content = b"".join(bytes(part) for part in encode_experience(make_experience(rng, 0, DIMENSION), 1.0))
    seconds = 5.0
    raw, lmdb_rates, ours, shared = [], [], [], 0.0
    for repetition in range(3):
        raw.append(rate(baseline_work(zeroed_file, directory, content), 1, seconds))
        lmdb_rates.append(rate(baseline_work(lmdb_store, directory, content), 8, seconds))
        shutil.rmtree(directory / "lmdb")
        place = directory / f"ours-{repetition}"

        def produce(
            index: int, barrier: Barrier, seconds: float, place: Path = place, repetition: int = repetition
        ) -> int:
            generator = np.random.default_rng([repetition, index])
            ready = [make_experience(generator, number, DIMENSION) for number in range(50)]
            with ExperienceProducer(place) as producer:
                barrier.wait()
                deadline = time.perf_counter() + seconds
                number = 0
                while time.perf_counter() < deadline:
                    producer.add(_renamed(ready[number % 50], f"{index}-{number}"))
                    number += 1
            return number

        writer = multiprocessing.get_context("fork").Pipe()
        process = multiprocessing.get_context("fork").Process(target=_write, args=(place, writer[1]))
        process.start()
        writer[0].recv()
        ours.append(rate(produce, 8, seconds))
        writer[0].send("stop")
        shared = writer[0].recv()
        process.join()
        shutil.rmtree(place)
    print(f"durable adds a second, 8 producer processes, median of 3 x {seconds:.0f} s: ours {np.median(ours):.0f}")
    print(f"  one raw producer {np.median(raw):.0f}: ours / raw {np.median(np.array(ours) / raw):.2f}")
    print(f"  LMDB, 8 processes {np.median(lmdb_rates):.0f}: ours / LMDB {np.median(np.array(ours) / lmdb_rates):.1f}")
    print(f"  records a sync: {shared:.2f}")


def fresh(directory: Path, rows: int | None) -> None:
    """Is it found by another process at the acknowledgement?"""
    probes = rows or 10_000
    rng = np.random.default_rng(0)
    here, there = multiprocessing.get_context("fork").Pipe()
    with _buffer(directory / "ours", rebuild_after=2000) as buffer:
        buffer.add(make_experience(rng, 0, DIMENSION, text_bytes=200))
        reader = multiprocessing.get_context("fork").Process(target=_find, args=(directory / "ours", there))
        reader.start()
        here.recv()
        found = 0
        for number in tqdm(range(1, probes + 1), desc="probes", leave=False):
            experience = make_experience(rng, number, DIMENSION, text_bytes=200)
            buffer.add(experience)
            here.send(experience.embedding)
            found += here.recv() == experience.id
        here.send(None)
        reader.join()
        rebuilds = buffer.metrics()["rebuilds"]
    print(
        f"found by another process right after the acknowledgement: {found} of {probes}, {rebuilds} rebuilds meanwhile"
    )


def search_beside_writing(directory: Path, rows: int | None) -> None:
    """Latency of searches in a reader's process: quiet, while adding at full rate, and while an index is built too, in
    the background or because somebody waits for it.

    What is added is like what is there. Adding at full rate for five seconds leaves as much without an index as the
    defaults do (a fifth of the rows), so the first index is built when it would be. The time of the processor is what
    a search has to do; what it takes longer by the clock, others had the processor. A scan of what never changes, in
    the same process, says what of that any search would feel.
    """
    count = rows or 50_000
    rng = np.random.default_rng(0)
    here, there = multiprocessing.get_context("fork").Pipe()
    with _buffer(directory / "ours", rebuild_after=NEVER) as buffer:
        _fill(buffer, rng, count)
        buffer.rebuild()
        reader = multiprocessing.get_context("fork").Process(target=_search, args=(directory / "ours", there))
        reader.start()
        here.recv()
        quiet = [_searched(here, 3.0)]
        stop = threading.Event()
        added = 0
        ready = [make_experience(rng, number, DIMENSION) for number in range(200)]
        vectors = _blobs(rng, 20_000)

        def add() -> None:
            nonlocal added
            while not stop.is_set():
                buffer.add(_renamed(ready[added % 200], f"more-{added}", vectors[added % len(vectors)]))
                added += 1

        adding_thread = threading.Thread(target=add)
        adding_thread.start()
        adding = _searched(here, 5.0)
        buffer.rebuild(wait=False)
        beside = _searched(here, 5.0)
        rebuilding_thread = threading.Thread(target=buffer.rebuild)
        rebuilding_thread.start()
        both = [_searched(here, 1.0)]
        while rebuilding_thread.is_alive():
            both.append(_searched(here, 1.0))
        stop.set()
        adding_thread.join()
        quiet.append(_searched(here, 3.0))
        here.send(None)
        reader.join()
    print(f"search in another process, {count} rows, {added} added meanwhile, ms p50 / p99 (of the processor); beside")
    print(f"it, by turns, FAISS scans {STILL_ROWS} rows that never change: what two cores do to any search")
    base = np.percentile(np.concatenate(quiet), 99, axis=0)
    for name, times in (
        ("quiet", np.concatenate(quiet)),
        ("adding", adding),
        ("adding, and a rebuild in the background", beside),
        ("adding, and a rebuild that is waited for", np.concatenate(both)),
    ):
        p50, p99 = np.percentile(times, [50, 99], axis=0)
        print(f"  {name}, {len(times)} searches:")
        for who, at in (("ours", 0), ("scan", 2)):
            ratio, ratio_cpu = (p99 / base)[at : at + 2]
            print(
                f"    {who} {p50[at]:.3f} / {p99[at]:.3f} ({p50[at + 1]:.3f} / {p99[at + 1]:.3f}): "
                f"p99 {ratio:.2f} ({ratio_cpu:.2f}) times quiet"
            )


def recovery(directory: Path, rows: int | None) -> None:
    """Opening with nothing but a log, then with a snapshot."""
    count = rows or 100_000
    with _buffer(directory / "ours", rebuild_after=NEVER) as buffer:
        _fill(buffer, np.random.default_rng(0), count, text_bytes=3500)
        size = buffer.metrics()["log_bytes"]
    replayed = _in_child(_open_and_search, directory / "ours")
    with _buffer(directory / "ours", rebuild_after=NEVER) as buffer:
        buffer.rebuild()
    opened = _in_child(_open_and_search, directory / "ours")
    print(f"{count} records, {size} bytes of log: opened and searched after {replayed[0]:.2f} s from the log alone,")
    print(f"  {1000 * opened[0]:.0f} ms with snapshot and index; private {opened[1] / 1e9:.2f} GB after 100 searches")


def memory(directory: Path, rows: int | None) -> None:
    """Memory of a writer that opened, searched and sampled: resident, without pages that files share with it."""
    count = rows or 100_000
    for dimension in (512, 3584):
        place = directory / str(dimension)
        with _buffer(place, rebuild_after=NEVER, dimension=dimension) as buffer:
            _fill(buffer, np.random.default_rng(0), count, text_bytes=200, dimension=dimension)
            buffer.rebuild()
        seconds, resident = _in_child(_open_and_search, place)
        print(f"{count} x {dimension}: {resident / 1e9:.2f} GB private, opened in {1000 * seconds:.0f} ms")
        shutil.rmtree(place)


def opening(directory: Path, rows: int | None) -> None:
    """From nothing to the first search with many rows; short texts, or it would measure how fast a log is filled."""
    count = rows or 1_000_000
    with _buffer(directory / "ours", rebuild_after=NEVER, capacity=0) as buffer:
        _fill(buffer, np.random.default_rng(0), count, text_bytes=100)
        started = time.perf_counter()
        buffer.rebuild()
        print(f"{count} rows indexed in {time.perf_counter() - started:.0f} s ({buffer.metrics()['index']})")
    times = [_in_child(_open_and_search, directory / "ours") for _ in range(5)]
    print(f"  opened to the first search: {1000 * float(np.median([each[0] for each in times])):.0f} ms, median of 5")


def amplification(directory: Path, rows: int | None) -> None:
    """Bytes that the writer gives to files, by byte of payload, growing and at capacity with a snapshot now and then.

    Counted where they are written: what Linux accounts to a process counts a page of two megabytes for each byte of it
    that changes. The snapshots are written by the builder's process, and not counted.
    """
    count = rows or 60_000
    content = len(
        b"".join(bytes(part) for part in encode_experience(make_experience(np.random.default_rng(0), 0, 512), 1.0))
    )
    print(f"written by byte of payload ({content} bytes each):")
    for batch in (50, 1):
        number = count if batch > 1 else count // 2
        grown, steady = _written(directory / f"ours-{batch}", number, batch)
        for name, written, added in (("growing", grown, number // 2), ("at capacity", steady, number)):
            shares = (f"{kind} {of / (added * content):.3f}" for kind, of in written.items())
            print(f"  batches of {batch}, {name}: " + ", ".join(shares))


class CountingDisk(RealDisk):
    """The real disk; counts syncs of files, and bytes written by what they are for."""

    def __init__(self) -> None:
        self.syncs = 0
        self.written = {"log": 0, "zeros ahead": 0, "matrix": 0, "other": 0}

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> RealFile:
        flags = os.O_RDWR if write or create else os.O_RDONLY
        descriptor = os.open(path, flags | (os.O_CREAT | os.O_TRUNC if create else 0) | os.O_CLOEXEC, 0o644)
        kind = "zeros ahead" if create else "log"
        if path.parent.name != "log":
            kind = "matrix" if path.name.startswith("vectors") else "other"
        return _CountingFile(descriptor, self, kind)


class _CountingFile(RealFile):
    def __init__(self, descriptor: int, disk: CountingDisk, kind: str) -> None:
        super().__init__(descriptor)
        self._disk = disk
        self._kind = kind

    def pwrite(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        self._disk.written[self._kind] += sum(map(len, parts))
        super().pwrite(parts, offset)

    def sync(self) -> None:
        self._disk.syncs += 1
        super().sync()


def _buffer(
    directory: Path,
    *,
    dimension: int = DIMENSION,
    rebuild_after: int = NEVER,
    capacity: int = 1_000_000,
    disk: RealDisk | None = None,
) -> ExperienceBuffer:
    config = ExperienceBufferConfig(dimension=dimension, rebuild_after=rebuild_after, capacity=capacity)
    return open_buffer(directory, config, load_registry(), disk=disk)


def _fill(
    buffer: ExperienceBuffer,
    rng: np.random.Generator,
    count: int,
    *,
    text_bytes: int = 200,
    dimension: int = DIMENSION,
) -> None:
    """Short texts with the embeddings of `_blobs`."""
    done = 0
    with tqdm(total=count, desc="filling", leave=False) as progress:
        while done < count:
            size = min(1000, count - done)
            vectors = _blobs(rng, size, dimension)
            plain = [make_experience(rng, done + index, 2, text_bytes=text_bytes) for index in range(size)]
            buffer.add_many([_renamed(each, each.id, vector) for each, vector in zip(plain, vectors, strict=True)])
            done += size
            progress.update(size)


def _blobs(rng: np.random.Generator, count: int, dimension: int = DIMENSION) -> np.typing.NDArray[np.float32]:
    """Clustered directions, as embeddings are: 200 blobs in 32 dimensions, turned into `dimension`, and noise."""
    fixed = np.random.default_rng(dimension)
    centers, turn = fixed.standard_normal((200, 32)), fixed.standard_normal((32, dimension))
    latent = centers[rng.integers(0, 200, count)] + 0.3 * rng.standard_normal((count, 32))
    vectors = (latent @ turn / 32**0.5 + 0.05 * rng.standard_normal((count, dimension))).astype(np.float32)
    directions: np.typing.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return directions


def _renamed(experience: Experience, id_: str, embedding: np.typing.NDArray[np.float32] | None = None) -> Experience:
    return Experience(
        id=id_,
        question=experience.question,
        answer=experience.answer,
        embedding=experience.embedding if embedding is None else embedding,
        confidence=experience.confidence,
        created_at=experience.created_at,
        subject=experience.subject,
    )


def _write(directory: Path, connection: Connection) -> None:
    with _buffer(directory) as buffer, Intake(buffer):
        connection.send("ready")
        connection.recv()
        connection.send(buffer.metrics()["records_per_sync"])


def _find(directory: Path, connection: Connection) -> None:
    with ExperienceReader(directory, load_registry()) as reader:
        connection.send("ready")
        while (embedding := connection.recv()) is not None:
            connection.send(reader.search_index(embedding, 1)[0].id)


def _search(directory: Path, connection: Connection) -> None:
    with ExperienceReader(directory, load_registry()) as reader:
        queries = [each.embedding for each, _ in zip(reader, range(500), strict=False)]
        faiss = load_faiss()
        still = faiss.IndexFlatIP(DIMENSION)
        still.add(np.random.default_rng(3).standard_normal((STILL_ROWS, DIMENSION)).astype(np.float32))
        faiss.omp_set_num_threads(1)
        connection.send("ready")
        while (seconds := connection.recv()) is not None:
            times: list[tuple[float, ...]] = []
            deadline = time.perf_counter() + seconds
            while time.perf_counter() < deadline:
                query_D = queries[len(times) % len(queries)]
                ours = _clocked(lambda: reader.search_index(query_D, 10))  # noqa: B023 - called at once
                time.sleep(0.002)
                scan = _clocked(lambda: still.search(query_D[None], 10))  # noqa: B023
                time.sleep(0.002)
                times.append((*ours, *scan))
            connection.send(1000 * np.array(times))


def _clocked(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor."""
    started, started_cpu = time.perf_counter(), time.thread_time()
    call()
    return time.perf_counter() - started, time.thread_time() - started_cpu


def _searched(connection: Connection, seconds: float) -> np.typing.NDArray[np.float64]:
    """Milliseconds of each search, by the clock and of the processor, then the same of a scan; shape (N, 4)."""
    connection.send(seconds)
    return np.asarray(connection.recv())


def _open_and_search(connection: Connection, directory: Path) -> None:
    """In a process of its own: seconds from opening to the first answer, resident bytes after a hundred."""
    dimension = len(next(iter(ExperienceReader(directory, load_registry()))).embedding)
    queries = np.random.default_rng(2).standard_normal((100, dimension)).astype(np.float32)
    registry = load_registry()
    registry.build(Choice("index", "auto"))
    config = ExperienceBufferConfig(dimension=dimension, rebuild_after=NEVER, capacity=None)
    started = time.perf_counter()
    with open_buffer(directory, config, registry) as buffer:
        buffer.search_index(queries[0], 10)
        seconds = time.perf_counter() - started
        for query in queries:
            buffer.search_index(query, 10)
        buffer.sample(256)
        resident = psutil.Process().memory_info()
        connection.send((seconds, resident.rss - getattr(resident, "shared", 0)))


def _written(directory: Path, count: int, batch: int) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes by what they are for: of the first count / 2 experiences, and of `count` more when so many are kept and
    three times as many have been evicted."""
    rng = np.random.default_rng(0)
    ready = [make_experience(rng, number, DIMENSION) for number in range(200)]
    disk = CountingDisk()
    snapshot_every = count // 10
    with _buffer(directory, rebuild_after=NEVER, capacity=count // 2, disk=disk) as buffer:

        def add(first: int, last: int) -> dict[str, int]:
            before = dict(disk.written)
            for number in range(first, last, batch):
                if number % snapshot_every == 0 and number >= count // 2:
                    buffer.save_snapshot()
                buffer.add_many([_renamed(ready[each % 200], str(each)) for each in range(number, number + batch)])
            return {kind: disk.written[kind] - before[kind] for kind in before}

        grown = add(0, count // 2)
        add(count // 2, 2 * count)  # until as many files are there as are ever used again
        return grown, add(2 * count, 3 * count)


def _in_child(work: Callable[..., None], *arguments: object) -> tuple[float, float]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(there, *arguments))
    process.start()
    first, second = here.recv()
    process.join()
    return first, second


@contextmanager
def _timed(times: list[float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    times.append(time.perf_counter() - started)


PARTS: dict[str, Callable[[Path, int | None], None]] = {
    "durable_add": durable_add,
    "producers": producers,
    "fresh": fresh,
    "search_beside_writing": search_beside_writing,
    "recovery": recovery,
    "memory": memory,
    "amplification": amplification,
    "opening": opening,
}

if __name__ == "__main__":
    raise SystemExit(main())
