"""Who is let in: a rate per client, a bound on what is under way, and images that fit before they are decoded.

Nothing here costs time of the policy, and a request that is turned away leaves nothing behind.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import Field

from share.kernel.config import ConfigModel
from share.kernel.contracts.vision import PIXELS_MAX
from share.kernel.errors import MediaError, ServiceFull, TooManyRequests
from share.kernel.media.image import load_image

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels

BUCKETS_MAX = 20_000
"""Clients whose rate is remembered; one that is forgotten had a full bucket."""

ROOM_MIN = 8
"""Requests that may wait at least, unless no more are let in: enough that nobody is idle."""

_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,32};base64,", re.IGNORECASE)


class AdmissionConfig(ConfigModel):
    """What a client may send, and how much of it."""

    requests_per_s: float = Field(default=50.0, gt=0.0)
    """Calls per second that a key may make on average."""
    burst: int = Field(default=100, ge=1)
    """Calls that a key may make at once after a rest."""
    requests_max: int | None = Field(default=None, ge=1)
    """Questions that are read, waiting or answered at the same time, of all keys together; more are turned away before
    they are read. When not set, half as many again as are answered together, and at least eight: enough that nobody is
    idle, and so few that nobody waits longer than an answer takes."""
    body_bytes_max: int = Field(default=24 * 2**20, ge=1024)
    """Largest body of a call, in bytes; an image in it is a third larger than its file."""
    images_max: int = Field(default=8, ge=1)
    """Images of a question."""
    pixels_max: int = Field(default=PIXELS_MAX, ge=1, le=PIXELS_MAX)
    """Pixels of an image; read from its header before it is decoded."""
    question_characters_max: int = Field(default=8_000, ge=1)
    """Characters of a question."""


class TokenBuckets:
    """A token bucket per client: `burst` calls at once, `rate_per_s` on average. Thread-safe.

    `clock` gives seconds of a clock that never goes back.
    """

    def __init__(self, rate_per_s: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate_per_s = rate_per_s
        self._burst = float(burst)
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, client: str) -> None:
        """Take one token. Raises TooManyRequests, which says when there will be one."""
        now = self._clock()
        with self._lock:
            if len(self._buckets) >= BUCKETS_MAX and client not in self._buckets:
                self._forget_rested(now)
            tokens = self._filled(client, now)
            if tokens < 1.0:
                raise TooManyRequests(
                    f"more than {self._rate_per_s:g} calls a second with one key", (1.0 - tokens) / self._rate_per_s
                )
            self._buckets[client] = (tokens - 1.0, now)

    def _filled(self, client: str, now: float) -> float:
        tokens, at = self._buckets.get(client, (self._burst, now))
        return min(self._burst, tokens + (now - at) * self._rate_per_s)

    def _forget_rested(self, now: float) -> None:
        self._buckets = {
            client: bucket for client, bucket in self._buckets.items() if self._filled(client, now) < self._burst
        }
        while len(self._buckets) >= BUCKETS_MAX:
            self._buckets.pop(next(iter(self._buckets)))


class Place:
    """One of `Places`, left at the end of its block, or once `until` was said, when that is done."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self.leave = leave
        self.is_kept = False

    def until(self, future: Future[Any]) -> None:
        """Keep it until then, also after the block."""
        self.is_kept = True
        future.add_done_callback(lambda _: self.leave())


class Places:
    """A bound on what is under way at the same time. Thread-safe.

    What is answered together is bounded too, so that this bounds how long anybody waits: by Little's law a request
    takes as long as all of them together, divided by how many are answered a second.
    """

    def __init__(self, places_max: int) -> None:
        self._places_max = places_max
        self._lock = threading.Lock()
        self.num_taken = 0

    @property
    def are_taken(self) -> bool:
        """Whether there is none left."""
        return self.num_taken >= self._places_max

    @contextmanager
    def one(self) -> Iterator[Place]:
        """A place while the block runs. Raises ServiceFull when there is none."""
        with self._lock:
            if self.are_taken:
                raise self.full()
            self.num_taken += 1
        place = Place(self._leave)
        try:
            yield place
        finally:
            if not place.is_kept:
                self._leave()

    def full(self) -> ServiceFull:
        """What is said to one who gets no place."""
        return ServiceFull(f"{self._places_max} questions are being answered already", 1.0)

    def _leave(self) -> None:
        with self._lock:
            self.num_taken -= 1


def waiting_room(rows_max: int, requests_max: int | None = None) -> int:
    """Requests that may wait where so many are answered together: of `requests_max` under way those that are left, but
    a few always wait for a moment; where nothing bounds them so many that nobody waits longer than an answer takes."""
    if requests_max is None:
        return max(ROOM_MIN, rows_max // 2)
    return min(requests_max, max(ROOM_MIN, requests_max - rows_max))


def decode_image(url: str, name: str, *, pixels_max: int = PIXELS_MAX) -> Pixels:
    """The pixels of a data URL; nothing else of the file, such as EXIF, is kept.

    Raises MediaError beginning with `name`: for what is no `data:image/…;base64,` URL (nothing is fetched from
    anywhere), for more than `pixels_max` pixels according to the header, and for what cannot be decoded.
    """
    begin = _DATA_URL.match(url)
    if begin is None:
        scheme = url.partition(":")[0][:16] if ":" in url[:17] else ""
        if scheme.lower() == "data":
            raise MediaError(f"{name}: a data URL must begin with data:image/<type>;base64,")
        problem = f"{scheme}: is not fetched" if scheme else "what is no URL is not fetched"
        raise MediaError(f"{name}: {problem}; send the image itself as data:image/png;base64,…")
    try:
        content = base64.b64decode(url[begin.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{name}: its base64 is broken: {error}; send all of it, in one line") from error
    try:
        return load_image(content, pixels_max=pixels_max)
    except MediaError as error:
        raise MediaError(f"{name}: {str(error).removeprefix('image: ')}") from error


__all__ = [
    "BUCKETS_MAX",
    "ROOM_MIN",
    "AdmissionConfig",
    "Place",
    "Places",
    "TokenBuckets",
    "decode_image",
    "waiting_room",
]
