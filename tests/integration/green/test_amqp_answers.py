"""What the broker answers reaches whoever asked, and nobody else, whoever reads it."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Callable

import amqp
import kombu
import pytest

from hybrid.hubs.base import Hub

InGreenlets = Callable[..., list[Any]]


@pytest.fixture
def connection(hub: Hub) -> Iterator[kombu.Connection]:
    with kombu.Connection(
        os.environ["AMQP_URL"], transport="hybrid.transports.amqp:Transport"
    ) as opened:
        opened.connect()
        yield opened


@pytest.fixture
def queue(connection: kombu.Connection) -> Iterator[str]:
    name = f"green{uuid.uuid4().hex}"
    connection.default_channel.queue_declare(name, durable=False, auto_delete=False)
    yield name
    connection.default_channel.queue_delete(name)


def block_the_thread(seconds: float) -> None:
    """Let the broker go on, and no greenlet."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@pytest.mark.parametrize("method", ["queue_declare", "queue_bind", "basic_get"])
def test_an_answer_that_others_read_before_its_caller_goes_on_is_not_lost(
    connection: kombu.Connection, hub: Hub, queue: str, in_greenlets: InGreenlets, method: str
) -> None:
    publishing, asking = connection.channel(), connection.channel()
    opened = connection.connection
    asks = {
        "queue_declare": lambda: asking.queue_declare(queue, passive=True).queue == queue,
        "queue_bind": lambda: not asking.queue_bind(queue, "amq.direct", "key"),
        "basic_get": lambda: asking.basic_get(queue, no_ack=True).body == "first",
    }
    publishing.basic_publish(amqp.Message("first"), routing_key=queue)
    # Channels keep no order among each other: it has to be there before it is asked for.
    publishing.queue_declare(queue, passive=True)

    def run(number: int) -> Any:
        if number == 1:
            return asks[method]()
        # In one write with the question; this greenlet goes on first, and reads the answer.
        publishing.basic_publish(amqp.Message("second"), routing_key=queue)
        block_the_thread(0.2)
        with suppress(socket.timeout):
            opened.drain_events(timeout=0)
        return True

    alarm = hub.call_later(10, lambda: opened.sock.shutdown(socket.SHUT_RDWR))
    assert in_greenlets(run, 2) == [True, True]
    alarm.cancel()


# -- whoever asked has gone


class SoftLimitError(Exception):
    """What a limit raises in a task."""


class OwnTimeoutError(OSError):
    """What a user's own time-out may well be."""


class Killed(BaseException):
    """What a hard limit raises, or ``terminate``."""


#: What ends a greenlet; that a connection breaks is an OSError, too.
ENDS = (SoftLimitError, OwnTimeoutError, Killed)


def ended_while_it(
    hub: Hub, run: Callable[[], Any], end: type[BaseException], turns: int
) -> Callable[[], bool]:
    """Start ``run()``, end it after some turns of the hub; return what tells that it is over."""
    has_started: list[bool] = []
    is_over: list[bool] = []

    def record() -> None:
        has_started.append(True)
        with suppress(*ENDS):
            run()
        is_over.append(True)

    victim = hub.spawn(record)
    while not has_started:
        hub.sleep(0)
    for _ in range(turns):
        hub.sleep(0)
    if not is_over:
        hub.call_soon(hub.interrupt, victim, end)
    return lambda: bool(is_over)


def wait_until(hub: Hub, holds: Callable[[], Any]) -> None:
    for _ in range(1000):
        if holds():
            return
        hub.sleep(0.005)
    pytest.fail("waited in vain")


@pytest.mark.parametrize("end", ENDS)
def test_an_answer_whose_asker_was_ended_is_nobody_elses(
    connection: kombu.Connection, hub: Hub, queue: str, end: type[BaseException]
) -> None:
    channel = connection.channel()
    for _ in range(7):
        channel.basic_publish(amqp.Message("x"), routing_key=queue)
    empty = channel.queue_declare(f"{queue}.empty", auto_delete=False).queue
    for attempt in range(60):
        is_over = ended_while_it(
            hub, lambda: channel.queue_declare(queue, passive=True), end, attempt % 6
        )
        found = channel.queue_declare(empty, passive=True)
        assert (found.queue, found.message_count) == (empty, 0)
        wait_until(hub, is_over)
    channel.queue_delete(empty)
    assert connection.connected
    assert channel.is_open


@pytest.mark.parametrize("end", ENDS)
def test_a_message_that_nobody_got_goes_back(
    connection: kombu.Connection, hub: Hub, queue: str, end: type[BaseException]
) -> None:
    channel = connection.channel()
    got: list[Any] = []
    channel.basic_publish(amqp.Message("x"), routing_key=queue)
    for attempt in range(30):
        is_over = ended_while_it(
            hub, lambda: got.append(channel.basic_get(queue)), end, attempt % 6
        )
        wait_until(hub, is_over)
        while got:
            channel.basic_reject(got.pop().delivery_tag, requeue=True)
        wait_until(hub, lambda: channel.queue_declare(queue, passive=True).message_count == 1)
    assert len(channel.epoch.window) == 0


@pytest.mark.parametrize("end", ENDS)
def test_a_consumer_whose_owner_was_ended_takes_no_messages(
    connection: kombu.Connection, hub: Hub, queue: str, end: type[BaseException]
) -> None:
    channel = connection.channel()
    for attempt in range(20):
        started: list[str] = []
        is_over = ended_while_it(
            hub,
            lambda started=started: started.append(
                channel.basic_consume(queue, f"tag{uuid.uuid4().hex}", callback=lambda _: None)
            ),
            end,
            attempt % 6,
        )
        wait_until(hub, is_over)
        for tag in started:
            channel.basic_cancel(tag)
        wait_until(hub, lambda: channel.queue_declare(queue, passive=True).consumer_count == 0)
    assert channel.callbacks == {}


@pytest.mark.parametrize("end", ENDS)
def test_a_channel_that_nobody_got_is_closed(
    connection: kombu.Connection, hub: Hub, end: type[BaseException]
) -> None:
    opened = connection.connection
    before = set(opened.channels)
    for attempt in range(30):
        got: list[Any] = []
        is_over = ended_while_it(
            hub, lambda got=got: got.append(opened.channel()), end, attempt % 6
        )
        wait_until(hub, is_over)
        for channel in got:
            ended_while_it(hub, channel.close, end, attempt % 3)
    wait_until(hub, lambda: set(opened.channels) == before)
    assert sorted(opened._used_channel_ids) == sorted(before - {0})
    assert opened.connected


@pytest.mark.parametrize("end", ENDS)
def test_whoever_is_ended_while_it_drains_events_breaks_nothing(
    connection: kombu.Connection, hub: Hub, queue: str, end: type[BaseException]
) -> None:
    opened = connection.connection
    channel = connection.channel()
    for turns in range(20):
        is_over = ended_while_it(hub, lambda: opened.drain_events(timeout=5), end, turns % 4)
        assert channel.queue_declare(queue, passive=True).queue == queue
        wait_until(hub, is_over)
    assert opened.connected


def test_one_refusal_among_many_askers_is_its_askers_alone(
    connection: kombu.Connection, queue: str, in_greenlets: InGreenlets
) -> None:
    channel = connection.channel()

    def ask(number: int) -> Any:
        name = f"no such {queue}" if number % 5 == 0 else queue
        return channel.queue_declare(name, passive=True).queue

    outcomes = in_greenlets(ask, 40)
    for number, outcome in enumerate(outcomes):
        if number % 5:
            assert outcome == queue
        else:
            assert isinstance(outcome, amqp.NotFound)
            assert f"no such {queue}" in str(outcome)


def test_nobody_reads_where_nothing_is_expected(
    connection: kombu.Connection, hub: Hub, queue: str
) -> None:
    opened = connection.connection
    channel = connection.channel()
    channel.queue_declare(queue, passive=True)
    hub.sleep(0)
    told = opened.statistics()
    assert (told["expected"], told["draining"], opened._is_read) == (0, 0, False)
    assert channel.statistics() == {
        **channel.epoch.statistics(),
        "in_flight": 0,
        "waiting": 0,
        "answered": 2,
        "answered_too_late": 0,
    }


def test_a_channel_that_the_broker_has_closed_can_be_closed(
    connection: kombu.Connection, queue: str
) -> None:
    opened = connection.connection
    before = set(opened.channels)
    for _ in range(5):
        channel = connection.channel()
        with pytest.raises(amqp.NotFound):
            channel.queue_declare(f"no such {queue}", passive=True)
        channel.close()
    assert set(opened.channels) == before


def test_deliveries_of_an_epoch_are_void_after_it(connection: kombu.Connection, queue: str) -> None:
    channel = connection.channel()
    for number in range(3):
        channel.basic_publish(amqp.Message(str(number)), routing_key=queue)
    messages: list[Any] = []
    consumer = kombu.Consumer(
        channel,
        [kombu.Queue(queue, no_declare=True)],
        on_message=messages.append,
        auto_declare=False,
        accept=None,
    )
    consumer.consume()
    while len(messages) < 3:
        connection.drain_events(timeout=5)
    epoch = channel.epoch
    with pytest.raises(amqp.NotFound):
        channel.queue_declare(f"no such {queue}", passive=True)
    assert channel.epoch is not epoch
    assert "NOT_FOUND" in str(epoch.statistics()["ended"])
    # Tags begin at one again: they are those of other deliveries now.
    again: list[Any] = []
    channel.basic_consume(queue, callback=again.append)
    while len(again) < 3:
        connection.drain_events(timeout=5)
    for message in messages:
        with pytest.raises(amqp.RecoverableConnectionError):
            message.ack()
    assert channel.ack_together(messages) == [False] * 3
    channel.close()
    with connection.channel() as other:
        assert other.queue_declare(queue, passive=True).message_count == 3
