"""Decoding one Celery message from Redis: kombu against hybrid.

Method: one typical message, written by a stock producer; every case decodes it from the bytes
that Redis returns. Cases run interleaved in rounds, so that a change of the machine's speed hits
both sides; the result is the median over rounds of kombu's time divided by hybrid's.

    python benches/micro_decode.py [--rounds N] [--json FILE]
"""

from __future__ import annotations

import datetime
from typing import Any, Callable

import kombu
from celery import Celery
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from micro import compare

from hybrid import _rust
from hybrid.transports.message import Message, decode_envelope

ACCEPT = {"application/json"}


def envelope(args: Any, kwargs: Any) -> bytes:
    """Return what ``add.apply_async(args, kwargs)`` puts on Redis."""
    sent: list[Any] = []
    app = Celery("proj", broker="memory://", set_as_current=False)
    with kombu.Connection("memory://") as connection:
        channel = connection.channel()
        channel._put = lambda _, message, **__: sent.append(message)
        task = app.amqp.as_task_v2(
            "b0c6b0a6-3f7e-4f0e-8e0e-9c1f7c1f7c1f", "proj.tasks.add", args, kwargs,
            reply_to="4e4ca5bb-6d4c-3f4c-9a0c-3e1a4b5c6d7e", origin="gen4711@producer.example",
        )  # fmt: skip
        kombu.Producer(channel, serializer="json").publish(
            task.body, exchange="", routing_key="celery", headers=task.headers,
            delivery_mode=2, **task.properties,
        )  # fmt: skip
    return dumps(sent[0]).encode()


def cases() -> dict[str, tuple[int, int, Callable[[], Any], Callable[[], Any]]]:
    """By name: calls in a round, items in a call, kombu's side, hybrid's side."""
    channel = kombu.Connection("memory://").channel()
    typical = envelope((1, 2, "hello"), {"retry": True})
    big = envelope([[{"id": i, "name": f"row {i}", "value": i / 7} for i in range(300)]], {})
    # Wherever a body holds a date, hybrid asks Rust in vain and then does what kombu does.
    dated = envelope((datetime.datetime(2024, 1, 2),), {})

    def through(message_class: Any, decode: Any, data: bytes) -> Callable[[], Any]:
        def message() -> Any:
            message = message_class(decode(data), channel=channel)
            message.accept = ACCEPT
            args, kwargs, _ = message.payload
            return message.headers, message.properties, args, kwargs

        return message

    def kombus(data: bytes) -> Any:
        return loads(bytes_to_str(data))

    def both(data: bytes) -> Any:
        return through(virtual.Message, kombus, data), through(Message, decode_envelope, data)

    body = virtual.Message(kombus(typical), channel=channel).body
    found = {
        "envelope": (4000, 1, lambda: kombus(typical), lambda: _rust.decode_envelope(typical)),
        "body": (4000, 1, lambda: loads(body), lambda: _rust.loads(body)),
        "message, few arguments": (4000, 1, *both(typical)),
        "message, 300 rows": (40, 1, *both(big)),
        "message, a date: not in Rust": (4000, 1, *both(dated)),
    }
    for name, (_, _, kombus_side, hybrids_side) in found.items():
        assert name == "envelope" or kombus_side() == hybrids_side()
    return found


if __name__ == "__main__":
    compare(__doc__.splitlines()[0], "kombu", ("celery", "kombu"), cases())
