"""A service as users start it: a process of its own on the loopback, with the starter policy."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai

from share.kernel.config import Choice
from share.kernel.media.image import encode_image
from share.kernel.registry import Registry
from share.kernel.serving.keys import ROLES

ROOT = Path(__file__).parent.parent.parent
START_S = 300.0

SMALL = ("batching.tokens_max=64", "batching.rows_max=4", "alerts.every_s=0.5")
"""Settings that keep the tests short."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Service:
    """A running service. `keys` by role, made with the first one."""

    process: subprocess.Popen[str]
    url: str
    directory: Path
    first_key: str | None
    said: str
    keys: dict[str, str] = field(default_factory=dict)
    clients: dict[str, openai.OpenAI] = field(default_factory=dict)

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One call; redirects are not followed. `body` is sent as JSON, bytes as they are."""
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **(headers or {})}
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url + path, content, sent, method=method)
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=120) as response:
                return Answer(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())

    def make_keys(self) -> None:
        assert self.first_key is not None
        for role in ROLES:
            made = self.call("POST", "/v1/admin/keys", {"role": role, "label": f"a {role}"}, key=self.first_key)
            assert made.status == 201, made.body
            self.keys[role] = made.json["key"]

    def client(self, role: str = "client") -> openai.OpenAI:
        """An official client; `stop` closes it."""
        if role not in self.clients:
            self.clients[role] = openai.OpenAI(
                base_url=f"{self.url}/v1", api_key=self.keys[role], max_retries=0, timeout=120
            )
        return self.clients[role]

    def stop(self) -> int:
        """As an init system does: SIGTERM, and what it exits with."""
        for client in self.clients.values():
            client.close()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(120)
        assert self.process.stdout is not None
        self.said += self.process.stdout.read()
        self.process.stdout.close()
        return code


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *told: Any) -> None:
        return None


def start(workdir: Path, *settings: str) -> Service:
    """Start one and wait until it says where it is."""
    process = subprocess.Popen(
        [sys.executable, "-m", "online.cli", "port=0", f"workdir={workdir}", *SMALL, *settings],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said, end = "", time.monotonic() + START_S
    while "\n  try " not in said:
        line = process.stdout.readline()
        assert line, f"it ended before it served:\n{said}"
        assert time.monotonic() < end
        said += line
    url = re.search(r"serving (\S+)", said)
    key = re.search(r"first key +(\S+)", said)
    assert url is not None
    return Service(process, url[1], workdir / "online", key[1] if key else None, said)


def question(registry: Registry, number: int = 3) -> tuple[list[dict[str, Any]], str]:
    """Messages that ask about a picture of the starter's own task, and the picture as a data URL."""
    prompt = registry.build(Choice("task", "zoom_digits")).prompt("held_out", number)
    url = "data:image/png;base64," + base64.b64encode(encode_image(prompt.images[0])).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt.question}]
    return [{"role": "user", "content": parts}], url
