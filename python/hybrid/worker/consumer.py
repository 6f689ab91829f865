"""Celery's consumer, with our strategies for the tasks that they fit."""

from __future__ import annotations

from typing import Any, Callable

from celery.worker import consumer

from hybrid.transports import redis
from hybrid.worker import strategy

#: With prefetching unlimited, jobs that may wait for each one that can run.
BACKLOG_PER_SLOT = 4


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """The consumer of workers on our pools."""

    def update_strategies(self) -> None:
        """Build a strategy for each task: ours where it does exactly what Celery's does."""
        super().update_strategies()
        declined = {}
        for name, task in self.app.tasks.items():
            reasons = strategy.reasons(task, self.app)
            if reasons:
                declined[name] = "; ".join(reasons)
            else:
                self.strategies[name] = strategy.default(task, self.app, self)
        self.pool.accelerated["strategy"] = declined or True
        driver = self.conninfo.transport.driver_type
        decoding = isinstance(self.conninfo.transport, redis.Transport)
        self.pool.accelerated["decoding"] = decoding or f"not for the transport {driver}"

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Return Celery's handler for messages.

        The pool takes any number of jobs. Where the broker is not told how many to send, it
        is this handler that waits, as the stock pools do.
        """
        on_task_received: Callable[[Any], None] = super().create_task_handler(*args, **kwargs)
        if self.initial_prefetch_count:
            return on_task_received

        def receive_then_wait(message: Any) -> None:
            on_task_received(message)
            self.pool.wait_for_room(BACKLOG_PER_SLOT)

        return receive_then_wait
