"""Prioritized sampling beside TorchRL and cpprb: a batch of 256 is drawn and its priorities are set anew.

`python -m benchmarks.buffer_sampling --rows 1000000`. What is not installed is named with what installs it, and left
out. TorchRL's C++ extension needs the torch that it was built with, usually in an environment of its own; there
`--only torchrl` needs nothing of Pixelis. Times are medians in microseconds; the ratio is to ours in the same run.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

BATCH = 256
EXPONENT = 0.6
Cycle = Callable[[NDArray[np.float64]], object]


def ours(priorities: NDArray[np.float64]) -> Cycle:
    from share.kernel.experience.sampling import PrioritySampler

    random = np.random.default_rng(0)
    sampler = PrioritySampler(len(priorities))
    sampler.set(np.arange(len(priorities)), priorities**EXPONENT)

    def cycle(new: NDArray[np.float64]) -> None:
        rows, _ = sampler.sample(BATCH, random)
        sampler.set(rows, new**EXPONENT)

    return cycle


def torchrl(priorities: NDArray[np.float64]) -> Cycle:
    """Its C++ sum and minimum trees as its PrioritizedSampler uses them, without the storage behind it."""
    import torch
    from torchrl._torchrl import MinSegmentTreeFp32, SumSegmentTreeFp32

    size = len(priorities)
    sums, least = SumSegmentTreeFp32(size), MinSegmentTreeFp32(size)
    sums[torch.arange(size)] = least[torch.arange(size)] = torch.tensor(priorities**EXPONENT, dtype=torch.float32)

    def cycle(new: NDArray[np.float64]) -> None:
        total = sums.query(0, size)
        least.query(0, size)
        rows = sums.scan_lower_bound(torch.rand(BATCH) * total).clamp_max_(size - 1)
        sums[rows]
        values = torch.tensor(new**EXPONENT, dtype=torch.float32)
        sums[rows] = values
        least[rows] = values

    return cycle


def cpprb(priorities: NDArray[np.float64]) -> Cycle:
    from cpprb import PrioritizedReplayBuffer

    buffer = PrioritizedReplayBuffer(len(priorities), {"number": {"dtype": np.int64}}, alpha=EXPONENT)
    buffer.add(number=np.arange(len(priorities)), priorities=priorities)

    def cycle(new: NDArray[np.float64]) -> None:
        rows = buffer.sample(BATCH, beta=0.4)["indexes"]
        buffer.update_priorities(rows, new)

    return cycle


CONTESTANTS = {
    "ours": (ours, "pip install pixelis"),
    "torchrl": (torchrl, "pip install torchrl"),
    "cpprb": (cpprb, "pip install cpprb"),
}


def made(names: list[str], priorities: NDArray[np.float64]) -> Iterator[tuple[str, Cycle]]:
    for name in names:
        make, remedy = CONTESTANTS[name]
        try:
            yield name, make(priorities)
        except ImportError as error:
            print(f"{name}: left out ({error}); {remedy}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--cycles", type=int, default=2000)
    parser.add_argument("--only", nargs="+", choices=sorted(CONTESTANTS), default=["ours", "torchrl", "cpprb"])
    options = parser.parse_args()
    random = np.random.default_rng(0)
    for shape, priorities in {
        "uniform 0.05 to 1": random.random(options.rows) * 0.95 + 0.05,
        "lognormal, sigma 2": random.lognormal(0, 2, options.rows),
    }.items():
        cycles = dict(made(options.only, priorities))
        times: dict[str, list[float]] = {name: [] for name in cycles}
        for _ in range(options.cycles):  # alternated, so that a busy machine is busy for all
            new = priorities[random.integers(0, options.rows, BATCH)]
            for name, cycle in cycles.items():
                started = time.perf_counter()
                cycle(new)
                times[name].append((time.perf_counter() - started) * 1e6)
        median = {name: float(np.median(of)) for name, of in times.items()}
        base = median.get("ours", min(median.values()))
        print(f"{shape}, {options.rows:,} rows, batch {BATCH}, load {os.getloadavg()[0]:.1f}")
        for name, of in times.items():
            draws = BATCH / median[name] * 1e6
            p99, ratio = np.percentile(of, 99), median[name] / base
            print(f"  {name:8} p50 {median[name]:8.1f}  p99 {p99:8.1f}  x{ratio:5.2f}  {draws:,.0f} draws/s")


if __name__ == "__main__":
    main()
