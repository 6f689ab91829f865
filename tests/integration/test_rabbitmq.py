"""Workers on RabbitMQ when the broker closes, blocks, refuses, or is reached over TLS."""

from __future__ import annotations

import time
from typing import Any

import pytest
from harness.brokers import RabbitServer, Space
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import StartWorker

RECONNECTS = "Trying to reconnect"


@pytest.fixture
def rabbit(broker: str, space: Space) -> RabbitServer:
    """The broker."""
    if space.rabbit is None:
        pytest.skip(f"{broker} has no such thing")
    return space.rabbit


def numbers(journal: Journal, tag: str) -> list[int]:
    return sorted(entry["number"] for entry in journal.entries(tag) if entry["event"] == "ran")


@pytest.mark.parametrize("task", ["count", "late_count"])
def test_every_task_runs_although_the_broker_closes_all_connections(
    start_worker: StartWorker, rabbit: RabbitServer, journal: Journal, task: str
) -> None:
    worker = start_worker(concurrency=50, loglevel="WARNING")
    worker.flood(task, [("closed", number) for number in range(3000)])
    for _ in range(2):
        time.sleep(0.3)
        rabbit.control("close_all_connections", "maintenance")
    worker.flood(task, [("closed", number) for number in range(3000, 3100)])
    eventually(
        lambda: set(numbers(journal, "closed")) >= set(range(3100)), "all numbers", within=60
    )
    eventually(lambda: len(worker.space.queue()) == 0, "an empty queue", within=20)
    assert worker.child.running


def test_publishers_wait_while_the_broker_blocks_them(
    start_worker: StartWorker, rabbit: RabbitServer, journal: Journal
) -> None:
    worker = start_worker(concurrency=50)
    try:
        worker.flood("spread", [("blocked", number, 10) for number in range(20)])
        rabbit.control("set_vm_memory_high_watermark", "0.000001")
        time.sleep(3)
    finally:
        rabbit.control("set_vm_memory_high_watermark", "0.6")
    eventually(
        lambda: set(numbers(journal, "blocked")) == set(range(200)), "all children", within=30
    )
    assert RECONNECTS not in worker.output


def test_heartbeats_keep_idle_and_busy_connections(
    start_worker: StartWorker, rabbit: RabbitServer, journal: Journal
) -> None:
    worker = start_worker(concurrency=4, settings={"broker_heartbeat": 2})
    time.sleep(7)
    # More than can run: the consumer has nothing to do either.
    worker.flood("nap", [("busy", 1.5) for _ in range(16)])
    time.sleep(7)
    assert worker.wait_outcomes(worker.flood("quick", [(1,)]), within=10)
    assert RECONNECTS not in worker.output
    assert "heartbeat" not in worker.output.split("ready.", 1)[1].lower()


def test_quorum_queues_and_native_delayed_delivery(
    start_worker: StartWorker, rabbit: RabbitServer
) -> None:
    worker = start_worker(
        concurrency=20,
        settings={"task_default_queue_type": "quorum", "task_default_exchange_type": "topic"},
    )
    sender = worker.flood("quick", [(number,) for number in range(200)], queue=worker.space.name)
    outcomes = worker.wait_outcomes(sender, within=30)
    assert {outcome["result"] for outcome in outcomes.values()} == set(range(200))
    began = time.monotonic()
    late = worker.flood("quick", [(7,)], countdown=2)
    worker.wait_outcomes(late, within=15)
    assert time.monotonic() - began >= 1.5


def test_a_refused_message_is_an_error_of_the_task_that_sent_it(
    start_worker: StartWorker, rabbit: RabbitServer
) -> None:
    worker = start_worker(
        concurrency=20, settings={"broker_transport_options": {"confirm_publish": True}}
    )
    full, roomy = f"{worker.space.name}.full", f"{worker.space.name}.roomy"
    limits = {"x-max-length": 1, "x-overflow": "reject-publish"}
    first = worker.flood("squeeze", [(full, limits)])
    worker.wait_outcomes(first, within=10)
    ids = worker.flood("squeeze", [(full, limits) if n % 2 else (roomy, {}) for n in range(40)])
    outcomes = worker.wait_outcomes(ids, within=20)
    results = [outcomes[task_id]["result"] for task_id in ids]
    assert results == ["published", "MessageNacked"] * 20


def test_a_task_is_acknowledged_before_it_starts(
    start_worker: StartWorker, rabbit: RabbitServer, journal: Journal
) -> None:
    worker = start_worker(concurrency=20)
    worker.flood("vanish", [("vanished",)])
    assert worker.wait_exit(within=10) == 3
    again = start_worker(concurrency=20)
    again.wait_outcomes(again.flood("quick", [(1,)]), within=10)
    assert len(list(journal.entries("vanished"))) == 1


def test_tls(start_worker: StartWorker, rabbit: RabbitServer, journal: Journal) -> None:
    settings: dict[str, Any] = {
        "broker_url": f"amqps://guest:guest@127.0.0.1:{rabbit.tls_port}//",
        "broker_use_ssl": {"ca_certs": str(rabbit.certificate), "cert_reqs": 2},
    }
    worker = start_worker(concurrency=50, settings=settings)
    assert worker.pool_info()["accelerated"]["transport"] is True
    worker.flood("spread", [("tls", number, 20) for number in range(100)])
    eventually(lambda: numbers(journal, "tls") == list(range(2000)), "all children", within=30)
    assert RECONNECTS not in worker.output


def test_a_worker_whose_queue_is_deleted_consumes_it_again(
    start_worker: StartWorker, rabbit: RabbitServer
) -> None:
    worker = start_worker(concurrency=4)
    worker.wait_outcomes(worker.flood("quick", [(1,)]), within=10)
    with rabbit.connect() as connection:
        connection.channel().queue_delete(worker.space.name)
    eventually(lambda: worker.space.queue().exists(), "the queue to be declared again", within=20)
    worker.wait_outcomes(worker.flood("quick", [(2,)]), within=20)
