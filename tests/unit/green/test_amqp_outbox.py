"""What is written to an AMQP broker stays in order when the socket is full."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Callable

import pytest

from hybrid.hubs.base import Hub
from hybrid.transports.amqp.outbox import Outbox

#: More than the buffers of a socket take.
MUCH = b"x" * 8_000_000


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, brokers = socket.socketpair()
    with ours, brokers:
        yield ours, brokers


def make(hub: Hub, ours: socket.socket) -> Outbox:
    """Return an outbox that writes to one end of a pair."""

    def broken(exc: BaseException) -> None:
        raise AssertionError("broken") from exc

    return Outbox(hub, lambda: ours, lambda: None, broken)


def read(brokers: socket.socket, size: int) -> bytes:
    """Read from the broker's end."""
    chunks = []
    while size:
        chunk = brokers.recv(size)
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def test_what_is_written_meanwhile_is_sent_when_the_socket_has_room(
    hub: Hub, sockets: tuple[socket.socket, socket.socket], turns: Callable[..., None]
) -> None:
    ours, brokers = sockets
    outbox = make(hub, ours)
    sent: list[bytes] = []

    def write(data: bytes) -> None:
        outbox.write(data)
        sent.append(data[-1:])
        outbox.post(data[-1:])

    for data in (MUCH + b"a", b"b", b"c"):
        hub.spawn(write, data)
    turns()
    assert sent == []
    assert read(brokers, len(MUCH) + 6) == MUCH + b"abcabc"
    assert sent == [b"a", b"b", b"c"]
    outbox.write(b"d")
    assert read(brokers, 1) == b"d"
