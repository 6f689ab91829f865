"""One call that the pool was asked to make, and how far it has come."""

from __future__ import annotations

from contextvars import Context
from enum import Enum
from typing import Any, Callable, Protocol

from hybrid.hubs.base import GreenletExit

Callback = Callable[..., Any]


class JobKilled(GreenletExit):  # type: ignore[misc]
    """Raised in a job that was terminated or has passed its hard time limit.

    Not an :exc:`Exception`, so that ``except Exception`` in a task lets it pass, and a kind
    of ``GreenletExit``, which both gevent and eventlet take for an ordinary end.
    """


class State(Enum):
    """How far a job has come, and who has decided how it ends.

    ``WAITING``, ``ACCEPTING``, ``RUNNING`` and ``ENDED`` is the way of a job that nobody ends.
    Whoever takes its ticket first makes it one of the others, which it remains::

        ACCEPTING -> TERMINATED                        its target is never called
        RUNNING   -> TERMINATED ------------> ABANDONED
        RUNNING   -> TIMED_OUT -> REPORTED -> ABANDONED
    """

    #: In the pool's backlog, or announced.
    WAITING = "waiting"
    #: It has its ticket, and Celery takes note of it. Nothing is raised in that.
    ACCEPTING = "accepting"
    #: Its target runs.
    RUNNING = "running"
    #: Its target has ended by itself, and its callbacks may run. Nothing is raised in them.
    ENDED = "ended"
    #: Whoever has terminated it says what has become of it.
    TERMINATED = "terminated"
    #: It has passed its hard limit, which is told when its target has ended, or does not.
    TIMED_OUT = "timed out"
    #: The same, and it has been told.
    REPORTED = "reported"
    #: Its target swallows what should end it; the job has no place in the pool any more.
    ABANDONED = "abandoned"


# Names of a module: attributes of an `Enum` take twice as long, several times for each job.
WAITING, ACCEPTING, RUNNING, ENDED = State.WAITING, State.ACCEPTING, State.RUNNING, State.ENDED
ABANDONED = State.ABANDONED


class Part(Enum):
    """What part of its target a job is in, where that is Celery's tracer.

    Only the function of the task is ended by a limit: what the tracer stores and tells before and
    after it would be left half done, and a task that has succeeded would be told to have failed.
    """

    #: The tracer gets ready: ``task_prerun``, the state ``STARTED``. Or the target has no function
    #: of which it tells.
    BEFORE = "before"
    #: The function of the task runs.
    INSIDE = "inside"
    #: The function has decided the outcome; links are sent, and the result is stored and told.
    AFTER = "after"


# Names of a module, as above.
BEFORE, INSIDE, AFTER = Part.BEFORE, Part.INSIDE, Part.AFTER


class Runner(Protocol):
    """What runs the target of a job."""

    def interrupt(self, job: Job, exc: type[BaseException], anywhere: bool) -> None:
        """Raise ``exc`` where the target of ``job`` waits, soon; see :meth:`Job.interrupt`."""


class Job:
    """A target with its arguments, its callbacks and how far it has come.

    Celery keeps a weak reference to it as the result of ``apply_async``.
    """

    __slots__ = (
        "__weakref__",
        "accept_callback",
        "args",
        "callback",
        "context",
        "correlation_id",
        "error_callback",
        "kwargs",
        "limits",
        "owed",
        "part",
        "runner",
        "soft_timeout",
        "state",
        "target",
        "ticket",
        "timeout",
        "timeout_callback",
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
        #: What runs its target; ``None`` before that and afterwards.
        self.runner: Runner | None = None
        #: A tracer's function moves it on.
        self.part = BEFORE
        #: What is raised at the beginning of the function, or at its end.
        self.owed: type[BaseException] | None = None
        #: The timer entries of its limits.
        self.limits: tuple[Any, ...] = ()

    @property
    def is_decided(self) -> bool:
        """Whether it is decided how it ends, by its function or by what others have put to it."""
        return self.part is AFTER or self.state not in (WAITING, ACCEPTING, RUNNING)

    def interrupt(self, exc: type[BaseException], anywhere: bool = False) -> None:
        """Raise ``exc`` in the target where it waits, soon.

        Nothing is raised when no target runs, neither in its callbacks nor in anything else of
        the pool's, or when the state of the job has become another one by then. A tracer gets it
        in the function of its task: when that begins, if need be, and not at all after its end.

        Args:
            exc: What to raise.
            anywhere: Raise it wherever the target is.
        """
        if self.runner is not None:
            self.runner.interrupt(self, exc, anywhere)

    def terminate(self, signal: int | None = None) -> None:
        """Do nothing: Celery calls this after :meth:`TaskPool.terminate_job`, which did it."""

    def __repr__(self) -> str:
        what = self.correlation_id or getattr(self.target, "__name__", repr(self.target))
        return f"<Job {what} ticket={self.ticket}>"
