"""What is said arrives whole, in order, or not at all."""

from __future__ import annotations

import fcntl
import math
import os
import resource
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import torch

from share.kernel.errors import TransportError
from share.kernel.transport.memory import SharedMemoryInfo
from share.kernel.transport.messages import (
    MESSAGE_BYTES_MAX,
    Assign,
    Begun,
    Born,
    Channel,
    Confirmed,
    Died,
    Failed,
    Finish,
    Fork,
    Leaving,
    Message,
    Ready,
    TakeOver,
    Warm,
    readable,
)

INFO = SharedMemoryInfo("slot3.17", (2, 0), torch.bfloat16, datetime.now(UTC), 0, 3, 17, 0)
MESSAGES: list[Message] = [
    TakeOver(3),
    Assign("t1", "update", {"reward": 0.5, "labels": [1, None, "x"]}, {"pixels": INFO}, alone=True),
    Finish(),
    Warm(),
    Ready(None),
    Ready("v12"),
    Begun(("t1", "t2")),
    Confirmed("t1", "v13", {"loss": 0.25}, repeated=True),
    Failed("ValueError: no"),
    Leaving(),
    Fork("module:attribute", {"path": "x"}, "/somewhere", 4096, 1, True, 16, 90),
    Born(12),
    Died(12, -9),
]


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    ours, socket_of_theirs = Channel.pair()
    theirs = Channel(socket_of_theirs)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.type)
def test_a_message_arrives_as_it_was_sent(ends: tuple[Channel, Channel], message: Message) -> None:
    ours, theirs = ends
    assert ours.send(message)
    packet = theirs.receive(wait=True)
    assert packet is not None
    assert packet.message == message


def test_a_number_that_is_not_finite_stays_one(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    theirs.send(Confirmed("t", "v", [math.nan, math.inf]))
    packet = ours.receive(wait=False)
    assert packet is not None
    assert isinstance(packet.message, Confirmed)
    assert str(packet.message.result) == "[nan, inf]"


def test_file_descriptors_travel_and_are_not_inherited(ends: tuple[Channel, Channel]) -> None:
    readable, writable = os.pipe()
    ends[0].send(Warm(), (writable,))
    os.close(writable)
    packet = ends[1].receive(wait=True)
    assert packet is not None
    (received,) = packet.fds
    assert not os.get_inheritable(received)
    os.write(received, b"x")
    assert os.read(readable, 1) == b"x"
    os.close(readable)
    os.close(received)


def test_what_was_said_before_the_end_is_heard_after_it(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    ours.send(Finish())  # never read: the kernel then reports a reset before it hands out what was sent
    theirs.send(Begun(("t1",)))
    theirs.close()
    packet = ours.receive(wait=False)
    assert packet is not None
    assert packet.message == Begun(("t1",))
    with pytest.raises(EOFError):
        ours.receive(wait=False)
    assert not ours.send(Finish())


def test_a_full_socket_refuses_and_loses_nothing(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    message = Failed("x" * 60_000)
    num_sent = 0
    while ours.send(message):
        num_sent += 1
    assert num_sent >= 3
    heard = 0
    while theirs.receive(wait=False):
        heard += 1
    assert heard == num_sent


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (Failed("x" * MESSAGE_BYTES_MAX), "put what is large into tensors"),
        (Assign("t", "k", {"x": object()}, {}), "is not JSON"),  # type: ignore[dict-item]
        (Confirmed("t", "v", "half a character: \ud800"), "is not JSON"),  # nobody could read it
    ],
)
def test_what_cannot_be_said_is_refused(ends: tuple[Channel, Channel], message: Message, complaint: str) -> None:
    with pytest.raises(TransportError, match=complaint):
        ends[0].send(message)
    assert ends[1].receive(wait=False) is None


def test_a_pair_blocks_only_at_the_worker_s_end() -> None:
    ours, theirs = Channel.pair()
    with theirs:
        assert theirs.getblocking()
        assert ours.receive(wait=False) is None
        assert theirs.type == socket.SOCK_SEQPACKET
    ours.close()


def test_a_descriptor_beyond_a_thousand_can_be_waited_for() -> None:
    reading, writing = os.pipe()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 2000), hard), hard))
        high = fcntl.fcntl(reading, fcntl.F_DUPFD, 1500)
        assert readable([high], 0) == set()
        os.write(writing, b"x")
        assert readable([high]) == {high}
        os.close(high)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(reading)
        os.close(writing)
