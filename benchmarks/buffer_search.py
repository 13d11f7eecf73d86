"""k-NN search beside FAISS's flat scan, hnswlib and usearch: one query at a time, one thread, 512 dimensions.

`python -m benchmarks.buffer_search --rows 10000 100000`. Two kinds of data: `blobs`, 200 clusters in a latent space of
32 dimensions with 5 % noise, as embeddings are, and `isotropic`, random directions: the honest worst case, in which
only an exact scan keeps its recall. Queries are not in the index. What is not installed is named and left out. Ours is
the whole search of the buffer: built index, exact ranking from the float16 vectors file, dead rows masked.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from share.kernel.config import Choice
from share.kernel.experience.disk import RealDisk
from share.kernel.experience.retrieval import Retriever
from share.kernel.experience.vectors import Vectors
from share.kernel.registry import load_registry

K = 10
DIMENSION = 512
BLOCK = 20_000
Matrix = NDArray[np.float32]
Search = Callable[[Matrix], NDArray[np.integer]]
Searches = dict[str, tuple[Search, float]]


def data(kind: str, num: int, seed: int = 0) -> Matrix:
    random = np.random.default_rng(seed)
    centers = random.normal(size=(200, 32)).astype(np.float32)
    spread = random.normal(size=(32, DIMENSION)).astype(np.float32)
    vectors = np.empty((num, DIMENSION), np.float32)
    for start in range(0, num, BLOCK):
        count = min(BLOCK, num - start)
        block = random.standard_normal((count, DIMENSION), np.float32)
        if kind == "blobs":
            latent = centers[random.integers(0, 200, count)] + 0.5 * random.standard_normal((count, 32), np.float32)
            signal = latent @ spread
            block = signal / np.linalg.norm(signal, axis=1, keepdims=True) + block * np.float32(0.05 / DIMENSION**0.5)
        vectors[start : start + count] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return vectors


def ours(rows: Matrix, backends: list[str], directory: Path) -> Searches:
    vectors = Vectors(RealDisk(), directory / "vectors", DIMENSION, write=True)
    for start in range(0, len(rows), BLOCK):
        vectors.append(start, rows[start : start + BLOCK])
    alive, registry, searches = np.ones(len(rows), np.uint8), load_registry(), Searches()
    for name in backends:
        started = time.perf_counter()
        index = registry.build(Choice("index", name))
        retriever = Retriever(vectors)
        retriever.set_base(index.build(vectors.stored(0, len(rows)), np.arange(len(rows))), len(rows))
        label = f"ours {name} ({index.chosen.partition(':')[0]})" if name == "auto" else f"ours {name}"

        def search(query: Matrix, retriever: Retriever = retriever) -> NDArray[np.integer]:
            return retriever.search(query, K, alive, 0)[0]

        searches[label] = (search, time.perf_counter() - started)
    return searches


def faiss_flat(rows: Matrix) -> tuple[Search, float]:
    import faiss

    faiss.omp_set_num_threads(1)
    started = time.perf_counter()
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(rows)
    return lambda query: index.search(query[None], K)[1][0], time.perf_counter() - started


def hnswlib_graph(rows: Matrix) -> tuple[Search, float]:
    import hnswlib

    started = time.perf_counter()
    index = hnswlib.Index("ip", DIMENSION)
    index.init_index(len(rows), ef_construction=80, M=16)
    index.set_num_threads(1)
    for start in tqdm(range(0, len(rows), BLOCK), desc="hnswlib", mininterval=5):
        index.add_items(rows[start : start + BLOCK], np.arange(start, min(start + BLOCK, len(rows))))
    index.set_ef(64)
    return lambda query: index.knn_query(query, K)[0][0], time.perf_counter() - started


def usearch_graph(rows: Matrix) -> tuple[Search, float]:
    from usearch.index import Index

    started = time.perf_counter()
    index = Index(ndim=DIMENSION, metric="ip", dtype="f16")
    for start in tqdm(range(0, len(rows), BLOCK), desc="usearch", mininterval=5):
        index.add(np.arange(start, min(start + BLOCK, len(rows))), rows[start : start + BLOCK], threads=1)
    return lambda query: index.search(query, K, threads=1).keys, time.perf_counter() - started


BASELINES = {
    "FAISS flat": (faiss_flat, "pip install faiss-cpu"),
    "hnswlib, ef 64": (hnswlib_graph, "pip install hnswlib"),
    "usearch f16": (usearch_graph, "pip install usearch"),
}


def measure(kind: str, num: int, num_queries: int, backends: list[str], baselines: list[str]) -> None:
    rows = data(kind, num + num_queries)
    rows, queries = rows[:num], rows[num:]
    with tempfile.TemporaryDirectory(dir=".") as directory:
        searches = ours(rows, backends, Path(directory))
        for name in baselines:
            make, remedy = BASELINES[name]
            try:
                searches[name] = make(rows)
            except ImportError as error:
                print(f"{name}: left out ({error}); {remedy}")
        bounds = np.concatenate(
            [-np.partition(-(rows @ queries[at : at + 10].T), K - 1, axis=0)[K - 1] for at in range(0, num_queries, 10)]
        )
        times: dict[str, list[float]] = {name: [] for name in searches}
        found = dict.fromkeys(searches, 0)
        for query, bound in zip(queries, bounds, strict=True):  # alternated: a busy machine is busy for all
            for name, (search, _) in searches.items():
                search(query + np.float32(0))  # the code and the query are warm, as in a stream of searches
                started = time.perf_counter()
                got = search(query)
                times[name].append((time.perf_counter() - started) * 1e6)
                found[name] += int((rows[got.astype(np.int64)] @ query >= bound - 1e-4).sum())
        base = float(np.median(times["FAISS flat"])) if "FAISS flat" in times else float("nan")
        print(f"{kind}, {num:,} x {DIMENSION}, k={K}, {num_queries} queries, load {os.getloadavg()[0]:.1f}")
        for name, of in times.items():
            p50, p99 = np.percentile(of, [50, 99])
            recall = min(1.0, found[name] / K / num_queries)
            print(
                f"  {name:18} p50 {p50:9.1f} us  p99 {p99:9.1f}  least {min(of):8.1f}  x flat {p50 / base:6.3f}  "
                f"recall {recall:.4f}  build {searches[name][1]:.1f} s"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--data", nargs="+", choices=["blobs", "isotropic"], default=["blobs", "isotropic"])
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--index", nargs="+", default=["auto"])
    parser.add_argument("--baselines", nargs="*", choices=list(BASELINES), default=list(BASELINES))
    options = parser.parse_args()
    for kind in options.data:
        for num in options.rows:
            measure(kind, num, options.queries, options.index, options.baselines)


if __name__ == "__main__":
    main()
