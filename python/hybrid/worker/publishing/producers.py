"""Producers for the tasks of a worker, by many greenlets at a time.

On Redis, what all greenlets publish travels together on the connection that they share, so that a
producer costs no connection there, and there can be one for each greenlet that wants to publish.
"""

from __future__ import annotations

from typing import Any

import kombu
import kombu.messaging
from kombu.pools import ProducerPool as KombuProducerPool
from kombu.resource import Resource

from hybrid.detours import PUBLISH
from hybrid.encoding import JSON, encode_json
from hybrid.patches.originals import Originals
from hybrid.transports import redis
from hybrid.worker.publishing.places import Places, ProducerConnections

_METHODS = frozenset({"publish", "_publish", "_prepare", "_delivery_details", "maybe_declare"})

#: What the short way from a call to a message leaves out.
PUBLISHING = Originals(*((kombu.messaging.Producer, name) for name in sorted(_METHODS)))


class Producer(kombu.Producer):  # type: ignore[misc]
    """kombu's producer, encoding in Rust, and declaring and retrying where it comes to that."""

    @property
    def is_batching(self) -> bool:
        """Whether the caller collects what it publishes, which kombu can do since 5.7."""
        return getattr(getattr(self, "_batch_local", None), "current", None) is not None

    @property
    def is_wrapped(self) -> bool:
        """Whether somebody has put something around the methods of this producer alone."""
        return not _METHODS.isdisjoint(self.__dict__)

    def maybe_declare(self, entity: Any, retry: bool = False, **retry_policy: Any) -> Any:
        """Declare ``entity`` unless this connection has done so."""
        # kombu copies the entity first, and then sees that it has nothing to do.
        if self.has_declared(entity) and PUBLISHING.are_intact():
            return False
        return super().maybe_declare(entity, retry, **retry_policy)

    def has_declared(self, entity: Any) -> bool:
        """Tell whether the connection of this producer has declared ``entity``."""
        connection = self.channel.connection
        return bool(
            entity
            and connection
            and entity.can_cache_declaration
            and hash(entity) in connection.client.declared_entities
        )

    def _prepare(
        self,
        body: Any,
        serializer: str | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        compression: str | None = None,
        headers: dict[str, Any] | None = None,
    ) -> Any:
        is_json = (serializer or self.serializer) == "json"
        if is_json and not content_type and not compression and PUBLISHING.are_intact():
            text = encode_json(body)
            if text is not None:
                return text, JSON, "utf-8"
        return super()._prepare(
            body, serializer, content_type, content_encoding, compression, headers
        )

    def send_json(
        self,
        text: str,
        priority: int | None,
        headers: dict[str, Any],
        properties: dict[str, Any],
        queue: Any,
    ) -> bool:
        """Send a JSON text to ``queue``, if it has been declared; tell whether that was done.

        For Redis.

        Raises:
            Exception: It was not sent.
        """
        channel = self.channel
        if not (isinstance(channel, redis.Channel) and self.has_declared(queue)):
            return False
        channel.basic_publish(
            channel.prepare_message(text, priority or None, JSON, "utf-8", headers, properties),
            exchange="",
            routing_key=queue.name,
        )
        return True

    def publish(self, body: Any, *args: Any, **options: Any) -> Any:
        """Publish one message; the arguments are kombu's.

        Raises:
            Exception: What kombu raises: the message was not published.
        """
        if not PUBLISHING.are_intact():
            PUBLISH.note("; ".join(PUBLISHING.explain()))
        elif tries_again(options):
            once = {**options, "retry": False, "retry_policy": None}
            try:
                return super().publish(body, *args, **once)
            except recoverable_errors(self):
                pass  # kombu tries again, by the policy
        return super().publish(body, *args, **options)


class ProducerPool(KombuProducerPool, Places):  # type: ignore[misc]
    """kombu's pool of producers, with connections of their own.

    Args:
        connection: kombu's connection, after which those of the producers are made.
        limit: How many producers and connections there are.
    """

    Producer = Producer

    def __init__(self, connection: Any, limit: int) -> None:
        super().__init__(ProducerConnections(connection, limit=limit), limit=limit)

    def force_close_all(self, *args: Any, **kwargs: Any) -> None:
        """Close all producers and their connections."""
        super().force_close_all(*args, **kwargs)
        self.connections.force_close_all(*args, **kwargs)


class ReadyProducerPool(ProducerPool):
    """A pool of producers in which each keeps its connection while nobody uses it.

    For transports on which that is no connection to the broker.
    """

    def _is_lent(self, block: bool) -> bool:
        # The worker answers remote control with a producer at once, or not at all.
        return not block or super()._is_lent(block)

    def release(self, resource: Any) -> None:
        """Take back a producer; one that has no connection any more is made ready by the next.

        Whoever was ended while it had the producer, or was told of an error, has closed it.
        """
        channel = resource._channel  # or a promise of one
        has_channel = channel is not None and not getattr(channel, "closed", False)
        is_ready = has_channel and resource.__connection__ is not None
        if self.limit and is_ready and not self.is_beyond_limit(resource):
            self._let_go(resource)
            Resource.release(self, resource)
        else:
            super().release(resource)


def tries_again(options: dict[str, Any]) -> bool:
    """Tell whether kombu's ``publish`` tries again, by the options that it is called with."""
    policy = options.get("retry_policy") or {}
    return bool(options.get("retry")) and policy.get("max_retries") != 0


def recoverable_errors(producer: Any) -> tuple[type[BaseException], ...]:
    """Return the errors after which kombu tries again."""
    connection = producer.connection
    return (*connection.recoverable_connection_errors, *connection.recoverable_channel_errors)
