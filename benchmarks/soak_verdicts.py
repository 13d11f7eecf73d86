"""What is expected of a service after hours: a verdict on each promise, from what was done, seen and told."""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.online_service import ROOT
from benchmarks.soak_samples import SHARED, Sample

WARM_UP = 0.4
"""Part of the time after which nothing may grow any more: what is kept is as old as it gets after a sixth, and every
version, window and cache has been filled."""

GROWTH_MAX = 0.05
"""By which part a process's memory may grow from the warm-up to the end, by the slope of its samples."""

IMAGES_MB = 32
"""Megabytes of images that wait for review; few, so that this is full long before the end of hours."""

GROWTH_MB_MIN = 40.0 + IMAGES_MB
"""Megabytes of growth that are never too much: what an allocator holds back in minutes, and the images, which are
not full in minutes. Only hours tell a slow leak from that."""

LEAK_MIN = 8
"""Descriptors or threads more at the end than there ever were in the warm-up that are a leak: clients come and go, but
what leaks by request, update or worker adds up."""


@dataclass(slots=True)
class Counts:
    """What was done. `told` counts answers by status, or by what happened instead."""

    told: Counter[str] = field(default_factory=Counter)
    right: int = 0
    decided: int = 0
    rollbacks: int = 0
    kills: int = 0
    mishaps: list[str] = field(default_factory=list)
    """Calls of the reviewer, operator or viewer that did not go well."""


@dataclass(frozen=True, slots=True)
class Verdict:
    name: str
    is_good: bool
    said: str


def judged(
    counts: Counts, samples: Sequence[Sample], told: dict[str, Any], code: int, directory: Path
) -> list[Verdict]:
    """What came of it. `told` are the last statistics, `code` is how the service ended after SIGTERM."""
    failed = counts.told.total() - counts.told["200"]
    learned, released, worker = told["learning"], told["releases"], told["learning"]["worker"]
    warm = [sample for sample in samples if sample.at >= WARM_UP * samples[-1].at]
    return [
        Verdict("requests", failed == 0, f"{counts.told['200']} answered, {counts.right} rightly; others: {failed}"),
        Verdict("other calls", not counts.mishaps, "; ".join(counts.mishaps[:3]) or "all went well"),
        Verdict(
            "learning",
            learned["confirmed"] > 0 and released["published"] > 0 and released["rollbacks"] > 0,
            f"{counts.decided} reviews decided, {learned['confirmed']} of {learned['sent']} updates confirmed, "
            f"{released['published']} versions published, {released['rollbacks']} rollbacks",
        ),
        Verdict(
            "worker",
            worker["deaths"] >= counts.kills > 0 and worker["state"] != "suspended",
            f"{counts.kills} killed, {worker['deaths']} deaths, {worker['state']}",
        ),
        _flat("engine memory", [(each.at, each.engine_mb) for each in warm]),
        _flat("worker memory", [(each.at, each.worker_mb) for each in warm if each.worker_mb is not None]),
        _level("descriptors", [each.descriptors for each in samples], len(warm)),
        _level("threads", [each.threads for each in samples], len(warm)),
        Verdict(
            "shared memory", not any(each.shared_names for each in warm), f"{warm[-1].shared_names} names in {SHARED}"
        ),
        Verdict(
            "retention",
            warm[-1].experiences < 0.6 * counts.told["200"],
            f"{warm[-1].experiences} of {counts.told['200']} experiences are left, {warm[-1].disk_mb:.1f} MB of disk",
        ),
        Verdict("exit", code == 0, f"SIGTERM: exit code {code}"),
        _verified("buffer", "buffer", "verify", str(directory / "buffer")),
        _verified("audit log", "audit", "verify", str(directory / "audit.log")),
    ]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The median of the slopes between all pairs (Theil 1950, Sen 1968), per second; 0 of fewer than two."""
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(points, 2) if b[0] > a[0]]
    return statistics.median(slopes) if slopes else 0.0


def _flat(name: str, points: Sequence[tuple[float, float]]) -> Verdict:
    if len(points) < 2:
        return Verdict(name, False, f"{len(points)} samples are too few")
    span_s, level = points[-1][0] - points[0][0], statistics.median(value for _, value in points)
    growth, bound = slope(points) * span_s, max(GROWTH_MB_MIN, GROWTH_MAX * level)
    return Verdict(
        name,
        growth <= bound,
        f"{level:.0f} MB; {growth:+.1f} MB in the last {span_s / 60:.1f} minutes by the slope (bound {bound:.0f})",
    )


def _level(name: str, values: Sequence[int], num_warm: int) -> Verdict:
    before, warm = values[: len(values) - num_warm], values[len(values) - num_warm :]
    usual, last = max(before, default=0), statistics.median(warm[len(warm) // 2 :])
    return Verdict(
        name,
        last < usual + LEAK_MIN,
        f"{last:g} in the last third (median), at most {usual} in the warm-up (bound {usual + LEAK_MIN - 1})",
    )


def _verified(name: str, *arguments: str) -> Verdict:
    ran = subprocess.run(
        [sys.executable, "-m", "share.kernel", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    said = (ran.stdout + ran.stderr).strip().splitlines()
    return Verdict(name, ran.returncode == 0, said[-1] if said else f"exit code {ran.returncode}")


__all__ = [
    "GROWTH_MAX",
    "GROWTH_MB_MIN",
    "IMAGES_MB",
    "LEAK_MIN",
    "WARM_UP",
    "Counts",
    "Verdict",
    "judged",
    "slope",
]
