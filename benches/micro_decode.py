"""Decoding one Celery message from Redis: kombu against hybrid.

Method: one typical message, written by a stock producer; every case decodes it from the bytes
that Redis returns. Cases run interleaved in rounds, so that a change of the machine's speed hits
both sides; the result is the median over rounds of kombu's time divided by hybrid's.

    python benches/micro_decode.py [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import timeit
from pathlib import Path
from typing import Any, Callable

import kombu
from celery import Celery
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

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


def cases() -> dict[str, tuple[int, Callable[[], Any], Callable[[], Any]]]:
    """By name: how often a round runs it, kombu's side, hybrid's side."""
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
    return {
        "envelope": (4000, lambda: kombus(typical), lambda: _rust.decode_envelope(typical)),
        "body": (4000, lambda: loads(body), lambda: _rust.loads(body)),
        "message, few arguments": (4000, *both(typical)),
        "message, 300 rows": (40, *both(big)),
        "message, a date: not in Rust": (4000, *both(dated)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()

    results = {}
    gc.disable()  # both sides allocate the same objects
    for name, (number, *sides) in cases().items():
        assert sides[0]() == sides[1]() or name == "envelope"
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(options.rounds):
            for side, series in zip(sides, times):
                series.append(timeit.timeit(side, number=number) / number * 1e6)
        results[name] = {
            "kombu_us": round(statistics.median(times[0]), 3),
            "hybrid_us": round(statistics.median(times[1]), 3),
            "ratio": round(statistics.median(k / h for k, h in zip(*times)), 2),
        }

    print(f"{'':30}{'kombu µs':>10}{'hybrid µs':>11}{'ratio':>8}")
    for name, row in results.items():
        print(f"{name:30}{row['kombu_us']:10.2f}{row['hybrid_us']:11.2f}{row['ratio']:8.2f}")
    if options.json:
        report = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
            "python": platform.python_version(),
            "versions": {p: importlib.metadata.version(p) for p in ("celery", "kombu")},
            "rounds": options.rounds,
            "results": results,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
