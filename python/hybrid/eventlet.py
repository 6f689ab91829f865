"""``-P hybrid.eventlet``: the pool on eventlet's hub."""

from __future__ import annotations

from celery import signals

from hybrid import runtime
from hybrid.hubs.base import Hub
from hybrid.patches import monkey
from hybrid.worker import attach
from hybrid.worker.execution import pool, timer

__all__ = ["TaskPool", "Timer"]


def _get_hub() -> Hub:
    monkey.require("eventlet")
    return runtime.make("eventlet").hub


class Timer(timer.Timer):
    """The worker's timer on eventlet's hub."""

    get_hub = staticmethod(_get_hub)


class TaskPool(pool.TaskPool):
    """The pool on eventlet's hub. Sends the four ``eventlet_pool_*`` signals."""

    # Celery refuses -B for pools whose module is called something with eventlet at its end.
    __module__ = "hybrid"

    Timer = Timer
    get_hub = staticmethod(_get_hub)
    spelling = "hybrid.eventlet"
    apply_signal = signals.eventlet_pool_apply

    def on_start(self) -> None:
        super().on_start()
        signals.eventlet_pool_started.send(sender=self)

    def on_stop(self) -> None:
        signals.eventlet_pool_preshutdown.send(sender=self)
        super().on_stop()
        signals.eventlet_pool_postshutdown.send(sender=self)


attach.attach()
