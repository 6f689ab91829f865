"""What is written to an AMQP broker stays in order when the socket is full."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from harness.brokers import make_certificate

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

    outbox = Outbox(hub, lambda: None, broken)
    outbox.sock = ours
    return outbox


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


class LimitError(Exception):
    """What a limit raises in a task."""


def test_a_writer_that_is_ended_while_the_socket_is_full_costs_nobody_a_byte(
    hub: Hub, sockets: tuple[socket.socket, socket.socket], turns: Callable[..., None]
) -> None:
    ours, brokers = sockets
    outbox = make(hub, ours)
    came_of: dict[bytes, str] = {}

    def write(data: bytes) -> None:
        try:
            outbox.write(data)
            came_of[data[-1:]] = "sent"
        except LimitError:
            came_of[data[-1:]] = "ended"

    writers = [hub.spawn(write, data) for data in (MUCH + b"a", b"b", b"c")]
    turns()
    for writer in writers[:2]:
        hub.call_soon(hub.interrupt, writer, LimitError)
    turns()
    assert came_of == {b"a": "ended", b"b": "ended"}
    assert read(brokers, len(MUCH) + 3) == MUCH + b"abc"
    turns()
    assert came_of == {b"a": "ended", b"b": "ended", b"c": "sent"}
    told = outbox.statistics()
    assert (told["bytes"], told["unsent"]) == (len(MUCH) + 3, 0)
    assert (told["waiting"], told["is_blocked"]) == (0, 0)


def test_a_frame_is_finished_though_whoever_sends_it_is_ended(
    hub: Hub,
    sockets: tuple[socket.socket, socket.socket],
    turns: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, brokers = sockets
    spawned: list[Any] = []
    spawn = hub.spawn
    monkeypatch.setattr(hub, "spawn", lambda *args: spawned.append(spawn(*args)) or spawned[-1])
    outbox = make(hub, ours)
    outbox.post(MUCH + b"a")
    turns()
    [sender] = spawned
    outbox.post(b"b")
    if hasattr(sender, "kill"):
        sender.kill()
    turns()
    assert read(brokers, len(MUCH) + 2) == MUCH + b"ab"


def test_all_who_wait_are_told_when_one_gives_the_connection_up(
    hub: Hub, sockets: tuple[socket.socket, socket.socket], until: Callable[..., None]
) -> None:
    ours, _ = sockets
    reasons: list[BaseException] = []
    outbox = Outbox(hub, lambda: None, reasons.append)
    outbox.sock = ours
    errors: list[BaseException] = []

    def write(data: bytes, timeout: float | None) -> None:
        try:
            outbox.write(data, timeout)
        except OSError as exc:
            errors.append(exc)

    for data, timeout in ((MUCH, None), (b"b", 0.01), (b"c", None)):
        hub.spawn(write, data, timeout)
    until(lambda: len(errors) == 3)
    assert {type(error) for error in errors} == {socket.timeout}
    assert len({id(error) for error in errors}) == 3
    assert len(reasons) == 1
    with pytest.raises(socket.timeout):
        outbox.post(b"d")


def test_a_full_tls_socket_keeps_nobody_in_the_hub(
    hub: Hub,
    sockets: tuple[socket.socket, socket.socket],
    until: Callable[..., None],
    tmp_path: Path,
) -> None:
    ours, brokers = sockets
    certificate = tmp_path / "certificate.pem"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, make_certificate(certificate))
    client = ssl.create_default_context(cafile=str(certificate))
    much = MUCH[: 2**20]
    wrapped: list[ssl.SSLSocket] = []
    hub.spawn(lambda: wrapped.append(server.wrap_socket(brokers, server_side=True)))
    with client.wrap_socket(ours, server_hostname="127.0.0.1") as tls:
        until(lambda: wrapped)
        tls.settimeout(30)
        outbox = make(hub, tls)
        outbox.post(much)
        others: list[str] = []
        hub.call_soon(others.append, "turn")
        outbox.flush()
        assert others == []
        assert outbox.statistics()["is_blocked"] == 1
        assert tls.gettimeout() == 30
        hub.spawn(outbox.wait)
        assert read(wrapped[0], len(much)) == much
        wrapped[0].close()
