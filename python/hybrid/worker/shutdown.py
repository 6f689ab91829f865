"""The shutdowns of a worker on our pools, which end whatever the broker does.

A warm one waits for the tasks that run, however long; Celery's then waits for what it says to the
broker, without a bound. Where the broker is silent, as behind a link that is dead and has not been
closed, nobody ever answers. Here that wait fails as any lost connection does, and Celery goes on
with what comes next. What users' code waits for in a shutdown is waited for.

Celery's handler cancels the consumer, and only the consumer's own greenlet may read from its
connection. There it also keeps the consumer from taking more tasks, as under prefork. So the
consumer's loop runs the handler, if there is a loop and it comes round. While the worker connects,
waits for the broker to come back, or ends a warm shutdown, there is none.

The handler runs in the loop's greenlet or in one of its own; everything else here runs in the hub.
"""

from __future__ import annotations

from time import monotonic
from types import FrameType
from typing import Any, Callable

from celery.exceptions import WorkerTerminate
from celery.platforms import EX_FAILURE
from celery.utils.log import get_logger

from hybrid.hubs.base import Greenlet
from hybrid.worker.consuming.loop import MESSAGE_WAIT

logger = get_logger("celery.worker")

#: Seconds in which the loop takes the handler up, unless it waits for a broker that is silent.
LOOP_GRACE = MESSAGE_WAIT + 1.0
#: Seconds in which a worker ends when no task runs, more than the waits for a silent broker take.
IDLE_GRACE = 20.0
#: The same while tasks run. The pool gives up on those that swallow their end before that.
BUSY_GRACE = 25.0
#: How often, and every how many seconds, the worker's greenlet is got out of where it waits.
ATTEMPTS = 4
NEXT_ATTEMPT = 5.0

#: Seconds for which a broker may be silent while nothing else is waited for, as in Celery's cold
#: shutdowns.
SILENCE = 5.0
#: How often a worker that ends is looked at, in seconds.
MOMENT = 0.25

#: Whose code talks to a broker, and what that waits in.
_TALKING = (
    *("kombu", "amqp", "redis", "hybrid.transports", "hybrid.clients"),
    *("celery.events", "celery.worker.consumer", "celery.worker.heartbeat", "celery.worker.pidbox"),
    *("hybrid.worker.watching", "hybrid.worker.consuming"),
)
_WAITING = ("hybrid.hubs", "gevent", "eventlet", "greenlet", "socket", "ssl", "threading", "vine")

_SILENT = "The broker does not answer: the worker ends without it"
_STUCK = "The worker has not ended in %d s: a broker or result backend does not answer. It ends now"


class Patience:
    """Lets a greenlet wait for a broker that is silent, but not for ever.

    After :data:`SILENCE` seconds its wait fails, and every further one after a moment. Belongs to
    the hub's thread.

    Args:
        worker: The worker that ends.
        greenlet: The one that may wait.
        is_over: Tells whether it need not be looked at any more.
        may_wait: Tells whether it may have reason to wait for more than the broker.
    """

    def __init__(
        self,
        worker: Any,
        greenlet: Greenlet,
        is_over: Callable[[], bool],
        may_wait: Callable[[], bool],
    ) -> None:
        self._hub = worker.pool.hub
        self._greenlet = greenlet
        self._is_over = is_over
        self._may_wait = may_wait
        self._is_lost = False
        #: Since when nothing but the broker has been waited for.
        self._since: float | None = None

    def start(self) -> None:
        """Look again and again, until it is over."""
        self._hub.call_later(MOMENT, self._check)

    def _check(self) -> None:
        if self._is_over() or self._greenlet.dead:
            return
        self._hub.call_later(MOMENT, self._check)
        if self._may_wait() or not _talks(self._greenlet):
            self._since = None
            return
        now = monotonic()
        if self._since is None:
            self._since = now
        if self._is_lost or now - self._since >= SILENCE:
            if not self._is_lost:
                self._is_lost = True
                self._hub.spawn(logger.warning, _SILENT)
            self._since = None
            self._greenlet.throw(TimeoutError(_SILENT))


def end_in_time(worker: Any, greenlet: Greenlet) -> None:
    """See to it that the end of ``worker``, which ``greenlet`` runs, waits for no silent broker."""
    Patience(
        worker,
        greenlet,
        is_over=worker.blueprint.shutdown_complete.is_set,
        may_wait=lambda: bool(worker.pool.running),
    ).start()


def _talks(greenlet: Greenlet) -> bool:
    """Tell whether ``greenlet`` waits for a broker, and not for code of the user's."""
    frame: FrameType | None = getattr(greenlet, "gr_frame", None)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if _is_in(module, _TALKING):
            return True
        if not _is_in(module, _WAITING):
            return False
        frame = frame.f_back
    return False


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


class ColdShutdown:
    """One cold shutdown, from the signal to the end of the process. Belongs to the hub's thread.

    Args:
        worker: The worker that ends.
        greenlet: The one that runs the worker.
        handler: Celery's handler. It is run once.
    """

    def __init__(self, worker: Any, greenlet: Greenlet, handler: Callable[[], object]) -> None:
        self._worker = worker
        self._greenlet = greenlet
        self._handler: Callable[[], object] | None = handler
        self._hub = worker.pool.hub
        self._began = monotonic()
        self._attempts = 0

    def start(self) -> None:
        """Have the handler run, where the consumer runs if possible. Runs in the hub."""
        self._worker.pool.hold()
        consumer = getattr(self._worker, "consumer", None)
        # A consumer of the user's own has Celery's loop.
        if consumer is not None and getattr(consumer, "is_looping", True):
            consumer.call_soon(self._run)
            self._hub.call_later(LOOP_GRACE, self.hurry)
        else:
            self.hurry()
        self._hub.call_later(IDLE_GRACE, self._check)

    @property
    def is_waiting(self) -> bool:
        """Tell whether the handler has not been begun."""
        return self._handler is not None

    def hurry(self) -> None:
        """Wait for the loop no longer. Runs in the hub."""
        if self._handler is not None:
            self._hub.spawn(self._run)

    def _run(self) -> None:
        handler, self._handler = self._handler, None
        if handler is None:
            return
        has_returned: list[bool] = []
        Patience(
            self._worker,
            self._hub.current(),
            is_over=lambda: bool(has_returned),
            may_wait=lambda: False,
        ).start()
        try:
            handler()
        finally:
            has_returned.append(True)

    def _check(self) -> None:
        """Get the worker out of where it waits, when all that may take long has ended."""
        worker = self._worker
        if worker.blueprint.shutdown_complete.is_set() or self._attempts == ATTEMPTS:
            return
        soft = getattr(worker.app.conf, "worker_soft_shutdown_timeout", 0) or 0
        grace = soft + (BUSY_GRACE if worker.pool.running else IDLE_GRACE)
        took = monotonic() - self._began
        if took < grace:
            self._hub.call_later(min(grace - took, 1.0), self._check)
            return
        self._attempts += 1
        self._hub.call_later(NEXT_ATTEMPT, self._check)
        self._hub.spawn(logger.error, _STUCK, took)
        self._greenlet.throw(WorkerTerminate(EX_FAILURE))
