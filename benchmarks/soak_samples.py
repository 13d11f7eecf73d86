"""What a service costs at one moment of a soak, seen from outside and told by itself; and the curves of all moments."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.online_service import OnlineService

SHARED = "/dev/shm/"
SEGMENT_SUFFIX = ".segment"


@dataclass(frozen=True, slots=True)
class Sample:
    """The service at one moment, `at` in seconds since the start. Megabytes are resident ones, of the engine's process,
    of the worker's, and of all its processes together; `versions` counts what was published."""

    at: float
    engine_mb: float
    worker_mb: float | None
    all_mb: float
    descriptors: int
    threads: int
    processes: int
    shared_names: int
    segments: int
    disk_mb: float
    experiences: int
    updates: int
    versions: int


def sampled(service: OnlineService, told: dict[str, Any], at: float) -> Sample:
    """The service now; `told` are its statistics."""
    worker = (told["learning"]["worker"] or {}).get("pid")
    processes = [psutil.Process(service.process.pid)]
    processes += processes[0].children(recursive=True)
    looks = {process.pid: look for process in processes if (look := _look(process)) is not None}
    engine = looks[processes[0].pid]
    return Sample(
        at=round(at, 1),
        engine_mb=engine[0],
        worker_mb=looks[worker][0] if worker in looks else None,
        all_mb=sum(look[0] for look in looks.values()),
        descriptors=engine[1],
        threads=engine[2],
        processes=len(looks),
        shared_names=len(set[str]().union(*(_shared_names(pid) for pid in looks))),
        segments=len([*service.directory.rglob(f"*{SEGMENT_SUFFIX}")]),
        disk_mb=_disk_mb(service.directory),
        experiences=told["memory"]["buffer"]["experiences"],
        updates=told["learning"]["confirmed"],
        versions=told["releases"]["published"],
    )


def _look(process: psutil.Process) -> tuple[float, int, int] | None:
    """Megabytes, descriptors and threads; None of one that has ended."""
    try:
        with process.oneshot():
            return process.memory_info().rss / 1e6, _num_descriptors(process.pid), process.num_threads()
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return None


def _num_descriptors(pid: int) -> int:
    """Without segments of the buffer's log, of which it keeps as many open as it reads, up to a bound."""
    count = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += not os.readlink(path).endswith(SEGMENT_SUFFIX)
    return count


def _shared_names(pid: int) -> set[str]:
    """Files below /dev/shm that the process maps and that still have their name."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    return {line.partition(SHARED)[2] for line in maps if SHARED in line and not line.endswith("(deleted)")}


def _disk_mb(directory: Path) -> float:
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total / 1e6


def draw(samples: Sequence[Sample], warm_up: float, path: Path) -> None:
    """The curves, one above the other, with the first `warm_up` of the time in grey."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = (
        ("memory, MB", ("engine_mb", "worker_mb")),
        ("open, threads, segments", ("descriptors", "threads", "segments")),
        ("disk, MB", ("disk_mb",)),
        ("experiences kept", ("experiences",)),
        ("updates, versions", ("updates", "versions")),
    )
    figure = Figure(figsize=(9, 2 * len(panels)), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, sharex=True)
    for axis, (title, names) in zip(axes, panels, strict=True):
        for name in names:
            known = [(each.at / 60, value) for each in samples if (value := getattr(each, name)) is not None]
            axis.plot(*zip(*known, strict=True), label=name.removesuffix("_mb")) if known else None
        axis.set_ylabel(title)
        axis.set_ylim(bottom=0)
        axis.axvspan(0, warm_up * samples[-1].at / 60, color="#667085", alpha=0.1)
        if len(names) > 1:
            axis.legend(frameon=False, fontsize=8)
    axes[-1].set_xlabel("minutes; grey: warm-up")
    figure.savefig(path)


__all__ = ["SEGMENT_SUFFIX", "SHARED", "Sample", "draw", "sampled"]
