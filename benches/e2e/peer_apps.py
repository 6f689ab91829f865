"""The no-op task in the words of each other worker, chosen by the environment.

``send(count)`` sends it ``count`` times with the worker's own client. Results are off everywhere.
Where a worker runs coroutines, the task is one.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from time import monotonic
from typing import Any

from . import ledger
from .scenarios import PEER_VARIABLE, REDIS_VARIABLE

_peer = os.environ[PEER_VARIABLE]
_url = os.environ[REDIS_VARIABLE]
_rows = ledger.Ledger(Path(os.environ[ledger.VARIABLE]))
started, ended, runs = _rows.started, _rows.ended, _rows.runs


def stamp(number: int) -> None:
    started[number] = monotonic()
    ended[number] = monotonic()
    runs[number] += 1


async def stamp_async(number: int) -> None:
    stamp(number)


if _peer in ("taskiq-streams", "taskiq-lists"):
    from taskiq_redis import ListQueueBroker, RedisStreamBroker

    # "0": messages that are older than the group are the group's too.
    broker: Any = (
        RedisStreamBroker(_url, consumer_id="0")
        if _peer == "taskiq-streams"
        else ListQueueBroker(_url)
    )
    task = broker.task(task_name="noop")(stamp_async)

    async def _send_all(count: int) -> None:
        await broker.startup()
        for number in range(count):
            await task.kiq(number)
        await broker.shutdown()

    def send(count: int) -> None:
        asyncio.run(_send_all(count))

elif _peer == "dramatiq":
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=_url)
    dramatiq.set_broker(broker)
    task = dramatiq.actor(actor_name="noop")(stamp)

    def send(count: int) -> None:
        for number in range(count):
            task.send(number)

elif _peer == "huey":
    from huey import RedisHuey

    huey = RedisHuey("bench", url=_url, results=False)
    task = huey.task(name="noop")(stamp)

    def send(count: int) -> None:
        for number in range(count):
            task(number)

elif _peer == "streaq":
    from streaq import Worker

    worker: Any = Worker(redis_url=_url, queue_name="bench", concurrency=1000)
    task = worker.task(name="noop", ttl=0, silent=True)(stamp_async)

    async def _send_all(count: int) -> None:
        async with worker:
            for begin in range(0, count, 500):
                tasks = [task.enqueue(number) for number in range(begin, min(begin + 500, count))]
                await worker.enqueue_many(tasks)

    def send(count: int) -> None:
        asyncio.run(_send_all(count))
