"""Revoking tasks that are not there yet, that wait, and that run."""

from __future__ import annotations

import uuid

import pytest
from celery import Celery, states
from celery.exceptions import TaskRevokedError
from harness.events import EventLog
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import CELERY, Worker

terminates = pytest.mark.stock_fails(
    "the gevent pool cannot terminate", pools=("gevent",), before=(5, 5)
)


def test_a_task_revoked_before_it_arrives_does_not_run(
    client: Celery, worker: Worker, journal: Journal, tag: str
) -> None:
    task_id = str(uuid.uuid4())
    worker.control("revoke", task_id)
    assert task_id in worker.inspect().revoked()
    result = client.signature("note", (tag, "run")).apply_async(task_id=task_id)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=15)
    assert journal.count(tag) == 0
    revoked = journal.wait_for(f"signals:{task_id}", "revoked")
    assert (revoked[0]["terminated"], revoked[0]["expired"]) == (False, False)


def test_a_task_revoked_while_it_waits_for_its_time_does_not_run(
    client: Celery, worker: Worker, journal: Journal, tag: str, events: EventLog
) -> None:
    result = client.signature("note", (tag, "run")).apply_async(countdown=2)
    events.wait_for(result.id, "task-received")
    worker.control("revoke", result.id)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=15)
    assert journal.count(tag) == 0
    assert result.state == states.REVOKED
    events.wait_for(result.id, "task-revoked")


def test_a_reserved_task_that_is_revoked_does_not_run(
    client: Celery, worker: Worker, journal: Journal, tag: str, events: EventLog
) -> None:
    worker.control("rate_limit", "limited", "1/s")
    try:
        results = [client.signature("limited", (tag,)).delay() for _ in range(4)]
        events.wait_for(results[3].id, "task-received")
        worker.control("revoke", results[3].id)
        with pytest.raises(TaskRevokedError):
            results[3].get(timeout=15)
    finally:
        worker.control("rate_limit", "limited", 0)
    journal.wait_for(tag, "run", times=3)
    assert journal.count(tag) == 3


@terminates
def test_terminate_stops_a_running_task(
    client: Celery, worker: Worker, journal: Journal, events: EventLog
) -> None:
    result = client.signature("careful_nap", (30,)).delay()
    journal.wait_for(result.id, "napping")
    worker.control("revoke", result.id, terminate=True)
    eventually(lambda: result.state == states.REVOKED, "REVOKED", within=6)
    journal.wait_for(result.id, "finally", within=5)
    assert events.wait_for(result.id, "task-revoked")["terminated"] is True
    assert journal.wait_for(f"signals:{result.id}", "revoked")[0]["terminated"] is True
    eventually(
        lambda: result.id not in [task["id"] for task in worker.inspect().active()], "a free slot"
    )


@pytest.mark.stock_fails("stock green pools report a terminated task as succeeded, too")
def test_a_terminated_task_sends_one_task_revoked_and_no_task_succeeded(
    client: Celery, worker: Worker, journal: Journal, events: EventLog
) -> None:
    result = client.signature("careful_nap", (30,)).delay()
    journal.wait_for(result.id, "napping")
    worker.control("revoke", result.id, terminate=True)
    journal.wait_for(result.id, "finally", within=5)
    events.wait_for(result.id, "task-revoked")
    # Events keep their order, so a late one of this task comes before that of the next.
    following = client.signature("add", (1, 1)).delay()
    events.wait_for(following.id, "task-succeeded")
    kinds = [kind for kind in events.kinds(result.id) if kind != "task-sent"]
    assert kinds == ["task-received", "task-started", "task-revoked"]


@pytest.mark.skipif(
    (5, 5) <= CELERY < (5, 7), reason="these releases report such a task as revoked"
)
def test_revoke_without_terminate_lets_a_running_task_finish(
    client: Celery, worker: Worker, journal: Journal
) -> None:
    result = client.signature("nap", (1.5, "done")).delay()
    journal.wait_for(result.id, "napping")
    worker.control("revoke", result.id)
    assert result.get(timeout=15) == "done"


@terminates
def test_tasks_are_revoked_by_the_header_they_are_stamped_with(
    client: Celery, worker: Worker, journal: Journal, tag: str
) -> None:
    stamped = client.signature("nap", (30,))
    stamped.stamp(customer=tag)
    running = stamped.apply_async()
    journal.wait_for(running.id, "napping")
    client.control.revoke_by_stamped_headers({"customer": [tag]}, terminate=True)
    eventually(lambda: running.state == states.REVOKED, "REVOKED", within=6)
    later = client.signature("note", (tag, "run"))
    later.stamp(customer=tag)
    with pytest.raises(TaskRevokedError):
        later.apply_async().get(timeout=10)
    assert journal.count(tag) == 0


def test_a_task_sees_its_stamps(client: Celery, tag: str) -> None:
    signature = client.signature("describe")
    signature.stamp(customer=tag)
    assert signature.apply_async().get(timeout=15)["stamps"]["customer"] in (tag, [tag])
