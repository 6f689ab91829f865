"""Celery's loop for green pools, without its wait for the event connection.

After every message, that loop waits up to 0.1 s for something to read on the connection that
events are sent through, so that the broker's heartbeats there are noticed. With RabbitMQ and the
default settings this holds a worker to some 15 tasks a second. Here the timer reads them.
"""

from __future__ import annotations

import errno
from typing import Any

from celery.worker.loops import synloop

#: How often the event connection is read, per heartbeat interval. Celery checks twice.
READS_PER_HEARTBEAT = 4


def greenloop(consumer: Any, *args: Any, **options: Any) -> None:
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
    try:
        synloop(consumer, *args, **options)
    finally:
        consumer.amqheartbeat = configured
        if reading is not None:
            consumer.timer.cancel(reading)


def _heartbeat_interval(consumer: Any) -> float:
    """Return the seconds negotiated for the event connection; 0 for no heartbeat."""
    dispatcher = consumer.event_dispatcher
    connection = dispatcher.connection if dispatcher else None
    if not (connection and connection.supports_heartbeats):
        return 0
    return float(connection.get_heartbeat_interval() or 0)


def _read_events(consumer: Any) -> None:
    """Read what has arrived on the event connection, without waiting for more."""
    dispatcher = consumer.event_dispatcher
    connection = dispatcher.connection if dispatcher else None
    if not connection:
        return
    try:
        while True:
            connection.drain_events(timeout=0)
    except OSError as exc:
        # Nothing more to read; a broken connection is reported by Celery's heartbeat check.
        if exc.errno not in (None, errno.EAGAIN):
            raise
