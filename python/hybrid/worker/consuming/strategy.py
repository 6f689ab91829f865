"""The strategy that makes requests of messages: ours for most messages, Celery's for the rest.

:class:`Strategy` takes JSON messages of protocol 2. A message of another protocol or serializer, or
a damaged one, goes through Celery's own handler, with everything that this does.

A task with an ETA that nobody looks at gets no request before it is due. Logging, events, a
receiver of the signal ``task_received`` and an expiry date look at it. The signal's receivers may
keep what they have seen, so it is that very request which runs; for the others it is made again.
"""

from __future__ import annotations

import functools
import logging
from time import monotonic, time
from typing import Any, Callable

from celery import signals
from celery.app import trace
from celery.app.task import Task
from celery.utils.log import get_logger
from celery.utils.time import maybe_make_aware, timezone
from celery.worker import request as celery_request
from celery.worker import strategy as celery_strategy
from celery.worker.state import task_reserved
from kombu.asynchronous.timer import EPOCH
from kombu.serialization import prepare_accept_content
from kombu.utils.imports import symbol_by_name

from hybrid.encoding import JSON
from hybrid.patches.originals import Original
from hybrid.transports.frozen import form_of
from hybrid.worker.consuming.held import PRIORITY, Holder, remember
from hybrid.worker.consuming.request import parse_moment, specialised
from hybrid.worker.execution.timer import Timer
from hybrid.worker.watching.complaints import complain, complain_of_the_log
from hybrid.worker.watching.events import takes_tasks

logger = get_logger("celery.worker.strategy")

_celery_default = celery_strategy.default
_Request = celery_request.Request
_DEFAULT = Original(celery_strategy, "default")


def reasons(task: Task, app: Any) -> list[str]:
    """Say why messages for ``task`` go through Celery's strategy alone.

    Returns:
        One sentence per reason; empty for a task that is accelerated.
    """
    found = []
    if symbol_by_name(task.Strategy) not in (_celery_default, default):
        found.append(f"it has a strategy of its own, {task.Strategy}")
    elif not _DEFAULT.is_in(celery_strategy):
        found.append(_DEFAULT.explain(celery_strategy))
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


class ReadingError(Exception):
    """A message for the named task cannot be read by our code. Maybe Celery's can."""


class _Clocks:
    """The time of day in terms of the timer's clock.

    Read anew for every task, as kombu does, the difference trembles, and tasks with one ETA would
    be due in no order.
    """

    __slots__ = ("_difference",)

    #: Seconds by which the clocks may drift apart before that counts.
    TOLERANCE = 0.001
    #: How often they are read until that goes without an interruption, at most.
    ATTEMPTS = 5

    def __init__(self) -> None:
        self._difference = 0.0

    def difference(self) -> float:
        """Return what the time of day is ahead of the timer's clock."""
        for _ in range(self.ATTEMPTS):
            before, now, after = monotonic(), time(), monotonic()
            if after - before < self.TOLERANCE / 2:
                break
            # The process was interrupted between them, and a task would be late by that.
        if abs(now - before - self._difference) > self.TOLERANCE:
            self._difference = now - before
        return self._difference


_clocks = _Clocks()


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
        self._logs = celery_strategy.logger.isEnabledFor(logging.INFO)
        self._revoked = consumer.controller.state.revoked
        self._request = specialised(task, app, consumer)
        self._holder: Holder | None = None
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
            ReadingError: It cannot be read here; nobody has been told of it.
            Exception: What Celery's handler might raise.
        """
        try:
            headers = message.headers
            if message.content_type != JSON:
                return False
            payload = message.payload
            if not (
                type(payload) is list
                and len(payload) == 3
                and type(payload[0]) is list
                and type(payload[1]) is dict
            ):
                return False
            eta = headers.get("eta")
            due = 0.0 if eta is None else self._due(eta)
            if due is None:
                return False
            # What was due before the clock's zero, Celery runs at once.
            request = None if due else self._request(message, self._eventer)
        except Exception as exc:
            raise ReadingError(self._task.name) from exc
        if request is None:
            return self._hold(message, due)
        if not self._announce(request):
            return True
        consumer = self._consumer
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

    def explain(self, message: Any) -> str:
        """Say why :meth:`receive` has left ``message`` as it is."""
        if message.content_type != JSON:
            return f"messages of the content type {message.content_type}"
        if message.headers.get("eta") is not None:
            return "messages with an ETA that only Celery reads, or of other transports"
        return "messages of another protocol"

    def _announce(self, request: Any) -> bool:
        """Say that a task has been received; tell whether it may go on.

        Whatever fails while others are told of it is logged, and the task goes on.
        """
        try:
            if self._logs:
                context = {
                    "id": request.id,
                    "name": request.name,
                    "args": request.argsrepr,
                    "kwargs": request.kwargsrepr,
                    "eta": request.eta,
                }
                self._consumer.log_received(trace.LOG_RECEIVED, context)
        except Exception:
            complain_of_the_log()
        if (request.expires or request.id in self._revoked) and request.revoked():
            return False
        try:
            if signals.task_received.receivers:
                signals.task_received.send(sender=self._consumer, request=request)
            if self._sends_events and takes_tasks(self._eventer):
                request.send_received()
        except Exception:
            complain(logger, "Task %s: not everybody was told that it has arrived", request.id)
        return True

    # -- tasks with an ETA

    def _due(self, eta: Any) -> float | None:
        """Return when a task is due, in seconds of the timer's clock, as Celery computes it.

        Returns:
            ``None`` where Celery refuses the message or the task; it also says so.
        """
        app = self._app
        try:
            moment = parse_moment(eta)
            if moment.tzinfo is None:
                moment = maybe_make_aware(moment, app.conf.timezone)
            if app.uses_utc_timezone():
                moment = timezone.to_system(moment)
            seconds: float = (moment - EPOCH).total_seconds()
            return max(seconds - _clocks.difference(), 0.0)
        except Exception:
            return None

    def _hold(self, message: Any, due: float) -> bool:
        """Keep a message until ``due``; tell whether that can be done here.

        Raises:
            ReadingError: It cannot be read here; nobody has been told of it.
        """
        consumer = self._consumer
        request = None
        is_signalled = bool(signals.task_received.receivers)
        try:
            task_id = message.headers["id"]
            form = form_of(message)
            data = form and form.freeze(message)
            if not (form and data and type(task_id) is str and isinstance(consumer.timer, Timer)):
                return False
            if (
                is_signalled
                or self._logs
                or (self._sends_events and takes_tasks(self._eventer))
                or message.headers.get("expires") is not None
                or task_id in self._revoked
            ):
                request = self._request(message, self._eventer)
        except Exception as exc:
            raise ReadingError(self._task.name) from exc
        if request is not None and not self._announce(request):
            return True
        holder = self._holder
        if holder is None or holder.channel is not message.channel:
            holder = self._holder = Holder(
                self._task, consumer, self._make_request, form, message, data
            )
        rate_limited = not consumer.disable_rate_limits
        bucket = consumer.task_buckets[self._task.name] if rate_limited else None
        held = holder.hold(message, data, task_id, bucket, request if is_signalled else None)
        consumer.qos.increment_eventually()
        consumer.timer.enter_at(held, due, PRIORITY)
        remember(held)
        return True

    def _make_request(self, message: Any) -> Any:
        return self._request(message, self._eventer)
