"""The worker's event stream, as Flower sees it."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType
from typing import Any

from celery import Celery

from .waiting import eventually


class EventLog:
    """Collects every event of one space in a background thread while the context is open."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._events: list[dict[str, Any]] = []
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="event-log", daemon=True)

    def _run(self) -> None:
        with self._app.connection_for_read() as connection:
            receiver = self._app.events.Receiver(connection, handlers={"*": self._events.append})
            # The mixin behind it opens a connection of its own.
            with receiver.consumer_context() as (consuming, _channel, _consumers):
                while not self._stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        consuming.drain_events(timeout=0.2)
                    # On Redis the first drain subscribes; before it, events would be missed.
                    self._ready.set()

    def __enter__(self) -> EventLog:
        self._thread.start()
        assert self._ready.wait(15), "the event receiver did not connect"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    def all(self) -> list[dict[str, Any]]:
        """Return every event so far, in the order in which they came."""
        return list(self._events)

    def of(self, task_id: str) -> list[dict[str, Any]]:
        return [event for event in list(self._events) if event.get("uuid") == task_id]

    def kinds(self, task_id: str) -> list[str]:
        return [event["type"] for event in self.of(task_id)]

    def named(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in list(self._events) if event["type"] == kind]

    def wait_for(self, task_id: str, kind: str, within: float = 15.0) -> dict[str, Any]:
        """Return the first event of ``kind`` for the task."""
        found = eventually(
            lambda: [event for event in self.of(task_id) if event["type"] == kind],
            f"the event {kind} of {task_id}",
            within,
        )
        return found[0]
