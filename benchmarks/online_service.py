"""A service as users start it, for the benchmarks that ask it: a process on the loopback, with the starter policy."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import httpx2

from share.kernel.contracts.task import Prompt
from share.kernel.media.image import encode_image
from share.kernel.serving.keys import ROLES, Role

ROOT = Path(__file__).parent.parent
START_S = 600.0
STOP_S = 300.0

Keys = Mapping[Role, str]


class OnlineService:
    """A running `python -m online.cli`. Leaving it sends SIGTERM as an init system does, and waits.

    `directory` is the service's own, `log` what it says. Raises RuntimeError, with what it said, when it does not.
    """

    def __init__(self, workdir: Path, *settings: str) -> None:
        workdir.mkdir(parents=True, exist_ok=True)
        self.directory = workdir / "online"
        self.log = workdir / "said.txt"
        with self.log.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "online.cli", "port=0", f"workdir={workdir}", *settings],
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait()
            self.url = self._found(r"serving (\S+)")
            self.keys = _made(self.url, self._found(r"first key +(\S+)"))
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """What it exits with; it is killed when it does not end by itself in time."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def client(self, role: Role, *, connections: int = 100) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.keys[role]}", "Content-Type": "application/json"},
            timeout=START_S,
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=False,
        )

    def _wait(self) -> None:
        end = time.monotonic() + START_S
        while "\n  try " not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the service did not start:\n{self.log.read_text()}")
            time.sleep(0.1)

    def _found(self, pattern: str) -> str:
        found = re.search(pattern, self.log.read_text())
        assert found is not None, "the service says so before it serves"
        return found[1]


def question(prompt: Prompt, file_type: Literal["jpg", "png"] = "png") -> bytes:
    """The body of a call that asks it."""
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"data:image/{file_type};base64,{_base64(encoded)}"}}
        for encoded in (encode_image(image, file_type) for image in prompt.images)
    ]
    parts.append({"type": "text", "text": prompt.question})
    return json.dumps({"model": "pixelis", "messages": [{"role": "user", "content": parts}]}).encode()


def _made(url: str, first_key: str) -> Keys:
    """A key of every role."""
    made: dict[Role, str] = {}
    with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {first_key}"}, trust_env=False) as client:
        for role in ROLES:
            answer = client.post("/v1/admin/keys", json={"role": role, "label": "benchmark"}, timeout=START_S)
            made[role] = answer.raise_for_status().json()["key"]
    return made


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


__all__ = ["ROOT", "Keys", "OnlineService", "question"]
