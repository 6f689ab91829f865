"""A real Redis, named by ``REDIS_URL``, for tests in a patched interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any, Callable

import pytest
import redis
from celery import Celery
from harness import greenlets

from hybrid import hubs
from hybrid.backends.redis import RedisBackend
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
def app() -> Celery:
    return Celery("green", set_as_current=False)


@pytest.fixture
def make_backend(app: Celery, hub: Hub) -> Iterator[Callable[[str], RedisBackend]]:
    """Makes the result backend that the greenlets of ``app`` share."""
    made: list[RedisBackend] = []

    def make(url: str) -> RedisBackend:
        backend = RedisBackend(app=app, url=url)
        backend.thread_safe = True
        app._backend = backend
        made.append(backend)
        return backend

    yield make
    for backend in made:
        backend.result_consumer.stop()


@pytest.fixture
def backend(make_backend: Callable[[str], RedisBackend], plain: redis.Redis) -> RedisBackend:
    return make_backend(os.environ["REDIS_URL"])


@pytest.fixture
def in_greenlets(hub: Hub) -> Callable[..., list[Any]]:
    """Return what ``run(number)`` returns or raises in ``count`` greenlets."""
    return partial(greenlets.in_greenlets, hub)
