"""Every task signal, and every event that Flower lives on."""

from __future__ import annotations

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError
from harness.events import EventLog
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import Worker


def _signals(journal: Journal, task_id: str, last: str = "postrun", times: int = 1) -> list[str]:
    journal.wait_for(f"signals:{task_id}", last, times)
    return journal.events(f"signals:{task_id}")


def test_a_success_sends_its_signals_in_order(client: Celery, journal: Journal) -> None:
    result = client.signature("add", (1, 2)).delay()
    assert _signals(journal, result.id) == ["received", "prerun", "success", "postrun"]
    prerun = journal.entries(f"signals:{result.id}", "prerun")[0]
    assert (prerun["name"], prerun["args"], prerun["kwargs"]) == ("add", [1, 2], {})
    postrun = journal.entries(f"signals:{result.id}", "postrun")[0]
    assert (postrun["state"], postrun["retval"]) == ("SUCCESS", 3)


def test_a_failure_sends_its_signals_in_order(client: Celery, journal: Journal) -> None:
    result = client.signature("fail", ("ValueError", "x")).delay()
    assert _signals(journal, result.id) == ["received", "prerun", "failure", "postrun"]
    failure = journal.entries(f"signals:{result.id}", "failure")[0]
    assert (failure["exc"], failure["einfo"]) == ("ValueError", True)


def test_a_retry_sends_its_signals_in_order(client: Celery, journal: Journal) -> None:
    result = client.signature("noting", ("retry",)).delay()
    result.get(timeout=15)
    found = _signals(journal, result.id, times=2)
    # The retry is received by the consumer while the first run still ends in its slot.
    assert sorted(found) == sorted(
        ["received", "prerun", "retry", "postrun", "received", "prerun", "success", "postrun"]
    )
    assert [event for event in found if event != "received"] == [
        "prerun",
        "retry",
        "postrun",
        "prerun",
        "success",
        "postrun",
    ]


def test_an_unknown_task_sends_task_unknown(client: Celery, journal: Journal) -> None:
    result = client.send_task("nobody.registered.this.either")
    entry = journal.wait_for(f"signals:{result.id}", "unknown")[0]
    assert entry["name"] == "nobody.registered.this.either"


def test_a_message_that_is_no_task_sends_task_rejected(
    client: Celery, worker: Worker, journal: Journal, tag: str
) -> None:
    with client.connection_for_write() as connection, connection.Producer() as producer:
        producer.publish(
            {"not": tag}, exchange="", routing_key=worker.space.name, serializer="json"
        )
    eventually(
        lambda: any(tag in entry["body"] for entry in journal.entries("signals:rejected")),
        "task_rejected",
    )
    assert client.signature("add", (1, 1)).delay().get(timeout=15) == 2


def test_the_pool_sends_eventlets_signals(worker: Worker, journal: Journal, pool: str) -> None:
    expected = ["started"] if pool.endswith("eventlet") else []
    assert journal.events("signals:pool") == expected
    assert bool(journal.count("signals:pool-apply")) is pool.endswith("eventlet")


def test_a_success_sends_its_events_in_order(client: Celery, events: EventLog, pool: str) -> None:
    result = client.signature("add", (1, 2)).delay()
    done = events.wait_for(result.id, "task-succeeded")
    kinds = [kind for kind in events.kinds(result.id) if kind != "task-sent"]
    assert kinds == ["task-received", "task-started", "task-succeeded"]
    assert done["result"] == "3"
    assert done["runtime"] >= 0


def test_a_received_event_describes_the_task(client: Celery, events: EventLog) -> None:
    result = client.signature("add", (1, 2)).apply_async(countdown=0.3)
    received = events.wait_for(result.id, "task-received")
    assert (received["name"], received["args"], received["kwargs"]) == ("add", "(1, 2)", "{}")
    assert (received["root_id"], received["parent_id"], received["retries"]) == (
        result.id,
        None,
        0,
    )
    assert received["eta"] is not None
    events.wait_for(result.id, "task-succeeded")


def test_a_failure_sends_task_failed(client: Celery, events: EventLog) -> None:
    result = client.signature("fail", ("KeyError", "lost")).delay()
    failed = events.wait_for(result.id, "task-failed")
    assert "KeyError" in failed["exception"]
    assert "in fail" in failed["traceback"]
    assert "task-succeeded" not in events.kinds(result.id)


def test_a_retry_sends_task_retried(client: Celery, events: EventLog) -> None:
    result = client.signature("retry_twice").delay()
    events.wait_for(result.id, "task-succeeded")
    kinds = events.kinds(result.id)
    assert kinds.count("task-retried") == 2
    assert kinds.count("task-received") == 3


def test_a_revoked_task_sends_task_revoked(
    client: Celery, worker: Worker, events: EventLog
) -> None:
    result = client.signature("add", (1, 2)).apply_async(countdown=1)
    events.wait_for(result.id, "task-received")
    worker.control("revoke", result.id)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=15)
    revoked = events.wait_for(result.id, "task-revoked")
    assert (revoked["terminated"], revoked["expired"]) == (False, False)


def test_an_expired_task_sends_task_revoked(client: Celery, events: EventLog) -> None:
    result = client.signature("add", (1, 2)).apply_async(countdown=0.8, expires=0.2)
    assert events.wait_for(result.id, "task-revoked")["expired"] is True


def test_the_worker_sends_heartbeat_events(worker: Worker, events: EventLog) -> None:
    # An event receiver that arrives asks for a shorter one, without these figures.
    beat = eventually(
        lambda: [
            event
            for event in events.named("worker-heartbeat")
            if event["hostname"] == worker.node and "active" in event
        ],
        "a heartbeat",
        within=10,
    )[0]
    assert {"active", "processed", "freq", "loadavg", "sw_ver"} <= beat.keys()


def test_events_carry_a_rising_clock(client: Celery, events: EventLog) -> None:
    result = client.signature("add", (1, 2)).delay()
    events.wait_for(result.id, "task-succeeded")
    clocks = [event["clock"] for event in events.of(result.id) if event["type"] != "task-sent"]
    assert clocks == sorted(set(clocks))
