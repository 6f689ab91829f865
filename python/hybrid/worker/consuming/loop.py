"""The consume loop of workers on our pools, in place of Celery's ``synloop``.

It does what that does, without two waits. After every message, Celery's loop waits up to 0.1 s for
something to read on the connection that events are sent through, so that the broker's heartbeats
there are noticed; here the timer reads them. And where kombu itself counts the messages that may be
out (Redis and its other virtual transports), it waits for sockets even when none may be taken; here
the loop waits for the pool.
"""

from __future__ import annotations

import errno
import socket
from time import monotonic
from typing import Any

from celery import bootsteps
from celery.worker import state

from hybrid.transports import amqp
from hybrid.worker.consuming.rotation import Rotation

#: How often the event connection is read, per heartbeat interval. Celery checks twice.
READS_PER_HEARTBEAT = 4
#: Seconds to wait for the pool before the connection is looked at again.
CREDIT_WAIT = 0.5
#: Seconds to wait for a message before the worker's state is looked at again, as in Celery.
MESSAGE_WAIT = 2.0


def greenloop(
    consumer: Any,
    connection: Any,
    task_consumer: Any,
    blueprint: Any,
    hub: Any,  # noqa: ARG001  Celery's own event loop, which green pools have none of
    qos: Any,  # noqa: ARG001  the consumer's ``prefetch`` knows it
    heartbeat: Any,  # noqa: ARG001
    clock: Any,  # noqa: ARG001
    hbrate: float = 2.0,
    **_: Any,
) -> None:
    """Consume until the worker stops or the connection breaks.

    Raises:
        Exception: What breaks either connection, as in Celery.
    """
    is_virtual = connection.transport.driver_type != "amqp"
    with _Heartbeats(consumer, connection, hbrate) as heartbeats, _Looping(consumer):
        task_consumer.on_message = consumer.create_task_handler()
        task_consumer.consume()
        consumer.start_batching()
        consumer.on_ready()
        prefetch = consumer.prefetch
        is_ours = isinstance(task_consumer.channel, amqp.Channel)
        rotation = Rotation(consumer, prefetch) if is_ours else None
        while blueprint.state == bootsteps.RUN and consumer.connection:
            state.maybe_shutdown()
            if heartbeats.error is not None:
                raise heartbeats.error
            if rotation is not None:
                rotation.turn()
            wait = prefetch.pass_on(MESSAGE_WAIT)
            try:
                consumer.perform_pending_operations()
                if prefetch.is_unlimited and consumer.room() <= 0:
                    # Not read meanwhile: the broker is held up, as it is by the stock pools.
                    consumer.pool.wait_for_progress(CREDIT_WAIT)
                    heartbeats.forgive()
                elif is_virtual:
                    _drain_with_credit(consumer, connection)
                else:
                    connection.drain_events(timeout=wait)
            except socket.timeout:
                pass
            except OSError:
                if blueprint.state == bootsteps.RUN:
                    raise


def _drain_with_credit(consumer: Any, connection: Any) -> None:
    channel = consumer.task_consumer.channel
    if not channel.qos.can_consume():
        consumer.pool.wait_for_progress(CREDIT_WAIT)
        if not channel.qos.can_consume():
            # Other consumers of this connection, gossip for one, need no credit.
            connection.drain_events(timeout=0)
        return
    connection.drain_events(timeout=MESSAGE_WAIT)


class _Looping:
    """Says that somebody performs what is handed to the consumer."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def __enter__(self) -> None:
        self._consumer.is_looping = True

    def __exit__(self, *_: object) -> None:
        self._consumer.is_looping = False


class _Heartbeats:
    """The heartbeats of the two connections of a consumer, by the timer, until they are not needed.

    That is while the loop runs and, when the worker ends, until its tasks have ended.
    """

    def __init__(self, consumer: Any, connection: Any, rate: float) -> None:
        self._consumer = consumer
        self._connection = connection
        self._rate = rate
        self._entries: list[Any] = []
        #: The one that reads the event connection.
        self._reading: Any = None
        #: When the connection was last left unread on purpose.
        self._unread_at = float("-inf")
        #: What has broken a connection.
        self.error: Exception | None = None

    def __enter__(self) -> _Heartbeats:
        self._beat(self._connection)
        dispatcher = self._consumer.event_dispatcher
        events = dispatcher.connection if dispatcher else None
        interval = self._beat(events)
        if interval:
            self._reading = self._repeat(interval / READS_PER_HEARTBEAT, self._read_events)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):
            # The worker ends. The broker has to bear with it until the tasks have ended, whose
            # messages are acknowledged on this connection; the timer ends before that is closed.
            entries = [self._reading] if self._reading is not None else []
        else:
            entries = self._entries
        for entry in entries:
            self._consumer.timer.cancel(entry)

    def _beat(self, connection: Any) -> float:
        """Send and check the heartbeats of ``connection``; return their interval in seconds."""
        if not (connection and connection.supports_heartbeats):
            return 0
        interval = float(connection.get_heartbeat_interval() or 0)
        if interval:
            self._repeat(interval / self._rate, self._check_heartbeat, connection, interval)
        return interval

    def _repeat(self, seconds: float, function: Any, *args: Any) -> Any:
        entry = self._consumer.timer.call_repeatedly(seconds, function, args)
        self._entries.append(entry)
        return entry

    def forgive(self) -> None:
        """Take note that nothing has been read, so that no heartbeat can have been noticed."""
        self._unread_at = monotonic()

    def _check_heartbeat(self, connection: Any, interval: float) -> None:
        try:
            connection.heartbeat_check(self._rate)
        except Exception as exc:
            if monotonic() - self._unread_at > interval or isinstance(exc, OSError):
                self.error = exc

    def _read_events(self) -> None:
        """Read what has arrived on the event connection, without waiting for more."""
        dispatcher = self._consumer.event_dispatcher
        connection = dispatcher.connection if dispatcher else None
        if not connection:
            return
        try:
            while True:
                connection.drain_events(timeout=0)
        except OSError as exc:
            # Nothing more to read; a broken connection is reported by the heartbeat check.
            if exc.errno not in (None, errno.EAGAIN):
                raise
