"""The service for hours: a stream that drifts, reviews, updates, rollbacks, workers killed, sweeps; and what it costs.

    python -m benchmarks.soak [--minutes 120] [--rate 2] [--output DIR]

A real service with the starter policy is asked `--rate` questions a second, whose wording changes again and again. What
is put before a reviewer is decided by who knows the truth, so that updates are made and published; every now and then
the version before is served again, the update worker is killed, and what is older than a sixth of the whole is erased.
Every few seconds the memory, the descriptors, the threads and the disk of its processes are noted. At the end, after
SIGTERM, the experience buffer and the audit log are verified as their owner would do it. Writes `soak.json` and a
picture, `soak.png`, to `--output`; exit code 1 when a verdict is bad.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import httpx2
import psutil
from tqdm import tqdm

from benchmarks.online_service import ROOT, OnlineService, question
from share.kernel.config import Choice
from share.kernel.contracts.kinds import Task
from share.kernel.contracts.task import Prompt
from share.kernel.registry import load_registry
from share.kernel.serving.keys import Role

WARM_UP = 0.4
"""Part of the time after which nothing may grow any more: what is kept is as old as it gets after a sixth, and every
version, window and cache has been filled."""

RETENTION = 1 / 6
"""Part of the time for which anything is kept."""

GROWTH_MAX = 0.05
"""By which part a process's memory may grow from the warm-up to the end, by the slope of its samples."""

FAVOURITE = "What digit is"
"""How a question in the starter's favourite wording begins; it is wrong about most of the others until it learns."""

LEAK_MIN = 8
"""Descriptors or threads more at the end than there ever were in the warm-up that are a leak: clients come and go, but
what leaks by request, update or worker adds up."""

DRIFTS, ROLLBACKS, KILLS = 8, 6, 5
"""How often in the whole time."""

KILL_EVERY_S_MIN = 40.0
"""Three deaths in a minute would suspend learning, as they should."""

UPDATES_MAX = 4
"""Updates on their way at which the reviewer waits: on a busy machine the worker gets what is left over."""

IMAGES_MB = 32
"""Megabytes of images that wait for review; few, so that this is full long before the end of hours."""

GROWTH_MB_MIN = 40.0 + IMAGES_MB
"""Megabytes of growth that are never too much: what an allocator holds back in minutes, and the images, which are
not full in minutes. Only hours tell a slow leak from that."""

SAMPLES = 360
"""Samples at most; no closer than a second."""

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


class Soak:
    """One service, everybody who uses it, and who looks at it, for `seconds`."""

    def __init__(self, service: OnlineService, seconds: float, rate: float, *, seed: int = 0) -> None:
        self._service = service
        self._seconds = seconds
        self._rate = rate
        self._draws = random.Random(seed)
        self._task: Task = load_registry().build(Choice("task", "zoom_digits"))
        self._asked: dict[str, Prompt] = {}
        self._clients: dict[Role, httpx2.AsyncClient] = {}
        self._began = 0.0
        self.counts = Counts()
        self.samples: list[Sample] = []
        self.last: dict[str, Any] = {}

    async def run(self) -> None:
        async with contextlib.AsyncExitStack() as opened:
            for role in self._service.keys:
                self._clients[role] = await opened.enter_async_context(self._service.client(role))
            self._began = time.monotonic()
            await asyncio.gather(
                self._ask_all(),
                self._often(1.0, self._review),
                self._often(max(1.0, self._seconds / SAMPLES), self._sample),
                self._often(self._seconds / (ROLLBACKS + 1), self._roll_back),
                self._often(max(KILL_EVERY_S_MIN, self._seconds / (KILLS + 1)), self._kill),
            )
            await self._sample()

    @property
    def _now(self) -> float:
        return time.monotonic() - self._began

    async def _often(self, every_s: float, work: Callable[[], Awaitable[None]]) -> None:
        """Until the time is over, not at its start."""
        for number in itertools.count(1):
            await asyncio.sleep(max(0.0, min(self._seconds, number * every_s) - self._now))
            if self._now >= self._seconds:
                return
            await work()

    async def _ask_all(self) -> None:
        """Questions at random instants, whatever becomes of those before them."""
        at, calls = 0.0, set[asyncio.Task[None]]()
        bar = tqdm(total=round(self._seconds), unit="s", disable=not sys.stderr.isatty())
        for prompt in self._stream():
            at += self._draws.expovariate(self._rate)
            await asyncio.sleep(max(0.0, min(at, self._seconds) - self._now))
            bar.update(round(self._now) - bar.n)
            if self._now >= self._seconds:
                break
            calls = {call for call in calls if not call.done()}
            calls.add(asyncio.create_task(self._ask(prompt)))
        bar.close()
        if calls:
            await asyncio.wait(calls)

    def _stream(self) -> Iterator[Prompt]:
        """In one wording, then in the others, then in the first again."""
        wanted = [
            (self._task.prompt("held_out", index) for index in itertools.count(start)) for start in (100_000, 200_000)
        ]
        while True:
            is_favourite = int(self._now / self._seconds * DRIFTS) % 2 == 0
            prompts = wanted[is_favourite]
            yield next(prompt for prompt in prompts if prompt.question.startswith(FAVOURITE) == is_favourite)

    async def _ask(self, prompt: Prompt) -> None:
        try:
            answer = await self._clients["client"].post("/v1/chat/completions", content=question(prompt))
        except httpx2.HTTPError as error:
            self.counts.told[type(error).__name__] += 1
            return
        self.counts.told[str(answer.status_code)] += 1
        if answer.status_code == 200:
            done = answer.json()
            self._asked[done["pixelis"]["trace_id"]] = replace(prompt, images=())
            self.counts.right += self._task.check(prompt, done["choices"][0]["message"]["content"]) >= 1.0

    async def _review(self) -> None:
        """Decide what waits, as a person who knows the truth and has not too much done at once."""
        learning = (await self._call("viewer", "GET", "/v1/statistics")).get("learning", {})
        room = UPDATES_MAX - learning.get("sent", 0) + learning.get("confirmed", 0)
        if room <= 0:
            return
        leased = await self._call("reviewer", "POST", "/v1/reviews/lease", {"num_items": room})
        for item in leased.get("reviews", []):
            prompt = self._asked.get(item["task_id"])
            if prompt is None:
                continue
            is_right = self._task.check(prompt, item["answer"]) >= 1.0
            verdict = {"approved": True} if is_right else {"approved": False, "answer": prompt.answer}
            await self._call("reviewer", "POST", f"/v1/reviews/{item['task_id']}/decision", verdict)
            self.counts.decided += 1
        while len(self._asked) > 2_000:
            del self._asked[next(iter(self._asked))]

    async def _roll_back(self) -> None:
        await self._call("operator", "POST", "/v1/admin/rollback", {"reason": "soak"})
        self.counts.rollbacks += 1

    async def _kill(self) -> None:
        worker = (await self._call("viewer", "GET", "/v1/statistics")).get("learning", {}).get("worker") or {}
        if worker.get("pid") is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker["pid"], signal.SIGKILL)
                self.counts.kills += 1

    async def _sample(self) -> None:
        told = await self._call("viewer", "GET", "/v1/statistics")
        if not told:
            return
        self.last = told
        worker = (told["learning"]["worker"] or {}).get("pid")
        processes = [psutil.Process(self._service.process.pid)]
        processes += processes[0].children(recursive=True)
        looks = {process.pid: look for process in processes if (look := _look(process)) is not None}
        engine = looks[processes[0].pid]
        self.samples.append(
            Sample(
                at=round(self._now, 1),
                engine_mb=engine[0],
                worker_mb=looks[worker][0] if worker in looks else None,
                all_mb=sum(look[0] for look in looks.values()),
                descriptors=engine[1],
                threads=engine[2],
                processes=len(looks),
                shared_names=len(set[str]().union(*(_shared_names(pid) for pid in looks))),
                segments=len([*self._service.directory.rglob(f"*{SEGMENT_SUFFIX}")]),
                disk_mb=_disk_mb(self._service.directory),
                experiences=told["memory"]["buffer"]["experiences"],
                updates=told["learning"]["confirmed"],
                versions=told["releases"]["published"],
            )
        )

    async def _call(self, role: Role, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Empty, and noted, when it did not go well."""
        try:
            answer = await self._clients[role].request(method, path, json=body)
            answer.raise_for_status()
        except httpx2.HTTPError as error:
            self.counts.mishaps.append(f"{method} {path}: {type(error).__name__}: {error}"[:300])
            return {}
        told: dict[str, Any] = answer.json()
        return told


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--rate", type=float, default=2.0, help="questions per second")
    parser.add_argument("--output", type=Path, default=Path("work-dir/soak"), metavar="DIR")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))  # so that the service is ended too
    arguments.output.mkdir(parents=True, exist_ok=True)
    seconds = arguments.minutes * 60
    with tempfile.TemporaryDirectory(prefix="soak-") as workdir:
        with OnlineService(Path(workdir), *settings(seconds)) as service:
            soak = Soak(service, seconds, arguments.rate)
            asyncio.run(soak.run())
            code = service.stop()
        verdicts = judged(soak, code, service.directory)
        (arguments.output / "service.txt").write_bytes(service.log.read_bytes())
    report = {
        "minutes": arguments.minutes,
        "rate": arguments.rate,
        "load": os.getloadavg()[0],
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "counts": {each.name: getattr(soak.counts, each.name) for each in fields(soak.counts)},
        "statistics": soak.last,
        "samples": [asdict(sample) for sample in soak.samples],
    }
    (arguments.output / "soak.json").write_text(json.dumps(report, indent=1))
    draw(soak.samples, arguments.output / "soak.png")
    for verdict in verdicts:
        print(f"{'ok ' if verdict.is_good else 'BAD'} {verdict.name:16} {verdict.said}")
    return int(not all(verdict.is_good for verdict in verdicts))


def settings(seconds: float) -> tuple[str, ...]:
    """Everything happens as often in the time that there is as it does in months."""
    days = seconds * RETENTION / 86400
    return (
        "deadline_s=600",
        "admission.requests_per_s=1000",
        "admission.burst=1000",
        f"engine.retention_days={days:.8f}",
        f"engine.review.waiting_days={days:.8f}",
        f"engine.review.kept_days={days:.8f}",
        f"engine.sweep_hours={seconds / 40 / 3600:.8f}",
        "engine.review.audit_share=0.2",
        "engine.unsure_below=0.1",
        f"engine.images_bytes_max={IMAGES_MB * 10**6}",
        "engine.gate.lr_max=0.002",
    )


def judged(soak: Soak, code: int, directory: Path) -> list[Verdict]:
    """What came of it."""
    counts, samples, told = soak.counts, soak.samples, soak.last
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


def draw(samples: Sequence[Sample], path: Path) -> None:
    """The curves, one above the other."""
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
        axis.axvspan(0, WARM_UP * samples[-1].at / 60, color="#667085", alpha=0.1)
        if len(names) > 1:
            axis.legend(frameon=False, fontsize=8)
    axes[-1].set_xlabel("minutes; grey: warm-up")
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
