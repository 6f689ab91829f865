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


def test_a_reconnect_leaves_no_dispatcher_behind(
    app: Celery, hub: Hub, turns: Callable[..., None]
) -> None:
    left = []
    before = None
    for _ in range(5):
        made = app.events.Dispatcher(app.connection_for_write())
        before = events.gather(made, hub, before)
        made.send("task-custom", uuid="id")
        left.append(weakref.ref(made))
        made.close()
        made.connection.close()
        del made
    turns()
    gc.collect()
    assert [one() for one in left] == [None] * 5


def test_what_a_lost_connection_has_not_taken_goes_through_the_next_one(
    app: Celery, hub: Hub, turns: Callable[..., None]
) -> None:
    lost = app.events.Dispatcher(app.connection_for_write())
    buffer = events.gather(lost, hub)
    for number in range(3):
        lost.send("task-custom", uuid="id", number=number)
    lost.close()
    turns()
    made = app.events.Dispatcher(app.connection_for_write())
    queue = listen(made)
    events.gather(made, hub, buffer)
    made.send("task-custom", uuid="id", number=3)
    turns()
    assert [event["number"] for group in groups(queue) for event in group] == [0, 1, 2, 3]


def test_behind_a_broker_that_takes_nothing_whoever_has_events_waits(
    app: Celery, hub: Hub, turns: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "GROUP_LIMIT", 10)
    monkeypatch.setattr(events, "GROUPS_HELD", 4)
    made = dispatcher(app, hub)
    queue = listen(made)
    gate = Place(hub)
    publish = made._publish

    def publish_when_it_may(*args: Any, **options: Any) -> Any:
        if not gate.is_told:
            gate.wait()
        return publish(*args, **options)

    made._publish = publish_when_it_may
    sent: list[int] = []

    def send() -> None:
        for number in range(200):
            made.send("task-custom", uuid="id", number=number)
            sent.append(number)

    hub.spawn(send)
    turns()
    buffer = made.send.__self__
    statistics = buffer.statistics()
    assert (statistics["groups"], statistics["pending"], statistics["waiting"]) == (4, 0, 1)
    assert len(sent) == 50  # one group is on its way
    gate.tell()
    turns()
    assert [event["number"] for group in groups(queue) for event in group] == list(range(200))
    assert buffer.statistics()["given-up"] == 0


def test_a_broker_that_takes_nothing_costs_events_and_no_tasks(
    app: Celery,
    hub: Hub,
    turns: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(events, "GROUP_LIMIT", 10)
    monkeypatch.setattr(events, "GROUPS_HELD", 4)
    monkeypatch.setattr(events, "ROOM_WAIT", 0.001)
    made = dispatcher(app, hub)
    never = Place(hub)
    made._publish = lambda *_, **__: never.wait()
    for number in range(1000):
        made.send("task-custom", uuid="id", number=number)
    statistics = made.send.__self__.statistics()
    assert statistics["groups"] <= 4
    held = 10 * (1 + statistics["groups"]) + statistics["pending"]  # one group is on its way
    assert held + 10 * statistics["given-up"] == 1000
    assert caplog.text.count("Events of tasks are given up") == 1
    never.tell()
    turns()


def test_the_end_of_the_greenlet_that_sends_loses_no_later_event(
    app: Celery, hub: Hub, turns: Callable[..., None]
) -> None:
    made = dispatcher(app, hub)
    queue = listen(made)
    publish = made._publish
    gate = Place(hub)
    sending: list[Any] = []

    def publish_when_it_may(*args: Any, **options: Any) -> Any:
        sending.append(hub.current())
        if not gate.is_told:
            gate.wait()
        return publish(*args, **options)

    made._publish = publish_when_it_may
    made.send("task-custom", uuid="id", number=0)
    turns()
    made.send("task-custom", uuid="id", number=1)
    hub.call_soon(hub.interrupt, sending[0], GreenletExit)
    turns()
    gate.tell()
    turns()
    assert [event["number"] for group in groups(queue) for event in group] == [1]
    assert len(sending) == 2


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
