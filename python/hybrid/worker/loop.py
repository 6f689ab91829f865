"""Celery's loop for green pools, without its waits for what does not come.

After every message, Celery's loop waits up to 0.1 s for something to read on the connection that
events are sent through, so that the broker's heartbeats there are noticed. With RabbitMQ and the
default settings this holds a worker to some 15 tasks a second. Here the timer reads them.

Where kombu itself counts the messages that may be out (Redis and its other virtual transports), it
waits for sockets even when none may be taken, and does not notice an acknowledgement meanwhile.
Here the loop waits for the pool instead.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

from celery.worker.loops import synloop

#: How often the event connection is read, per heartbeat interval. Celery checks twice.
READS_PER_HEARTBEAT = 4
#: Seconds to wait for the pool before the connection is looked at again.
CREDIT_WAIT = 0.5


class _CreditedConnection:
    """The consumer's connection, which is read when there is credit for another message."""

    def __init__(self, consumer: Any, connection: Any) -> None:
        self._consumer = consumer
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def drain_events(self, timeout: float | None = None) -> Any:
        """Wait for credit, then for messages; for ``timeout`` seconds in all, roughly.

        Raises:
            TimeoutError: No message has come.
        """
        channel = self._consumer.task_consumer.channel
        if channel.qos.can_consume():
            return self._connection.drain_events(timeout=timeout)
        self._consumer.pool.wait_for_progress(CREDIT_WAIT)
        if channel.qos.can_consume():
            raise socket.timeout
        # Other consumers of this connection, gossip for one, need none.
        return self._connection.drain_events(timeout=0)


def greenloop(consumer: Any, connection: Any, *args: Any, **options: Any) -> None:
    """Consume until the worker stops or the connection breaks; see :func:`synloop`.

    Raises:
        Exception: What breaks either connection, as in Celery.
    """
    interval = _heartbeat_interval(consumer)
    # What Celery's loop looks at to decide whether to read the event connection itself. It is
    # for connecting otherwise, and nothing connects while the loop runs.
    configured, consumer.amqheartbeat = consumer.amqheartbeat, 0
    reading = None
    if interval:
        reading = consumer.timer.call_repeatedly(
            interval / READS_PER_HEARTBEAT, _read_events, (consumer,)
        )
    if connection.transport.driver_type != "amqp":
        connection = _CreditedConnection(consumer, connection)
    try:
        synloop(consumer, connection, *args, **options)
    finally:
        consumer.amqheartbeat = configured
        if reading is not None:
            consumer.timer.cancel(reading)


def _event_connection(consumer: Any) -> Any:
    """Return the connection that events are sent through, ``None`` without one."""
    dispatcher = consumer.event_dispatcher
    return dispatcher.connection if dispatcher else None


def _heartbeat_interval(consumer: Any) -> float:
    """Return the seconds negotiated for the event connection; 0 for no heartbeat."""
    connection = _event_connection(consumer)
    if not (connection and connection.supports_heartbeats):
        return 0
    return float(connection.get_heartbeat_interval() or 0)


def _read_events(consumer: Any) -> None:
    """Read what has arrived on the event connection, without waiting for more."""
    connection = _event_connection(consumer)
    if not connection:
        return
    try:
        while True:
            connection.drain_events(timeout=0)
    except OSError as exc:
        # Nothing more to read; a broken connection is reported by Celery's heartbeat check.
        if exc.errno not in (None, errno.EAGAIN):
            raise
