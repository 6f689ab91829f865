"""A task has one outcome, and its result, its events and its signals say the same of it.

A limit or a termination comes while the outcome is stored, which takes long here: what goes to the
result backend and back is under way for longer than a limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import states
from harness.brokers import Space
from harness.events import EventLog
from harness.journal import Journal
from harness.proxy import proxied, through
from harness.versions import celery_is
from harness.waiting import eventually
from harness.worker import StartWorker, Worker, make_client

#: Seconds that bytes take to the backend, and back.
DELAY = 0.3
#: A limit that comes while a result is stored.
LIMIT = 0.2
TASKS = 5

ENDS = {"task-succeeded", "task-failed", "task-revoked", "task-rejected", "task-retried"}


@pytest.fixture
def backend(space: Space) -> Iterator[str]:
    """The URL of a result backend that is far away."""
    with proxied(urlsplit(space.redis_url).port or 6379, DELAY) as proxy:
        yield through(space.redis_url, proxy.port)


def send(space: Space, task: str, *args: Any, **options: Any) -> list[str]:
    client = make_client(space.settings)
    try:
        return [client.send_task(task, args, **options).id for _ in range(TASKS)]
    finally:
        client.close()


def outcomes(
    space: Space, events: EventLog, task_ids: list[str], are_told: bool = True
) -> set[tuple[str, ...]]:
    """Return how the tasks have ended: the state of the result, an error's name, and the events."""
    client = make_client(space.settings)
    try:
        for task_id in task_ids if are_told else ():
            eventually(lambda: ENDS & set(events.kinds(task_id)), "an end")  # noqa: B023
        results = [client.AsyncResult(task_id) for task_id in task_ids]
        eventually(lambda: all(result.ready() for result in results), "results")
        return {
            (
                result.state,
                type(result.result).__name__,
                *sorted(ENDS & set(events.kinds(result.id))),
            )
            for result in results
        }
    finally:
        client.close()


def assert_serves(worker: Worker, space: Space) -> None:
    client = make_client(space.settings)
    try:
        assert client.send_task("quick", (1,)).get(timeout=15) == 1
        eventually(lambda: worker.pool_info()["running"] == 0, "a pool at rest")
    finally:
        client.close()


@pytest.mark.parametrize("acks_late", [False, True], ids=["early", "late"])
def test_a_limit_that_comes_while_an_outcome_is_stored_changes_nothing(
    acks_late: bool, start_worker: StartWorker, space: Space, backend: str
) -> None:
    worker = start_worker(
        options=["-E"], settings={"result_backend": backend, "task_acks_late": acks_late}
    )
    limits: list[dict[str, Any]] = [
        {"soft_time_limit": LIMIT},
        {"time_limit": LIMIT},
        {"soft_time_limit": LIMIT / 2, "time_limit": LIMIT},
    ]
    with EventLog(worker.client) as events:
        returned = [task_id for options in limits for task_id in send(space, "quick", 1, **options)]
        raised = [task_id for options in limits for task_id in send(space, "fail", "no", **options)]
        assert outcomes(space, events, returned) == {(states.SUCCESS, "int", "task-succeeded")}
        assert outcomes(space, events, raised) == {(states.FAILURE, "ValueError", "task-failed")}
    assert_serves(worker, space)
    assert "was not settled" not in worker.output


def test_a_task_is_not_terminated_while_its_outcome_is_stored(
    start_worker: StartWorker, space: Space, backend: str
) -> None:
    worker = start_worker(options=["-E"], settings={"result_backend": backend})
    with EventLog(worker.client) as events:
        task_ids = send(space, "quick", 1)
        for task_id in task_ids:
            events.wait_for(task_id, "task-started")
        worker.client.control.revoke(task_ids, terminate=True)
        assert outcomes(space, events, task_ids) == {(states.SUCCESS, "int", "task-succeeded")}
    assert_serves(worker, space)


def test_a_limit_that_comes_before_a_task_has_begun_ends_it_there(
    start_worker: StartWorker, space: Space, backend: str, journal: Journal
) -> None:
    worker = start_worker(
        options=["-E"], settings={"result_backend": backend, "task_track_started": True}
    )
    with EventLog(worker.client) as events:
        soft = send(space, "count", "begun", 1, soft_time_limit=LIMIT)
        hard = send(space, "count", "begun", 1, time_limit=LIMIT)
        assert outcomes(space, events, soft) == {
            (states.FAILURE, "SoftTimeLimitExceeded", "task-failed")
        }
        # Before 5.7, Celery tells nobody of a hard limit.
        told = ("task-failed",) if celery_is("5.7") else ()
        assert outcomes(space, events, hard, are_told=bool(told)) == {
            (states.FAILURE, "TimeLimitExceeded", *told)
        }
    assert journal.count("begun") == 0
    assert_serves(worker, space)


def test_a_task_that_is_revoked_while_it_waits_for_a_slot_does_not_run(
    start_worker: StartWorker, space: Space, journal: Journal
) -> None:
    worker = start_worker(concurrency=1, options=["-E"], settings={"worker_prefetch_multiplier": 0})
    with EventLog(worker.client) as events:
        client = worker.client
        first = client.send_task("nap", ("first", 2))
        events.wait_for(first.id, "task-started")
        task_ids = send(space, "count", "ran", 1)
        for task_id in task_ids:
            events.wait_for(task_id, "task-received")
        worker.control("revoke", task_ids)
        assert outcomes(space, events, task_ids) == {
            (states.REVOKED, "TaskRevokedError", "task-revoked")
        }
    assert journal.count("ran") == 0
    assert_serves(worker, space)
