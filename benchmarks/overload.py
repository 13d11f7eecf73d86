"""A service that is asked five times more than it can: how much it answers, how fast, and what the others are told.

    python -m benchmarks.overload [--seconds 10] [--rounds 3] [--factor 5] [--clients 32] [--settings key=value …]

Two services with the starter policy, one after the other: as it is shipped, and with no bound on what waits (the
baseline). Of each, in rounds: one client; its peak, `--clients` of them that each ask again when they are answered; and
then `--factor` times the peak, arriving at random instants whatever becomes of them. Prints answers per second and per
second of the service's processor time, which other work on the machine changes less, latency, which part of a core the
calls themselves took, and what was refused; ratios are medians of the rounds' own. Exit code 1 when, as shipped,
goodput is below 0.90 of the peak, p99 of what was answered is above twice that at the peak, or anybody was told
anything but 200 or 429 with Retry-After.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import uvloop

from benchmarks.online_service import OnlineService, question
from share.kernel.config import Choice
from share.kernel.contracts.kinds import Task
from share.kernel.registry import load_registry

RAMP_S = 4.0
"""Seconds before each phase that do not count: until the first are answered nobody is, the later the more ask."""

GOODPUT_MIN, LATENCY_MAX = 0.90, 2.0
NUM_QUESTIONS = 200
NO_RATE = ("admission.requests_per_s=100000", "admission.burst=100000")
"""The rate of a key is no bound here: one key asks for everybody."""

NO_BOUND = ("admission.requests_max=1000000", "batching.queue_max=1000000")


@dataclass(slots=True)
class Phase:
    """What became of the calls of some seconds. `seconds` each, of those that were answered."""

    title: str
    elapsed_s: float = 0.0
    cpu_s: float = 0.0
    own_cpu_s: float = 0.0
    seconds: list[float] = field(default_factory=list)
    in_time: int = 0
    refused_s: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Answers per second that came while calls were made."""
        return self.in_time / self.elapsed_s

    @property
    def rate_cpu(self) -> float:
        """The same per second of the service's processor time."""
        return self.in_time / self.cpu_s

    def ms(self, percent: float) -> float:
        return 1000 * float(np.percentile(self.seconds, percent)) if self.seconds else float("nan")

    @property
    def others(self) -> int:
        """Calls that were told anything else than an answer, or when to ask again."""
        return self.statuses.total() - self.statuses["200"] - self.statuses["429"]


class Load:
    """Asks one service, whose process has that `pid`. Questions are drawn from `bodies` in turn."""

    def __init__(self, line: Line, bodies: Sequence[bytes], pid: int) -> None:
        self._line = line
        self._bodies: Iterator[bytes] = itertools.cycle(bodies)
        self._process = psutil.Process(pid)

    async def closed(self, clients: int, seconds: float) -> Phase:
        """So many clients, each of which asks again when it was answered."""

        async def client(phase: Phase, end: float) -> None:
            while time.perf_counter() < end:
                await self._ask(phase, end)

        async def all_of_them(phase: Phase, end: float) -> list[asyncio.Task[None]]:
            calls = [asyncio.create_task(client(phase, end)) for _ in range(clients)]
            await asyncio.sleep(end - time.perf_counter())
            return calls

        return await self._timed(f"{clients} client{'s' if clients > 1 else ''}", seconds, all_of_them)

    async def open(self, title: str, rate: float, seconds: float, seed: int = 0) -> Phase:
        """Calls at random instants, so many a second, whatever becomes of those before them."""
        draws = random.Random(seed)

        async def one_by_one(phase: Phase, end: float) -> list[asyncio.Task[None]]:
            calls, at = list[asyncio.Task[None]](), time.perf_counter()
            while (at := at + draws.expovariate(rate)) < end:
                await asyncio.sleep(max(0.0, at - time.perf_counter()))
                calls.append(asyncio.create_task(self._ask(phase, end)))
            await asyncio.sleep(max(0.0, end - time.perf_counter()))
            return calls

        return await self._timed(title, seconds, one_by_one)

    async def _timed(
        self,
        title: str,
        seconds: float,
        work: Callable[[Phase, float], Coroutine[None, None, list[asyncio.Task[None]]]],
    ) -> Phase:
        """What `work` makes of the seconds; what has not been answered by then is waited for, and not in the rate."""
        phase, end = Phase(title), time.perf_counter() + RAMP_S + seconds
        working = asyncio.create_task(work(phase, end))
        await asyncio.sleep(RAMP_S)
        started, cpu_s, phase.in_time = time.perf_counter(), self._cpu_s(), 0
        own_cpu_s = time.process_time()
        calls = await working
        phase.elapsed_s = time.perf_counter() - started
        phase.cpu_s = self._cpu_s() - cpu_s
        phase.own_cpu_s = time.process_time() - own_cpu_s
        await asyncio.gather(*calls)
        return phase

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    async def _ask(self, phase: Phase, end: float) -> None:
        started = time.perf_counter()
        try:
            status, headers = await self._line.post(next(self._bodies))
        except (OSError, EOFError) as error:
            phase.statuses[type(error).__name__] += 1
            return
        now = time.perf_counter()
        if status == 200:
            phase.seconds.append(now - started)
            phase.in_time += now <= end
        elif status == 429:
            phase.refused_s.append(now - started)
        is_told = status != 429 or headers.get("retry-after", "").isdecimal()
        phase.statuses[str(status) if is_told else "429 without Retry-After"] += 1


class Line:
    """Questions over kept connections, and as little of HTTP as that takes: a whole client takes as long for a call as
    the service for a refusal, of the same cores."""

    def __init__(self, url: str, key: str) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "", address.port or 0
        self._head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, body: bytes) -> tuple[int, Mapping[str, str]]:
        """Status and headers of the answer, of which the content is thrown away. Raises OSError, EOFError."""
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(self._head + b"%d\r\n\r\n" % len(body) + body)
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines if line)
            await reader.readexactly(int(headers["content-length"]))
        except BaseException:
            writer.close()
            raise
        self._idle.append((reader, writer))
        return int(first.split()[1]), headers

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each phase")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--factor", type=float, default=5.0, help="of the peak")
    parser.add_argument("--clients", type=int, default=32, help="at the peak")
    parser.add_argument("--pictures", choices=["jpg", "png"], default="jpg", help="how they are sent")
    parser.add_argument("--settings", nargs="*", default=[], help="of the bounded service")
    parser.add_argument("--bounded-only", action="store_true", help="without the baseline")
    arguments = parser.parse_args()
    source: Task = load_registry().build(Choice("task", "zoom_digits"))
    prompts = [source.prompt("held_out", 30_000 + number) for number in range(NUM_QUESTIONS)]
    bodies = [question(prompt, arguments.pictures) for prompt in prompts]
    size = statistics.median(map(len, bodies)) / 1000
    cores = len(os.sched_getaffinity(0))
    print(f"load {os.getloadavg()[0]:.1f}, {cores} cores; {arguments.seconds:g} s each; calls of {size:.0f} kB")
    services = {"as shipped": tuple(arguments.settings)}
    if not arguments.bounded_only:
        services["no bound"] = NO_BOUND
    is_met = True
    for name, settings in services.items():
        with (
            tempfile.TemporaryDirectory() as directory,
            OnlineService(Path(directory), *NO_RATE, "read_only=true", *settings) as service,
        ):
            met = uvloop.run(measure(service, bodies, name, arguments))
            is_met = is_met and (met or name != "as shipped")
    return int(not is_met)


async def measure(service: OnlineService, bodies: Sequence[bytes], name: str, arguments: argparse.Namespace) -> bool:
    """The rounds of one service, printed; whether the bars are met."""
    clients, seconds, factor = arguments.clients, arguments.seconds, arguments.factor
    rounds: list[tuple[Phase, Phase, Phase]] = []
    with closing(Line(service.url, service.keys["client"])) as line:
        load = Load(line, bodies, service.process.pid)
        best = (await load.closed(clients, seconds)).rate  # touches what the first ones touch
        for number in range(arguments.rounds):
            alone, peak = await load.closed(1, seconds), await load.closed(clients, seconds)
            best = max(best, peak.rate)
            over = await load.open(f"{factor:g} x the peak", factor * best, seconds, number)
            rounds.append((alone, peak, over))
    print(f"{name}, load {os.getloadavg()[0]:.1f}")
    print(f"  {'':14} {'answers/s':>10} {'/ CPU s':>8} {'p50 ms':>8} {'p99 ms':>8} {'generator':>10}  told")
    for phases in zip(*rounds, strict=True):
        for phase in phases:
            told = ", ".join(f"{status}: {count}" for status, count in sorted(phase.statuses.items()))
            print(
                f"  {phase.title:14} {phase.rate:10.1f} {phase.rate_cpu:8.1f} {phase.ms(50):8.0f} "
                f"{phase.ms(99):8.0f} {phase.own_cpu_s / phase.elapsed_s:10.0%}  {told}"
            )
    goodput = statistics.median(over.rate / peak.rate for _, peak, over in rounds)
    goodput_cpu = statistics.median(over.rate_cpu / peak.rate_cpu for _, peak, over in rounds)
    latency = statistics.median(over.ms(99) / peak.ms(99) for _, peak, over in rounds)
    latency_alone = statistics.median(over.ms(99) / alone.ms(99) for alone, _, over in rounds)
    others = sum(phase.others for phases in rounds for phase in phases)
    refused_s = [seconds for _, _, over in rounds for seconds in over.refused_s]
    print(
        f"  goodput / peak {goodput:.2f} (bar {GOODPUT_MIN:.2f}), by CPU time {goodput_cpu:.2f}; p99 / p99 at the peak "
        f"{latency:.2f} (bar {LATENCY_MAX:g}), / p99 of one client {latency_alone:.1f}\n"
        f"  a refusal took {1000 * float(np.median(refused_s)) if refused_s else 0:.0f} ms (median); told anything "
        f"else than 200 or 429: {others}",
        flush=True,
    )
    return goodput >= GOODPUT_MIN and latency <= LATENCY_MAX and not others


if __name__ == "__main__":
    sys.exit(main())
