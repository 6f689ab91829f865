"""Events of tasks wait with the dispatcher that is to send them."""

from __future__ import annotations

from typing import Any

from celery import Celery

from hybrid.hubs.base import Hub
from hybrid.worker import events
from hybrid.worker.request import Request


def test_after_a_reconnect_events_go_to_the_dispatcher_that_the_request_has_now(hub: Hub) -> None:
    app = Celery("events", broker="memory://", set_as_current=False)

    @app.task(lazy=False)
    def task() -> None:
        pass

    def dispatcher() -> Any:
        made = app.events.Dispatcher(app.connection_for_write())
        assert events.gather(made, hub) is None
        return made

    def waiting(made: Any) -> int:
        return len(made._group_buffer["task"])

    class OfTask(Request):
        _task = task

    request = object.__new__(OfTask)
    request.id = "id"
    before, after = dispatcher(), dispatcher()
    request.eventer = before
    request.send_event("task-received")
    request.send_event("task-started")
    assert (waiting(before), waiting(after)) == (2, 0)
    request.eventer = after
    request.send_event("task-succeeded")
    assert (waiting(before), waiting(after)) == (2, 1)
