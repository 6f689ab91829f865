"""The cold shutdown of a worker on our pools, which ends whatever the broker does.

Celery's handler cancels the consumer, and only the consumer's own greenlet may read from its
connection. There it also keeps the consumer from taking more tasks, as under prefork. So the
consumer's loop runs the handler, if there is a loop and it comes round. While the worker connects,
waits for the broker to come back, or ends a warm shutdown, there is none.

The handler runs in the loop's greenlet or in one of its own; everything else here runs in the hub.
"""

from __future__ import annotations

from time import monotonic
from typing import Any, Callable

from celery.exceptions import WorkerTerminate
from celery.platforms import EX_FAILURE
from celery.utils.log import get_logger

from hybrid.hubs.base import Greenlet
from hybrid.worker.consuming.loop import MESSAGE_WAIT

logger = get_logger("celery.worker")

#: Seconds in which the loop takes the handler up, unless it waits for a broker that is silent.
LOOP_GRACE = MESSAGE_WAIT + 1.0
#: Seconds in which a worker ends when no task runs: twice what Celery grants a silent broker.
IDLE_GRACE = 10.0
#: The same while tasks run. The pool gives up on those that swallow their end before that.
BUSY_GRACE = 20.0
#: How often, and every how many seconds, the worker's greenlet is got out of where it waits.
ATTEMPTS = 4
NEXT_ATTEMPT = 5.0

_STUCK = "The worker has not ended in %d s: a broker or result backend does not answer. It ends now"


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
        if handler is not None:
            handler()

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
