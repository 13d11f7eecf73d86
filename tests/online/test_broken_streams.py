"""What a client hears of an error when its answer has already begun to come."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest

from share.kernel.config import validate
from share.kernel.contracts.serving import Listener, Reply
from share.kernel.contracts.serving import Request as Question
from share.kernel.errors import EngineClosed, PolicyError
from share.kernel.events import StructuredLogger
from share.kernel.online.alerts import Watch
from share.kernel.online.config import OnlineConfig
from share.kernel.online.door import Door
from share.kernel.online.http import make_app
from share.kernel.online.listening import Listening, bound, url_of
from share.kernel.online.metrics import Metrics
from share.kernel.online.turnstile import Turnstile
from share.kernel.registry import Registry
from share.kernel.serving.admission import Places, TokenBuckets
from share.kernel.serving.keys import KeyStore
from tests.online.test_alerts import NOBODY, told


class Breaking:
    """An engine that writes a word of every answer and then fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def submit(self, question: Question, listener: Listener) -> Future[Reply]:
        future: Future[Reply] = Future()
        listener.wrote("one ")
        future.set_exception(self.error)
        return future


@contextmanager
def served(engine: Breaking, directory: Path, registry: Registry) -> Iterator[openai.OpenAI]:
    """A client of a server of its own before that engine; what it logs is in `events.jsonl`."""
    logger = StructuredLogger(directory / "events.jsonl", run_id="run-1", backend="test")
    config, keys, metrics = validate(OnlineConfig, {}, registry), KeyStore(directory / "keys.json"), Metrics(told)
    door = Door(
        config=config,
        engine=engine,  # type: ignore[arg-type]
        keys=keys,
        buckets=TokenBuckets(100.0, 100.0),
        places=Places(8),
        metrics=metrics,
        watch=Watch(config.alerts, told, lambda: NOBODY, logger, metrics.show, time.monotonic),
        painter=SimpleNamespace(),  # type: ignore[arg-type]
        logger=logger,
        started_at=time.time(),
    )
    with bound("127.0.0.1", 0) as listening:
        server = Listening(Turnstile(make_app(door), door.places, metrics), listening, drain_s=5)
        with openai.OpenAI(base_url=f"{url_of(listening)}/v1", api_key=keys.first_key, max_retries=0) as client:
            yield client
        server.close()
    logger.close()


@pytest.mark.parametrize(
    ("error", "code", "message", "event"),
    [
        (RuntimeError("over jane.roe@example.org"), "internal_error", "something went wrong here", "http_error"),
        (PolicyError("/srv/tokenizer.json: bad"), "question", "the policy cannot be asked this", "question_refused"),
        (EngineClosed("the service is stopping"), "stopping", "the service is stopping", "http_error"),
    ],
)  # fmt: skip
def test_an_error_in_a_stream_is_its_last_event_and_says_no_more_than_one_without(
    error: Exception, code: str, message: str, event: str, tmp_path: Path, registry: Registry
) -> None:
    with served(Breaking(error), tmp_path, registry) as client:
        ask = client.chat.completions.create
        stream = ask(model="pixelis", messages=[{"role": "user", "content": "x"}], stream=True)
        said: list[object] = []
        with pytest.raises(openai.APIError) as caught:
            said.extend((chunk.choices[0].delta.model_extra or {}).get("reasoning_content") for chunk in stream)
        assert "one " in said
        assert (caught.value.code, caught.value.message.startswith(message)) == (code, True)
        with pytest.raises(openai.APIStatusError) as alone:
            ask(model="pixelis", messages=[{"role": "user", "content": "x"}])
        assert alone.value.body == caught.value.body
    written = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [each["event"] for each in written] == [event, event], "with a stream as without"
    assert "jane.roe" not in (tmp_path / "events.jsonl").read_text()
