"""Celery's ``send_task`` for the plain call of a task, on Redis.

What a call does is Celery's: routes, parents, headers, results. A call with an ETA, an expiry date,
callbacks, or anything else than :data:`_PLAIN` goes through Celery's own function.
"""

from __future__ import annotations

from typing import Any

from celery.app.base import Celery

from hybrid.detours import PUBLISH
from hybrid.identifiers import uuid4
from hybrid.patches import celery as patches
from hybrid.patches.originals import Original

#: Options for the router and the sender that are honoured here.
_PLAIN = frozenset(
    {
        "compression",
        "delivery_mode",
        "exchange",
        "headers",
        "immediate",
        "mandatory",
        "priority",
        "queue",
        "retry",
        "retry_policy",
        "routing_key",
        "serializer",
    }
)

#: Parameters of ``send_task`` itself that are honoured here.
_OF_CALLS = frozenset({"ignore_result", "result_cls", "shadow", "task_id", "task_type"})

_SEND_TASK = Original(Celery, "send_task")
_LEND_PRODUCER = Original(Celery, "producer_or_acquire")


def explain_caller(app: Any) -> str | None:
    """Say why calls of the tasks of ``app`` go through a ``send_task`` that is not ours, if so."""
    if not _SEND_TASK.is_in(type(app)):
        return _SEND_TASK.explain(type(app))
    if not _LEND_PRODUCER.is_in(type(app)):
        return _LEND_PRODUCER.explain(type(app))
    if "producer_or_acquire" in vars(app):
        return "app.producer_or_acquire has been replaced"
    if "send_task" in vars(app) and not patches.SEND_TASK.is_applied(app):
        return "app.send_task has been replaced"
    return None


class Caller:
    """Calls tasks of ``app``, in place of ``app.send_task``.

    Args:
        app: The app of a worker. Its settings are read once.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._amqp = app.amqp
        self._sends_event = app.conf.task_send_sent_event
        self._inherits_priority = app.conf.task_inherit_parent_priority
        # A setting since 5.7.
        self._is_patient = app.conf.get("broker_pool_acquire_timeout") is None

    def __call__(
        self, name: str, args: Any = None, kwargs: Any = None, *positional: Any, **options: Any
    ) -> Any:
        """Call a task; the arguments are those of :meth:`celery.Celery.send_task`.

        Raises:
            Exception: What Celery raises: the message was not sent.
        """
        app = self._app
        if (
            not positional
            and options.get("task_type") is not None
            and self._is_patient
            and _is_plain(options)
            and _SEND_TASK.is_in(type(app))
            and _LEND_PRODUCER.is_in(type(app))
            and "producer_or_acquire" not in app.__dict__
        ):
            return self._call(name, args, kwargs, **options)
        PUBLISH.note(self._explain(positional, options))
        return type(app).send_task(app, name, args, kwargs, *positional, **options)

    def _explain(self, positional: tuple[Any, ...], options: dict[str, Any]) -> str:
        """Say why a call goes through Celery's own function."""
        cause = explain_caller(self._app)
        if cause is not None:
            return cause
        if not self._is_patient:
            return "the setting broker_pool_acquire_timeout is set"
        if positional:
            return "calls with options by their places"
        names = [name for name, value in options.items() if value is not None]
        unusual = sorted(name for name in names if name not in _PLAIN and name not in _OF_CALLS)
        if unusual:
            return f"calls with {', '.join(unusual)}"
        return "calls by the name of a task"

    def _call(
        self,
        name: str,
        args: Any,
        kwargs: Any,
        *,
        task_type: Any,
        task_id: str | None = None,
        result_cls: Any = None,
        shadow: str | None = None,
        ignore_result: bool | None = None,
        **given: Any,
    ) -> Any:
        options = {option: given[option] for option in given if option in _PLAIN}
        app, amqp = self._app, self._amqp
        task_id = task_id or uuid4()
        options = amqp.router.route(options, name, args, kwargs, task_type)
        root_id = parent_id = None
        parent = app.current_worker_task
        if parent:
            request = parent.request
            root_id = request.root_id or request.id
            parent_id = request.id
            if self._inherits_priority:
                options.setdefault("priority", request.delivery_info.get("priority"))
        message = amqp.create_task_message(
            task_id,
            name,
            args,
            kwargs,
            reply_to=app.thread_oid,
            create_sent_event=self._sends_event,
            root_id=root_id,
            parent_id=parent_id,
            shadow=shadow,
            ignore_result=ignore_result,
        )
        with app.producer_pool.acquire(block=True) as producer:
            try:
                if not ignore_result:
                    app.backend.on_task_call(producer, task_id)
                amqp.send_task_message(producer, name, message, **options)
            except Exception:
                with producer.connection._reraise_as_library_errors():
                    raise
        result = (result_cls or app.AsyncResult)(task_id)
        result.ignored = ignore_result
        if parent:
            parent.add_trail(result)
        return result


def _is_plain(options: dict[str, Any]) -> bool:
    """Tell whether all ``options`` that are set are honoured here."""
    for option, value in options.items():
        if value is not None and option not in _PLAIN and option not in _OF_CALLS:
            return False
    return True
