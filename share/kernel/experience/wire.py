"""What producers and writer say to each other on a local socket: messages of a length and that many bytes.

The writer begins with a greeting in JSON. A producer sends additions and gets their sequences, or why there are none.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from share.kernel import errors
from share.kernel.errors import BufferProblem, BufferUnavailable
from share.kernel.experience.codec import read_head
from share.kernel.experience.requests import Addition

NAME = "producers"
MESSAGE_BYTES_MAX = 256 << 20
_RECEIVE_BYTES = 1 << 16
_LENGTH = struct.Struct("<I")
_COUNT = struct.Struct("<I")
_ADDITION = struct.Struct("<III")
_ACCEPTED, _REFUSED = b"\1", b"\0"


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a producer must know to encode: numbers in an embedding, and the settings of the first priority as JSON."""

    dimension: int
    priority: str


@contextmanager
def address(directory: Path) -> Iterator[str]:
    """Where the socket is, short enough for a socket's address however long the directory's path is."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{NAME}"
    finally:
        os.close(descriptor)


def pack(parts: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """One message."""
    return [_LENGTH.pack(sum(len(part) for part in parts)), *parts]


def pack_greeting(greeting: Greeting) -> list[bytes | memoryview]:
    return pack([json.dumps({"dimension": greeting.dimension, "priority": greeting.priority}).encode()])


def unpack_greeting(message: bytes | memoryview) -> Greeting:
    return Greeting(**json.loads(bytes(message)))


def pack_additions(additions: Sequence[Addition]) -> list[bytes | memoryview]:
    parts: list[bytes | memoryview] = [_COUNT.pack(len(additions))]
    for addition in additions:
        size = sum(len(part) for part in addition.payload)
        parts += [_ADDITION.pack(size, addition.retrieval_count, addition.success_count), *addition.payload]
    return pack(parts)


def unpack_additions(message: memoryview) -> list[Addition]:
    """Raises BufferProblem, struct.error if it is not what `pack_additions` gave."""
    (count,) = _COUNT.unpack_from(message)
    additions, offset = [], _COUNT.size
    for _ in range(count):
        size, retrieved, succeeded = _ADDITION.unpack_from(message, offset)
        offset += _ADDITION.size
        payload = message[offset : offset + size]
        additions.append(Addition(read_head(payload), [payload], retrieved, succeeded))
        offset += size
    return additions


def pack_answer(answer: Sequence[int] | BufferProblem) -> bytes:
    """Sequences, or why there are none, as one message."""
    if isinstance(answer, BufferProblem):
        body = _REFUSED + json.dumps([type(answer).__name__, str(answer)]).encode()
    else:
        body = _ACCEPTED + struct.pack(f"<{len(answer)}Q", *answer)
    return _LENGTH.pack(len(body)) + body


def unpack_answer(message: bytes) -> list[int]:
    """The sequences. Raises the BufferProblem that the writer met."""
    if message[:1] == _ACCEPTED:
        return list(struct.unpack(f"<{len(message) // 8}Q", message[1:]))
    name, text = json.loads(message[1:])
    kind = getattr(errors, name, BufferUnavailable)
    raise kind(text) if isinstance(kind, type) and issubclass(kind, BufferProblem) else BufferUnavailable(text)


def receive(connection: socket.socket) -> bytes:
    """One whole message, of which nothing follows before it is answered. Raises ConnectionError, OSError."""
    received = b""
    end = _LENGTH.size
    while len(received) < end:
        part = connection.recv(_RECEIVE_BYTES)
        if not part:
            raise ConnectionError("the writer has hung up")
        received += part
        if len(received) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(received)[0]
    if len(received) > end:
        raise ConnectionError("the writer says more than it was asked")
    return received[_LENGTH.size :]


def take_messages(received: bytearray) -> list[memoryview]:
    """The whole messages at the beginning of what was received, which are cut off. Raises ConnectionError."""
    messages, offset = [], 0
    while offset + _LENGTH.size <= len(received):
        (length,) = _LENGTH.unpack_from(received, offset)
        if length > MESSAGE_BYTES_MAX:
            raise ConnectionError(f"a message of {length} bytes, at most {MESSAGE_BYTES_MAX} are taken")
        end = offset + _LENGTH.size + length
        if end > len(received):
            break
        messages.append(memoryview(bytes(received[offset + _LENGTH.size : end])))
        offset = end
    del received[:offset]
    return messages


__all__ = [
    "MESSAGE_BYTES_MAX",
    "NAME",
    "Greeting",
    "address",
    "pack",
    "pack_additions",
    "pack_answer",
    "pack_greeting",
    "receive",
    "take_messages",
    "unpack_additions",
    "unpack_answer",
    "unpack_greeting",
]
