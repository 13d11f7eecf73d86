"""Adding to a buffer from another process than the writer's."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from share.kernel.contracts.experience import Experience
from share.kernel.errors import BufferFenced, BufferUnavailable
from share.kernel.experience.codec import check_experience
from share.kernel.experience.config import PriorityConfig
from share.kernel.experience.requests import Addition, encode_addition
from share.kernel.experience.wire import Greeting, address, pack_additions, receive, unpack_answer, unpack_greeting

NOT_KNOWN = "whether it was stored is not known: add it again, and an id that is taken says that it was"


class ExperienceProducer:
    """Adds through the writer's `Intake`; what several producers add at once shares a sync. Safe for many threads.

    Experiences are checked and encoded here. `timeout_s` limits each wait for the writer. Connects at the first add,
    and again after the writer was replaced.
    """

    def __init__(
        self, directory: Path | str, *, timeout_s: float = 30.0, clock: Callable[[], float] = time.time
    ) -> None:
        self.directory = Path(directory)
        self._timeout_s = timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._dimension = 0
        self._priority = PriorityConfig()

    def __enter__(self) -> ExperienceProducer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, experience: Experience) -> int:
        """Durable and searchable at return, in every process. Returns the sequence of its record.

        Raises ExperienceRefused, BufferFull, BufferUnavailable; of the last the message says if it may be stored.
        """
        return self.add_many((experience,))[0]

    def add_many(self, experiences: Sequence[Experience]) -> list[int]:
        """All of them with one sync, or none. Raises as `add`."""
        if not experiences:
            return []
        with self._lock:
            connection = self._connection or self._connect()
            message = pack_additions([self._addition(experience) for experience in experiences])
            try:
                connection.sendall(b"".join(message))
                answer = receive(connection)
            except OSError as error:
                self._hang_up()
                what = f"the writer does not answer ({error})"
                raise BufferUnavailable(f"{self.directory}: {what}; {NOT_KNOWN}") from error
            try:
                return unpack_answer(answer)
            except BufferFenced:
                self._hang_up()  # the next add meets the writer that took over
                raise

    def close(self) -> None:
        with self._lock:
            self._hang_up()

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(self._timeout_s)
        try:
            with address(self.directory) as name:
                connection.connect(name)
            greeting: Greeting = unpack_greeting(receive(connection))
        except OSError as error:
            connection.close()
            raise BufferUnavailable(
                f"{self.directory}: no writer takes experiences there ({error.strerror or error}); nothing was added"
            ) from error
        self._connection = connection
        self._dimension = greeting.dimension
        self._priority = PriorityConfig.model_validate_json(greeting.priority)
        return connection

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _addition(self, experience: Experience) -> Addition:
        check_experience(experience, self._dimension)
        return encode_addition(experience, self._priority.first(experience, self._clock()))


__all__ = ["NOT_KNOWN", "ExperienceProducer"]
