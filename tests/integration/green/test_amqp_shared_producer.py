"""The producer that all greenlets share: lost and blocked connections, and whose error it is."""

from __future__ import annotations

import gc
import itertools
import json
import os
import socket
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any, Callable

import amqp
import kombu
import pytest
from amqp.exceptions import MessageNacked, RecoverableChannelError
from harness.brokers import run_rabbitmqctl
from kombu.common import maybe_declare
from kombu.exceptions import OperationalError

from hybrid.hubs.base import Hub
from hybrid.transports import amqp as amqp_transport
from hybrid.worker.publishing.shared_producer import SharedProducer, SharedProducerPool

InGreenlets = Callable[..., list[Any]]

OURS = "hybrid.transports.amqp:Transport"
KOMBUS = "kombu.transport.pyamqp:Transport"
#: kombu's own, for whatever is not shared.
OWN_PRODUCERS = 3
POLICY = {"max_retries": 5, "interval_start": 0, "interval_step": 0.05}


def control(*command: str) -> str:
    return run_rabbitmqctl(json.loads(os.environ["AMQP_CONTROL"]), *command)


def connection_to(transport: str, confirms: bool, url: str = "") -> kombu.Connection:
    options = {"confirm_publish": confirms}
    return kombu.Connection(
        url or os.environ["AMQP_URL"], transport=transport, transport_options=options
    )


@pytest.fixture
def make_pool(hub: Hub) -> Iterator[Callable[..., SharedProducerPool]]:
    """Make pools that are closed with the test."""
    pools: list[SharedProducerPool] = []

    def make(confirms: bool, url: str = "") -> SharedProducerPool:
        connection = connection_to(OURS, confirms, url)
        pools.append(SharedProducerPool(hub, connection, OWN_PRODUCERS))
        return pools[-1]

    yield make
    for pool in pools:
        pool.force_close_all()
    pools.clear()
    gc.collect()  # so that a socket that was left open is this test's failure


@pytest.fixture(params=[False, True], ids=["unconfirmed", "confirmed"])
def confirms(request: pytest.FixtureRequest) -> bool:
    """Whether the broker confirms what is published."""
    return bool(request.param)


@pytest.fixture
def producer(make_pool: Callable[..., SharedProducerPool], confirms: bool) -> SharedProducer:
    """The producer that everybody gets."""
    shared: SharedProducer = make_pool(confirms).acquire()
    return shared


@pytest.fixture
def confirmed(make_pool: Callable[..., SharedProducerPool]) -> SharedProducer:
    """The same where the broker confirms."""
    shared: SharedProducer = make_pool(True).acquire()
    return shared


@pytest.fixture
def channel() -> Iterator[Any]:
    """A channel of kombu's own transport, to look from outside."""
    with connection_to(KOMBUS, False) as connection:
        yield connection.default_channel


@pytest.fixture
def queue(channel: Any) -> Iterator[str]:
    name = f"green{uuid.uuid4().hex}"
    channel.queue_declare(name, durable=True, auto_delete=False)
    yield name
    channel.queue_delete(name)


def ready(channel: Any, queue: str) -> int:
    count: int = channel.queue_declare(queue, passive=True).message_count
    return count


def take_all(channel: Any, queue: str) -> Counter[Any]:
    """Return the numbers that were published, and how often each is there."""
    found: Counter[Any] = Counter()
    while (message := channel.basic_get(queue, no_ack=True)) is not None:
        found[json.loads(message.body)] += 1
    return found


def wait_for(hub: Hub, read: Callable[[], Any], what: str) -> None:
    for _ in range(1000):
        if read():
            return
        hub.sleep(0.01)
    pytest.fail(f"waited in vain for {what}")


def opened(producer: SharedProducer) -> Any:
    """Return py-amqp's connection as it is; kombu's property would open one."""
    return producer.connection._connection


def break_socket(producer: SharedProducer) -> None:
    opened(producer).sock.shutdown(socket.SHUT_RDWR)


def have_it_closed(producer: SharedProducer) -> None:
    """Let the broker close the connection, as an operator would."""
    port = opened(producer).sock.getsockname()[1]
    listed = control("list_connections", "--no-table-headers", "pid", "peer_port")
    [pid] = [row.split("\t")[0] for row in listed.splitlines() if row.endswith(f"\t{port}")]
    control("close_connection", pid, "maintenance")


ENDS = [break_socket, have_it_closed]


# -- sharing


def test_all_greenlets_publish_on_one_connection(
    producer: SharedProducer, channel: Any, queue: str, in_greenlets: InGreenlets
) -> None:
    before = len(control("list_connections", "pid").splitlines())
    outcomes = in_greenlets(lambda number: producer.publish(number, routing_key=queue), 300)
    assert outcomes == [None] * 300
    assert len(control("list_connections", "pid").splitlines()) == before + 1
    assert isinstance(producer._line.publishing(), amqp_transport.Channel)
    wanted = dict.fromkeys(range(300), 1)
    assert take_all(channel, queue) == wanted


# -- a connection that is lost


@pytest.mark.parametrize("end", ENDS)
def test_a_connection_lost_between_publishes_is_made_anew(
    producer: SharedProducer, channel: Any, queue: str, hub: Hub, end: Callable[..., None]
) -> None:
    producer.publish(0, routing_key=queue)
    lost = opened(producer)
    end(producer)
    for number in range(1, 6):
        producer.publish(number, routing_key=queue, retry=True, retry_policy=POLICY)
    wait_for(hub, lambda: ready(channel, queue) == 6, "six messages")
    assert take_all(channel, queue) == dict.fromkeys(range(6), 1)
    assert opened(producer) is not lost
    assert producer.connection.connected


@pytest.mark.parametrize("end", ENDS)
def test_without_retry_a_lost_connection_is_an_error_and_the_next_publish_works(
    producer: SharedProducer, channel: Any, queue: str, hub: Hub, end: Callable[..., None]
) -> None:
    producer.publish(0, routing_key=queue)
    end(producer)
    with pytest.raises(producer.connection.recoverable_connection_errors):
        producer.publish(1, routing_key=queue)
    producer.publish(2, routing_key=queue)
    wait_for(hub, lambda: ready(channel, queue) == 2, "two messages")
    assert take_all(channel, queue) == {0: 1, 2: 1}


def _publish_while_it_ends(
    producer: SharedProducer,
    queue: str,
    hub: Hub,
    in_greenlets: InGreenlets,
    end: Callable[..., None],
    **options: Any,
) -> dict[int, BaseException | None]:
    """Publish numbers in 50 greenlets before and after the end; return what came of each."""
    producer.publish(-1, routing_key=queue)
    lost = opened(producer)
    outcomes: dict[int, BaseException | None] = {}
    has_ended: list[bool] = []

    def publish(number: int) -> None:
        if number == 50:
            wait_for(hub, lambda: len(outcomes) > 300, "the others to publish")
            end(producer)
            wait_for(hub, lambda: opened(producer) not in (lost, None), "a new connection")
            has_ended.append(True)
            return
        for step in itertools.count():
            message = number + 50 * step
            try:
                producer.publish(message, routing_key=queue, **options)
                outcomes[message] = None
            except Exception as exc:
                outcomes[message] = exc
            if has_ended:
                return
            hub.sleep(0.02)

    assert in_greenlets(publish, 51) == [None] * 51
    assert has_ended
    return outcomes


@pytest.mark.parametrize("end", ENDS)
def test_with_retry_nobody_notices_that_the_connection_is_lost(
    producer: SharedProducer,
    confirms: bool,
    channel: Any,
    queue: str,
    hub: Hub,
    in_greenlets: InGreenlets,
    end: Callable[..., None],
) -> None:
    outcomes = _publish_while_it_ends(
        producer, queue, hub, in_greenlets, end, retry=True, retry_policy=POLICY
    )
    assert set(outcomes.values()) == {None}
    found = take_all(channel, queue)
    missing = set(outcomes) - set(found)
    # Unconfirmed, what was on the way is lost, as on kombu's own transport: a turn's or two.
    assert len(missing) <= (0 if confirms else 100)


@pytest.mark.parametrize("end", ENDS)
def test_who_is_told_that_it_was_published_is_told_the_truth(
    confirmed: SharedProducer,
    channel: Any,
    queue: str,
    hub: Hub,
    in_greenlets: InGreenlets,
    end: Callable[..., None],
) -> None:
    for _ in range(5):
        outcomes = _publish_while_it_ends(confirmed, queue, hub, in_greenlets, end)
        found = take_all(channel, queue)
        assert set(found) >= {number for number, outcome in outcomes.items() if outcome is None}
        assert max(found.values()) == 1
        errors = [outcome for outcome in outcomes.values() if outcome is not None]
        if errors:
            break  # else it ended just when nobody was waiting for a confirmation
    assert errors
    assert all(
        isinstance(error, confirmed.connection.recoverable_connection_errors) for error in errors
    ), Counter(map(type, errors))
    assert len({id(error) for error in errors}) == len(errors)


def test_greenlets_that_declare_survive_the_end_of_the_connection(
    producer: SharedProducer, channel: Any, hub: Hub, in_greenlets: InGreenlets
) -> None:
    prefix = f"green{uuid.uuid4().hex}"
    producer.publish(0, routing_key="nowhere")

    def publish(number: int) -> None:
        if number == 10:
            break_socket(producer)
            return
        target = kombu.Queue(f"{prefix}.{number}", durable=True)
        producer.publish(
            number, routing_key=target.name, declare=[target], retry=True, retry_policy=POLICY
        )

    assert in_greenlets(publish, 21) == [None] * 21
    for number in {*range(21)} - {10}:
        name = f"{prefix}.{number}"
        wait_for(hub, lambda name=name: ready(channel, name) == 1, f"a message in {name}")
        channel.queue_delete(name)


def test_greenlets_that_try_again_make_one_connection(
    producer: SharedProducer,
    hub: Hub,
    in_greenlets: InGreenlets,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with results over ``rpc://``, whose queue each task call declares."""
    made: list[int] = []
    establish = kombu.Connection._establish_connection

    def count(connection: kombu.Connection) -> Any:
        made.append(1)
        return establish(connection)

    monkeypatch.setattr(kombu.Connection, "_establish_connection", count)
    name = f"green{uuid.uuid4().hex}"
    # Declared each time, since it may have expired.
    target = kombu.Queue(name, durable=False, auto_delete=True, expires=60.0)

    published: list[int] = []

    def call(number: int) -> None:
        if number == 30:
            wait_for(hub, lambda: len(published) > 100, "a hundred publishes")
            break_socket(producer)
            return
        for _ in range(50):
            maybe_declare(target(producer.channel), retry=True, **POLICY)
            producer.publish(number, routing_key=name, retry=True, retry_policy=POLICY)
            published.append(number)

    assert in_greenlets(call, 31) == [None] * 31
    assert len(made) <= 3


def test_a_broker_that_is_not_there_is_an_error_of_everybody(
    make_pool: Callable[..., SharedProducerPool], in_greenlets: InGreenlets
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"amqp://guest:guest@127.0.0.1:{taken.getsockname()[1]}//"
        producer = make_pool(False, url).acquire()

        def publish(number: int) -> None:
            policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0}
            producer.publish(0, routing_key="x", retry=bool(number % 2), retry_policy=policy)

        outcomes = in_greenlets(publish, 2)
    assert all(isinstance(outcome, (OSError, OperationalError)) for outcome in outcomes), outcomes


# -- a connection that is blocked


@pytest.fixture
def blocked() -> Iterator[None]:
    """RabbitMQ takes nothing from those who publish."""
    control("set_vm_memory_high_watermark", "0.000001")
    yield
    control("set_vm_memory_high_watermark", "0.6")


@pytest.mark.usefixtures("blocked")
def test_publishers_wait_until_the_broker_takes_messages_again(
    producer: SharedProducer,
    confirms: bool,
    channel: Any,
    queue: str,
    hub: Hub,
    in_greenlets: InGreenlets,
) -> None:
    done: list[int] = []
    done_while_blocked: list[int] = []

    def publish(number: int) -> None:
        if number == 60:
            hub.sleep(1)
            done_while_blocked.extend(done)
            assert ready(channel, queue) == 0
            control("set_vm_memory_high_watermark", "0.6")
            return
        producer.publish(number, routing_key=queue)
        done.append(number)

    assert in_greenlets(publish, 61) == [None] * 61
    # Unconfirmed, a message is published when the socket has it.
    assert len(done_while_blocked) == (0 if confirms else 60)
    wait_for(hub, lambda: ready(channel, queue) == 60, "all messages")
    assert take_all(channel, queue) == dict.fromkeys(range(60), 1)


# -- whose error it is


class _Opaque:
    """Nothing that JSON knows."""


BAD: dict[str, dict[str, Any]] = {
    "a body that is not JSON": {"body": _Opaque()},
    "a serializer that is unknown": {"serializer": "no such"},
    "a header that AMQP has no type for": {"headers": {"opaque": _Opaque()}},
    "a routing key that is too long": {"routing_key": "k" * 300},
    "a priority that is no number": {"priority": "high"},
    "an exchange that is missing": {"exchange": "no such exchange", "routing_key": "k"},
    "a key that no queue has": {"mandatory": True, "routing_key": "nobody's"},
    "an expiration that is no number": {"expiration": "soon"},
}


@pytest.mark.parametrize("what", BAD)
def test_an_error_is_what_kombu_raises_and_reaches_its_own_publisher(
    confirmed: SharedProducer, channel: Any, queue: str, in_greenlets: InGreenlets, what: str
) -> None:
    bad = {"body": 1, "routing_key": queue, **BAD[what]}
    with connection_to(KOMBUS, True) as connection, pytest.raises(Exception) as theirs:  # noqa: PT011
        kombu.Producer(connection).publish(**bad)

    def publish(number: int) -> None:
        if number % 2:
            confirmed.publish(number, routing_key=queue)
        else:
            confirmed.publish(**bad)

    outcomes = in_greenlets(publish, 40)
    assert outcomes[1::2] == [None] * 20
    assert {type(outcome) for outcome in outcomes[::2]} == {theirs.type}
    assert take_all(channel, queue) == dict.fromkeys(range(1, 40, 2), 1)


def test_a_queue_that_differs_is_an_error_of_who_declares_it(
    producer: SharedProducer, channel: Any, queue: str, in_greenlets: InGreenlets
) -> None:
    other = kombu.Queue(queue, durable=True, queue_arguments={"x-max-length": 7})

    def publish(number: int) -> None:
        retries = {"retry": number % 4 == 0, "retry_policy": POLICY}
        declare = None if number % 2 else [other]
        producer.publish(number, routing_key=queue, declare=declare, **retries)

    outcomes = in_greenlets(publish, 40)
    assert outcomes[1::2] == [None] * 20
    assert {type(outcome) for outcome in outcomes[::2]} == {amqp.PreconditionFailed}
    assert set(take_all(channel, queue)) == set(range(1, 40, 2))


def test_a_refusal_is_an_error_of_who_published(
    confirmed: SharedProducer, channel: Any, queue: str, in_greenlets: InGreenlets
) -> None:
    full = f"{queue}.full"
    limits = {"x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare(full, auto_delete=True, arguments=limits)
    confirmed.publish(0, routing_key=full)

    def publish(number: int) -> None:
        confirmed.publish(number, routing_key=queue if number % 2 else full)

    outcomes = in_greenlets(publish, 40)
    assert [type(outcome) for outcome in outcomes] == [MessageNacked, type(None)] * 20
    assert set(take_all(channel, queue)) == set(range(1, 40, 2))
    channel.queue_delete(full)


@pytest.mark.usefixtures("blocked")
def test_a_publisher_that_is_killed_costs_nobody_else_anything(
    confirmed: SharedProducer, channel: Any, queue: str, hub: Hub, in_greenlets: InGreenlets
) -> None:
    def wait(number: int) -> None:
        confirmed.publish(number, routing_key=queue)

    killed = [hub.spawn(wait, 1000 + number) for number in range(10)]

    def publish(number: int) -> None:
        if number == 20:
            hub.sleep(0.5)
            for greenlet in killed:
                hub.call_soon(greenlet.throw)
            hub.sleep(0.05)
            control("set_vm_memory_high_watermark", "0.6")
            return
        confirmed.publish(number, routing_key=queue)

    assert in_greenlets(publish, 21) == [None] * 21
    assert all(greenlet.dead for greenlet in killed)
    found = take_all(channel, queue)
    # What was written is not taken back.
    assert set(found) >= set(range(20))
    assert max(found.values()) == 1
    confirmed.publish(3000, routing_key=queue)
    assert set(take_all(channel, queue)) == {3000}


@pytest.mark.usefixtures("blocked")
def test_a_confirmation_that_comes_too_late_is_nobody_elses(
    confirmed: SharedProducer, channel: Any, queue: str, hub: Hub, in_greenlets: InGreenlets
) -> None:
    shared = confirmed._line.publishing()

    def publish(number: int) -> None:
        if number == 20:
            hub.sleep(0.5)
            control("set_vm_memory_high_watermark", "0.6")
            return
        timeout = 0.05 if number % 2 else None
        message = amqp.Message(str(number))
        shared.basic_publish(message, routing_key=queue, confirm_timeout=timeout)

    outcomes = in_greenlets(publish, 21)
    assert [type(outcome) for outcome in outcomes] == [type(None), socket.timeout] * 10 + [
        type(None)
    ]
    assert in_greenlets(lambda n: confirmed.publish(n + 20, routing_key=queue), 20) == [None] * 20
    assert set(take_all(channel, queue)) == set(range(40))
    wait_for(hub, lambda: shared.statistics()["unconfirmed"] == 0, "the last confirmation")


# -- channels that the broker closes, publishers that are ended


def test_publishers_are_told_when_the_broker_closes_their_channel(
    confirmed: SharedProducer, channel: Any, queue: str, hub: Hub, in_greenlets: InGreenlets
) -> None:
    exchange = f"{queue}.vanishing"
    target = kombu.Exchange(exchange, durable=True)
    confirmed_numbers: set[int] = set()
    errors: list[BaseException] = []
    numbers = itertools.count()
    for _ in range(4):
        confirmed.maybe_declare(target)
        stop: list[bool] = []

        def publish(number: int, stop: list[bool] = stop) -> None:
            if number == 100:
                hub.sleep(0.05)
                channel.exchange_delete(exchange)
                hub.sleep(0.1)
                stop.append(True)
                return
            where = {"exchange": exchange} if number % 10 == 0 else {}
            while not stop:
                mine = next(numbers)
                try:
                    confirmed.publish(mine, routing_key=queue, **where)
                    if not where:
                        confirmed_numbers.add(mine)
                except Exception as exc:
                    errors.append(exc)
                    if where:
                        return
                hub.sleep(0)

        assert in_greenlets(publish, 101) == [None] * 101
    found = take_all(channel, queue)
    assert confirmed_numbers <= set(found)
    assert max(found.values()) == 1
    # It is named, also to those who can try again.
    assert errors
    assert all(exchange in str(error) for error in errors)
    assert {type(error) for error in errors} <= {amqp.NotFound, RecoverableChannelError}
    assert len({id(error) for error in errors}) == len(errors)


def test_with_retry_only_who_published_there_is_told_that_an_exchange_is_gone(
    confirmed: SharedProducer, channel: Any, queue: str, hub: Hub, in_greenlets: InGreenlets
) -> None:
    exchange = f"{queue}.vanishing"
    confirmed.maybe_declare(kombu.Exchange(exchange, durable=True))
    channel.exchange_delete(exchange)
    policy = {"retry": True, "retry_policy": POLICY}

    def publish(number: int) -> None:
        where = {"exchange": exchange} if number % 10 == 0 else {}
        confirmed.publish(number, routing_key=queue, **where, **policy)

    outcomes = in_greenlets(publish, 50)
    assert {type(outcome) for outcome in outcomes[::10]} == {amqp.NotFound}
    assert {outcome for number, outcome in enumerate(outcomes) if number % 10} == {None}
    assert set(take_all(channel, queue)) == {number for number in range(50) if number % 10}


@pytest.mark.parametrize("turns", range(8))
def test_the_first_publisher_may_be_ended_at_any_moment(
    confirmed: SharedProducer,
    channel: Any,
    queue: str,
    hub: Hub,
    in_greenlets: InGreenlets,
    turns: int,
) -> None:
    """The one that makes the others' connection, channel, and asks for confirmations."""
    first = hub.spawn(confirmed.publish, 1000, queue)

    def publish(number: int) -> None:
        if number == 0:
            for _ in range(turns):
                hub.sleep(0)
            if not first.dead:
                hub.call_soon(first.throw)
            return
        confirmed.publish(number, routing_key=queue)

    assert in_greenlets(publish, 6) == [None] * 6
    assert in_greenlets(lambda number: confirmed.publish(number + 10, routing_key=queue), 5) == (
        [None] * 5
    )
    assert set(take_all(channel, queue)) >= {*range(1, 6), *range(10, 15)}


@pytest.mark.parametrize("turns", range(6))
def test_who_is_ended_while_it_declares_keeps_nobody_waiting(
    producer: SharedProducer, channel: Any, hub: Hub, in_greenlets: InGreenlets, turns: int
) -> None:
    name = f"green{uuid.uuid4().hex}"
    target = kombu.Queue(name, durable=True)

    def declare(number: int) -> None:
        producer.publish(number, routing_key=name, declare=[target])

    victims = [hub.spawn(declare, 1000 + number) for number in range(3)]

    def run(number: int) -> None:
        if number == 0:
            for _ in range(turns):
                hub.sleep(0)
            for victim in victims:
                if not victim.dead:
                    hub.call_soon(victim.throw)
            return
        declare(number)

    assert in_greenlets(run, 10) == [None] * 10
    wait_for(hub, lambda: ready(channel, name) >= 9, "nine messages")
    channel.queue_delete(name)
