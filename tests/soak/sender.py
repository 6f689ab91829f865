"""Sends numbered tasks to a worker at a steady rate, without Celery, until it is told to stop.

Run as a process of its own; SIGTERM ends it. Its last line of output is a JSON object: how many
tasks went to the main lane, how many to the added queues, and in how many seconds.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
import uuid

import amqp

TICK = 0.01
"""Seconds between two bursts."""


def message(lane: str, number: int) -> amqp.Message:
    """Return a call of the task "count", as Celery's protocol 2 has it."""
    task_id = str(uuid.uuid4())
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return amqp.Message(
        json.dumps([[lane, number], {}, embed]),
        content_type="application/json",
        content_encoding="utf-8",
        delivery_mode=2,
        correlation_id=task_id,
        application_headers={
            "lang": "py",
            "task": "count",
            "id": task_id,
            "root_id": task_id,
            "parent_id": None,
            "group": None,
            "retries": 0,
            "eta": None,
            "expires": None,
            "timelimit": [None, None],
            "ignore_result": True,
            "argsrepr": f"({lane!r}, {number})",
            "kwargsrepr": "{}",
            "origin": "sender",
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="of the broker, as in 127.0.0.1:5672")
    parser.add_argument("main", help="the queue that is consumed all the time")
    parser.add_argument("added", nargs="+", help="queues that are consumed now and then")
    parser.add_argument("--rate", type=float, required=True, help="tasks a second to the main one")
    parser.add_argument("--share", type=int, required=True, help="added ones get one for so many")
    options = parser.parse_args()

    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    sent = added = 0
    with amqp.Connection(options.address, heartbeat=0) as connection:
        channel = connection.channel()
        began = time.monotonic()
        while not stopped:
            for _ in range(int((time.monotonic() - began) * options.rate) - sent):
                channel.basic_publish(message("main", sent), routing_key=options.main)
                sent += 1
                if sent % options.share == 0:
                    queue = options.added[added % len(options.added)]
                    channel.basic_publish(message("added", added), routing_key=queue)
                    added += 1
            time.sleep(TICK)
        seconds = time.monotonic() - began
        # The broker answers when it has handled all that was published before.
        channel.close()
    print(json.dumps({"main": sent, "added": added, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
