"""ETA, countdown, expiry, rate limits and priorities."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest
from celery import Celery, states
from celery.exceptions import TaskRevokedError
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import Worker


def test_a_countdown_delays_the_task(client: Celery, journal: Journal, tag: str) -> None:
    sent = time.time()
    client.signature("note", (tag, "run")).apply_async(countdown=1)
    ran = journal.wait_for(tag, "run")[0]["at"]
    assert 0.95 <= ran - sent <= 5


def test_an_eta_in_any_time_zone_is_that_moment(client: Celery, journal: Journal, tag: str) -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    due = datetime.now(zone) + timedelta(seconds=1)
    client.signature("note", (tag, "run")).apply_async(eta=due)
    ran = journal.wait_for(tag, "run")[0]["at"]
    assert -0.05 <= ran - due.timestamp() <= 4


def test_an_eta_in_the_past_runs_at_once(client: Celery, journal: Journal, tag: str) -> None:
    due = datetime.now(timezone.utc) - timedelta(days=2)
    client.signature("note", (tag, "run")).apply_async(eta=due)
    journal.wait_for(tag, "run", within=5)


def test_delayed_tasks_run_in_the_order_of_their_time(
    client: Celery, journal: Journal, tag: str
) -> None:
    for countdown in (1.6, 0.8, 1.2):
        client.signature("note", (tag, str(countdown))).apply_async(countdown=countdown)
    eventually(lambda: journal.count(tag) == 3, "all three")
    assert journal.events(tag) == ["0.8", "1.2", "1.6"]


def test_delayed_tasks_do_not_hold_up_the_others(client: Celery) -> None:
    delayed = [client.signature("add", (1, 1)).apply_async(countdown=120) for _ in range(120)]
    assert client.signature("add", (2, 2)).delay().get(timeout=10) == 4
    client.control.revoke([result.id for result in delayed])


def test_an_expired_task_is_revoked_and_does_not_run(
    client: Celery, journal: Journal, tag: str
) -> None:
    past = datetime.now(timezone.utc) - timedelta(seconds=5)
    result = client.signature("note", (tag, "run")).apply_async(expires=past)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=15)
    assert result.state == states.REVOKED
    assert journal.count(tag) == 0
    assert journal.wait_for(f"signals:{result.id}", "revoked")[0]["expired"] is True


def test_a_task_that_expires_before_its_eta_does_not_run(
    client: Celery, journal: Journal, tag: str
) -> None:
    result = client.signature("note", (tag, "run")).apply_async(countdown=1.5, expires=0.5)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=15)
    assert journal.count(tag) == 0


def test_a_receiver_that_ends_its_greenlet_holds_up_nothing_that_is_due(
    client: Celery, journal: Journal, tag: str
) -> None:
    expired = client.signature("end_the_receiver").apply_async(countdown=0.5, expires=0.2)
    with pytest.raises(TaskRevokedError):
        expired.get(timeout=15)
    journal.wait_for(f"signals:{expired.id}", "revoked")
    for number in range(3):
        client.signature("note", (tag, f"run {number}")).apply_async(countdown=0.2)
    eventually(lambda: journal.count(tag) == 3, "all three")


def test_an_unexpired_task_runs(client: Celery) -> None:
    assert client.signature("add", (1, 2)).apply_async(expires=60).get(timeout=15) == 3


def test_a_rate_limit_spreads_the_tasks(client: Celery, journal: Journal, tag: str) -> None:
    for _ in range(7):
        client.signature("limited_4_s", (tag,)).delay()
    times = [entry["at"] for entry in journal.wait_for(tag, "run", times=7)]
    assert times[-1] - times[0] >= 6 / 4 - 0.3


def test_a_rate_limit_does_not_hold_up_other_tasks(
    client: Celery, journal: Journal, tag: str
) -> None:
    for _ in range(8):
        client.signature("limited_4_s", (tag,)).delay()
    began = time.monotonic()
    assert client.signature("add", (2, 2)).delay().get(timeout=10) == 4
    assert time.monotonic() - began < 1.5
    journal.wait_for(tag, "run", times=8)


def test_higher_priorities_are_taken_first(
    client: Celery, worker: Worker, journal: Journal, tag: str, broker: str
) -> None:
    # Redis lists count down (0 goes first), AMQP counts up; this is kombu's documented difference.
    queue = f"priority-{tag}"
    sent = {}
    for priority in (3, 9, 0, 6, 9, 0, 3, 6):
        result = client.signature("note", (tag, "run")).apply_async(queue=queue, priority=priority)
        sent[result.id] = priority
    assert worker.control("add_consumer", queue) == {"ok": f"add consumer {queue}"}
    try:
        journal.wait_for(tag, "run", times=8)
    finally:
        worker.control("cancel_consumer", queue)
    received = {
        task_id: journal.entries(f"signals:{task_id}", "received")[0]["at"] for task_id in sent
    }
    order = [sent[task_id] for task_id in sorted(received, key=received.__getitem__)]
    assert order == sorted(order, reverse=broker == "rabbitmq")


def test_a_task_sees_its_priority(client: Celery) -> None:
    assert client.signature("describe").apply_async(priority=6).get(timeout=15)["priority"] == 6


def test_a_task_begins_with_an_empty_context_however_it_comes_to_start(
    client: Celery, worker: Worker
) -> None:
    read = client.signature("read_variable")
    worker.control("rate_limit", "read_variable", "100/s")
    limited = [read.delay() for _ in range(3)]
    assert [result.get(timeout=15) for result in limited] == ["unset"] * 3
    worker.control("rate_limit", "read_variable", 0)
    results = [
        *(read.delay() for _ in range(5)),
        read.apply_async(countdown=0.2),
        client.signature("read_variable", (2,)).delay(),
    ]
    assert [result.get(timeout=15) for result in results] == ["unset"] * 7
