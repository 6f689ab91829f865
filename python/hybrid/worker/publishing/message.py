"""Celery's way from a task call to a message, shortened for the usual call.

:class:`MessageMaker` stands in for ``app.amqp.create_task_message``, and :class:`Sender` for
``app.amqp.send_task_message``. Messages, signals, declarations and retries are Celery's; a call
that asks for more than a JSON message in one queue goes through Celery's own code.
"""

from __future__ import annotations

import os
from types import MethodType
from typing import Any, Callable

import kombu
import kombu.messaging
from celery import signals
from celery.app.amqp import AMQP
from celery.utils.nodenames import anon_nodename
from kombu.entity import maybe_delivery_mode

from hybrid.detours import PUBLISH
from hybrid.encoding import encode_json
from hybrid.patches import celery as patches
from hybrid.patches.originals import Original, is_plain
from hybrid.worker.publishing.producers import PUBLISHING, Producer, recoverable_errors
from hybrid.worker.publishing.shared_producer import SharedProducer

#: Options that ask for nothing where they are not set.
_UNSET = frozenset(
    {
        "compression",
        "confirm_timeout",
        "declare",
        "event_dispatcher",
        "exchange_type",
        "immediate",
        "mandatory",
        "timeout",
    }
)
#: Options that say where a message goes to.
_PLACES = frozenset({"delivery_mode", "exchange", "queue", "routing_key"})
#: Options that are honoured here, or when Celery tries again.
_HONOURED = frozenset({"headers", "priority", "retry", "retry_policy"})

_CREATE_SENDER = Original(AMQP, "_create_task_sender")
_AS_TASK = Original(AMQP, "as_task_v2")

_BEFORE, _AFTER = signals.before_task_publish, signals.after_task_publish
_SENT = signals.task_sent

#: Characters of a text with all arguments. Celery shortens what is longer than 1024.
_REPR_LIMIT = 1000
_NUMBERS = frozenset({int, float, bool})


def explain_sender(amqp: Any) -> str | None:
    """Say why :class:`Sender` does not stand in for what ``amqp`` sends messages with, if so."""
    if patches.SEND_MESSAGE.is_applied(amqp):
        return None
    if not _CREATE_SENDER.is_in(type(amqp)):
        return _CREATE_SENDER.explain(type(amqp))
    if type(amqp).send_task_message is not AMQP.send_task_message or not is_plain(
        amqp.send_task_message, _CREATE_SENDER.code
    ):
        return "app.amqp.send_task_message has been replaced"
    return None


def explain_maker(amqp: Any) -> str | None:
    """Say why :class:`MessageMaker` does not stand in for what ``amqp`` makes messages with.

    Protocol 1 is no such reason: Celery makes its messages.
    """
    if patches.CREATE_MESSAGE.is_applied(amqp):
        return None
    if not _AS_TASK.is_in(type(amqp)):
        return _AS_TASK.explain(type(amqp))
    make = amqp.create_task_message
    if type(make) is not MethodType or make.__self__ is not amqp:
        return "app.amqp.create_task_message has been replaced"
    return None


def makes_protocol_2(amqp: Any) -> bool:
    """Tell whether ``amqp`` makes messages of protocol 2 by Celery's own method."""
    make = amqp.create_task_message
    return type(make) is MethodType and make.__self__ is amqp and make.__func__ is _AS_TASK.function


class Sender:
    """Sends the message of a task call.

    Args:
        app: The app whose tasks are called.
    """

    def __init__(self, app: Any) -> None:
        self._amqp = app.amqp
        self._celerys: Callable[..., Any] = app.amqp.send_task_message
        self._serializer = app.conf.task_serializer
        self._compressor = app.conf.task_compression
        self._delivery_mode = app.conf.task_default_delivery_mode

    def __call__(self, producer: Any, name: str, message: Any, **options: Any) -> Any:
        """Send ``message``; the arguments are those of Celery's function.

        Raises:
            Exception: What Celery raises: the message was not sent.
        """
        if self._can_send(producer, message, **options):
            try:
                if self._send(producer, message, **options):
                    return None
            except recoverable_errors(producer):
                pass  # Celery has rules for trying again
        else:
            PUBLISH.note(self._explain(producer, message, **options))
        return self._celerys(producer, name, message, **options)

    def _can_send(
        self,
        producer: Any,
        message: Any,
        *,
        queue: Any = None,
        exchange: Any = None,
        routing_key: Any = None,
        serializer: str | None = None,
        delivery_mode: Any = None,  # noqa: ARG002
        **options: Any,
    ) -> bool:
        if isinstance(queue, str):
            queue = self._amqp.queues[queue]
        return (
            type(producer) in (Producer, SharedProducer)
            and type(queue) is kombu.Queue
            and queue.exchange is not None
            and queue.exchange.type == "direct"
            and not (exchange and routing_key)
            and (serializer or self._serializer) == "json"
            and not self._compressor
            and message.sent_event is None
            and _ask_for_nothing(options)
            and not (_BEFORE.receivers or _AFTER.receivers or _SENT.receivers)
            and PUBLISHING.are_intact()
            and not producer.is_wrapped
            and not producer.is_batching
        )

    def explain(self) -> str | None:
        """Say why no message is sent here at the moment, if none is."""
        receivers = {
            "before_task_publish": _BEFORE.receivers,
            "after_task_publish": _AFTER.receivers,
            "task_sent": _SENT.receivers,
        }
        signalled = [name for name, found in receivers.items() if found]
        if signalled:
            return f"the signal {' and '.join(signalled)} has receivers"
        if self._compressor:
            return "the setting task_compression is set"
        if self._serializer != "json":
            return f"the setting task_serializer is {self._serializer}"
        return None

    def _explain(
        self, producer: Any, message: Any, *, serializer: str | None = None, **options: Any
    ) -> str | None:
        """Say why a message goes through Celery's own function, if nobody else counts that."""
        if type(producer) not in (Producer, SharedProducer) or producer.is_wrapped:
            return "producers of another class, or with methods of their own"
        if not PUBLISHING.are_intact():
            return None  # the producer does
        if producer.is_batching:
            return "messages that kombu collects"
        if (serializer or self._serializer) != "json":
            return f"messages of the serializer {serializer or self._serializer}"
        found = self.explain()
        if found is not None:
            return found
        if message.sent_event is not None:
            return "the setting task_send_sent_event is on"
        unusual = sorted(
            name
            for name, value in options.items()
            if name not in _HONOURED and name not in _PLACES and value
        )
        if unusual:
            return f"messages with {', '.join(unusual)}"
        return "messages to something else than a queue with a direct exchange"

    def _send(
        self,
        producer: Any,
        message: Any,
        *,
        queue: Any,
        delivery_mode: Any = None,
        headers: dict[str, Any] | None = None,
        priority: int | None = 0,
        **_: Any,
    ) -> bool:
        """Send ``message``, if its queue has been declared and its body is plain JSON."""
        if isinstance(queue, str):
            queue = self._amqp.queues[queue]
        body = encode_json(message.body)
        if body is None:
            PUBLISH.note("arguments that only Celery encodes")
            return False
        mode = delivery_mode or queue.exchange.delivery_mode or self._delivery_mode
        is_sent: bool = producer.send_json(
            body,
            priority,
            {**message.headers, **headers} if headers else message.headers,
            {**message.properties, "delivery_mode": maybe_delivery_mode(mode)},
            queue,
        )
        return is_sent


def _ask_for_nothing(options: dict[str, Any]) -> bool:
    """Tell whether ``options`` that are not honoured are not set."""
    for name, value in options.items():
        if name not in _HONOURED and (value or name not in _UNSET):
            return False
    return True


class MessageMaker:
    """Makes the message of a task call, of protocol 2.

    Args:
        amqp: The app's ``amqp``.
    """

    def __init__(self, amqp: Any) -> None:
        self._celerys: Callable[..., Any] = amqp.create_task_message
        self._origin = anon_nodename()
        self._pid = os.getpid()

    def __call__(
        self, task_id: str, name: str, args: Any = None, kwargs: Any = None, *rest: Any, **opts: Any
    ) -> Any:
        """Make a message; the arguments are those of Celery's function.

        Raises:
            TypeError: ``args`` is no list or tuple, or ``kwargs`` is no mapping.
        """
        opts.setdefault("argsrepr", shown(args) if args else "()")
        opts.setdefault("kwargsrepr", shown(kwargs) if kwargs else "{}")
        if os.getpid() == self._pid:
            opts.setdefault("origin", self._origin)
        return self._celerys(task_id, name, args, kwargs, *rest, **opts)


def shown(arguments: Any) -> str | None:
    """Return the text that Celery shows for arguments.

    Returns:
        What ``celery.utils.saferepr.saferepr`` returns; ``None`` for what is long or nested.
    """
    if type(arguments) is dict:
        if not all(type(key) is str for key in arguments):
            return None
        values = [_shown_value(value) for value in arguments.values()]
        if None in values:
            return None
        text = ", ".join(f"{_shown_value(key)}: {value}" for key, value in zip(arguments, values))
        text = "{" + text + "}"
    elif type(arguments) in (tuple, list):
        values = [_shown_value(value) for value in arguments]
        if None in values:
            return None
        text = ", ".join(values)
        if type(arguments) is list:
            text = f"[{text}]"
        else:
            text = f"({text},)" if len(values) == 1 else f"({text})"
    else:
        return None
    return text if len(text) < _REPR_LIMIT else None


def _shown_value(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return "'" + value.replace("'", "\\'") + "'"
    return str(value) if kind in _NUMBERS or value is None else None
