"""Waiting deliveries keep their channel, and never outlive their connection."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import kombu
import pytest
from kombu.common import QoS

from hybrid.hubs.base import Hub
from hybrid.worker.consuming.prefetch import Prefetch
from hybrid.worker.consuming.rotation import CHANNEL_LIMIT, Rotation

PREFETCH = 4


class Consuming:
    """What a rotation needs of a worker, on a connection to RabbitMQ."""

    def __init__(self, connection: kombu.Connection, queue: kombu.Queue) -> None:
        self.messages: list[Any] = []
        self.task_consumer = kombu.Consumer(
            connection.default_channel, [queue], on_message=self.messages.append
        )
        self.connection = connection
        self.qos = QoS(self._tell, PREFETCH)
        self.prefetch = Prefetch(self.qos, self.task_consumer.channel)
        worker = SimpleNamespace(connection=connection, task_consumer=self.task_consumer)
        self.rotation = Rotation(worker, self.prefetch)
        self.prefetch.tell()
        self.task_consumer.consume()

    def _tell(self, prefetch_count: int) -> None:
        self.task_consumer.qos(prefetch_count=prefetch_count, apply_global=True)

    def hold(self, count: int) -> None:
        """Take messages until there are so many, which all wait."""
        self.qos.value = count + PREFETCH
        self.prefetch.tell()
        while len(self.messages) < count:
            self.connection.drain_events(timeout=5)


@pytest.fixture
def connection(hub: Hub) -> Iterator[kombu.Connection]:
    with kombu.Connection(
        os.environ["AMQP_URL"], transport="hybrid.transports.amqp:Transport"
    ) as opened:
        yield opened


@pytest.fixture
def consuming(connection: kombu.Connection) -> Iterator[Consuming]:
    queue = kombu.Queue(f"green{uuid.uuid4().hex}", durable=False)
    producer = kombu.Producer(connection.channel())
    queue(connection.default_channel).declare()
    for number in range(2 * CHANNEL_LIMIT + 2 * PREFETCH):
        producer.publish(number, routing_key=queue.name)
    yield Consuming(connection, queue)
    with connection.clone(transport="pyamqp") as other:
        queue(other.default_channel).delete()


def test_a_full_channel_is_left_and_closed_when_nothing_is_out_on_it(consuming: Consuming) -> None:
    first = consuming.task_consumer.channel
    consuming.hold(CHANNEL_LIMIT)
    consuming.rotation.turn()
    second = consuming.task_consumer.channel
    assert second is not first
    consuming.hold(2 * CHANNEL_LIMIT + PREFETCH)
    consuming.rotation.turn()
    third = consuming.task_consumer.channel
    for message in consuming.messages:
        message.ack()
    consuming.rotation._counted = 0.0
    consuming.rotation.turn()
    # The first one is the worker's for other things, too.
    assert (first.is_open, second.is_open, third.is_open) == (True, False, True)
    assert sorted(message.decode() for message in consuming.messages) == list(
        range(len(consuming.messages))
    )


@pytest.mark.parametrize("is_full", [True, False], ids=["going over", "counting"])
def test_a_lost_connection_is_not_made_anew_without_consumers(
    consuming: Consuming, is_full: bool
) -> None:
    connection = consuming.connection
    consuming.hold(CHANNEL_LIMIT)
    if not is_full:
        consuming.rotation.turn()
        consuming.rotation._counted = 0.0
    opened = connection.connection
    opened.transport.sock.shutdown(socket.SHUT_RDWR)
    with suppress(*connection.connection_errors):
        while True:  # what had come before it
            connection.drain_events(timeout=5)
    opened.collect()
    with pytest.raises(connection.connection_errors):
        consuming.rotation.turn()
    assert not connection.connected
