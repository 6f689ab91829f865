"""The strategy that makes requests of messages: ours for most messages, Celery's for the rest.

:class:`Strategy` takes JSON messages of protocol 2 that are to run at once. A message with an ETA
or an expiry date, of another protocol or serializer, or damaged, goes through Celery's own
handler, with everything that this does.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, Callable

from celery import signals
from celery.app import trace
from celery.app.task import Task
from celery.utils.log import get_logger
from celery.worker import request as celery_request
from celery.worker import strategy as celery_strategy
from celery.worker.state import task_reserved
from kombu.serialization import prepare_accept_content
from kombu.utils.imports import symbol_by_name

from hybrid.transports.message import JSON
from hybrid.worker.request import specialised

logger = get_logger("celery.worker.strategy")

_celery_default = celery_strategy.default
_Request = celery_request.Request


def log_received(message: str, context: dict[str, Any]) -> None:
    """Log that a message has been received, as Celery does."""
    logger.info(message, context, extra={"data": context})


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

    Has the signature of :func:`celery.worker.strategy.default`, for the setting ``Strategy`` of a
    task: Celery's handler for a task that :func:`reasons` has something against.
    """
    if not reasons(task, app):
        return Strategy(task, app, consumer)
    ours = symbol_by_name(task.Strategy) is default
    start = functools.partial(_celery_default, task) if ours else task.start_strategy
    handler: Callable[..., Any] = start(app, consumer, **kwargs)
    return handler


class Strategy:
    """Handles the messages for one task, on one connection of a worker.

    Args:
        task: A task that :func:`reasons` has nothing against.
        consumer: The worker's consumer.
    """

    def __init__(self, task: Task, app: Any, consumer: Any) -> None:
        self._task = task
        self._app = app
        self._consumer = consumer
        self._eventer = eventer = consumer.event_dispatcher
        self._sends_events = bool(eventer and eventer.enabled and task.send_events)
        self._logs = logger.isEnabledFor(logging.INFO)
        self._revoked = consumer.controller.state.revoked
        self._request = specialised(task, app, consumer)
        self._build_celerys_handler()

    def _build_celerys_handler(self) -> None:
        self._limits = self._task.time_limit, self._task.soft_time_limit
        self._celerys_handler = _celery_default(self._task, self._app, self._consumer)

    def __call__(self, message: Any, body: Any, *args: Any, **kwargs: Any) -> Any:
        """Handle a message in Celery's way. The arguments are those of Celery's handlers."""
        if (self._task.time_limit, self._task.soft_time_limit) != self._limits:
            # Celery's handler has taken the limits once and for all, so its remote control
            # command `time_limit` reaches no task that it has handled before.
            self._build_celerys_handler()
        return self._celerys_handler(message, body, *args, **kwargs)

    def receive(self, message: Any, callbacks: Any) -> bool:
        """Handle a message, if it is of the kind that is taken here; else leave it as it is.

        Returns:
            Whether it has been handled.

        Raises:
            Exception: It is unreadable, as from Celery's handler.
        """
        headers = message.headers
        if (
            message.content_type != JSON
            or headers.get("eta") is not None
            or headers.get("expires") is not None
        ):
            return False
        payload = message.payload
        if not (
            type(payload) is list
            and len(payload) == 3
            and type(payload[0]) is list
            and type(payload[1]) is dict
        ):
            return False
        request = self._request(message, self._eventer)
        if self._logs:
            context = {
                "id": request.id,
                "name": request.name,
                "args": request.argsrepr,
                "kwargs": request.kwargsrepr,
                "eta": None,
            }
            self._consumer.log_received(trace.LOG_RECEIVED, context)
        if request.id in self._revoked and request.revoked():
            return True
        consumer = self._consumer
        if signals.task_received.receivers:
            signals.task_received.send(sender=consumer, request=request)
        if self._sends_events:
            self._eventer.send(
                "task-received",
                uuid=request.id,
                name=request.name,
                args=request.argsrepr,
                kwargs=request.kwargsrepr,
                root_id=request.root_id,
                parent_id=request.parent_id,
                retries=headers.get("retries", 0),
                eta=None,
                expires=None,
            )
        if not consumer.disable_rate_limits:
            bucket = consumer.task_buckets[self._task.name]
            if bucket:
                consumer._limit_task(request, bucket, 1)
                return True
        task_reserved(request)
        for callback in callbacks:
            callback(request)
        consumer.on_task_request(request)
        return True
