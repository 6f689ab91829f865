"""When a message is acknowledged, rejected or put back."""

from __future__ import annotations

import pytest
from celery import Celery, states
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import CELERY, StartWorker, Worker


@pytest.mark.dedicated
def test_a_killed_worker_leaves_only_late_acked_tasks_on_the_broker(
    start_worker: StartWorker, own_journal: Journal, broker: str
) -> None:
    worker = start_worker(concurrency=4)
    client = worker.client
    naps = [client.signature(name, (30,)).delay() for name in ("early_nap", "late_nap")]
    for nap in naps:
        own_journal.wait_for(nap.id, "napping")
    if broker == "redis":
        assert worker.space.unacked() == 1
    worker.kill()
    queue = worker.space.queue()
    if broker == "redis":
        assert (worker.space.unacked(), queue.ready()) == (1, 0)
    else:
        eventually(lambda: queue.ready() == 1, "RabbitMQ to put it back")


def test_a_late_acked_task_is_acknowledged_once_it_is_done(
    client: Celery, journal: Journal, worker: Worker, broker: str
) -> None:
    result = client.signature("late_nap", (0.5,)).delay()
    journal.wait_for(result.id, "napping")
    if broker == "redis":
        assert worker.space.unacked() >= 1
    assert result.get(timeout=15) == "slept"
    if broker == "redis":
        eventually(lambda: worker.space.unacked() == 0, "the ack")


def test_a_rejected_message_is_gone(client: Celery, journal: Journal, tag: str) -> None:
    result = client.signature("reject", (False, tag)).delay()
    journal.wait_for(tag, "run")
    assert client.signature("add", (1, 1)).delay().get(timeout=15) == 2
    assert journal.count(tag) == 1
    # Celery 5.7 stores a failure here, older ones leave the state alone.
    assert result.state != states.SUCCESS


def test_a_message_rejected_with_requeue_comes_again(
    client: Celery, journal: Journal, tag: str
) -> None:
    result = client.signature("reject", (True, tag)).delay()
    assert result.get(timeout=15) == "second time"
    assert [entry["redelivered"] for entry in journal.entries(tag)] == [False, True]


@pytest.mark.parametrize("state", [None, "PARKED"])
def test_ignore_leaves_the_state_as_the_task_left_it(
    client: Celery, journal: Journal, state: str | None
) -> None:
    result = client.signature("ignore", (state,)).delay()
    journal.wait_for(f"signals:{result.id}", "postrun")
    assert result.state == (state or states.STARTED)


def test_with_acks_on_failure_off_a_failed_message_is_rejected_for_good(
    client: Celery, journal: Journal, worker: Worker, broker: str
) -> None:
    result = client.signature("late_failure").delay()
    with pytest.raises(ValueError, match="kept"):
        result.get(timeout=15)
    assert client.signature("add", (1, 1)).delay().get(timeout=15) == 2
    assert journal.events(result.id) == ["run"]
    if broker == "redis":
        eventually(lambda: worker.space.unacked() == 0, "the reject")


def test_reject_on_worker_lost_requeues(client: Celery, journal: Journal) -> None:
    result = client.signature("worker_lost").delay()
    journal.wait_for(result.id, "run", times=2)
    assert eventually(lambda: result.state == states.SUCCESS, "the second run")


@pytest.mark.skipif(CELERY < (5, 7), reason="before 5.7 no pool gives such a message back")
@pytest.mark.stock_fails("the eventlet pool ignores time limits", pools=("eventlet",))
def test_with_acks_on_timeout_off_a_timed_out_message_is_requeued(
    client: Celery, journal: Journal
) -> None:
    result = client.signature("late_deaf_nap", (6,)).delay()
    journal.wait_for(result.id, "napping", times=2, within=5)
    eventually(lambda: result.state == states.SUCCESS, "the second run")
