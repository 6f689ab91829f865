"""Events of tasks wait with the dispatcher that is to send them, and go out in their order."""

from __future__ import annotations

import gc
import uuid
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, Callable

import kombu
import pytest
from celery import Celery
from greenlet import GreenletExit

from hybrid import JobKilled
from hybrid.hubs.base import Hub
from hybrid.hubs.parking import Place
from hybrid.worker.consuming.request import Request
from hybrid.worker.watching import events


@pytest.fixture
def app() -> Celery:
    made = Celery("events", broker="memory://", set_as_current=False)
    made.conf.event_exchange = str(uuid.uuid4())  # all brokers in memory are one
    return made


def dispatcher(app: Celery, hub: Hub) -> Any:
    """Return a dispatcher that sends events in groups."""
    made = app.events.Dispatcher(app.connection_for_write())
    assert isinstance(events.gather(made, hub), events.Buffer)
    return made


def listen(made: Any) -> kombu.Queue:
    """Return a queue that gets what a dispatcher sends."""
    queue = kombu.Queue(str(uuid.uuid4()), made.exchange, routing_key="#")
    bound = queue(made.connection.default_channel)
    bound.declare()
    return bound


def groups(queue: Any) -> Iterator[list[dict[str, Any]]]:
    """Take the groups of events that a queue has."""
    while (message := queue.get(no_ack=True)) is not None:
        yield message.payload


def waiting(made: Any) -> int:
    """Return how many events have been recorded and wait."""
    return len(made.record.__self__)


def test_after_a_reconnect_events_go_to_the_dispatcher_that_the_request_has_now(
    app: Celery, hub: Hub
) -> None:
    @app.task(lazy=False)
    def task() -> None:
        pass

    class OfTask(Request):
        _task = task

    request = object.__new__(OfTask)
    request.id = "id"
    before, after = dispatcher(app, hub), dispatcher(app, hub)
    request.eventer = before
    request.send_event("task-received")
    request.send_event("task-started")
    assert (waiting(before), waiting(after)) == (2, 0)
    request.eventer = after
    request.send_event("task-succeeded")
    assert (waiting(before), waiting(after)) == (2, 1)


def test_events_that_only_celery_can_encode_keep_their_place(
    app: Celery, hub: Hub, turns: Callable[..., None]
) -> None:
    made = dispatcher(app, hub)
    queue = listen(made)
    odd = uuid.uuid4()
    for number, value in enumerate([0, odd, odd, 1, 2, odd, 3]):
        made.send("task-custom", uuid="id", number=number, value=value)
    made.send("task-custom", uuid="id", number=7, retry=True)
    turns()
    seen = list(groups(queue))
    assert [[event["number"] for event in group] for group in seen] == [
        [0],
        [1, 2],
        [3, 4],
        [5],
        [6],
        [7],
    ]
    clocks = [event["clock"] for group in seen for event in group]
    assert clocks == sorted(set(clocks))


def test_more_events_than_a_message_takes_go_out_in_several(
    app: Celery, hub: Hub, turns: Callable[..., None]
) -> None:
    made = dispatcher(app, hub)
    queue = listen(made)
    count = 2 * events.GROUP_LIMIT + 1
    for number in range(count):
        made.send("task-custom", uuid="id", number=number)
    turns()
    seen = list(groups(queue))
    assert [len(group) for group in seen] == [events.GROUP_LIMIT, events.GROUP_LIMIT, 1]
    assert [event["number"] for group in seen for event in group] == list(range(count))


class UsersError(BaseException):
    pass


@pytest.mark.parametrize("exc", [GreenletExit, JobKilled, UsersError, SystemExit])
def test_events_go_on_when_whoever_sends_them_is_ended(
    app: Celery,
    hub: Hub,
    turns: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    exc: type[BaseException],
) -> None:
    made = dispatcher(app, hub)
    queue = listen(made)

    def end(*_: Any) -> None:
        raise exc

    with monkeypatch.context() as patch:
        patch.setattr(made, "_publish", end)
        made.send("task-custom", uuid="id", number=0)
        with pytest.raises(exc) if exc is SystemExit else nullcontext():
            turns()
    made.send("task-custom", uuid="id", number=1)
    turns()
    assert [[event["number"] for event in group] for group in groups(queue)] == [[1]]
