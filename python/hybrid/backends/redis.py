"""Celery's Redis result backend on a client that all greenlets share."""

from __future__ import annotations

from typing import Any

from celery.backends import redis

from hybrid import hubs
from hybrid.clients.redis import Command, MultiplexedRedis, shared


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

    def set(self, key: Any, value: Any, expires: Any = None, **retry_policy: Any) -> Any:
        """Store ``value`` and tell whoever waits for it, with Celery's retries."""
        client = self.client
        if (
            retry_policy
            or not isinstance(client, MultiplexedRedis)
            or not client.hub.can_park()
            or (isinstance(value, str) and len(value) > self._MAX_STR_VALUE_SIZE)
        ):
            return super().set(key, value, expires, **retry_policy)
        if expires is None:
            expires = self.expires
        store = ("SETEX", key, expires, value) if expires else ("SET", key, value)
        # Celery puts these two into a transaction. Whoever is told of the result finds it anyway.
        commands: list[Command] = [(store, {}), (("PUBLISH", key, value), {})]
        try:
            replies = client.run(commands, is_transaction=False)
        except self.connection_errors:
            return super().set(key, value, expires)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return None
