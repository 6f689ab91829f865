"""Tasks that are ended, channels and connections that are closed, while the broker is to answer."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import amqp
import pytest
from harness.brokers import RabbitServer, Space
from harness.waiting import eventually
from harness.worker import StartWorker, Worker, running

CONFIRMS: dict[str, Any] = {"broker_transport_options": {"confirm_publish": True}}
#: Of tasks, in seconds: most strike while the broker is to answer.
LIMITS = (0.001, 0.003, 0.01, 0.02, 0.05)


@pytest.fixture
def rabbit(broker: str, space: Space) -> RabbitServer:
    """The broker."""
    if space.rabbit is None:
        pytest.skip(f"{broker} has no such thing")
    return space.rabbit


@pytest.fixture
def channel(rabbit: RabbitServer) -> Iterator[amqp.Channel]:
    """A channel of the test's own, which nothing is the matter with."""
    with rabbit.connect() as connection:
        yield connection.channel()


def ask_once(worker: Worker, task: str) -> Any:
    [asked] = worker.flood(task, [()])
    return worker.wait_outcomes([asked], within=30)[asked]["result"]


def flood_with_limits(worker: Worker, task: str, arguments: list[tuple[Any, ...]]) -> list[str]:
    """Send tasks with soft limits, and every third with a hard one behind it or alone."""
    ids: list[str] = []
    for turn, limit in enumerate(LIMITS):
        mine = arguments[turn :: len(LIMITS)]
        soft = [one for number, one in enumerate(mine) if number % 3]
        ids += worker.flood(task, soft, soft_time_limit=limit, time_limit=10)
        ids += worker.flood(task, mine[::3], time_limit=limit)
    return ids


@contextmanager
def terminating(worker: Worker, ids: list[str]) -> Iterator[None]:
    """Terminate every tenth of the tasks meanwhile."""
    done = threading.Event()

    def terminate() -> None:
        for task_id in itertools.islice(ids, 0, None, 10):
            if done.is_set():
                return
            worker.client.control.revoke(task_id, terminate=True)

    thread = threading.Thread(target=terminate)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def deleting(rabbit: RabbitServer, exchange: str) -> Iterator[None]:
    """Delete an exchange again and again meanwhile."""
    done = threading.Event()

    def delete() -> None:
        with rabbit.connect() as connection:
            channel = connection.channel()
            while not done.wait(0.005):
                channel.exchange_delete(exchange)

    thread = threading.Thread(target=delete)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def works(worker: Worker) -> None:
    """See to it that the worker still does what it is for."""
    ids = worker.flood("quick", [(number,) for number in range(500)])
    outcomes = worker.wait_outcomes(ids, within=40)
    assert [outcomes[task_id]["result"] for task_id in ids] == list(range(500))
    eventually(lambda: running(worker) == 0, "every slot to be free")


def counts(rabbit: RabbitServer) -> tuple[int, int]:
    """Return how many connections and channels the broker has."""
    listed = rabbit.control("--no-table-headers", "list_connections", "pid", "channels")
    rows = [line.split("\t") for line in listed.splitlines()]
    return len(rows), sum(int(row[1]) for row in rows)


def count_greenlets(worker: Worker) -> int:
    """Count the greenlets of a worker but for its slots, which come and go."""
    slots = worker.inspect().stats()["pool"]["slots"]
    return int(ask_once(worker, "count_greenlets")) - int(slots)


def test_each_task_gets_its_own_answers_though_others_are_ended(
    start_worker: StartWorker, rabbit: RabbitServer, channel: amqp.Channel
) -> None:
    worker = start_worker(concurrency=50, loglevel="WARNING")
    prefix = worker.space.name
    tasks = 200
    for number in range(tasks):
        name = f"{prefix}.own{number}"
        channel.queue_declare(name, durable=True, auto_delete=False)
        for _ in range(number):
            channel.basic_publish(amqp.Message(""), routing_key=name)
    channel.queue_declare(f"{prefix}.empty", durable=True, auto_delete=False)
    ids = flood_with_limits(worker, "ask", [(number,) for number in range(tasks)])
    with terminating(worker, ids):
        worker.wait_outcomes(ids, within=60)
    before = counts(rabbit)
    told = ask_once(worker, "read_interrupted")
    assert (told["wrong"], told["refused"]) == ([], [])
    works(worker)
    # Again: nothing is left behind by those who were ended.
    greenlets = count_greenlets(worker)
    ids = flood_with_limits(worker, "ask", [(number,) for number in range(tasks)])
    worker.wait_outcomes(ids, within=60)
    assert ask_once(worker, "read_interrupted")["wrong"] == []
    works(worker)
    assert count_greenlets(worker) <= greenlets + 10
    eventually(lambda: counts(rabbit) <= before, f"no more channels than {before}", every=0.5)
    for number in range(tasks):
        channel.queue_delete(f"{prefix}.own{number}")
    channel.queue_delete(f"{prefix}.empty")


def take_all(channel: amqp.Channel, queue: str) -> Counter[Any]:
    found: list[Any] = []
    count = channel.queue_declare(queue, passive=True).message_count
    tag = channel.basic_consume(
        queue, no_ack=True, callback=lambda message: found.append(json.loads(message.body))
    )
    while len(found) < count:
        channel.connection.drain_events(timeout=10)
    channel.basic_cancel(tag)
    return Counter(found)


def test_publishers_are_told_the_truth_though_others_are_ended(
    start_worker: StartWorker, rabbit: RabbitServer, channel: amqp.Channel
) -> None:
    worker = start_worker(concurrency=50, loglevel="WARNING", settings=CONFIRMS)
    queue = f"{worker.space.name}.published"
    channel.queue_declare(queue, durable=True, auto_delete=False)
    # The first publisher on the connection is among those who are ended.
    ids = flood_with_limits(worker, "publish_confirmed", [(number, 20) for number in range(300)])
    with terminating(worker, ids):
        worker.wait_outcomes(ids, within=60)
    told = ask_once(worker, "read_interrupted")
    assert told["errors"] == []
    found = take_all(channel, queue)
    assert set(told["confirmed"]) <= set(found)
    assert max(found.values()) == 1
    works(worker)
    channel.queue_delete(queue)


def test_publishers_go_on_when_an_exchange_is_deleted_under_them(
    start_worker: StartWorker, rabbit: RabbitServer, channel: amqp.Channel
) -> None:
    worker = start_worker(concurrency=100, loglevel="WARNING", settings=CONFIRMS)
    queue, exchange = f"{worker.space.name}.published", f"{worker.space.name}.vanishing"
    channel.queue_declare(queue, durable=True, auto_delete=False)
    arguments = [(number, 40, "" if number % 10 else exchange) for number in range(300)]
    with deleting(rabbit, exchange):
        unlimited = worker.flood("publish_confirmed", arguments[:150])
        limited = flood_with_limits(worker, "publish_confirmed", arguments[150:])
        with terminating(worker, limited):
            outcomes = worker.wait_outcomes([*unlimited, *limited], within=90)
    assert {outcomes[task_id]["result"] for task_id in unlimited} == {"done"}
    told = ask_once(worker, "read_interrupted")
    # What was published there, and what was on its way when the channel was closed for that.
    assert told["errors"]
    assert all(exchange in error for error in told["errors"]), told["errors"][:3]
    published = {message for message in told["confirmed"] if message // 40 % 10}
    assert published <= set(take_all(channel, queue))
    works(worker)
    channel.queue_delete(queue)


def test_all_who_wait_are_told_when_the_broker_closes_the_connections(
    start_worker: StartWorker, rabbit: RabbitServer
) -> None:
    worker = start_worker(concurrency=60, loglevel="WARNING", settings=CONFIRMS)
    queue = f"{worker.space.name}.published"
    others = [f"{worker.space.name}.{name}" for name in ("empty", "own0")]
    with rabbit.connect() as connection:
        for name in (queue, *others):
            connection.channel().queue_declare(name, durable=True, auto_delete=False)
    # The pool has all its slots, and each connection that it needs.
    worker.wait_outcomes(worker.flood("nap", [("warm", 0.5)] * 60), within=20)
    worker.flood("publish_confirmed", [(1000, 1)])
    worker.flood("ask", [(0,)], soft_time_limit=0.5)
    works(worker)
    greenlets = ask_once(worker, "count_greenlets")
    before = counts(rabbit)
    publishing = worker.flood("publish_confirmed", [(number, 10**6) for number in range(20)])
    asking = worker.flood("ask", [(0,)] * 20, soft_time_limit=6, time_limit=30)
    for _ in range(3):
        rabbit.control("close_all_connections", "maintenance")
    ask_once(worker, "end_publishing")
    outcomes = worker.wait_outcomes([*publishing, *asking], within=60)
    assert {outcomes[task_id]["result"] for task_id in publishing} == {"done"}
    told = ask_once(worker, "read_interrupted")
    assert told["errors"]
    assert told["wrong"] == []
    with rabbit.connect() as connection:
        assert set(told["confirmed"]) <= set(take_all(connection.channel(), queue))
        for name in (queue, *others):
            connection.channel().queue_delete(name)
    works(worker)
    eventually(lambda: counts(rabbit) <= before, f"no more channels than {before}", every=0.5)
    assert count_greenlets(worker) <= greenlets + 10
