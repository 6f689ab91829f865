"""What the broker answers reaches whoever asked, whoever reads it."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Callable

import amqp
import kombu
import pytest

from hybrid.hubs.base import Hub

InGreenlets = Callable[..., list[Any]]


@pytest.fixture
def connection(hub: Hub) -> Iterator[kombu.Connection]:
    with kombu.Connection(
        os.environ["AMQP_URL"], transport="hybrid.transports.amqp:Transport"
    ) as opened:
        opened.connect()
        yield opened


@pytest.fixture
def queue(connection: kombu.Connection) -> Iterator[str]:
    name = f"green{uuid.uuid4().hex}"
    connection.default_channel.queue_declare(name, durable=False, auto_delete=False)
    yield name
    connection.default_channel.queue_delete(name)


def block_the_thread(seconds: float) -> None:
    """Let the broker go on, and no greenlet."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@pytest.mark.parametrize("method", ["queue_declare", "queue_bind", "basic_get"])
def test_an_answer_that_others_read_before_its_caller_goes_on_is_not_lost(
    connection: kombu.Connection, hub: Hub, queue: str, in_greenlets: InGreenlets, method: str
) -> None:
    publishing, asking = connection.channel(), connection.channel()
    opened = connection.connection
    asks = {
        "queue_declare": lambda: asking.queue_declare(queue, passive=True).queue == queue,
        "queue_bind": lambda: not asking.queue_bind(queue, "amq.direct", "key"),
        "basic_get": lambda: asking.basic_get(queue, no_ack=True).body == "first",
    }
    publishing.basic_publish(amqp.Message("first"), routing_key=queue)
    # Channels keep no order among each other: it has to be there before it is asked for.
    publishing.queue_declare(queue, passive=True)

    def run(number: int) -> Any:
        if number == 1:
            return asks[method]()
        # In one write with the question; this greenlet goes on first, and reads the answer.
        publishing.basic_publish(amqp.Message("second"), routing_key=queue)
        block_the_thread(0.2)
        with suppress(socket.timeout):
            opened.drain_events(timeout=0)
        return True

    alarm = hub.call_later(10, lambda: opened.sock.shutdown(socket.SHUT_RDWR))
    assert in_greenlets(run, 2) == [True, True]
    alarm.cancel()
