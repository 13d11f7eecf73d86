"""Posts JSON to an address of the operator: in a thread of its own, in order, again and again until it is taken.

Whatever the server at that address does, it holds up nobody but itself. What waits is bounded in number and in time.
Nothing of the address, which may hold a secret, nor of what the server answers gets into the log.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from share.kernel.events import StructuredLogger, whereabouts

TIMEOUT_S = 5.0
"""Seconds that a server may take for any one step of an answer."""

AGAIN_S = 5.0
"""Seconds after which what was not taken is posted again; twice as many after every further time."""

AGAIN_S_MAX = 300.0
"""Seconds between two attempts at most."""

KEPT_S = 3600.0
"""Seconds after which what was not taken is given up: by then somebody knows, or nobody listens."""

WAITING_MAX = 64
"""Posts that wait at most; with more of them the oldest is given up."""


def is_address(text: str) -> bool:
    """Whether it names scheme, host and, if any, port of something that can be posted to."""
    try:
        parts = urlsplit(text)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, half of the brackets of an IPv6 address
        return False
    return is_one and text.isascii() and text.isprintable() and " " not in text


@dataclass(frozen=True, slots=True)
class _Post:
    """`until` is on the clock that never goes back."""

    name: str
    body: bytes
    until: float


class Webhook:
    """The posts to one address, from the first `post` until `close`. Thread-safe.

    `again_s` is how long it waits before it repeats what was not taken; `clock` gives seconds that never go back.
    """

    def __init__(
        self,
        address: str,
        logger: StructuredLogger,
        *,
        again_s: float = AGAIN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._logger = logger
        self._again_s = again_s
        self._clock = clock
        self._posts: deque[_Post] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def post(self, name: str, told: Mapping[str, object]) -> None:
        """Post it when its turn comes; `name` is what the log calls it. Returns at once."""
        with self._changed:
            if len(self._posts) >= WAITING_MAX:
                self._give_up(self._posts.popleft(), f"{WAITING_MAX} later ones wait")
            self._posts.append(_Post(name, json.dumps(told).encode(), self._clock() + KEPT_S))
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Post what waits once more, as far as the server takes it. One that hangs is left to itself."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(2 * TIMEOUT_S)

    def _run(self) -> None:
        wait_s = self._again_s
        while (post := self._next()) is not None:
            problem = self._sent(post)
            if problem is None:
                wait_s = self._again_s
            elif self._is_closed or self._clock() > post.until:
                self._give_up(post, problem)
            else:
                self._warn("webhook_failed", f"{post.name}: {problem}; it is posted again in {wait_s:g} s")
                with self._changed:
                    self._changed.wait_for(lambda: self._is_closed, wait_s)
                wait_s = min(2 * wait_s, AGAIN_S_MAX)
                continue
            with self._changed:
                if self._posts and self._posts[0] is post:  # else it was given up meanwhile
                    self._posts.popleft()

    def _next(self) -> _Post | None:
        """The oldest that waits, or will; None when all are done and it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._posts or self._is_closed)
            return self._posts[0] if self._posts else None

    def _sent(self, post: _Post) -> str | None:
        """What went wrong, None if it was taken."""
        request = urllib.request.Request(self._address, post.body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                return None
        except urllib.error.HTTPError as error:
            error.close()
            return f"was answered {error.code}"
        except urllib.error.URLError as error:
            cause = error.reason
            return f"could not be posted: {whereabouts(cause) if isinstance(cause, Exception) else 'no connection'}"
        except Exception as error:  # the thread is the boundary: what a server says must not end what comes after it
            return f"could not be posted: {whereabouts(error)}"

    def _give_up(self, post: _Post, problem: str) -> None:
        self._warn("webhook_given_up", f"{post.name}: is not posted any more: {problem}")

    def _warn(self, event: str, message: str) -> None:
        with contextlib.suppress(OSError):  # the disk of the log may be what the post tells of
            self._logger.warn(event, f"alerts.webhook: {message}")


__all__ = ["AGAIN_S", "AGAIN_S_MAX", "KEPT_S", "TIMEOUT_S", "WAITING_MAX", "Webhook", "is_address"]
