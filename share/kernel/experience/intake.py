"""Where the writer takes experiences from producers in other processes: one thread, one sync for all that wait."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import threading
from dataclasses import dataclass, field

from share.kernel.errors import BufferProblem, BufferUnavailable, ExperienceRefused
from share.kernel.experience.buffer import ExperienceBuffer
from share.kernel.experience.codec import ID_BYTES_MAX, UNIT_TOLERANCE
from share.kernel.experience.problem import problem
from share.kernel.experience.requests import Addition
from share.kernel.experience.wire import (
    NAME,
    Greeting,
    address,
    pack_answer,
    pack_greeting,
    take_messages,
    unpack_additions,
)

CONNECTIONS_MAX = 1024
RECEIVE_BYTES = 1 << 16
"""At once from a producer: memory for a megabyte costs more to get than a usual addition to receive (13 us, 1.5 us)."""


class Intake:
    """Open from its making to `close`. A producer that sends nonsense, or does not read its answers, is hung up on.

    Raises BufferUnavailable if the socket cannot be made.
    """

    def __init__(self, buffer: ExperienceBuffer) -> None:
        self._buffer = buffer
        self._greeting = b"".join(
            pack_greeting(Greeting(buffer.config.dimension, buffer.config.priority.model_dump_json()))
        )
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._wake, self._woken = socket.socketpair()
        try:
            with address(buffer.directory) as name:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)  # of a writer before us, whose lock we hold
                self._listener.bind(name)
            self._listener.listen(128)
        except OSError as error:
            self._close_sockets()
            raise problem(error, f"{buffer.directory / NAME}: cannot be made") from error
        self._inode = os.stat(buffer.directory / NAME).st_ino
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._producers: dict[socket.socket, bytearray] = {}
        self._thread = threading.Thread(target=self._run, name="experience-buffer-intake", daemon=True)
        self._thread.start()

    def __enter__(self) -> Intake:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take nothing more. What was acknowledged is durable."""
        self._wake.send(b"\0")
        self._thread.join()
        with contextlib.suppress(OSError):  # it may be another writer's by now
            if os.stat(self._buffer.directory / NAME).st_ino == self._inode:
                os.unlink(self._buffer.directory / NAME)
        for connection in list(self._producers):
            self._hang_up(connection)
        self._close_sockets()

    def _run(self) -> None:
        while True:
            groups: list[_Group] = []
            for key, _ in self._selector.select():
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if connection is self._woken:
                    return
                if connection is self._listener:
                    self._accept()
                else:
                    groups += self._receive(connection)
            if groups:
                self._commit(groups)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            if len(self._producers) >= CONNECTIONS_MAX:
                connection.close()
                return
            self._producers[connection] = bytearray()
            self._selector.register(connection, selectors.EVENT_READ)
            self._answer(connection, self._greeting)

    def _receive(self, connection: socket.socket) -> list[_Group]:
        """What has come whole; some of it may be refused already."""
        received = self._producers[connection]
        groups = []
        try:
            part = connection.recv(RECEIVE_BYTES)
            if not part:
                raise ConnectionError("has hung up")
            received += part
            for message in take_messages(received):
                group = _Group(connection)
                groups.append(group)
                try:
                    group.additions = unpack_additions(message)
                    for addition in group.additions:
                        self._check(addition)
                except BufferProblem as error:
                    group.answer = error
        except BlockingIOError:
            pass
        except (OSError, struct.error):
            self._hang_up(connection)
        return groups

    def _commit(self, groups: list[_Group]) -> None:
        sound = [group for group in groups if group.answer is None]
        try:
            answers = self._buffer.commit_additions([group.additions for group in sound]) if sound else []
        except BufferProblem as error:
            answers = [error] * len(sound)
        for group, answer in zip(sound, answers, strict=True):
            group.answer = answer
        for group in groups:
            assert group.answer is not None
            self._answer(group.connection, pack_answer(group.answer))

    def _check(self, addition: Addition) -> None:
        """A producer has checked more; this is what search and recovery rely on."""
        embedding_D = addition.head.embedding
        if embedding_D.shape != (self._buffer.config.dimension,):
            raise ExperienceRefused(f"embedding: has shape {embedding_D.shape}, not ({self._buffer.config.dimension},)")
        if not abs(float(embedding_D @ embedding_D) - 1) <= UNIT_TOLERANCE:
            raise ExperienceRefused("embedding: must be finite and of unit length")
        if not 0 < len(addition.head.id) <= ID_BYTES_MAX:
            raise ExperienceRefused(f"id: must have 1 to {ID_BYTES_MAX} bytes")

    def _answer(self, connection: socket.socket, content: bytes) -> None:
        try:
            if connection.send(content) != len(content):
                raise BufferUnavailable("it does not read")
        except (OSError, BufferUnavailable):
            self._hang_up(connection)

    def _hang_up(self, connection: socket.socket) -> None:
        if self._producers.pop(connection, None) is not None:
            self._selector.unregister(connection)
            connection.close()

    def _close_sockets(self) -> None:
        self._selector.close()
        for each in (self._listener, self._wake, self._woken):
            each.close()


@dataclass(slots=True, eq=False)
class _Group:
    connection: socket.socket
    additions: list[Addition] = field(default_factory=list)
    answer: list[int] | BufferProblem | None = None


__all__ = ["CONNECTIONS_MAX", "RECEIVE_BYTES", "Intake"]
