"""A service that asks itself: a stream that drifts, a reviewer who knows the truth, and what comes of it.

The stream is `zoom_digits`: read the digit on the card of a colour. The shipped starter mostly zooms on the empty
middle and guesses. While the stream goes on, more cards lie in the scene and farther from where they are expected, and
it grows darker. Everything goes through the door, over HTTP and with keys, as users would do it. Each question is asked
once, and answered before anything is learned of it.
"""

from __future__ import annotations

import base64
import json
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from typing import Any

import numpy as np

from share.kernel.config import Choice
from share.kernel.contracts.kinds import Task
from share.kernel.contracts.run import RunContext
from share.kernel.contracts.task import Prompt
from share.kernel.errors import PixelisError
from share.kernel.media.image import encode_image
from share.kernel.serving.keys import KeyStore, Role

TASK = "zoom_digits"
LEVELS = ((0, "few cards, by daylight"), (1, "more cards, farther off"), (2, "many cards, and blanks"))
"""Difficulties of the task in the order of the stream, a third of it each."""

DUSK = 0.8
"""How bright the last picture is, against the first; it darkens evenly."""

WINDOW = 20
"""Questions that a line of the report is about."""

UPDATES_MAX = 8
"""Updates on their way at which the stream waits, for `WAIT_S` seconds at most."""

WAIT_S = 30.0
TIMEOUT_S = 300.0


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

    def play(self, stop: threading.Event) -> None:
        """Ask, review, report; the figures are in the run's metrics. Raises PixelisError when a call fails."""
        try:
            self._play(stop)
        finally:
            for key, _ in self._made.values():
                self._keys.remove(key.id)

    def _play(self, stop: threading.Event) -> None:
        rights: list[bool] = []
        print(f"\n{'asked':>6} {'right':>6}   of the last {WINDOW}; audited so far, and what was learned of it")
        for number in range(self._items):
            if stop.is_set():
                break
            stage = number * len(LEVELS) // self._items
            if number == 0 or stage != (number - 1) * len(LEVELS) // self._items:
                print(f"       {LEVELS[stage][1]}")
            rights.append(self._ask(self._prompt(number, stage)))
            self._review()
            self._wait(stop)
            if (number + 1) % WINDOW == 0:
                self._report(number + 1, sum(rights[-WINDOW:]) / WINDOW)
        experts = self._call("GET", "/v1/statistics", "viewer")["evidence"]["experts"]
        frozen = experts["frozen"]
        first, last = _share(rights[:WINDOW]), _share(rights[-2 * WINDOW :])
        self._run.metrics.update(demo_right_at_first=first, demo_right_at_last=last)
        print(
            f"\nright at first {first:.0%}, at last {last:.0%}; the policy as it was shipped, on audited questions: "
            f"{frozen['right']} of {frozen['audited']}\n",
            flush=True,
        )

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
        accuracy = ", ".join(
            f"{name} {expert['right']}/{expert['audited']}" for name, expert in experts.items() if expert["audited"]
        )
        print(
            f"{asked:6} {right:6.0%}   {accuracy or 'nothing audited'}; weight of adapted "
            f"{experts['adapted']['weight']:.2f}; {learning['confirmed']} updates, {told['releases']['live']}",
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


_ROLES: tuple[Role, ...] = ("client", "reviewer", "viewer")


def _share(rights: list[bool]) -> float:
    return sum(rights) / max(len(rights), 1)


__all__ = ["DUSK", "LEVELS", "TASK", "TIMEOUT_S", "UPDATES_MAX", "WAIT_S", "WINDOW", "Demo"]
