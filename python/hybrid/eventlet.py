"""``-P hybrid.eventlet``: the pool on eventlet's hub."""

from __future__ import annotations

from typing import Any

from celery import signals

from hybrid import hubs, patching
from hybrid.hubs.base import Hub
from hybrid.worker import attach, pool, timer
from hybrid.worker.job import Callback, Job

__all__ = ["TaskPool", "Timer"]


def _get_hub() -> Hub:
    patching.require("eventlet")
    return hubs.get("eventlet")


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

    def on_start(self) -> None:
        super().on_start()
        signals.eventlet_pool_started.send(sender=self)

    def on_stop(self) -> None:
        signals.eventlet_pool_preshutdown.send(sender=self)
        super().on_stop()
        signals.eventlet_pool_postshutdown.send(sender=self)

    def on_apply(
        self, target: Callback, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any
    ) -> Job:
        signals.eventlet_pool_apply.send(sender=self, target=target, args=args, kwargs=kwargs)
        return super().on_apply(target, args, kwargs, *rest, **options)


attach.attach()
