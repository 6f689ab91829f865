"""The AMQP transport gives what kombu's gives, to many greenlets at a time."""

from __future__ import annotations

import os
import socket
import ssl
import uuid
from collections.abc import Iterator
from typing import Any, Callable

import amqp
import kombu
import pytest
from amqp.exceptions import (
    ConsumerCancelled,
    MessageNacked,
    NotFound,
    PreconditionFailed,
    RecoverableConnectionError,
)
from kombu.transport import pyamqp

from hybrid.hubs.base import Hub
from hybrid.transports.amqp.consuming import _RECEIVE
from hybrid.transports.amqp.message import Message

InGreenlets = Callable[..., list[Any]]

OURS = "hybrid.transports.amqp:Transport"
OURS_OVER_TLS = "hybrid.transports.amqp:SSLTransport"
KOMBUS = "kombu.transport.pyamqp:Transport"


def open_connection(transport: str, **options: Any) -> kombu.Connection:
    connection = kombu.Connection(
        os.environ["AMQP_URL"], transport=transport, transport_options=options
    )
    connection.connect()
    return connection


@pytest.fixture
def connection(hub: Hub) -> Iterator[kombu.Connection]:
    with open_connection(OURS) as opened:
        yield opened


@pytest.fixture
def confirming(hub: Hub) -> Iterator[kombu.Connection]:
    with open_connection(OURS, confirm_publish=True) as opened:
        yield opened


@pytest.fixture
def plain(hub: Hub) -> Iterator[kombu.Connection]:
    """kombu's own transport."""
    with open_connection(KOMBUS) as opened:
        yield opened


@pytest.fixture
def queue(plain: kombu.Connection) -> Iterator[str]:
    name = f"green{uuid.uuid4().hex}"
    plain.default_channel.queue_declare(name, durable=False, auto_delete=False)
    yield name
    plain.channel().queue_delete(name)


def publish(plain: kombu.Connection, queue: str, *bodies: Any, **options: Any) -> None:
    producer = kombu.Producer(plain)
    for body in bodies:
        producer.publish(body, routing_key=queue, **options)


def consume(
    connection: kombu.Connection, queue: str, **options: Any
) -> tuple[kombu.Consumer, list[Any]]:
    """Start consuming on a channel of its own, and return the list that messages will come in."""
    channel = connection.channel()
    messages: list[Any] = []
    consumer = kombu.Consumer(
        channel,
        [kombu.Queue(queue, no_declare=True)],
        on_message=messages.append,
        accept=None,
        auto_declare=False,
        **options,
    )
    consumer.consume()
    return consumer, messages


def drain_until(connection: kombu.Connection, messages: list[Any], count: int) -> None:
    while len(messages) < count:
        connection.drain_events(timeout=5)


def ready(plain: kombu.Connection, queue: str) -> int:
    count: int = plain.default_channel.queue_declare(queue, passive=True).message_count
    return count


def text(body: str) -> amqp.Message:
    return amqp.Message(body, content_type="text/plain", content_encoding="utf-8")


def writes(connection: kombu.Connection) -> int:
    count: int = connection.connection.bytes_sent
    return count


MESSAGES = {
    "JSON": ({"key": ["välue", 1, None]}, {}),
    "with headers": (
        {"a": 1},
        {"headers": {"text": "ü", "number": 2**40, "nothing": None, "list": [1, {"b": b"\xff"}]}},
    ),
    "text": ("plain", {"content_type": "text/plain", "content_encoding": "utf-8"}),
    "in another encoding": ("käse", {"content_type": "text/plain", "content_encoding": "latin-1"}),
    "binary": (b"\xff\0", {"content_type": "application/x", "content_encoding": "binary"}),
    "of an unknown encoding": (b"\xff", {"content_type": "x", "content_encoding": "no-such"}),
    "empty": ("", {"content_type": "text/plain", "content_encoding": "utf-8"}),
    "compressed": ({"much": "x" * 1000}, {"compression": "zlib"}),
    "pickled": ({"a": (1, 2)}, {"serializer": "pickle"}),
    "with all properties": (
        [],
        {
            "priority": 3,
            "correlation_id": "c",
            "reply_to": "r",
            "expiration": 60,
            "message_id": "m",
            "timestamp": 1_700_000_000,
            "type": "t",
            "app_id": "a",
            "delivery_mode": 1,
        },
    ),
    "of many frames": ("x" * 3_000_000, {"content_type": "text/plain"}),
    "that fills a frame": ("x" * (131072 - 8), {"content_type": "text/plain"}),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_what_kombu_makes_of_it(
    name: str, connection: kombu.Connection, plain: kombu.Connection, queue: str
) -> None:
    body, options = MESSAGES[name]
    received = []
    for opened in (plain, connection):
        publish(plain, queue, body, **options)
        consumer, messages = consume(opened, queue)
        drain_until(opened, messages, 1)
        [message] = messages
        message.ack()
        consumer.cancel()
        received.append(message)
    theirs, ours = received
    assert type(ours) is Message
    assert isinstance(ours, pyamqp.Message)
    for attribute in (
        "body",
        "headers",
        "properties",
        "content_type",
        "content_encoding",
        "errors",
        "acknowledged",
        "delivery_tag",
    ):
        assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
    assert type(ours.body) is type(theirs.body)
    assert list(ours.properties) == list(theirs.properties)
    tags = ("consumer_tag",)
    assert {k: v for k, v in ours.delivery_info.items() if k not in tags} == {
        k: v for k, v in theirs.delivery_info.items() if k not in tags
    }


def test_a_message_that_was_got_is_kombus(
    connection: kombu.Connection, plain: kombu.Connection, queue: str
) -> None:
    publish(plain, queue, "one", "two")
    channel = connection.default_channel
    message = kombu.Queue(queue, channel=channel).get(accept=None)
    assert message.payload == "one"
    message.ack()
    with pytest.raises(message.MessageStateError):
        message.ack()
    assert channel.basic_get(queue, no_ack=True).body == "two"
    assert channel.basic_get(queue) is None


def test_a_plain_callback_gets_py_amqps_message(
    connection: kombu.Connection, plain: kombu.Connection, queue: str
) -> None:
    messages: list[Any] = []
    connection.default_channel.basic_consume(queue, callback=messages.append)
    publish(plain, queue, "one")
    drain_until(connection, messages, 1)
    assert type(messages[0]) is amqp.Message
    assert (messages[0].body, messages[0].channel) == ("one", connection.default_channel)


def test_what_is_read_at_once_comes_in_order(
    connection: kombu.Connection, plain: kombu.Connection, queue: str
) -> None:
    publish(plain, queue, *range(2000))
    _consumer, messages = consume(connection, queue)
    drain_until(connection, messages, 2000)
    assert [message.payload for message in messages] == list(range(2000))


def test_a_consumer_whose_tag_the_broker_chooses_misses_nothing(
    connection: kombu.Connection, plain: kombu.Connection, queue: str
) -> None:
    publish(plain, queue, *range(50))
    messages: list[Any] = []
    connection.default_channel.basic_consume(queue, callback=messages.append)
    drain_until(connection, messages, 50)
    assert not any(message.delivery_info["redelivered"] for message in messages)


# -- settling


def test_acks_of_a_turn_are_one_write(
    connection: kombu.Connection, plain: kombu.Connection, queue: str, in_greenlets: InGreenlets
) -> None:
    publish(plain, queue, *range(500))
    consumer, messages = consume(connection, queue)
    drain_until(connection, messages, 500)
    before = writes(connection)
    in_greenlets(lambda number: messages[number].ack(), 500)
    assert writes(connection) - before == 1
    consumer.channel.close()
    assert ready(plain, queue) == 0


def test_acks_settle_nothing_else(
    connection: kombu.Connection, plain: kombu.Connection, queue: str, in_greenlets: InGreenlets
) -> None:
    publish(plain, queue, *range(100))
    consumer, messages = consume(connection, queue)
    drain_until(connection, messages, 100)
    in_greenlets(lambda number: messages[2 * number].ack(), 50)
    consumer.channel.close()
    _again, left = consume(connection, queue)
    drain_until(connection, left, 50)
    assert sorted(message.payload for message in left) == list(range(1, 100, 2))


def test_an_ack_does_not_cover_a_message_that_was_got(
    connection: kombu.Connection, plain: kombu.Connection, queue: str
) -> None:
    publish(plain, queue, "got", "consumed")
    channel = connection.channel()
    channel.basic_get(queue)
    messages: list[Any] = []
    channel.basic_consume(queue, callback=messages.append)
    drain_until(connection, messages, 1)
    channel.basic_ack(messages[0].delivery_tag)
    channel.close()
    assert ready(plain, queue) == 1


@pytest.mark.parametrize("tag", [30, 0])
def test_an_ack_of_many_settles_all_before(
    connection: kombu.Connection, plain: kombu.Connection, queue: str, tag: int
) -> None:
    publish(plain, queue, *range(30))
    consumer, messages = consume(connection, queue)
    drain_until(connection, messages, 30)
    messages[3].ack()
    messages[9].ack(multiple=True)
    consumer.channel.basic_ack(tag, multiple=True)
    consumer.channel.close()
    assert ready(plain, queue) == 0


def test_rejecting_and_requeueing_among_acks(
    connection: kombu.Connection, plain: kombu.Connection, queue: str, in_greenlets: InGreenlets
) -> None:
    publish(plain, queue, *range(90))
    consumer, messages = consume(connection, queue)
    drain_until(connection, messages, 90)
    consumer.cancel()

    def settle(number: int) -> None:
        message = messages[number]
        (message.ack, message.reject, message.requeue)[number % 3]()

    assert in_greenlets(settle, 90) == [None] * 90
    consumer.channel.close()
    assert ready(plain, queue) == 30


def test_what_the_broker_does_not_wait_for_is_not_acknowledged(
    connection: kombu.Connection, plain: kombu.Connection, queue: str
) -> None:
    publish(plain, queue, "one")
    consumer, messages = consume(connection, queue)
    drain_until(connection, messages, 1)
    channel = consumer.channel
    messages[0].reject()
    channel.basic_ack(1)
    channel.basic_ack(77)
    channel.basic_reject(77, requeue=True)
    # It would have closed the channel by now.
    assert channel.queue_declare(queue, passive=True).message_count == 0


def test_without_acknowledgements_nothing_is_acknowledged(
    connection: kombu.Connection, plain: kombu.Connection, queue: str
) -> None:
    publish(plain, queue, *range(10))
    _consumer, messages = consume(connection, queue, no_ack=True)
    drain_until(connection, messages, 10)
    before = writes(connection)
    for message in messages:
        message.ack()
    assert writes(connection) == before


def test_a_message_of_a_channel_that_was_closed_is_not_acknowledged(
    connection: kombu.Connection, plain: kombu.Connection, queue: str
) -> None:
    publish(plain, queue, "one")
    consumer, messages = consume(connection, queue)
    drain_until(connection, messages, 1)
    channel = consumer.channel
    with pytest.raises(NotFound):
        channel.queue_declare("no such queue", passive=True)
    with pytest.raises(RecoverableConnectionError):
        messages[0].ack()
    # py-amqp has opened it again, and its tags begin at 1.
    left: list[Any] = []
    channel.basic_consume(queue, callback=left.append)
    drain_until(connection, left, 1)
    with pytest.raises(RecoverableConnectionError):
        messages[0].reject()
    channel.basic_ack(left[0].delivery_tag)


def test_messages_are_acknowledged_together_in_one_write(
    connection: kombu.Connection, plain: kombu.Connection, queue: str
) -> None:
    publish(plain, queue, *range(20))
    consumer, messages = consume(connection, queue)
    drain_until(connection, messages, 20)
    channel = consumer.channel
    messages[3].ack()
    before = writes(connection)
    assert channel.ack_together(messages) == [number != 3 for number in range(20)]
    assert writes(connection) == before + 1
    assert all(message.acknowledged for message in messages)
    assert channel.ack_together(messages) == [False] * 20
    channel.close()
    assert ready(plain, queue) == 0


def test_what_cannot_be_acknowledged_together_is_left_as_it_was(
    connection: kombu.Connection, plain: kombu.Connection, queue: str
) -> None:
    publish(plain, queue, *range(3))
    consumer, messages = consume(connection, queue)
    drain_until(connection, messages, 3)
    channel = consumer.channel
    with pytest.raises(NotFound):
        channel.queue_declare("no such queue", passive=True)
    # The channel has been opened again: the tags of these messages are those of others.
    assert channel.ack_together(messages) == [False] * 3
    assert not any(message.acknowledged for message in messages)
    connection.close()
    assert channel.ack_together(messages) == [False] * 3
    assert ready(plain, queue) == 3


def test_acks_reach_the_broker_before_the_connection_closes(
    hub: Hub, plain: kombu.Connection, queue: str
) -> None:
    publish(plain, queue, *range(20))
    connection = open_connection(OURS)
    _consumer, messages = consume(connection, queue)
    drain_until(connection, messages, 20)
    for message in messages:
        message.ack_soon()
    connection.close()
    assert ready(plain, queue) == 0


def test_a_message_that_cannot_be_decoded_costs_itself_alone(
    connection: kombu.Connection,
    plain: kombu.Connection,
    queue: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    deep: Any = 1
    for _ in range(250):
        deep = [deep]
    publish(plain, queue, 1)
    publish(plain, queue, 2, headers={"deep": deep})
    publish(plain, queue, 3)
    consumer, messages = consume(connection, queue)
    drain_until(connection, messages, 2)
    assert [message.payload for message in messages] == [1, 3]
    assert "cannot be decoded" in caplog.text
    for message in messages:
        message.ack()
    consumer.channel.close()
    assert ready(plain, queue) == 0


# -- one reads, many wait


def test_each_caller_gets_its_own_answer(
    connection: kombu.Connection, plain: kombu.Connection, hub: Hub, in_greenlets: InGreenlets
) -> None:
    names = [f"green{uuid.uuid4().hex}" for _ in range(60)]
    shared = connection.channel()

    def declare(number: int) -> Any:
        channel = shared if number % 2 else connection.channel()
        return channel.queue_declare(names[number], exclusive=True).queue

    reading = hub.spawn(_read, connection, 1)
    assert in_greenlets(declare, 60) == names
    assert not reading.dead


def _read(connection: kombu.Connection, seconds: float) -> None:
    # py-amqp's connection: kombu's would connect again.
    opened = connection.connection
    try:
        while True:
            opened.drain_events(timeout=seconds)
    except (OSError, amqp.AMQPError):
        pass


def test_an_error_reaches_the_caller_and_nobody_else(
    connection: kombu.Connection,
    plain: kombu.Connection,
    queue: str,
    hub: Hub,
    in_greenlets: InGreenlets,
) -> None:
    _consumer, messages = consume(connection, queue)
    outcomes: list[Any] = []

    def read() -> None:
        try:
            drain_until(connection, messages, 20)
            outcomes.append("read")
        except Exception as exc:
            outcomes.append(exc)

    hub.spawn(read)
    channels = [connection.channel() for _ in range(20)]

    def fail(number: int) -> Any:
        channels[number].queue_declare(f"no such queue {number}", passive=True)

    errors = in_greenlets(fail, 20)
    assert [type(error) for error in errors] == [NotFound] * 20
    assert all(f"no such queue {number}'" in str(error) for number, error in enumerate(errors))
    publish(plain, queue, *range(20))
    while not outcomes:
        hub.sleep(0.01)
    assert outcomes == ["read"]


def test_who_waits_goes_on_when_the_reader_is_killed(
    connection: kombu.Connection, hub: Hub, in_greenlets: InGreenlets
) -> None:
    reader = hub.spawn(_read, connection, 60)
    hub.sleep(0.01)
    channel = connection.default_channel

    def declare(number: int) -> Any:
        if number == 0:
            hub.call_soon(reader.throw, ZeroDivisionError)
        return connection.channel().queue_declare("", exclusive=True).queue != ""

    assert in_greenlets(declare, 5) == [True] * 5
    assert channel.is_open


def test_who_waits_for_a_reader_has_a_timeout_of_its_own(
    connection: kombu.Connection, hub: Hub, in_greenlets: InGreenlets
) -> None:
    hub.spawn(_read, connection, 60)
    hub.sleep(0.01)
    outcomes = in_greenlets(lambda number: connection.drain_events(timeout=0.05 * number), 3)
    assert [type(outcome) for outcome in outcomes] == [socket.timeout] * 3


def test_everybody_is_told_when_the_connection_breaks(
    connection: kombu.Connection, hub: Hub, in_greenlets: InGreenlets
) -> None:
    hub.spawn(_read, connection, 60)
    hub.sleep(0.01)
    sock = connection.connection.sock

    def wait(number: int) -> Any:
        if number == 9:
            sock.shutdown(socket.SHUT_RDWR)
        connection.drain_events(timeout=10)

    outcomes = in_greenlets(wait, 10)
    assert all(isinstance(outcome, connection.connection_errors) for outcome in outcomes), outcomes
    assert not connection.connected


def test_who_reads_is_told_that_a_write_broke_the_connection(
    connection: kombu.Connection, hub: Hub, in_greenlets: InGreenlets
) -> None:
    def run(number: int) -> Any:
        if number == 0:
            return connection.drain_events(timeout=10)
        hub.sleep(0.01)
        connection.connection.outbox.fail(BrokenPipeError("broken"))
        return None

    told, _ = in_greenlets(run, 2)
    assert isinstance(told, BrokenPipeError), told
    assert isinstance(told, connection.connection_errors)


def test_a_connection_is_closed_while_another_greenlet_reads(
    connection: kombu.Connection, hub: Hub
) -> None:
    reader = hub.spawn(_read, connection, 60)
    hub.sleep(0.01)
    connection.close()
    hub.sleep(0.01)
    assert reader.dead


def test_a_consumer_is_told_that_its_queue_is_gone(
    connection: kombu.Connection, plain: kombu.Connection
) -> None:
    name = f"green{uuid.uuid4().hex}"
    plain.default_channel.queue_declare(name, auto_delete=False)
    consume(connection, name)
    plain.default_channel.queue_delete(name)
    with pytest.raises(ConsumerCancelled):
        connection.drain_events(timeout=5)


# -- publishing


def test_publishing_greenlets_share_a_write(
    connection: kombu.Connection, plain: kombu.Connection, queue: str, in_greenlets: InGreenlets
) -> None:
    channel = connection.default_channel
    channel.queue_declare(queue, passive=True)
    before = writes(connection)

    def send(number: int) -> None:
        channel.basic_publish(text(str(number)), routing_key=queue)

    assert in_greenlets(send, 300) == [None] * 300
    assert writes(connection) - before == 1
    channel.queue_declare(queue, passive=True)
    assert ready(plain, queue) == 300


def test_large_bodies_of_many_greenlets_do_not_mix(
    connection: kombu.Connection, plain: kombu.Connection, queue: str, in_greenlets: InGreenlets
) -> None:
    channel = connection.default_channel

    def send(number: int) -> None:
        body = str(number % 10) * (1 if number % 3 else 700_000)
        channel.basic_publish(text(body), routing_key=queue)

    assert in_greenlets(send, 30) == [None] * 30
    consumer, messages = consume(plain, queue)
    drain_until(plain, messages, 30)
    consumer.cancel()
    for message in messages:
        assert len(set(message.body)) == 1
        assert len(message.body) in (1, 700_000)


def test_each_publisher_has_its_own_confirmation(
    confirming: kombu.Connection, plain: kombu.Connection, queue: str, in_greenlets: InGreenlets
) -> None:
    channel = confirming.default_channel
    before = writes(confirming)

    def send(number: int) -> None:
        for _ in range(5):
            channel.basic_publish(text(str(number)), routing_key=queue)

    assert in_greenlets(send, 200) == [None] * 200
    assert ready(plain, queue) == 1000
    assert writes(confirming) - before < 100


def test_a_refusal_reaches_its_own_publisher(
    confirming: kombu.Connection, plain: kombu.Connection, queue: str, in_greenlets: InGreenlets
) -> None:
    full = f"green{uuid.uuid4().hex}"
    channel = confirming.default_channel
    channel.queue_declare(
        full, auto_delete=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    channel.basic_publish(text("first"), routing_key=full)

    def send(number: int) -> None:
        name = full if number % 2 else queue
        channel.basic_publish(text(str(number)), routing_key=name)

    outcomes = in_greenlets(send, 40)
    assert [type(outcome) for outcome in outcomes] == [type(None), MessageNacked] * 20
    assert ready(plain, queue) == 20


def test_all_who_wait_on_a_channel_are_told_that_it_closed(
    confirming: kombu.Connection, plain: kombu.Connection, queue: str, in_greenlets: InGreenlets
) -> None:
    channel = confirming.default_channel

    def send(number: int) -> None:
        exchange = "no such exchange" if number == 0 else ""
        channel.basic_publish(text(str(number)), exchange=exchange, routing_key=queue)

    send(1)
    outcomes = in_greenlets(send, 10)
    assert all(isinstance(outcome, NotFound) for outcome in outcomes), outcomes
    send(1)
    assert ready(plain, queue) == 2


def test_what_no_queue_gets_comes_back_to_its_publisher(
    confirming: kombu.Connection, queue: str, in_greenlets: InGreenlets
) -> None:
    channel = confirming.default_channel

    def send(number: int) -> None:
        channel.basic_publish(
            text(str(number)),
            routing_key=queue if number % 2 else f"nobody{number}",
            mandatory=True,
        )

    outcomes = in_greenlets(send, 10)
    assert outcomes[1::2] == [None] * 5
    for number in range(0, 10, 2):
        assert isinstance(outcomes[number], amqp.ChannelError), outcomes
        assert "NO_ROUTE" in str(outcomes[number])


def test_publishers_are_told_that_the_connection_broke(
    confirming: kombu.Connection, queue: str, in_greenlets: InGreenlets
) -> None:
    channel = confirming.default_channel
    channel.basic_publish(text("first"), routing_key=queue)
    sock = confirming.connection.sock

    def send(number: int) -> None:
        if number == 19:
            sock.shutdown(socket.SHUT_RDWR)
        while True:
            channel.basic_publish(text(str(number)), routing_key=queue)

    outcomes = in_greenlets(send, 20)
    assert all(isinstance(outcome, confirming.connection_errors) for outcome in outcomes), outcomes


def test_a_declaration_that_differs_reaches_its_caller(
    connection: kombu.Connection, queue: str
) -> None:
    channel = connection.default_channel
    with pytest.raises(PreconditionFailed):
        channel.queue_declare(queue, durable=True, auto_delete=False)
    assert channel.queue_declare(queue, passive=True).queue == queue


def test_a_look_at_a_tls_socket_keeps_nobody_in_the_hub(hub: Hub) -> None:
    others: list[str] = []
    certificate = {"ca_certs": os.environ["AMQPS_CERTIFICATE"], "cert_reqs": ssl.CERT_REQUIRED}
    with kombu.Connection(os.environ["AMQPS_URL"], transport=OURS_OVER_TLS, ssl=certificate) as tls:
        opened = tls.connection
        opened.sock.settimeout(30)
        hub.call_soon(others.append, "turn")
        opened.poll()
        assert others == []
        assert opened.sock.gettimeout() == 30
        hub.sleep(0)
        assert others == ["turn"]
        hub.call_soon(others.append, "another")
        opened.collect()
        assert others == ["turn"]


def test_what_is_read_of_kombu_and_py_amqp_is_there(connection: kombu.Connection) -> None:
    """The private names that the transport uses; a release that moves them fails here."""
    assert kombu.Consumer._receive_callback is _RECEIVE
    opened = connection.connection
    connection.default_channel.queue_declare("", exclusive=True)
    assert opened.transport._read_buffer == b""
    assert opened._used_channel_ids
    for name in ("_on_close", "_on_close_ok", "collect", "on_inbound_frame", "frame_writer_cls"):
        assert hasattr(opened, name), name
    for name in ("_on_close", "_on_open_ok", "_on_basic_ack", "_on_basic_return", "_remove_tag"):
        assert callable(getattr(amqp.Channel, name)), name


def test_who_handles_what_comes_back_may_wait_and_begins_before_its_publisher_goes_on(
    confirming: kombu.Connection, queue: str, hub: Hub, in_greenlets: InGreenlets
) -> None:
    channel = confirming.channel()
    events: list[Any] = []

    def on_return(exc: BaseException, exchange: str, routing_key: str, message: Any) -> None:
        events.append(("returned", routing_key))
        # It may ask, on the channel that it came on.
        events.append(("asked", channel.queue_declare(queue, passive=True).queue))

    channel.events["basic_return"].add(on_return)

    def send(number: int) -> None:
        channel.basic_publish(text("x"), routing_key=f"nobody{number}", mandatory=True)
        assert ("returned", f"nobody{number}") in events

    assert in_greenlets(send, 5) == [None] * 5
    for _ in range(1000):
        if len(events) == 10:
            break
        hub.sleep(0.005)
    assert events.count(("asked", queue)) == 5


def test_a_cancelled_consumer_has_handled_all_that_came_before(
    connection: kombu.Connection, plain: kombu.Connection, queue: str, hub: Hub
) -> None:
    publish(plain, queue, *range(100))
    consumer, messages = consume(connection, queue, no_ack=True)
    other = connection.channel()
    for _ in range(1000):
        if ready(plain, queue) == 0:
            break
        hub.sleep(0.005)
    # Read with the answer to another call, by nobody who drains events.
    other.queue_declare(queue, passive=True)
    consumer.cancel()
    assert [message.payload for message in messages] == list(range(100))


def test_a_message_that_was_got_does_not_settle_those_that_are_to_be_handled(
    connection: kombu.Connection, plain: kombu.Connection, queue: str
) -> None:
    publish(plain, queue, *range(20))
    channel = connection.channel()
    messages: list[Any] = []
    channel.basic_qos(0, 10, False)
    channel.basic_consume(queue, callback=messages.append)
    got = channel.basic_get(queue)
    while got is None:  # the broker has its own order of those two
        got = channel.basic_get(queue)
    channel.basic_ack(got.delivery_tag)
    channel.close()
    assert ready(plain, queue) == 19


def test_consumers_are_told_before_kombu_connects_again(
    connection: kombu.Connection, queue: str, hub: Hub
) -> None:
    consume(connection, queue)
    opened = connection.connection
    # Somebody else finds out, while nobody drains events.
    opened.end(RecoverableConnectionError("lost"))
    with pytest.raises(RecoverableConnectionError):
        connection.drain_events(timeout=1)
    assert not connection.connected
