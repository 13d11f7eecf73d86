"""What a question costs that there is no place for: a look at how many there are, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from share.kernel.online.metrics import Metrics
from share.kernel.online.turnstile import Turnstile
from share.kernel.serving.admission import Places
from share.kernel.serving.statistics import Statistics

QUESTION = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}


def no_engine() -> Statistics:
    raise AssertionError("nobody asks it")


async def never() -> Any:
    raise AssertionError("the body must not be read")


class App:
    """Counts whom it is asked for."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])


def said_to(turnstile: Turnstile, scope: Mapping[str, object]) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(turnstile(dict(scope), never, send))
    return sent


def test_a_question_without_a_place_is_turned_away_before_anything_looks_at_it() -> None:
    app, places, metrics = App(), Places(1), Metrics(no_engine)
    turnstile = Turnstile(app, places, metrics)
    assert said_to(turnstile, QUESTION) == []
    with places.one():
        start, body = said_to(turnstile, QUESTION)
        assert said_to(turnstile, {**QUESTION, "path": "/health/ready", "method": "GET"}) == []
        assert said_to(turnstile, {**QUESTION, "method": "OPTIONS"}) == []
    headers = dict(start["headers"])
    assert start["status"] == 429
    assert int(headers[b"retry-after"]) >= 1
    assert int(headers[b"content-length"]) == len(body["body"])
    assert json.loads(body["body"])["error"]["code"] == "queue_full"
    assert app.paths == ["/v1/chat/completions", "/health/ready", "/v1/chat/completions"]
    assert said_to(turnstile, QUESTION) == []
    counted = [sample.value for family in metrics.calls.collect() for sample in family.samples]
    assert counted[0] == 1.0
