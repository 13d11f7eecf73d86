"""A service that asks itself: a stream that drifts, a reviewer who knows the truth, and what comes of it.

The stream is `zoom_digits`: read the digit on the card of a colour. The shipped starter mostly zooms on the empty
middle and guesses. While the stream goes on, more cards lie in the scene and farther from where they are expected, and
it grows darker. Everything goes through the door, over HTTP and with keys, as users would do it. Each question is asked
once, and answered before anything is learned of it. The run is left a picture of who was right how often.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from share.kernel.config import Choice
from share.kernel.contracts.kinds import Task
from share.kernel.contracts.run import RunContext
from share.kernel.contracts.task import Prompt
from share.kernel.errors import PixelisError
from share.kernel.files import write_atomically
from share.kernel.media.image import encode_image
from share.kernel.serving.keys import KeyStore, Role

TASK = "zoom_digits"
LEVELS = ((0, "few cards, by daylight"), (1, "more cards, farther off"), (2, "many cards, and blanks"))
"""Difficulties of the task in the order of the stream, a third of it each."""

DUSK = 0.8
"""How bright the last picture is, against the first; it darkens evenly."""

WINDOW = 20
"""Questions from one line of the report to the next."""

SPAN = 2
"""Lines that shares of audited questions are taken over: of one alone too few are audited."""

PICTURE = "demo.png"

UPDATES_MAX = 8
"""Updates on their way at which the stream waits, for `WAIT_S` seconds at most."""

WAIT_S = 30.0
TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Report:
    """After `asked` questions: the share of the last WINDOW answers that was right; by expert how many of all audited
    questions it has right, and how many were audited."""

    asked: int
    right: float
    experts: dict[str, tuple[int, int]]


class Demo:
    """Asks `items` questions and reviews what is put before it; `stop` ends it early."""

    def __init__(self, url: str, keys: KeyStore, run: RunContext, *, items: int) -> None:
        self._url = url
        self._run = run
        self._items = items
        self._made = {role: keys.add(role, "demo") for role in _ROLES}
        self._keys = keys
        model = run.registry.config_model("task", TASK)
        self._tasks: list[Task] = [
            run.registry.build(Choice("task", TASK, model.model_validate({"difficulties": (level,)})))
            for level, _ in LEVELS
        ]
        self._asked: dict[str, Prompt] = {}
        self._reports: list[Report] = []

    def play(self, stop: threading.Event) -> None:
        """Ask, review, report; the figures are in the run's metrics. Raises PixelisError when a call fails."""
        try:
            self._play(stop)
        finally:
            for key, _ in self._made.values():
                self._keys.remove(key.id)

    def _play(self, stop: threading.Event) -> None:
        rights: list[bool] = []
        print(
            f"\n{self._items} questions, each asked once; who knows the truth decides what is put before a reviewer.\n"
            f"Meanwhile {self._url}/ and {self._url}/reviews show it, with the first key.\n\n{_HEADER}"
        )
        for number in range(self._items):
            if stop.is_set():
                break
            stage = self._stage(number)
            if number == 0 or stage != self._stage(number - 1):
                print(f"       {LEVELS[stage][1]}")
            rights.append(self._ask(self._prompt(number, stage)))
            self._review()
            self._wait(stop)
            if (number + 1) % WINDOW == 0:
                self._report(number + 1, sum(rights[-WINDOW:]) / WINDOW)
        self._conclude(rights)

    def _conclude(self, rights: list[bool]) -> None:
        """In words, in the run's metrics and as a picture."""
        experts = self._call("GET", "/v1/statistics", "viewer")["evidence"]["experts"]
        first, last = _share(rights[:WINDOW]), _share(rights[-SPAN * WINDOW :])
        self._run.metrics.update(demo_right_at_first=first, demo_right_at_last=last)
        print(f"\nof the answers that were given, {first:.0%} were right at first, {last:.0%} at last")
        audited = experts["frozen"]["audited"]
        if audited:
            shipped, adapted = (experts[name]["right"] / audited for name in ("frozen", "adapted"))
            self._run.metrics.update(demo_audited=audited, demo_right_as_shipped=shipped, demo_right_adapted=adapted)
            print(f"of {audited} audited ones, the policy as shipped has {shipped:.0%} right, adapted {adapted:.0%}")
        print(flush=True)
        if self._reports:
            path = self._run.run_dir / PICTURE
            borders = [(self._items * stage / len(LEVELS), name) for stage, (_, name) in enumerate(LEVELS)]
            draw(self._reports, borders, path)
            self._run.artifacts["picture"] = path

    def _stage(self, number: int) -> int:
        return number * len(LEVELS) // self._items

    def _prompt(self, number: int, stage: int) -> Prompt:
        """The stream's prompt of that number; a picture is darker than the one before."""
        prompt = self._tasks[stage].prompt("held_out", number)
        light = 1.0 - (1.0 - DUSK) * number / self._items
        return replace(prompt, images=tuple(np.rint(pixels * light).astype(np.uint8) for pixels in prompt.images))

    def _ask(self, prompt: Prompt) -> bool:
        url = "data:image/png;base64," + base64.b64encode(encode_image(prompt.images[0])).decode()
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt.question}]
        done = self._call(
            "POST",
            "/v1/chat/completions",
            "client",
            {"model": "pixelis", "messages": [{"role": "user", "content": parts}]},
        )
        self._asked[done["pixelis"]["trace_id"]] = prompt
        return self._tasks[0].check(prompt, done["choices"][0]["message"]["content"]) >= 1.0

    def _review(self) -> None:
        """Decide what waits, as a person who knows the truth."""
        for item in self._call("POST", "/v1/reviews/lease", "reviewer", {"num_items": 8})["reviews"]:
            prompt = self._asked.pop(item["task_id"], None)
            if prompt is None:
                continue
            approved = self._tasks[0].check(prompt, item["answer"]) >= 1.0
            verdict = {"approved": True} if approved else {"approved": False, "answer": prompt.answer}
            self._call("POST", f"/v1/reviews/{item['task_id']}/decision", "reviewer", verdict)

    def _wait(self, stop: threading.Event) -> None:
        """No user asks as fast as this: let the worker keep up, or where it cannot, go on without it."""
        end = time.monotonic() + WAIT_S
        while not stop.is_set() and time.monotonic() < end:
            learning = self._call("GET", "/v1/statistics", "viewer")["learning"]
            if learning["sent"] - learning["confirmed"] < UPDATES_MAX or learning["state"] != "on":
                return
            stop.wait(0.2)

    def _report(self, asked: int, right: float) -> None:
        told = self._call("GET", "/v1/statistics", "viewer")
        experts, learning = told["evidence"]["experts"], told["learning"]
        counts = {name: (expert["right"], expert["audited"]) for name, expert in experts.items()}
        self._reports.append(Report(asked, right, counts))
        shares = [recent(self._reports, name) for name in ("frozen", "adapted", "memory")]
        audited = (
            "".join("       - " if share is None else f"{share:8.0%} " for share in shares)
            if any(share is not None for share in shares)
            else f"{'nothing audited':27}"
        )
        print(
            f"{asked:6} {right:8.0%}   {audited} {experts['adapted']['weight']:8.2f} {learning['confirmed']:9}   "
            f"{told['releases']['live']}",
            flush=True,
        )
        self._run.logger.info("demo", f"{asked} asked", asked=asked, right=right, experts=experts)

    def _call(self, method: str, path: str, role: Role, body: object = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._made[role][1]}"}
        request = urllib.request.Request(self._url + path, content, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise PixelisError(f"demo: {method} {path} was answered with {error.code}: {error.read()!r}") from error
        except urllib.error.URLError as error:
            raise PixelisError(f"demo: {method} {path}: {error.reason}") from error


def recent(reports: Sequence[Report], expert: str) -> float | None:
    """The share that an expert has right of the questions audited in the last SPAN lines; None before the first one.

    Of all of them where none was, or where so many were audited before that only the newest are known.
    """
    right, audited = reports[-1].experts[expert]
    if len(reports) > SPAN:
        right_before, audited_before = reports[-1 - SPAN].experts[expert]
        if audited > audited_before:
            return (right - right_before) / (audited - audited_before)
    return right / audited if audited else None


def draw(reports: Sequence[Report], borders: Sequence[tuple[float, str]], path: Path) -> None:
    """Who was right how often, over the stream, with the places where it changes: a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), dpi=110, layout="constrained", facecolor="white")
    axis = figure.subplots()
    asked = [report.asked for report in reports]
    for expert, name, color in (("adapted", "adapted", "#2f5fd0"), ("frozen", "as shipped", "#d0662f")):
        shares = [recent(reports[: end + 1], expert) for end in range(len(reports))]
        known = [(at, share) for at, share in zip(asked, shares, strict=True) if share is not None]
        if known:
            axis.plot(*zip(*known, strict=True), color=color, marker="o", label=f"{name}, on audited questions")
    axis.plot(asked, [report.right for report in reports], color="#667085", lw=1, label="the answers that were given")
    for at, name in borders:
        axis.axvline(at, color="#c9ccd3", lw=0.8)
        axis.text(at, 1.06, f" {name}", fontsize=8, color="#667085")
    axis.set_xlabel("questions asked; it grows darker all the while")
    axis.set_ylabel("right")
    axis.set_ylim(-0.03, 1.12)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())


_HEADER = f"""\
        right of   right of those audited, of the last {SPAN * WINDOW}   weight of
 asked   last {WINDOW}   shipped   adapted   memory    adapted   updates   version"""

_ROLES: tuple[Role, ...] = ("client", "reviewer", "viewer")


def _share(rights: list[bool]) -> float:
    return sum(rights) / max(len(rights), 1)


__all__ = [
    "DUSK",
    "LEVELS",
    "PICTURE",
    "SPAN",
    "TASK",
    "TIMEOUT_S",
    "UPDATES_MAX",
    "WAIT_S",
    "WINDOW",
    "Demo",
    "Report",
    "draw",
    "recent",
]
