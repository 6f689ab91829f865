"""``-B`` for green pools: the beat service in a greenlet of the worker."""

from __future__ import annotations

from typing import Any

from celery.worker import components


class Beat(components.Beat):  # type: ignore[misc]
    """Celery's bootstep, which otherwise refuses green pools.

    The service runs in a patched thread, which is a greenlet. Celery would fork a process:
    that inherits the loop of the parent, with eventlet even its epoll instance.
    """

    # What it opens before the pool starts would be kombu's.
    requires = (components.Pool,)
    # Celery finds steps by name: this one takes the place of its own.
    name = components.Beat.name

    def create(self, w: Any) -> Any:
        """Return the service, which the worker starts and stops with itself."""
        from celery.beat import EmbeddedService  # as Celery does: most workers need none

        w.beat = EmbeddedService(
            w.app,
            thread=True,
            schedule_filename=w.schedule_filename,
            scheduler_cls=w.scheduler,
        )
        return w.beat
