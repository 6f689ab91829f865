"""Records what a real RabbitMQ sends, for ``tests/unit/test_amqp_codec.py`` to replay.

    python -m tests.harness.record_amqp [FILE]

The file has every byte of one connection from the first frame on, as it came from the socket.
"""

from __future__ import annotations

import datetime
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import amqp

from .brokers import RabbitServer

RECORDING = Path(__file__).parent.parent / "unit" / "data" / "rabbitmq.amqp"
FRAME_MAX = 4096
"""The smallest there is, so that bodies of a few kilobytes have many frames."""

HEADERS: dict[str, Any] = {
    "lang": "py",
    "task": "proj.tasks.add",
    "id": "b0c6b0a6-3f7e-4f0e-8e0e-9c1f7c1f7c1f",
    "eta": None,
    "group": None,
    "retries": 0,
    "timelimit": [None, 30.5],
    "stamps": {},
    "ignore_result": False,
    "text": "naïve \u2603 \U0001f600",
    "bytes": b"\xff\xfe\x00",
    "big": 2**62,
    "small": -(2**31),
    "price": Decimal("-3.14"),
    "when": datetime.datetime(2024, 2, 29, 12, 30, 15),
    "nested": {"list": [1, [2.5, {"deep": [True, None]}], "three"], "empty": {}},
}


class RecordingConnection(amqp.Connection):
    """Keeps what comes from the socket, and agrees on the smallest frames."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.received: list[bytes] = []

    def _on_tune(self, channel_max: int, frame_max: int, heartbeat: int) -> None:
        # py-amqp takes what the server proposes, whatever it was constructed with.
        super()._on_tune(channel_max, FRAME_MAX, heartbeat)

    def Transport(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
        transport = super().Transport(*args, **kwargs)
        set_up = transport._setup_transport

        def set_up_recording() -> None:
            set_up()
            receive = transport._quick_recv

            def received_from(number: int) -> bytes:
                data: bytes = receive(number)
                self.received.append(data)
                return data

            transport._quick_recv = received_from

        transport._setup_transport = set_up_recording
        return transport


def record(server: RabbitServer) -> bytes:
    """Return what the server sends while several queues are used on two channels."""
    connection = RecordingConnection(f"127.0.0.1:{server.port}", heartbeat=2, read_timeout=30)
    connection.connect()
    with connection:
        first, second = connection.channel(), connection.channel()
        seen: list[amqp.Message] = []
        returned: list[Any] = []
        first.events["basic_return"].add(lambda *args: returned.append(args))
        for channel, queue in ((first, "plain"), (first, "priorities"), (second, "ordnung \u2603")):
            arguments = {"x-max-priority": 9} if queue == "priorities" else {}
            channel.queue_declare(queue, exclusive=True, auto_delete=False, arguments=arguments)
            channel.basic_consume(queue, callback=seen.append, consumer_tag=f"tag.{queue}")

        published = 0
        for number, size in enumerate((0, 1, 11, 4087, 4088, 4089, 9000, 20000)):
            body = bytes(index * (number + 1) % 251 for index in range(size))
            for queue in ("plain", "priorities", "ordnung \u2603"):
                if size > 5000 and queue != "plain":
                    continue
                properties: dict[str, Any] = {"delivery_mode": 2}
                if number % 2:
                    properties = {
                        "content_type": "application/json",
                        "content_encoding": "utf-8",
                        "application_headers": HEADERS,
                        "delivery_mode": 2,
                        "priority": number,
                        "correlation_id": "c" * 255,
                        "reply_to": "reply",
                        "expiration": "600000",
                        "message_id": "m\u00e9",
                        "timestamp": 1_700_000_000,
                        "type": "",
                        "user_id": "guest",
                        "app_id": "app",
                    }
                message = amqp.Message(body, **properties)
                first.basic_publish(message, exchange="", routing_key=queue)
                published += 1
        # Nobody is bound to this key: it comes back.
        lost = amqp.Message(b"lost" * 2000, application_headers=HEADERS)
        first.basic_publish(lost, exchange="amq.direct", routing_key="nobody", mandatory=True)
        while len(seen) < published or not returned:
            connection.drain_events(timeout=10)

        # Dead letters have headers that the broker writes.
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "plain"}
        second.queue_declare("rejecting", exclusive=True, auto_delete=False, arguments=arguments)
        dying = amqp.Message(b"dying", application_headers={"task": "t"})
        second.basic_publish(dying, exchange="", routing_key="rejecting")
        got = None
        while got is None:
            got = second.basic_get("rejecting")
        second.basic_reject(got.delivery_tag, requeue=False)
        while len(seen) < published + 1:
            connection.drain_events(timeout=10)

        # Left unacknowledged on a channel that closes, they come again.
        second.close()
        third = connection.channel()
        third.basic_qos(0, 2, False)
        third.basic_consume("ordnung \u2603", callback=seen.append)
        while len(seen) < published + 3:
            connection.drain_events(timeout=10)

        # Heartbeats, one a second.
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            connection.send_heartbeat()
            try:
                connection.drain_events(timeout=0.5)
            except TimeoutError:
                continue
    return b"".join(connection.received)


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDING
    with tempfile.TemporaryDirectory() as folder:
        server = RabbitServer(Path(folder))
        try:
            data = record(server)
        finally:
            server.stop()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    print(f"{target}: {len(data)} bytes")


if __name__ == "__main__":
    main()
