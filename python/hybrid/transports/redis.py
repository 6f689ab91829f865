"""kombu's Redis transport with messages decoded in Rust.

What lies in a Redis list may be anything. kombu raises out of its poll loop for what is not an
envelope, which ends the worker, after it has taken the entry from the list. Here such an entry is
logged and dropped, and costs nobody else anything.
"""

from __future__ import annotations

import threading
from queue import Empty
from types import FunctionType
from typing import Any, Callable

from kombu.log import get_logger
from kombu.transport import redis, virtual

from hybrid.transports.message import Message, decode_envelope

logger = get_logger("kombu.transport.redis")

#: What kombu raises for an entry that is not an envelope, or not one of its own.
_UNREADABLE = (AttributeError, LookupError, RecursionError, TypeError, ValueError)


def _rebound(function: Callable[..., Any], **names: Any) -> Any:
    """Return kombu's ``function`` with other values for some of its module's globals.

    kombu decodes in the middle of methods that do much more, by calling a global of its module.
    A copy of such a method would miss what the next release adds to it, and a patch of the
    global would reach every other user of the module.
    """
    rebound = FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    rebound.__kwdefaults__ = function.__kwdefaults__
    rebound.__doc__ = function.__doc__
    return rebound


def _drop(entry: Any, exc: BaseException) -> None:
    logger.critical(
        "Dropped an entry of a queue that is no message (%s: %s): %.500r",
        type(exc).__name__,
        exc,
        entry,
    )


def _decode_or_drop(data: Any) -> Any:
    try:
        return decode_envelope(data)
    except _UNREADABLE as exc:
        _drop(data, exc)
        # What the callers take for a queue without a message.
        raise Empty from None


class _NotAMessageError(Exception):
    """An envelope has been decoded, and no message can be made of it."""


class _Message(Message):
    """A message that is logged when it turns out to be none."""

    __slots__ = ()

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        try:
            super().__init__(payload, channel, **kwargs)
            # What kombu needs to keep track of it until it is acknowledged.
            self.delivery_info["exchange"], self.delivery_info["routing_key"]
            if type(self.delivery_tag) is not str:
                raise TypeError(f"delivery_tag must be a string, not {self.delivery_tag!r}")
        except _UNREADABLE as exc:
            _drop(getattr(payload, "raw", payload), exc)
            raise _NotAMessageError from None


class _QoS(redis.QoS):  # type: ignore[misc]
    """kombu's bookkeeping, by no more greenlets at a time than there are connections.

    Each acknowledgement takes a connection from the channel's pool, which fails when it has none
    left. A thousand tasks that end together would lose most of theirs.
    """

    #: Connections that are left for the consumer itself.
    RESERVED = 4

    def __init__(self, channel: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(channel, *args, **kwargs)
        self._gate = threading.BoundedSemaphore(max(channel.max_connections - self.RESERVED, 1))

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge one message."""
        with self._gate:
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Reject one message."""
        with self._gate:
            super().reject(delivery_tag, requeue=requeue)


class Channel(redis.Channel):  # type: ignore[misc]
    """kombu's channel: keys, scripts, connections and options are its own."""

    Message = _Message
    QoS = _QoS

    _brpop_read = _rebound(redis.Channel._brpop_read, loads=_decode_or_drop)
    _get = _rebound(redis.Channel._get, loads=_decode_or_drop)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not _has_kombus_body_codec(self):
            # Such a codec has to see the body as it came, so kombu decodes here.
            self._brpop_read = super()._brpop_read
            self._get = super()._get
        super().__init__(*args, **kwargs)

    def basic_consume(self, queue: str, *args: Any, **kwargs: Any) -> Any:
        """Consume from ``queue``; entries that are no messages are dropped."""
        consumed = super().basic_consume(queue, *args, **kwargs)
        callbacks = self.connection._callbacks
        deliver = callbacks[queue]

        def deliver_messages(entry: Any) -> Any:
            try:
                return deliver(entry)
            except _NotAMessageError:
                return None

        callbacks[queue] = deliver_messages
        return consumed

    def basic_get(self, queue: str, *args: Any, **kwargs: Any) -> Any:
        """Get one message; ``None`` when the next entry of the queue is none."""
        try:
            return super().basic_get(queue, *args, **kwargs)
        except _NotAMessageError:
            return None


class Transport(redis.Transport):  # type: ignore[misc]
    """kombu's transport, opening channels that decode in Rust."""

    Channel = Channel


def _has_kombus_body_codec(channel: redis.Channel) -> bool:
    return (
        type(channel).decode_body is virtual.Channel.decode_body
        and type(channel.codecs.get("base64")) is virtual.base.Base64
    )
