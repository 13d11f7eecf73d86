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
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import httpx2
from tqdm import tqdm

from benchmarks.online_service import OnlineService, question
from benchmarks.soak_samples import Sample, draw, sampled
from benchmarks.soak_verdicts import IMAGES_MB, WARM_UP, Counts, judged
from share.kernel.config import Choice
from share.kernel.contracts.kinds import Task
from share.kernel.contracts.task import Prompt
from share.kernel.registry import load_registry
from share.kernel.serving.keys import Role

RETENTION = 1 / 6
"""Part of the time for which anything is kept."""

FAVOURITE = "What digit is"
"""How a question in the starter's favourite wording begins; it is wrong about most of the others until it learns."""

DRIFTS, ROLLBACKS, KILLS = 8, 6, 5
"""How often in the whole time."""

KILL_EVERY_S_MIN = 40.0
"""Three deaths in a minute would suspend learning, as they should."""

UPDATES_MAX = 4
"""Updates on their way at which the reviewer waits: on a busy machine the worker gets what is left over."""

SAMPLES = 360
"""Samples at most; no closer than a second."""


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
        self.samples.append(sampled(self._service, told, self._now))

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
        verdicts = judged(soak.counts, soak.samples, soak.last, code, service.directory)
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
    draw(soak.samples, WARM_UP, arguments.output / "soak.png")
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


if __name__ == "__main__":
    sys.exit(main())
