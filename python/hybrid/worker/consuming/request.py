"""Celery's request for the messages that most tasks come in, built and run with less work.

It is for JSON messages of protocol 2. The body is decoded once, for the task; ``Request.args`` and
``Request.kwargs`` are a copy of their own, as in Celery, that is decoded when somebody reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from time import monotonic, time
from typing import Any, Callable, ClassVar
from weakref import ref

from celery.app import trace
from celery.exceptions import InvalidTaskError, TaskRevokedError, TimeLimitExceeded
from celery.states import FAILURE
from celery.utils.log import get_logger
from celery.utils.time import maybe_iso8601, maybe_make_aware
from celery.worker import request as celery_request
from celery.worker import state as worker_state
from celery.worker.state import revoked as revoked_tasks
from celery.worker.state import task_accepted, task_ready, total_count
from dateutil.tz import UTC

from hybrid.transports.message import OurMessage
from hybrid.worker.execution.job import Job
from hybrid.worker.watching.complaints import complain, complain_of_the_log
from hybrid.worker.watching.events import SENDING, TASKS

logger = get_logger("celery.worker.request")


#: Requests that are being terminated. Their jobs may be over before their messages are settled.
terminating: set[celery_request.Request] = set()


def acknowledge_together(jobs: list[Job]) -> None:
    """Acknowledge the messages of tasks that are about to start, in one write.

    Without it, each would wait for that write by itself. What cannot be acknowledged here is left
    to the request, which says why. Blocks until the write is done.
    """
    by_channel: dict[Any, list[Request]] = {}
    for job in jobs:
        request = getattr(job.accept_callback, "__self__", None)
        if isinstance(request, Request) and not (request.acknowledged or request._task.acks_late):
            message = request._message
            if isinstance(message, OurMessage):
                by_channel.setdefault(message.channel, []).append(request)
    for channel, requests in by_channel.items():
        if not hasattr(channel, "ack_together"):
            continue
        acknowledged = channel.ack_together([request._message for request in requests])
        for request, is_acknowledged in zip(requests, acknowledged):
            request.acknowledged = is_acknowledged


def parse_moment(text: Any) -> Any:
    """Return what Celery makes of the text of an ETA or expiry date.

    Raises:
        Exception: It is no such text.
    """
    # Nearly all of them; dateutil takes forty times as long for the same.
    if type(text) is str and len(text) in (25, 32) and text[10] == "T" and text[-6:] == "+00:00":
        try:
            return datetime.fromisoformat(text[:-6]).replace(tzinfo=UTC)
        except ValueError:
            pass
    return maybe_iso8601(text)


class Request(celery_request.Request):  # type: ignore[misc]
    """A request for one task; :func:`specialised` makes a class with the constants of a task.

    The name of the class is that of its base: Celery's payload is a private attribute.

    Args:
        message: The message, not yet acknowledged.

    Raises:
        ValueError: The body is not that of a message of protocol 2.
        KeyError: The headers are not.
    """

    # Constants of the task and its worker.
    _app: ClassVar[Any]
    _task: ClassVar[Any]
    _hostname: ClassVar[str]
    _connection_errors: ClassVar[Sequence[type[BaseException]]]
    _utc: ClassVar[bool]
    _trace: ClassVar[Callable[..., Any]]
    _apply_async: ClassVar[Callable[..., Any]]
    _terminate_job: ClassVar[Callable[..., Any]]
    _acks_late: ClassVar[bool]
    #: Whether anybody asks Celery's state for tasks that have succeeded.
    _remembers_success: ClassVar[bool]

    acknowledged = False
    _expires = None
    _decoded = True
    _content_type = None
    _content_encoding = None

    def __init__(self, message: Any, eventer: Any) -> None:
        payload = message.payload
        args, kwargs, _ = payload
        headers = message.headers.copy()
        properties = message.properties or {}
        delivery_info = message.delivery_info or {}
        self._message = message
        self._eventer = eventer
        self._request_dict = headers
        self._body = self.__payload = payload
        self.id = headers["id"]
        self._type = self.name = headers["task"]
        shadow = headers.get("shadow")
        if shadow:
            self.name = shadow
        self._root_id = headers.get("root_id")
        self._parent_id = headers.get("parent_id")
        timelimit = headers.get("timelimit")
        if timelimit:
            self.time_limits = timelimit
        expires = headers.get("expires")
        if expires is not None:
            self._expires = self._aware(expires, "expires")
        self._argsrepr = headers.get("argsrepr", "")
        self._kwargsrepr = headers.get("kwargsrepr", "")
        ignore_result = headers.get("ignore_result")
        self._ignore_result = self._task.ignore_result if ignore_result is None else ignore_result
        self._delivery_info = {
            "exchange": delivery_info.get("exchange"),
            "routing_key": delivery_info.get("routing_key"),
            "priority": properties.get("priority"),
            "redelivered": delivery_info.get("redelivered", False),
        }
        headers["properties"] = properties
        headers["reply_to"] = properties.get("reply_to")
        headers["correlation_id"] = properties.get("correlation_id")
        headers["hostname"] = self._hostname
        headers["delivery_info"] = self._delivery_info
        headers["args"] = args
        headers["kwargs"] = kwargs

    @property
    def _eta(self) -> Any:
        eta = self._message.headers.get("eta")
        return None if eta is None else self._aware(eta, "ETA")

    def _aware(self, text: Any, what: str) -> Any:
        """Return the moment that a header names, as Celery has it."""
        try:
            moment = parse_moment(text)
        except (AttributeError, ValueError, TypeError) as exc:
            raise InvalidTaskError(f"invalid {what} value {text!r}: {exc}") from exc
        return maybe_make_aware(moment, self.tzlocal)

    @property
    def _own(self) -> Any:
        own = self.__dict__.get("_own_payload")
        if own is None:
            own = self.__dict__["_own_payload"] = self._message._decode()
        return own

    @property
    def _args(self) -> Any:
        return self._own[0]

    @property
    def _kwargs(self) -> Any:
        return self._own[1]

    @property
    def _on_ack(self) -> Callable[..., None]:
        return self._message.ack_log_error  # type: ignore[no-any-return]

    @property
    def _on_reject(self) -> Callable[..., None]:
        return self._message.reject_log_error  # type: ignore[no-any-return]

    def execute_using_pool(self, pool: Any, **_: Any) -> Any:  # noqa: ARG002
        """Give the task to the pool of its worker.

        Raises:
            TaskRevokedError: It has been revoked.
        """
        if self._may_be_revoked and self.revoked():
            raise TaskRevokedError(self.id)
        hard, soft = self.time_limits
        task = self._task
        job = self._apply_async(
            self._trace,
            args=(self._type, self.id, self._request_dict, self._body, None, None),
            accept_callback=self.on_accepted,
            timeout_callback=self.on_timeout,
            callback=self.on_success,
            error_callback=self.on_failure,
            soft_timeout=soft or task.soft_time_limit,
            timeout=hard or task.time_limit,
            correlation_id=self.id,
        )
        self._apply_result = ref(job)
        return job

    @property
    def _may_be_revoked(self) -> bool:
        """Whether there is anything for :meth:`revoked` to look at."""
        return bool(
            self._expires is not None
            or self._already_revoked
            or self.id in revoked_tasks
            or self._request_dict.get("stamped_headers")
        )

    def acknowledge(self) -> None:
        """Acknowledge the message, if that has not been done."""
        if not self.acknowledged:
            self._settle(self._message.ack_log_error)
            self.acknowledged = True

    def _acknowledge_late(self) -> None:
        """Acknowledge the message of a task that is done, which waits for nothing any more."""
        if not self.acknowledged:
            message = self._message
            is_ours = isinstance(message, OurMessage)
            self._settle(message.ack_soon_log_error if is_ours else message.ack_log_error)
            self.acknowledged = True

    def reject(self, requeue: bool = False) -> None:
        """Reject the message, if it has not been acknowledged."""
        if not self.acknowledged:
            self._settle(self._message.reject_log_error, requeue)
            self.acknowledged = True
            self.send_event("task-rejected", requeue=requeue)

    def send_received(self) -> None:
        """Send the event that this task has been received."""
        eta, expires = self._eta, self._expires
        self.send_event(
            "task-received",
            name=self.name,
            args=self._argsrepr,
            kwargs=self._kwargsrepr,
            root_id=self._root_id,
            parent_id=self._parent_id,
            retries=self._request_dict.get("retries", 0),
            eta=eta and eta.isoformat(),
            expires=expires and expires.isoformat(),
        )

    def send_event(self, type: str, **fields: Any) -> None:
        """Send an event of this task, if anybody wants it. What fails there is logged."""
        try:
            eventer = self._eventer
            if not (eventer and eventer.enabled and self._task.send_events):
                return
            groups = eventer.groups  # as in `takes_tasks`, of which three calls are too many
            if groups and TASKS not in groups:
                return
            fields["uuid"] = self.id
            record = getattr(eventer, "record", None)  # Celery's own dispatchers have none
            count = record(type, fields) if record is not None and SENDING.are_intact() else 0
            if count == 1:
                eventer.flush_soon()
            elif not count:
                eventer.send(type, **fields)
        except Exception:
            complain(logger, "Task %s: the event %s was not sent", self.id, type)

    def _settle(self, settle: Callable[..., None], *args: Any) -> None:
        try:
            settle(logger, self._connection_errors, *args)
        except Exception:  # as Celery's consumer does, for which a lost ack is no lost task
            logger.exception("%s: the message was not settled", self.humaninfo())

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Take note that the task starts now, in the job ``pid``, unless it has been revoked."""
        if self._terminate_on_ack is None and self._may_be_revoked and self.revoked():
            # While it waited for a slot; Celery's pools look when they have one.
            self._terminate_job(pid)
            return
        self.worker_pid = pid
        self.time_start = time() - (monotonic() - time_accepted)
        task_accepted(self, add_to_total_count=_count)
        if not (self.acknowledged or self._acks_late):
            self.acknowledge()
        self.send_event("task-started")
        if celery_request._does_debug:
            try:
                logger.debug("Task accepted: %s[%s] pid:%r", self.name, self.id, pid)
            except Exception:
                complain_of_the_log()
        if self._terminate_on_ack is not None:
            self.terminate(*self._terminate_on_ack)

    def terminate(self, *args: Any, **options: Any) -> None:
        """End the task, unless it is decided how it ends: that is being stored and told."""
        if self._is_decided:
            return
        terminating.add(self)
        try:
            super().terminate(*args, **options)
        finally:
            terminating.discard(self)

    def cancel(self, *args: Any, **options: Any) -> None:
        """End the task because it will run again, unless it is decided how it ends."""
        if not self._is_decided:
            super().cancel(*args, **options)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Take note that the task has passed a limit.

        The failure is stored while the task still counts as active: what remote control does not
        find among those, it looks up, and calls revoked where no outcome has been stored.
        """
        if not (soft or worker_state.should_terminate) and self.store_errors:
            exc = TimeLimitExceeded(timeout)
            self.task.backend.store_result(self.id, exc, FAILURE, request=self._context)
        super().on_timeout(soft, timeout)

    @property
    def _is_decided(self) -> bool:
        job = None if self._apply_result is None else self._apply_result()
        return job is not None and job.is_decided

    def on_success(self, failed__retval__runtime: tuple[Any, Any, Any], **kwargs: Any) -> Any:
        """Take note that the tracer is through with the task."""
        failed, retval, runtime = failed__retval__runtime
        if failed:
            return super().on_success(failed__retval__runtime, **kwargs)
        task_ready(self, successful=self._remembers_success)
        if self._acks_late:
            self._acknowledge_late()
        self.send_event("task-succeeded", result=retval, runtime=runtime)
        return None


def _count(accepted: dict[str, int]) -> None:
    """Count tasks by name, as :meth:`collections.Counter.update` does in ten times as long."""
    for name, number in accepted.items():
        total_count[name] += number


def specialised(task: Any, app: Any, consumer: Any) -> type[Request]:
    """Return the class of requests for ``task`` on the worker of ``consumer``."""
    constants = {
        "_app": app,
        "_task": task,
        "_hostname": consumer.hostname,
        "_connection_errors": consumer.connection_errors,
        "_utc": app.uses_utc_timezone(),
        "_trace": staticmethod(
            trace.fast_trace_task if app.use_fast_trace_task else trace.trace_task_ret
        ),
        "_apply_async": staticmethod(consumer.pool.apply_async),
        "_terminate_job": staticmethod(consumer.pool.terminate_job),
        "_acks_late": task.acks_late,
        "_remembers_success": bool(task.acks_late or app.conf.worker_deduplicate_successful_tasks),
    }
    return type("Request", (Request,), constants)
