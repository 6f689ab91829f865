"""The strategy that gives a message to Celery: Celery's own, minus its second decoding.

Celery decodes the body of a protocol 2 message when it arrives and once more, through kombu's
registry, right before the task runs: the two copies keep what a task does to its arguments out
of ``Request.args``. :func:`default` leaves both copies in place and lets the second one come from
Rust, without the registry. Everything else, from ETA and rate limits to events, is Celery's code.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Callable

from celery.app.task import Task
from celery.worker import request as celery_request
from celery.worker import strategy as celery_strategy
from kombu.serialization import prepare_accept_content
from kombu.utils.imports import symbol_by_name

from hybrid.transports.message import JSON, Message

_celery_default = celery_strategy.default
_Request = celery_request.Request
_proto1_to_proto2 = celery_strategy.proto1_to_proto2

#: What Celery's handler takes for the body of a protocol 1 message, so that it calls the
#: converter of such messages: ours, which knows better.
_PROTOCOL_2 = object()


class Body:
    """The body of a protocol 2 message, unpacked as ``args, kwargs, embed = body``.

    The first to unpack it is the request, which shares the message's own payload, as in Celery.
    Whoever unpacks it later gets a copy of its own.

    Args:
        message: The message; it has been decoded without error.
    """

    __slots__ = ("_message", "_shared")

    def __init__(self, message: Message) -> None:
        self._message = message
        self._shared = False

    def __iter__(self) -> Iterator[Any]:
        if self._shared:
            return iter(self._message._decode())
        self._shared = True
        return iter(self._message.payload)

    def __repr__(self) -> str:
        return f"<Body of {self._message!r}>"


def reasons(task: Task, app: Any) -> list[str]:
    """Say why messages for ``task`` go through Celery's strategy alone.

    Returns:
        One sentence per reason; empty for a task that is accelerated.
    """
    found = []
    if symbol_by_name(task.Strategy) not in (_celery_default, default):
        found.append(f"it has a strategy of its own, {task.Strategy}")
    if task.__class__.start_strategy is not Task.start_strategy:
        found.append("it overrides start_strategy()")
    if symbol_by_name(task.Request) is not _Request:
        found.append(f"it has a request class of its own, {task.Request}")
    accept = prepare_accept_content(app.conf.accept_content)
    if accept is not None and JSON not in accept:
        found.append("the setting accept_content does not contain json")
    return found


def default(task: Task, app: Any, consumer: Any, **kwargs: Any) -> Callable[..., Any]:
    """Return the handler of messages for ``task``.

    Has the signature of :func:`celery.worker.strategy.default` and calls it: for a task that
    :func:`reasons` has something against, with nothing changed.
    """
    if reasons(task, app):
        ours = symbol_by_name(task.Strategy) is default
        start = functools.partial(_celery_default, task) if ours else task.start_strategy
        handler: Callable[..., Any] = start(app, consumer, **kwargs)
        return handler

    proto1_to_proto2 = kwargs.pop("proto1_to_proto2", _proto1_to_proto2)

    def to_proto2(message: Any, body: Any) -> Any:
        if body is _PROTOCOL_2:
            return Body(message), message.headers, True, app.uses_utc_timezone()
        return proto1_to_proto2(message, body)

    def build() -> Callable[..., Any]:
        handler: Callable[..., Any] = _celery_default(
            task, app, consumer, proto1_to_proto2=to_proto2, **kwargs
        )
        return handler

    handle = build()
    limits = task.time_limit, task.soft_time_limit

    def task_message_handler(
        message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **options: Any
    ) -> Any:
        nonlocal handle, limits
        if (task.time_limit, task.soft_time_limit) != limits:
            # Celery's handler has taken the limits once and for all, so its remote control
            # command `time_limit` reaches no task that it has handled before.
            limits = task.time_limit, task.soft_time_limit
            handle = build()
        if body is None and isinstance(message, Message) and message.content_type == JSON:
            body = _PROTOCOL_2
        return handle(message, body, ack, reject, callbacks, **options)

    return task_message_handler
