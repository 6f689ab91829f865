"""What RabbitMQ does with queues and messages reaches workers of all pools in the same way."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import amqp
import kombu
import pytest
from celery import Celery, states
from harness.brokers import Brokers, RabbitServer, Space
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import CELERY, StartWorker, Worker

QUORUM = {"task_default_queue_type": "quorum", "task_queue_max_priority": None}

needs_queue_types = pytest.mark.skipif(
    CELERY < (5, 5), reason="Celery knows the types of queues since 5.5"
)


@pytest.fixture
def rabbit(broker: str, brokers: Brokers) -> RabbitServer:
    """The broker."""
    if broker != "rabbitmq":
        pytest.skip(f"{broker} has no such thing")
    server: RabbitServer = brokers.rabbit
    return server


def type_settings(queue_type: str) -> dict[str, Any]:
    return QUORUM if queue_type == "quorum" else {"task_queue_max_priority": None}


class _Queues:
    """Queues that a test declares, beside those of Celery."""

    def __init__(self, rabbit: RabbitServer, prefix: str) -> None:
        self._connection = rabbit.connect()
        self._connection.connect()
        self.channel = self._connection.channel()
        self._prefix = prefix

    def declare(self, name: str, **arguments: Any) -> str:
        """Declare a queue with these arguments, an underscore for each hyphen."""
        full = f"{self._prefix}.{name}"
        named = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
        self.channel.queue_declare(full, durable=True, auto_delete=False, arguments=named)
        return full

    def ready(self, name: str) -> int:
        count: int = self.channel.queue_declare(name, passive=True).message_count
        return count

    def take(self, name: str) -> amqp.Message:
        """Return the next message, which is gone from the queue."""
        message = eventually(
            lambda: self.channel.basic_get(name, no_ack=True), f"a message in {name}"
        )
        assert isinstance(message, amqp.Message)
        return message

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def queues(rabbit: RabbitServer, tag: str) -> Iterator[_Queues]:
    opened = _Queues(rabbit, tag)
    yield opened
    opened.close()


def sent_to(name: str) -> kombu.Queue:
    """The queue ``name`` as somebody who has declared it names it."""
    return kombu.Queue(name, no_declare=True)


@pytest.fixture
def consuming(worker: Worker) -> Iterator[Any]:
    """Let the shared worker consume from a queue, until the test ends."""
    added: list[str] = []

    def consume(name: str, **arguments: Any) -> None:
        named = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
        # The worker's own settings add this one.
        named.setdefault("x-max-priority", worker.settings["task_queue_max_priority"])
        options = {"queue_arguments": named}
        worker.control("add_consumer", name, options=options)
        added.append(name)
        eventually(lambda: is_consumed(worker, name), f"{name} to be consumed")

    yield consume
    for name in added:
        worker.control("cancel_consumer", name)


def is_consumed(worker: Worker, name: str) -> bool:
    return name in [queue["name"] for queue in worker.inspect().active_queues()]


def wait_and_stay(read: Any, value: int, what: str) -> None:
    """Wait until ``read()`` is ``value``, and see that it is so a little later."""
    eventually(lambda: read() == value, what)
    time.sleep(0.3)
    assert read() == value, what


# -- how many messages a worker has


@needs_queue_types
@pytest.mark.dedicated
@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_a_killed_worker_loses_none_of_the_messages_it_prefetched(
    start_worker: StartWorker,
    own_journal: Journal,
    queues: _Queues,
    tag: str,
    queue_type: str,
) -> None:
    settings = {
        **type_settings(queue_type),
        "worker_prefetch_multiplier": 2,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
    }
    worker = start_worker(concurrency=3, settings=settings)
    name = worker.space.name
    ids = worker.flood("hold", [(tag,) for _ in range(12)])
    own_journal.wait_for(tag, "holding", times=3)
    wait_and_stay(lambda: queues.ready(name), 6, "six of twelve left in the queue")
    assert own_journal.count(tag) == 3
    is_per_consumer = "Global QoS is disabled" in worker.output
    assert is_per_consumer == (queue_type == "quorum")
    worker.kill()
    eventually(lambda: queues.ready(name) == 12, "all messages to come back")
    own_journal.write(tag, "go")
    another = start_worker(concurrency=3, settings=settings)
    another.wait_outcomes(ids, within=20)
    again = own_journal.entries(tag, "holding")[3:]
    assert sorted(entry["id"] for entry in again) == sorted(ids)
    assert sum(entry["redelivered"] for entry in again) == 6
    assert queues.ready(name) == 0


@needs_queue_types
@pytest.mark.dedicated
@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_each_task_of_many_runs_once(
    start_worker: StartWorker, own_journal: Journal, queues: _Queues, tag: str, queue_type: str
) -> None:
    worker = start_worker(concurrency=8, settings=type_settings(queue_type), loglevel="WARNING")
    ids = worker.flood("limited", [(tag,) for _ in range(500)])
    worker.wait_outcomes(ids, within=30)
    assert own_journal.count(tag) == 500
    worker.stop()
    assert queues.ready(worker.space.name) == 0


@pytest.mark.skipif(CELERY < (5, 6), reason="Celery has this setting since 5.6")
@pytest.mark.dedicated
def test_disabling_prefetch_is_said_to_be_for_redis(
    start_worker: StartWorker, queues: _Queues, own_journal: Journal, tag: str
) -> None:
    worker = start_worker(
        concurrency=2, settings={"worker_disable_prefetch": True, "task_acks_late": True}
    )
    assert "worker_disable_prefetch is only supported for Redis" in worker.output
    ids = worker.flood("hold", [(tag,) for _ in range(10)])
    wait_and_stay(lambda: queues.ready(worker.space.name), 2, "eight of ten prefetched")
    own_journal.write(tag, "go")
    worker.wait_outcomes(ids, within=20)


# -- priorities

PRIORITIES = [3, 9, 0, 6, 9, 1, 3, 5, 0, 7]


@pytest.mark.dedicated
@pytest.mark.parametrize("caller", ["a client", "a task"])
def test_one_slot_takes_the_highest_priority_first(
    start_worker: StartWorker, own_journal: Journal, queues: _Queues, tag: str, caller: str
) -> None:
    worker = start_worker(
        concurrency=1, settings={"worker_prefetch_multiplier": 1, "task_acks_late": True}
    )
    name = worker.space.name
    worker.flood("hold", [(f"{tag} gate",)])
    own_journal.wait_for(f"{tag} gate", "holding")
    if caller == "a task":
        # The slot is taken, so somebody else's slot publishes.
        other = start_worker(
            concurrency=2, settings={"task_default_queue": f"{name}.other"}, wait=False
        )
        other.wait_ready()
        other.flood("fan_out_by_priority", [(tag, name, PRIORITIES)])
    else:
        for number, priority in enumerate(PRIORITIES):
            worker.flood("note", [(tag, f"{priority} {number}")], priority=priority)
    eventually(lambda: queues.ready(name) == len(PRIORITIES), "all to be published")
    own_journal.write(f"{tag} gate", "go")
    # Before Celery 5.7 a stock worker acknowledges when the next frame comes.
    eventually(lambda: own_journal.count(tag) == len(PRIORITIES), "all to run", within=40)
    expected = sorted(range(len(PRIORITIES)), key=lambda number: -PRIORITIES[number])
    assert own_journal.events(tag) == [f"{PRIORITIES[number]} {number}" for number in expected]


# -- dead letters


@pytest.fixture
def dead(queues: _Queues) -> str:
    """Where messages end that a worker refuses."""
    return queues.declare("dead")


def letters(dead: str) -> dict[str, Any]:
    return {"dead_letter_exchange": "", "dead_letter_routing_key": dead}


REFUSED: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "by the task": ("reject_once", ("now",), {"headers": {"who": "Zoë", "n": [1, 2**40]}}),
    "by the task when it is due": ("reject_once", ("later",), {"eta": 0.4, "headers": {"n": -1}}),
    "by the task, which might expire": ("reject_once", ("in time",), {"expires": 600}),
    "because the task failed": ("late_failure", (), {}),
    "because nobody knows the task": ("no such task", ("ü", {"key": [1.5, None]}), {}),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_refused_message_is_a_dead_letter_as_it_was_sent(
    client: Celery, consuming: Any, queues: _Queues, dead: str, why: str
) -> None:
    task, args, options = REFUSED[why]
    name, mirror = queues.declare("main", max_priority=9, **letters(dead)), queues.declare("mirror")
    consuming(name, **letters(dead))
    later = {
        key: client.now() + timedelta(seconds=options[key])
        for key in ("eta", "expires")
        if key in options
    }
    options = {**options, **later, "priority": 4}
    result = client.send_task(task, args, queue=sent_to(name), **options)
    client.send_task(task, args, queue=sent_to(mirror), task_id=result.id, **options)
    letter, original = queues.take(dead), queues.take(mirror)
    assert letter.body == original.body
    properties, expected = dict(letter.properties), dict(original.properties)
    [death] = properties["application_headers"]["x-death"]
    assert (death["reason"], death["queue"], death["count"]) == ("rejected", name, 1)
    properties["application_headers"] = {
        key: value for key, value in properties["application_headers"].items() if "death" not in key
    }
    # RabbitMQ moves it, lest the dead letter expires, too.
    assert ("original-expiration" in death) == (expected.pop("expiration", None) is not None)
    assert properties == expected
    assert queues.ready(name) == 0


def test_refused_messages_among_others_are_the_only_dead_letters(
    client: Celery, journal: Journal, consuming: Any, queues: _Queues, dead: str, tag: str
) -> None:
    name = queues.declare("main", max_priority=9, **letters(dead))
    consuming(name, **letters(dead))
    for number in range(60):
        client.send_task("reject_odd", (tag, number), queue=sent_to(name))
    journal.wait_for(tag, "run", times=60)
    eventually(lambda: queues.ready(dead) == 30, "thirty dead letters")
    numbers = [json.loads(queues.take(dead).body)[0][1] for _ in range(30)]
    assert sorted(numbers) == list(range(1, 60, 2))
    assert (queues.ready(name), journal.count(tag)) == (0, 60)


def test_a_dead_letter_that_comes_back_tells_where_it_was(
    client: Celery, journal: Journal, consuming: Any, queues: _Queues, tag: str
) -> None:
    name = f"{tag}.main"
    pause = queues.declare("pause", message_ttl=200, **letters(name))
    queues.declare("main", max_priority=9, **letters(pause))
    consuming(name, **letters(pause))
    result = client.send_task(
        "reject_once", (tag,), queue=sent_to(name), headers={"customer": "Zoë"}
    )
    assert journal.wait_for(tag, "run", times=2)[1]["redelivered"] is False
    eventually(lambda: result.state == states.SUCCESS, "the second run")
    headers = result.result
    assert headers["customer"] == "Zoë"
    assert headers["x-first-death-queue"] == name
    deaths = [(death["queue"], death["reason"], death["count"]) for death in headers["x-death"]]
    assert deaths == [(pause, "expired", 1), (name, "rejected", 1)]
    for death in headers["x-death"]:
        age = datetime.now(timezone.utc) - death["time"].replace(tzinfo=timezone.utc)
        assert timedelta(seconds=-1) < age < timedelta(minutes=2)
    assert queues.ready(name) == queues.ready(pause) == 0


# -- delayed delivery


@pytest.fixture
def vhost(rabbit: RabbitServer, tag: str) -> Iterator[str]:
    """A virtual host of the test's own: Celery's delayed queues have one name and one type."""
    rabbit.control("add_vhost", tag)
    rabbit.control("set_permissions", "-p", tag, "guest", ".*", ".*", ".*")
    yield tag
    rabbit.control("delete_vhost", tag)


@pytest.fixture
def delaying(rabbit: RabbitServer, vhost: str) -> dict[str, Any]:
    """Settings of a worker whose tasks are delayed by the broker."""
    return {
        **QUORUM,
        "task_default_exchange_type": "topic",
        "broker_url": f"{rabbit.url[:-1]}{vhost}",
    }


@pytest.fixture
def delayed(rabbit: RabbitServer, vhost: str) -> Iterator[Any]:
    """Count the messages in the delayed queue of this level."""
    with amqp.Connection(f"127.0.0.1:{rabbit.port}", virtual_host=vhost, heartbeat=0) as opened:
        channel = opened.channel()

        def count(level: int) -> int:
            name = f"celery_delayed_{level}"
            messages: int = channel.queue_declare(name, passive=True).message_count
            return messages

        yield count


@needs_queue_types
@pytest.mark.dedicated
@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_a_countdown_passes_on_the_broker(
    start_worker: StartWorker,
    own_journal: Journal,
    delaying: dict[str, Any],
    delayed: Any,
    tag: str,
    queue_type: str,
) -> None:
    worker = start_worker(
        concurrency=4,
        settings={
            **delaying,
            "broker_native_delayed_delivery_queue_type": queue_type,
        },
        loglevel="DEBUG",
    )
    assert "Setting up delayed delivery for broker" in worker.output
    assert f"with queue type '{queue_type}'" in worker.output
    worker.flood("delays", [(f"{tag} task", 6.7)])
    worker.flood("note", [(f"{tag} client", "run")], countdown=6.7)
    sent = time.time()
    own_journal.wait_for(f"{tag} task", "delayed")
    # Six seconds are four and two, in the queues 2 and 1, and the worker waits for the rest.
    eventually(lambda: delayed(2) == 2, "both to be delayed")
    assert worker.inspect().scheduled() == []
    for caller in ("task", "client"):
        [run] = own_journal.wait_for(f"{tag} {caller}", "run", within=20)
        assert run["at"] - sent > 6
    [run] = own_journal.entries(f"{tag} client", "run")
    assert run["at"] - sent > 6.5
    assert [delayed(level) for level in range(3)] == [0] * 3


@needs_queue_types
@pytest.mark.dedicated
def test_a_retry_passes_through_the_delayed_queues(
    start_worker: StartWorker,
    own_journal: Journal,
    delaying: dict[str, Any],
    delayed: Any,
) -> None:
    worker = start_worker(concurrency=4, settings=delaying)
    result = worker.client.send_task("retry_slowly")
    own_journal.wait_for(result.id, "try")
    eventually(lambda: delayed(1) == 1, "the retry to be delayed")
    assert result.get(timeout=20) == 1
    first, second = own_journal.entries(result.id, "try")
    assert second["at"] - first["at"] >= 2
    assert delayed(1) == 0


# -- publishing


FULL = {"x-max-length": 1, "x-overflow": "reject-publish"}


@pytest.fixture
def confirming(start_worker: StartWorker, rabbit: RabbitServer) -> Worker:
    """A worker to whom the broker confirms what its tasks publish."""
    return start_worker(
        concurrency=20,
        settings={
            "task_queue_max_priority": None,
            "broker_transport_options": {"confirm_publish": True},
        },
    )


def results(worker: Worker, task: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    ids = worker.flood(task, arguments)
    outcomes = worker.wait_outcomes(ids, within=30)
    assert {outcome["status"] for outcome in outcomes.values()} == {states.SUCCESS}, outcomes
    return [outcomes[task_id]["result"] for task_id in ids]


@pytest.mark.dedicated
@pytest.mark.parametrize("declares", [True, False])
def test_a_nack_is_an_error_of_the_task_that_published(
    confirming: Worker, queues: _Queues, declares: bool
) -> None:
    limits = {"max_length": 1, "overflow": "reject-publish"}
    full, roomy = queues.declare("full", **limits), queues.declare("roomy")
    to_full, to_roomy = ((full, FULL), (roomy, {})) if declares else ((full,), (roomy,))
    assert results(confirming, "publishes", [to_full]) == [None]
    outcomes = results(confirming, "publishes", [to_full, to_roomy] * 30)
    assert outcomes == ["MessageNacked", None] * 30
    assert (queues.ready(full), queues.ready(roomy)) == (1, 30)


@pytest.mark.dedicated
def test_what_no_queue_takes_comes_back_to_the_task_that_published(
    confirming: Worker, queues: _Queues
) -> None:
    there, nowhere = queues.declare("there"), f"{queues.declare('x')}.nowhere"
    mandatory = {"mandatory": True, "retry": False}
    calls = [(there, None, mandatory), (nowhere, None, mandatory), (nowhere, None, {})]
    outcomes = results(confirming, "publishes", calls * 10)
    assert outcomes == [None, "ChannelError NO_ROUTE", None] * 10
    assert queues.ready(there) == 10


@pytest.mark.dedicated
def test_an_exchange_that_is_missing_is_an_error_of_the_task_that_published(
    confirming: Worker, queues: _Queues
) -> None:
    there = queues.declare("there")
    elsewhere = {"exchange": f"{there} is no exchange", "routing_key": "x", "retry": False}
    outcomes = results(confirming, "publishes", [(there,), (there, None, elsewhere)] * 15)
    assert outcomes[::2] == [None] * 15
    assert all(outcome.startswith("NotFound NOT_FOUND - no exchange") for outcome in outcomes[1::2])
    assert queues.ready(there) == 15


@pytest.mark.dedicated
def test_a_queue_declared_otherwise_is_an_error_of_the_task_that_published(
    confirming: Worker, queues: _Queues
) -> None:
    there, other = queues.declare("there"), queues.declare("other")
    calls = [(there, {}), (other, {"x-max-length": 7}, {"retry": False})]
    outcomes = results(confirming, "publishes", calls * 15)
    assert outcomes[::2] == [None] * 15
    assert all(outcome.startswith("PreconditionFailed") for outcome in outcomes[1::2])
    assert (queues.ready(there), queues.ready(other)) == (15, 0)


# -- results by mail


@pytest.mark.skipif(
    CELERY[:2] == (5, 6), reason="clients of 5.6 take an empty second for a lost connection"
)
@pytest.mark.stock_fails(
    "whoever reads may keep the result that another slot waits for",
    pools=("gevent", "eventlet"),
    sometimes=True,
)
@pytest.mark.dedicated
def test_tasks_wait_for_rpc_results_of_their_own_calls(
    start_worker: StartWorker, rabbit: RabbitServer, space: Space
) -> None:
    worker = start_worker(
        concurrency=60, settings={"result_backend": "rpc://", "journal_url": space.redis_url}
    )
    client = worker.client
    asked = [[10 * number + step for step in range(5)] for number in range(20)]
    parents = [client.send_task("asks_many", (numbers,)) for numbers in asked]
    failing = [client.send_task("asks_and_fails", (f"number {number}",)) for number in range(10)]
    for numbers, parent in zip(asked, parents):
        got = parent.get(timeout=40, propagate=False)
        assert got == [number + 1000 for number in numbers]
    for number, parent in enumerate(failing):
        assert parent.get(timeout=40, propagate=False) == f"ValueError('number {number}')"
    # A slot that has waited before waits again.
    again = [client.send_task("asks_many", ([number],)) for number in range(20)]
    outcomes = [parent.get(timeout=40, propagate=False) for parent in again]
    assert outcomes == [[number + 1000] for number in range(20)]
