"""Celery's Redis result backend on a client that all greenlets share."""

from __future__ import annotations

from typing import Any

from celery.backends import redis

from hybrid import hubs
from hybrid.clients.redis import shared


class RedisBackend(redis.RedisBackend):  # type: ignore[misc]
    """Celery's backend: keys, formats, retries, chords and results are its own.

    What greenlets store and read at the same time travels together, on one connection.
    """

    def _create_client(self, **params: Any) -> Any:
        hub = hubs.running()
        is_usual = self._ConnectionPool in (None, self.redis.ConnectionPool)
        if hub is None or not is_usual:
            return super()._create_client(**params)
        return shared(hub, params)

    def _set(self, key: Any, value: Any, expires: Any = None) -> None:
        # Celery does this in a transaction, for the sake of whom nobody can tell: a reader that
        # was told of the result finds it either way.
        if expires is None:
            expires = self.expires
        with self.client.pipeline(transaction=False) as pipe:
            if expires:
                pipe.setex(key, expires, value)
            else:
                pipe.set(key, value)
            pipe.publish(key, value)
            pipe.execute()
