"""The Celery app of producer and worker, and the one task, which records that it ran."""

from __future__ import annotations

import os

import redis
from celery import Celery

QUEUE = os.environ.get("BULK_PRODUCER_QUEUE", "bulk-producer")

app = Celery("bulk_producer", broker=os.environ.get("BULK_PRODUCER_BROKER", "redis://127.0.0.1/0"))
app.conf.update(
    task_default_queue=QUEUE,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
)
if str(app.conf.broker_url).startswith("redis"):
    # kombu's default of 10 is too few for stock green pools, where each task acknowledges from
    # its own greenlet: the eleventh at a time fails with "Too many connections".
    app.conf.broker_transport_options = {"max_connections": 2000}


class Arrivals:
    """Which numbered tasks ran, and how many runs there were, in Redis."""

    def __init__(self, url: str, name: str) -> None:
        pool = redis.BlockingConnectionPool.from_url(url, max_connections=16, timeout=30)
        self._redis = redis.Redis(connection_pool=pool)
        self._bits = f"{name}:arrived"
        self._runs = f"{name}:runs"

    def record(self, number: int) -> None:
        """Note that task ``number`` ran."""
        with self._redis.pipeline() as pipe:
            pipe.setbit(self._bits, number, 1).incr(self._runs).execute()

    def count(self) -> tuple[int, int]:
        """Return how many different tasks ran, and how many runs there were."""
        with self._redis.pipeline() as pipe:
            different, runs = pipe.bitcount(self._bits).get(self._runs).execute()
        return different, int(runs or 0)

    def missing(self, total: int) -> list[int]:
        """Return the numbers below ``total`` that never ran."""
        bits = self._redis.get(self._bits) or b""
        padded = bits.ljust(total // 8 + 1, b"\0")
        return [n for n in range(total) if not padded[n >> 3] & (0x80 >> (n & 7))]

    def drop(self) -> None:
        """Delete the keys and close the connections."""
        self._redis.delete(self._bits, self._runs)
        self._redis.connection_pool.disconnect()


ARRIVALS = Arrivals(os.environ.get("BULK_PRODUCER_REDIS", "redis://127.0.0.1/0"), QUEUE)


@app.task
def record(number: int) -> None:
    """Note that this task ran."""
    ARRIVALS.record(number)
