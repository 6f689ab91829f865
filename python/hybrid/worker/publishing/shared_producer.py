"""One producer for all greenlets of a worker on AMQP.

kombu lends a connection to each greenlet that publishes, ten of them in all, and whoever wants an
eleventh waits. Here they publish through one channel: what is published in one turn of the hub is
one write, and where the broker confirms, each greenlet waits for its own confirmation.

An error of one message closes its channel (AMQP 0-9-1 section 1.2.2), and with it whatever else is
on the way there. So only what a broker has no reason to refuse is shared: plain messages of
moderate size, to the default exchange or to durable ones that this connection has declared. Any
other, and any that is to be tried again, gets a producer of kombu's, with a connection of its own.

Who may switch: those who publish or declare, while they wait for what they have asked for; and the
greenlets of the two gatherers, which open the connection, its channels, and declare. No limit can
end these: whoever is ended while it waits leaves behind neither a lock nor half a connection.
"""

from __future__ import annotations

from typing import Any

import kombu
from amqp.exceptions import NotFound, RecoverableChannelError
from kombu.common import maybe_declare
from kombu.exceptions import OperationalError

from hybrid.encoding import JSON
from hybrid.hubs.base import Hub
from hybrid.hubs.gather import Gather
from hybrid.patches import kombu as patches
from hybrid.transports import amqp
from hybrid.worker.publishing.producers import (
    PUBLISHING,
    Producer,
    ProducerPool,
    recoverable_errors,
    tries_again,
)

#: Bytes of a body that is published with others. RabbitMQ closes the channel of one that is too
#: large, and may be configured to find 1 MB too large, but hardly less.
SHARED_BODY = 256 * 1024


class _Connection(kombu.Connection):  # type: ignore[misc]
    """kombu's connection, which many greenlets may find broken at the same time.

    kombu tries again by closing the connection and making another one, in each of them. Here they
    wait for the same attempt.
    """

    _attempts: Gather[None]

    def _connection_factory(self) -> Any:
        return self._attempts.submit(None)

    def attempt(self, group: list[None]) -> list[Any]:
        """Connect, for all who want to."""
        if self.connected:
            connection = self._connection
        else:
            super().collect()
            try:
                connection = super()._connection_factory()
            except self.recoverable_connection_errors:
                super().maybe_switch_next()
                raise
        return [connection] * len(group)

    def maybe_switch_next(self) -> None:
        """Go on: whoever has made the attempt has chosen the next broker, once for all."""

    def collect(self, socket_timeout: float | None = None) -> None:
        """Close the connection, unless somebody makes another one, or has made it."""
        if not (self.connected or self._attempts.is_serving):
            super().collect(socket_timeout)


class _Line:
    """A connection with a channel to publish on, and another one for whatever may fail."""

    def __init__(self, hub: Hub, connection: Any) -> None:
        patches.CONNECTION.specialise(connection, _Connection)
        patches.CONNECTION_ATTEMPTS.replace(connection, Gather(hub, connection.attempt))
        #: kombu's connection.
        self.connection = connection
        #: The names of exchanges that will be there.
        self.exchanges = {""}
        self._opening: Gather[str] = Gather(hub, self._open_all)
        self._declaring: Gather[Any] = Gather(hub, self._declare_all)
        self._channels: dict[str, Any] = {}

    def publishing(self) -> Any:
        """Return the channel to publish on.

        Raises:
            Exception: The broker cannot be reached.
        """
        channel = self._channels.get("publishing")
        return channel if _is_alive(channel) else self._opening.submit("publishing")

    def asking(self) -> Any:
        """Return the channel for methods that the broker answers.

        Raises:
            Exception: The broker cannot be reached.
        """
        channel = self._channels.get("asking")
        return channel if _is_alive(channel) else self._opening.submit("asking")

    def declare(self, entity: Any) -> None:
        """Declare ``entity``, unless this connection has done so.

        Raises:
            Exception: The broker refuses, or cannot be reached.
        """
        self._declaring.submit(entity)

    def forget_declared(self) -> None:
        """Take note that something that was declared is not there any more."""
        self.exchanges = {""}
        self.connection.declared_entities.clear()

    def _open_all(self, uses: list[str]) -> list[Any]:
        for use in dict.fromkeys(uses):
            if not _is_alive(self._channels.get(use)):
                if not any(map(_is_alive, self._channels.values())):
                    self.exchanges = {""}  # it is another connection
                self._channels[use] = self.connection.channel()
        return [self._channels[use] for use in uses]

    def _declare_all(self, entities: list[Any]) -> list[Any]:
        # A thousand greenlets may want the same at once; kombu knows what it has declared.
        outcomes: list[Any] = []
        for entity in entities:
            try:
                self._declare(entity)
            except Exception as exc:
                outcomes.append(exc)
            else:
                outcomes.append(None)
        return outcomes

    def _declare(self, entity: Any) -> None:
        maybe_declare(entity, self.asking())
        exchange = entity.exchange if isinstance(entity, kombu.Queue) else entity
        if exchange is not None and exchange.durable and not exchange.auto_delete:
            self.exchanges.add(exchange.name)

    def close(self) -> None:
        """Close the connection."""
        self._channels.clear()
        self.connection.release()


def _is_alive(channel: Any) -> bool:
    return channel is not None and channel.connection is not None and channel.connection.connected


class SharedProducer(Producer):
    """A producer that all greenlets use at the same time.

    Args:
        hub: The hub of the greenlets.
        pool: Has producers for what is not shared.
        connection: kombu's connection for what is; not connected yet.
    """

    def __init__(self, hub: Hub, pool: SharedProducerPool, connection: Any) -> None:
        super().__init__(None)
        self._hub = hub
        self._pool = pool
        self._line = _Line(hub, connection)

    @property
    def connection(self) -> Any:
        """Kombu's connection."""
        return self._line.connection

    @property
    def channel(self) -> Any:
        """A channel for whatever callers do besides publishing."""
        return self._line.asking()

    @channel.setter
    def channel(self, channel: Any) -> None:
        """Take no other channel."""

    def release(self) -> None:
        """Go on: nobody has this producer alone."""

    close = release

    def revive(self, channel: Any) -> None:
        """Go on: the connection is made anew by the next that publishes."""

    def __exit__(self, *_: object) -> None:
        """Go on: an error of one greenlet is no reason to take the connection from the others."""

    def has_declared(self, entity: Any) -> bool:
        """Tell whether the connection has declared ``entity``."""
        connection = self._line.connection
        return bool(
            entity
            and entity.can_cache_declaration
            and hash(entity) in connection.declared_entities
            and connection.connected
        )

    def maybe_declare(self, entity: Any, retry: bool = False, **retry_policy: Any) -> Any:
        """Declare ``entity`` unless this connection has done so."""
        if not entity or self.has_declared(entity):
            return False
        try:
            self._line.declare(entity)
        except recoverable_errors(self):
            if not retry:
                raise
            with self._pool.acquire_own() as producer:
                return producer.maybe_declare(entity, retry, **retry_policy)
        return True

    def publish(self, body: Any, *args: Any, **options: Any) -> Any:
        """Publish one message; the arguments are kombu's.

        Raises:
            Exception: What kombu raises: the message was not published.
        """
        if PUBLISHING.are_intact():
            try:
                if self._publish_shared(body, *args, **options):
                    return None
            except recoverable_errors(self):
                if not tries_again(options):
                    raise
        with self._pool.acquire_own() as producer:
            return producer.publish(body, *args, **options)

    def _publish_shared(
        self,
        body: Any,
        routing_key: str | None = None,
        delivery_mode: Any = None,
        mandatory: bool = False,
        immediate: bool = False,
        priority: int | None = 0,
        content_type: str | None = None,
        content_encoding: str | None = None,
        serializer: str | None = None,
        headers: dict[str, Any] | None = None,
        compression: str | None = None,
        exchange: Any = None,
        *alone: Any,
        retry: bool = False,  # noqa: ARG002  for whoever is asked when this fails
        retry_policy: Any = None,  # noqa: ARG002
        declare: Any = None,
        **properties: Any,
    ) -> bool:
        """Publish one message with those of others, if the broker has no reason to refuse it."""
        if (
            alone  # kombu's `retry` and what comes behind, by their places
            or mandatory
            or immediate
            or compression
            or isinstance(properties.get("reply_to"), kombu.Queue)
            # Of these, the broker refuses some values, and some want a connection to themselves.
            or any(properties.get(option) is not None for option in _NOT_SHARED)
        ):
            return False
        for entity in declare or ():
            if not self.has_declared(entity):
                self._line.declare(entity)
        name = exchange.name if isinstance(exchange, kombu.Exchange) else exchange or ""
        if name not in self._line.exchanges:
            return False
        _, mode = self._delivery_details(exchange or self.exchange, delivery_mode)
        prepared, kind, encoding = self._prepare(
            body, serializer, content_type, content_encoding, None, headers
        )
        shared = {**properties, "delivery_mode": mode}
        for option in _NOT_SHARED:
            shared.pop(option, None)
        key = self.routing_key if routing_key is None else routing_key
        return self.send(prepared, priority, kind, encoding, headers or {}, shared, name, key)

    def send(
        self,
        body: Any,
        priority: int | None,
        content_type: str,
        content_encoding: str,
        headers: dict[str, Any],
        properties: dict[str, Any],
        exchange: str,
        routing_key: str,
    ) -> bool:
        """Publish an encoded message with those of other greenlets, unless it is too large.

        Raises:
            Exception: It was not published.
        """
        if self.is_batching or not (self._hub.can_park() and len(body) <= SHARED_BODY):
            return False
        channel = self._line.publishing()
        if not isinstance(channel, amqp.Channel):
            return False
        message = channel.prepare_message(
            body, priority, content_type, content_encoding, headers, properties
        )
        try:
            channel.basic_publish(message, exchange=exchange, routing_key=routing_key)
        except NotFound as exc:
            self._line.forget_declared()
            if f"'{exchange}'" in str(exc):
                raise
            # The channel is shared: it was closed for a message to another exchange.
            raise RecoverableChannelError(f"the channel was closed: {exc}") from exc
        return True

    def send_json(
        self,
        text: str,
        priority: int | None,
        headers: dict[str, Any],
        properties: dict[str, Any],
        queue: Any,
    ) -> bool:
        """Send a JSON text to ``queue``, if it has been declared; tell whether that was done.

        Raises:
            Exception: It was not sent.
        """
        return self.has_declared(queue) and self.send(
            text, priority, JSON, "utf-8", headers, properties, "", queue.name
        )

    def shut(self) -> None:
        """Close the connection."""
        self._line.close()


#: Options of a message that gets a connection to itself.
_NOT_SHARED = ("expiration", "timeout", "confirm_timeout", "user_id")


class SharedProducerPool(ProducerPool):
    """A pool of producers that lends the same one to everybody.

    Args:
        hub: The hub of the greenlets.
        connection: kombu's connection, after which all others are made.
        limit: How many producers, with a connection each, there are for what is not shared.
        timeout: How many seconds to wait for one of these.
    """

    def __init__(self, hub: Hub, connection: Any, limit: int, timeout: float | None = None) -> None:
        super().__init__(connection, limit)
        self._timeout = timeout
        self._shared = SharedProducer(hub, self, connection.clone())

    def acquire(self, block: bool = False, timeout: float | None = None) -> Any:  # noqa: ARG002
        """Return the producer that everybody shares."""
        if self._closed:
            raise RuntimeError("Acquire on closed pool")
        if self.Producer is not Producer:  # somebody wants producers of another class
            return self.acquire_own()
        return self._shared

    def acquire_own(self) -> Any:
        """Return a producer that nobody else has until it is released.

        Who has one waits for the broker alone, so that it comes back.

        Raises:
            kombu.exceptions.OperationalError: All were in use for too long.
        """
        try:
            return super().acquire(block=True, timeout=self._timeout)
        except self.LimitExceeded as exc:
            raise OperationalError(
                f"Timed out waiting for a broker producer after {self._timeout}s. All "
                f"{self.limit} producers that are not shared are in use. Consider increasing "
                "broker_pool_limit or broker_pool_acquire_timeout."
            ) from exc

    def force_close_all(self, *args: Any, **kwargs: Any) -> None:
        """Close all connections."""
        super().force_close_all(*args, **kwargs)
        self._shared.shut()
