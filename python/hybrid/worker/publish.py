"""Publishing from inside tasks, by many greenlets at a time.

On Redis, what all greenlets publish travels together on the connection that they share, so that a
producer costs no connection there, and there can be one for each greenlet that wants to publish.
"""

from __future__ import annotations

from typing import Any

import kombu

from hybrid.transports import redis

#: Producers on Redis. Celery has ten, one for each connection.
PRODUCERS = 100


class Producer(kombu.Producer):  # type: ignore[misc]
    """kombu's producer, which asks whether to declare or to retry only where it comes to that."""

    def maybe_declare(self, entity: Any, retry: bool = False, **retry_policy: Any) -> Any:
        """Declare ``entity`` unless this connection has done so."""
        # kombu copies the entity first, and then sees that it has nothing to do.
        connection = self.channel.connection
        if (
            entity
            and connection
            and entity.can_cache_declaration
            and hash(entity) in connection.client.declared_entities
        ):
            return False
        return super().maybe_declare(entity, retry, **retry_policy)

    def publish(
        self,
        body: Any,
        *args: Any,
        retry: bool = False,
        retry_policy: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Publish one message; the arguments are kombu's.

        Raises:
            Exception: What kombu raises: the message was not published.
        """
        if retry and (retry_policy or {}).get("max_retries") != 0:
            connection = self.connection
            try:
                return super().publish(body, *args, **options)
            except (
                *connection.recoverable_connection_errors,
                *connection.recoverable_channel_errors,
            ):
                pass  # kombu tries again, by the policy
        return super().publish(body, *args, retry=retry, retry_policy=retry_policy, **options)


def gather(app: Any) -> str | None:
    """Let the tasks of ``app`` publish with our producers.

    Returns:
        Why each publishes alone; ``None`` if they publish together.
    """
    pool = app.amqp.producer_pool
    pool.Producer = Producer
    transport = app.connection_for_write().get_transport_cls()
    if not issubclass(transport, redis.Transport):
        return f"not for the transport {transport.driver_type}"
    if pool.limit and pool.limit < PRODUCERS:
        app.pool.limit = pool.limit = PRODUCERS
    return None
