"""What the engine and a worker say to each other, and the socket they say it over. docs/formats/transport.md.

One message is one packet of JSON over a pair of SOCK_SEQPACKET sockets, one pair for each worker: nothing is shared
with the worker before or after it, so one that was killed in the middle of a word leaves no lock and no half message.
"""

from __future__ import annotations

import select
import socket
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter

from share.kernel.errors import TransportError
from share.kernel.transport.memory import SharedMemoryInfo

MESSAGE_BYTES_MAX = 64 * 1024
"""Longest message. The socket's own buffer holds at least three."""
_RIGHTS_BYTES = socket.CMSG_SPACE(2 * array("i").itemsize)


@dataclass(frozen=True, slots=True)
class TakeOver:
    """To a standby: be the worker of this generation from now on."""

    generation: int
    type: Literal["take_over"] = "take_over"


@dataclass(frozen=True, slots=True)
class Assign:
    """To the worker: a task. `alone` when a worker died over it: then it is handled by itself."""

    task_id: str
    kind: str
    metadata: Mapping[str, JsonValue]
    tensors: Mapping[str, SharedMemoryInfo]
    alone: bool = False
    type: Literal["assign"] = "assign"


@dataclass(frozen=True, slots=True)
class Finish:
    """To the worker: this is the last message."""

    type: Literal["finish"] = "finish"


@dataclass(frozen=True, slots=True)
class Warm:
    """From a standby: everything is loaded that does not depend on the last version."""

    type: Literal["warm"] = "warm"


@dataclass(frozen=True, slots=True)
class Ready:
    """From the worker: it has taken over at `version`, the last one committed; None before the first."""

    version: str | None
    type: Literal["ready"] = "ready"


@dataclass(frozen=True, slots=True)
class Begun:
    """From the worker: it is about to handle these. They are blamed when it dies."""

    task_ids: tuple[str, ...]
    type: Literal["begun"] = "begun"


@dataclass(frozen=True, slots=True)
class Confirmed:
    """From the worker: the task is in the ledger. `repeated` when it was there before it was sent this time."""

    task_id: str
    version: str
    result: JsonValue
    repeated: bool = False
    type: Literal["confirmed"] = "confirmed"


@dataclass(frozen=True, slots=True)
class Failed:
    """From the worker or the nursery, the last message before it dies: the exception, with where it was raised."""

    error: str
    type: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Leaving:
    """From the worker, its last message: it ends because it was asked to."""

    type: Literal["leaving"] = "leaving"


@dataclass(frozen=True, slots=True)
class Fork:
    """To the nursery, with the worker's socket and the slab: make a worker."""

    target: str
    settings: Mapping[str, JsonValue]
    directory: str
    slot_bytes: int
    threads: int
    is_idle: bool
    batch_max: int
    ledger_days: int
    type: Literal["fork"] = "fork"


@dataclass(frozen=True, slots=True)
class Born:
    """From the nursery, with a pidfd: the worker of the oldest request that was not answered yet."""

    pid: int
    type: Literal["born"] = "born"


@dataclass(frozen=True, slots=True)
class Died:
    """From the nursery: `status` is the exit code, negative for a signal."""

    pid: int
    status: int
    type: Literal["died"] = "died"


Message = TakeOver | Assign | Finish | Warm | Ready | Begun | Confirmed | Failed | Leaving | Fork | Born | Died
_MESSAGES: TypeAdapter[Message] = TypeAdapter(
    Annotated[Message, Field(discriminator="type")],
    config=ConfigDict(ser_json_inf_nan="constants"),  # null is not what was said
)


@dataclass(frozen=True, slots=True)
class Packet:
    """A message and the file descriptors that came with it, which the receiver has to close."""

    message: Message
    fds: list[int] = field(default_factory=list)


class Channel:
    """One end of a socket pair. Owns the socket."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @staticmethod
    def pair() -> tuple[Channel, socket.socket]:
        """The engine's end, which never blocks, and the socket for the other process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        return Channel(ours), theirs

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> bool:
        """Send a message, False when there is no room for it now or nobody at the other end.

        Whoever is gone is found gone by `receive`, which first returns what it said before.
        """
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([encode(message)], rights)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self, *, wait: bool) -> Packet | None:
        """The next message; None when there is none yet and `wait` is false. Raises EOFError after the last."""
        flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
        try:
            # Not socket.recv_fds, which forgets its flags.
            data, rights, _, _ = self._socket.recvmsg(MESSAGE_BYTES_MAX, _RIGHTS_BYTES, flags)
        except BlockingIOError:
            return None
        except ConnectionResetError:  # it died with messages unread; said once, before what it had sent itself
            return self.receive(wait=wait)
        if not data:
            raise EOFError
        fds = array("i")
        for _, _, content in rights:  # SCM_RIGHTS is all that is ever sent
            fds.frombytes(content)
        return Packet(_MESSAGES.validate_json(data), fds.tolist())

    def close(self) -> None:
        self._socket.close()


def encode(message: Message) -> bytes:
    """The packet of a message. Raises TransportError when it is too long or JSON cannot hold it."""
    try:
        data = _MESSAGES.dump_json(message, warnings="error")
    except ValueError as error:
        raise TransportError(f"a message of type {message.type} is not JSON: {error}") from error
    if len(data) > MESSAGE_BYTES_MAX:
        raise TransportError(
            f"a message of type {message.type} has {len(data)} bytes, at most {MESSAGE_BYTES_MAX} are sent; "
            "put what is large into tensors or files"
        )
    return data


def readable(descriptors: Iterable[int], timeout_ms: int | None = None) -> set[int]:
    """Which of the descriptors can be read, or have ended; waits for one without a timeout.

    Not `select.select`, which refuses descriptors from 1,024 on: an engine has as many connections as it has.
    """
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(timeout_ms)}


__all__ = [
    "MESSAGE_BYTES_MAX",
    "Assign",
    "Begun",
    "Born",
    "Channel",
    "Confirmed",
    "Died",
    "Failed",
    "Finish",
    "Fork",
    "Leaving",
    "Message",
    "Packet",
    "Ready",
    "TakeOver",
    "Warm",
    "encode",
    "readable",
]
