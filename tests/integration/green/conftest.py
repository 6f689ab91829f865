"""A real Redis, named by ``REDIS_URL``, for tests in a patched interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Callable

import pytest
import redis

from hybrid import hubs
from hybrid.clients.redis import MultiplexedRedis
from hybrid.hubs.base import Hub


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--hub", choices=hubs.NAMES, required=True)


@pytest.fixture
def hub(pytestconfig: pytest.Config) -> Hub:
    return hubs.get(pytestconfig.getoption("--hub"))


@pytest.fixture
def plain() -> Iterator[redis.Redis]:
    """redis-py's own client, on an empty database."""
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        client.flushdb()
        yield client


@pytest.fixture
def client(hub: Hub, plain: redis.Redis) -> Iterator[MultiplexedRedis]:
    pool = redis.ConnectionPool.from_url(os.environ["REDIS_URL"], client_name="multiplexed")
    multiplexed = MultiplexedRedis(hub=hub, connection_pool=pool)
    yield multiplexed
    multiplexed.close()
    pool.disconnect()


@pytest.fixture
def in_greenlets(hub: Hub) -> Callable[..., list[Any]]:
    """Return what ``run(number)`` returns or raises in ``count`` greenlets."""

    def run_all(run: Callable[[int], Any], count: int) -> list[Any]:
        outcomes: list[Any] = [None] * count
        left = [count]

        def record(number: int) -> None:
            try:
                outcomes[number] = run(number)
            except Exception as exc:
                outcomes[number] = exc
            left[0] -= 1

        for number in range(count):
            hub.spawn(record, number)
        while left[0]:
            hub.sleep(0.001)
        return outcomes

    return run_all
