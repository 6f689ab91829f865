"""Reading deliveries from RabbitMQ and writing to it: py-amqp against hybrid.

Method: a stream of 1000 deliveries of a typical task message, written by py-amqp and read from
memory; publishing the same message; acknowledging. A delivery counts as read when its properties
and its body are there. py-amqp reads with its own transport from a socket that is a buffer, so
what a system call costs is on neither side. Cases run interleaved in rounds, so that a change of
the machine's speed hits both sides; the result is the median over rounds of py-amqp's time divided
by hybrid's.

    python benches/micro_amqp.py [--rounds N] [--json FILE]
"""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, Callable

import amqp
import kombu
from amqp import spec
from amqp.method_framing import frame_handler, frame_writer
from amqp.serialization import dumps, loads
from amqp.transport import TCPTransport
from celery import Celery
from micro import compare

from hybrid import _rust

DELIVERIES = 1000
CHUNK = 65536
"""What one read of a socket returns, at most."""
FRAME_MAX = 131072


def task_message() -> tuple[dict[str, Any], str]:
    """Return the properties and the body of what ``add.apply_async`` sends to RabbitMQ."""
    sent: list[Any] = []
    app = Celery("proj", broker="memory://", set_as_current=False)
    with kombu.Connection("memory://") as connection:
        channel = connection.channel()
        channel.basic_publish = lambda message, **_: sent.append(message)
        channel.prepare_message = (
            lambda body, priority, content_type, encoding, headers, properties: (
                {
                    "content_type": content_type,
                    "content_encoding": encoding,
                    "application_headers": headers,
                    "priority": priority,
                    **properties,
                },
                body,
            )
        )
        task = app.amqp.as_task_v2(
            "b0c6b0a6-3f7e-4f0e-8e0e-9c1f7c1f7c1f", "proj.tasks.add", (1, 2, "hello"),
            {"retry": True}, reply_to="4e4ca5bb-6d4c-3f4c-9a0c-3e1a4b5c6d7e",
            origin="gen4711@producer.example",
        )  # fmt: skip
        kombu.Producer(channel, serializer="json").publish(
            task.body, exchange="", routing_key="celery", headers=task.headers,
            delivery_mode=2, **task.properties,
        )  # fmt: skip
    message: tuple[dict[str, Any], str] = sent[0]
    return message


class Written:
    """py-amqp's frame writer, and what it wrote."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.write_frame = frame_writer(
            SimpleNamespace(frame_max=FRAME_MAX, bytes_sent=0),
            SimpleNamespace(write=self.data.extend),
        )

    def take(self) -> bytes:
        data = bytes(self.data)
        self.data.clear()
        return data


class Memory:
    """A socket that has received ``data``."""

    def __init__(self, data: bytes) -> None:
        self.data, self.offset = data, 0

    def recv(self, number: int) -> bytes:
        start, self.offset = self.offset, self.offset + number
        return self.data[start : self.offset]


def stream() -> bytes:
    properties, body = task_message()
    written = Written()
    for tag in range(1, DELIVERIES + 1):
        arguments = ("None4", tag, False, "", "celery")
        method = dumps("sLbss", arguments)
        written.write_frame(1, 1, spec.Basic.Deliver, method, amqp.Message(body, **properties))
    return written.take()


def read_by_amqp(data: bytes) -> list[Any]:
    deliveries: list[Any] = []

    def on_method(_channel: int, _method: Any, payload: bytes, content: Any) -> None:
        arguments, _ = loads("sLbss", payload, 4)
        deliveries.append((arguments, content.properties, content.body))

    transport = TCPTransport("localhost")
    transport._quick_recv = Memory(data).recv
    on_frame = frame_handler(SimpleNamespace(bytes_recv=0), on_method)
    while len(deliveries) < DELIVERIES:
        on_frame(transport.read_frame())
    return deliveries


def read_by_hybrid(data: bytes) -> list[Any]:
    deliveries: list[Any] = []
    reader, memory = _rust.AmqpReader(FRAME_MAX), Memory(data)
    while len(deliveries) < DELIVERIES:
        for item in reader.feed(memory.recv(CHUNK)):
            arguments = [
                item.consumer_tag, item.delivery_tag, item.redelivered, item.exchange,
                item.routing_key,
            ]  # fmt: skip
            deliveries.append((arguments, item.properties(), item.body))
    return deliveries


def held_by_hybrid(data: bytes) -> int:
    reader, memory = _rust.AmqpReader(FRAME_MAX), Memory(data)
    held = 0
    while held < DELIVERIES:
        held += len(reader.feed(memory.recv(CHUNK)))
    return held


Side = Callable[[], Any]


def cases() -> dict[str, tuple[int, int, Side, Side]]:
    """By name: runs in a round, items in a run, py-amqp's side, hybrid's side."""
    data = stream()
    properties, body = task_message()
    written = Written()

    def publish_by_amqp() -> bytes:
        method = dumps("Bssbb", (0, "", "celery", False, False))
        written.write_frame(1, 1, spec.Basic.Publish, method, amqp.Message(body, **properties))
        return written.take()

    def publish_by_hybrid() -> bytes:
        return _rust.encode_publish(1, "", "celery", False, False, properties, body, FRAME_MAX)

    def ack_by_amqp() -> bytes:
        written.write_frame(1, 1, spec.Basic.Ack, dumps("Lb", (4711, False)), None)
        return written.take()

    def settle_by_amqp() -> bytes:
        for tag in range(1, 129):
            written.write_frame(1, 1, spec.Basic.Ack, dumps("Lb", (tag, False)), None)
        return written.take()

    def settle_by_hybrid() -> bytes:
        window = _rust.AckWindow()
        for tag in range(1, 129):
            window.delivered(tag)
        for tag in range(128, 0, -1):
            window.settle(tag)
        return _rust.encode_acks(1, window.flush())

    assert read_by_amqp(data)[0][1:] == (read_by_hybrid(data)[0][1:])
    assert read_by_amqp(data)[7][0] == read_by_hybrid(data)[7][0]
    assert publish_by_amqp() == publish_by_hybrid()
    assert ack_by_amqp() == _rust.encode_ack(1, 4711)
    assert len(settle_by_hybrid()) == struct.calcsize(">BHIHHQBB")
    return {
        "delivery with properties": (
            2, DELIVERIES, lambda: read_by_amqp(data), lambda: read_by_hybrid(data),
        ),
        "delivery, nothing read from it": (
            2, DELIVERIES, lambda: read_by_amqp(data), lambda: held_by_hybrid(data),
        ),
        "publish": (2000, 1, publish_by_amqp, publish_by_hybrid),
        "ack": (4000, 1, ack_by_amqp, lambda: _rust.encode_ack(1, 4711)),
        "ack, 128 gathered": (20, 128, settle_by_amqp, settle_by_hybrid),
    }  # fmt: skip


if __name__ == "__main__":
    compare(__doc__.splitlines()[0], "amqp", ("amqp", "celery", "kombu"), cases())
