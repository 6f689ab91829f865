"""Workers on RabbitMQ when the broker closes, blocks, refuses, or is reached over TLS."""

from __future__ import annotations

import struct
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from amqp import spec
from harness.brokers import RabbitServer, Space
from harness.journal import Journal
from harness.proxy import proxied
from harness.waiting import eventually
from harness.worker import StartWorker

from hybrid.worker.consuming.rotation import CHANNEL_LIMIT

RECONNECTS = "Trying to reconnect"
#: Class and method with which the broker answers a prefetch count.
QOS_OK = struct.pack(">HH", *spec.Basic.QosOk)


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


def test_tasks_that_start_as_the_connection_is_lost_run_once(
    start_worker: StartWorker, rabbit: RabbitServer, journal: Journal
) -> None:
    with proxied(rabbit.port) as proxy:
        worker = start_worker(
            concurrency=10,
            settings={
                "broker_url": rabbit.url.replace(f":{rabbit.port}/", f":{proxy.port}/"),
                "worker_prefetch_multiplier": 2,
            },
        )
        worker.flood("spread_when_told", [("full", number, 0) for number in range(10)])
        journal.wait_for("full", "waiting", times=10)
        proxy.lose_all()
        # It may have two at a time at first, and more as these start, which none can.
        ids = worker.flood("count", [("restored", number) for number in range(2)])
        eventually(lambda: all(f"{id}] received" in worker.output for id in ids), "the messages")
        proxy.hold()
        journal.write("full.told", "told")
        eventually(lambda: proxy.holds(QOS_OK), "the answer to a larger prefetch count")
        proxy.lose_all()
        proxy.release(all_of_them=True)
        worker.wait_outcomes(worker.flood("quick", [(1,)]), within=20)
        assert numbers(journal, "restored") == [0, 1]


def states(rabbit: RabbitServer) -> list[str]:
    """Return the states of the connections: "blocking" before the first message, then "blocked"."""
    return rabbit.control("--no-table-headers", "list_connections", "state").split()


def test_publishers_wait_while_the_broker_blocks_them(
    start_worker: StartWorker, rabbit: RabbitServer, journal: Journal
) -> None:
    settings = {"broker_transport_options": {"confirm_publish": True}}
    worker = start_worker(concurrency=50, settings=settings)
    ids = worker.flood("spread_when_told", [("blocked", number, 10) for number in range(20)])
    journal.wait_for("blocked", "waiting", times=20)
    try:
        rabbit.control("set_vm_memory_high_watermark", "0.000001")
        eventually(lambda: "blocking" in states(rabbit), "the broker to block", every=0.1)
        journal.write("blocked.told", "told")
        journal.wait_for("blocked", "publishing", times=20)
        eventually(lambda: "blocked" in states(rabbit), "a publisher to be blocked", every=0.1)
        while_blocked = worker.outcomes(ids)
    finally:
        rabbit.control("set_vm_memory_high_watermark", "0.6")
    assert while_blocked == {}, "some did not wait"
    outcomes = worker.wait_outcomes(ids, within=30)
    assert {outcome["status"] for outcome in outcomes.values()} == {"SUCCESS"}
    eventually(lambda: len(numbers(journal, "blocked")) >= 200, "all children", within=30)
    assert numbers(journal, "blocked") == list(range(200))
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
        "broker_url": rabbit.tls_url,
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


def channels(rabbit: RabbitServer, least: int = 0) -> list[tuple[int, int, int]]:
    """Return consumers, outstanding deliveries and prefetch count of channels with any of these.

    The broker may be used by other tests: channels of this one have thousands outstanding.
    """
    columns = ("consumer_count", "messages_unacknowledged", "global_prefetch_count")
    lines = rabbit.control("--no-table-headers", "list_channels", *columns).splitlines()
    found = [tuple(int(field) for field in line.split("\t")) for line in lines]
    return [(one[0], one[1], one[2]) for one in found if one[1] >= least]


def test_tasks_that_wait_stay_on_their_channels_and_others_pass_them(
    start_worker: StartWorker, rabbit: RabbitServer, journal: Journal
) -> None:
    worker = start_worker(concurrency=20, loglevel="WARNING")
    waiting, prefetch = 5 * CHANNEL_LIMIT + 100, 4 * 20
    due = datetime.now(timezone.utc) + timedelta(seconds=25)
    ids = worker.flood("count", [("later", number) for number in range(waiting)], eta=due)
    eventually(
        lambda: worker.inspect(timeout=20).stats()["prefetch_count"] == waiting + prefetch,
        "all to be held",
        within=20,
    )
    full = channels(rabbit, CHANNEL_LIMIT)
    # The worker looks after each read, which may bring a few hundred.
    assert [consumers for consumers, _, _ in full] in ([0] * 4, [0] * 5)
    assert all(outstanding <= CHANNEL_LIMIT + 500 for _, outstanding, _ in full)

    # What is sent now comes through the present channel, to queues that come and go, too.
    revoked = ids[7]
    worker.control("revoke", revoked)
    other = f"{worker.space.name}.other"
    worker.control("add_consumer", other)
    worker.flood("late_count", [("now", number) for number in range(100)], queue=other)
    worker.flood("late_nap", [("held", 1.5) for _ in range(300)])
    eventually(lambda: numbers(journal, "now") == list(range(100)), "those behind", within=15)
    total = sum(outstanding for _, outstanding, _ in channels(rabbit, 20))
    assert waiting <= total <= waiting + prefetch
    worker.control("cancel_consumer", other)  # which the worker's loop does after the answer
    eventually(
        lambda: other not in [queue["name"] for queue in worker.inspect().active_queues()],
        "the consumer to be cancelled",
    )
    worker.flood("count", [("cancelled", 1)], queue=other)

    expected = [number for number in range(waiting) if number != 7]
    eventually(lambda: len(numbers(journal, "later")) >= len(expected), "those due", within=60)
    assert numbers(journal, "later") == expected
    assert not list(journal.entries("cancelled"))
    # Nothing is left of the channels; the broker may need a moment to say so.
    eventually(lambda: not channels(rabbit, 100), "settled channels", within=15, every=0.5)
    worker.control("add_consumer", other)
    eventually(lambda: numbers(journal, "cancelled") == [1], "the cancelled queue", within=10)
    assert RECONNECTS not in worker.output


def test_tasks_that_wait_survive_the_end_of_the_connection(
    start_worker: StartWorker, rabbit: RabbitServer, journal: Journal
) -> None:
    worker = start_worker(concurrency=20, loglevel="WARNING")
    waiting = 3 * CHANNEL_LIMIT
    due = datetime.now(timezone.utc) + timedelta(seconds=30)
    worker.flood("count", [("later", number) for number in range(waiting)], eta=due)
    eventually(lambda: len(channels(rabbit, CHANNEL_LIMIT)) >= 2, "all to be held", within=20)
    rabbit.control("close_all_connections", "maintenance")
    eventually(lambda: len(channels(rabbit, CHANNEL_LIMIT)) >= 2, "all to be held", within=20)
    worker.wait_outcomes(worker.flood("quick", [(1,)]), within=10)
    eventually(lambda: len(numbers(journal, "later")) >= waiting, "those due", within=60)
    assert numbers(journal, "later") == list(range(waiting))
    assert worker.child.running
