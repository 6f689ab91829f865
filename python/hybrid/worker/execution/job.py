"""One call that the pool was asked to make."""

from __future__ import annotations

from contextvars import Context
from typing import Any, Callable, Final

from greenlet import GreenletExit

from hybrid.hubs.base import Greenlet

#: States of a job, in the order in which they come.
WAITING: Final = 0
RUNNING: Final = 1
#: The target was told to end and may still be unwinding.
KILLED: Final = 2
#: The target has ended; its callbacks may still run.
ENDED: Final = 3

Callback = Callable[..., Any]


class JobKilled(GreenletExit):  # type: ignore[misc]
    """Raised in a job that was terminated or has passed its hard time limit.

    Not an :exc:`Exception`, so that ``except Exception`` in a task lets it pass, and a kind
    of ``GreenletExit``, which both gevent and eventlet take for an ordinary end.
    """


class Job:
    """A target with its arguments, its callbacks and how far it has come.

    Celery keeps a weak reference to it as the result of ``apply_async``.
    """

    __slots__ = (
        "__weakref__",
        "abandoned",
        "accept_callback",
        "args",
        "callback",
        "context",
        "correlation_id",
        "error_callback",
        "greenlet",
        "killed",
        "kwargs",
        "limits",
        "soft_timeout",
        "state",
        "target",
        "ticket",
        "timed_out",
        "timeout",
        "timeout_callback",
        "timeout_reported",
    )

    def __init__(
        self,
        target: Callback,
        args: Any,
        kwargs: dict[str, Any],
        context: Context,
        callback: Callback | None,
        accept_callback: Callback | None,
        error_callback: Callback | None,
        timeout_callback: Callback | None,
        timeout: float | None,
        soft_timeout: float | None,
        correlation_id: str | None,
    ) -> None:
        self.target = target
        self.args = args
        self.kwargs = kwargs
        self.context = context
        self.callback = callback
        self.accept_callback = accept_callback
        self.error_callback = error_callback
        self.timeout_callback = timeout_callback
        self.timeout = timeout
        self.soft_timeout = soft_timeout
        self.correlation_id = correlation_id
        self.state = WAITING
        self.ticket = 0
        self.greenlet: Greenlet | None = None
        self.limits: tuple[Any, ...] = ()
        self.killed = False
        self.timed_out = False
        self.timeout_reported = False
        self.abandoned = False

    def terminate(self, signal: int | None = None) -> None:
        """Do nothing: Celery calls this after :meth:`TaskPool.terminate_job`, which did it."""

    def __repr__(self) -> str:
        what = self.correlation_id or getattr(self.target, "__name__", repr(self.target))
        return f"<Job {what} ticket={self.ticket}>"
