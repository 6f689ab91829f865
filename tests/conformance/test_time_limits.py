"""Soft and hard limits, from the message, the task and the worker."""

from __future__ import annotations

import pytest
from celery import Celery, states
from celery.exceptions import TimeLimitExceeded
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import CELERY, StartWorker, Worker

soft_limits = pytest.mark.stock_fails("both stock pools ignore soft limits")
hard_limits = pytest.mark.stock_fails("the eventlet pool ignores time limits", pools=("eventlet",))


@soft_limits
def test_a_task_catches_its_soft_limit(client: Celery, journal: Journal) -> None:
    result = client.signature("careful_nap", (1.5,)).apply_async(soft_time_limit=0.5, time_limit=20)
    assert result.get(timeout=15) == "soft"
    assert journal.events(result.id) == ["napping", "soft limit", "finally"]


@soft_limits
def test_an_uncaught_soft_limit_is_a_failure(client: Celery) -> None:
    result = client.signature("nap", (1.5,)).apply_async(soft_time_limit=0.5)
    eventually(lambda: result.ready(), "the end")
    assert result.state == states.FAILURE
    assert type(result.result).__name__ == "SoftTimeLimitExceeded"


@hard_limits
def test_a_hard_limit_is_a_failure(client: Celery, journal: Journal, worker: Worker) -> None:
    result = client.signature("nap", (8,)).apply_async(time_limit=1)
    eventually(lambda: result.state == states.FAILURE, "FAILURE", within=5)
    assert isinstance(result.result, TimeLimitExceeded)
    assert "Hard time limit (1s) exceeded" in worker.output
    assert journal.events(result.id) == ["napping"]
    eventually(
        lambda: result.id not in [task["id"] for task in worker.inspect().active()], "a free slot"
    )


@hard_limits
@pytest.mark.skipif(CELERY < (5, 7), reason="Celery's request sends no signal, on no pool")
def test_a_hard_limit_sends_task_failure(client: Celery, journal: Journal) -> None:
    result = client.signature("nap", (4,)).apply_async(time_limit=1)
    entry = journal.wait_for(f"signals:{result.id}", "failure", within=4)[0]
    assert entry["exc"] == "TimeLimitExceeded"


@hard_limits
def test_a_hard_limit_runs_finally_blocks(client: Celery, journal: Journal) -> None:
    result = client.signature("careful_nap", (8,)).apply_async(time_limit=1)
    journal.wait_for(result.id, "finally", within=5)


@soft_limits
def test_a_task_that_ignores_its_soft_limit_meets_the_hard_one(
    client: Celery, journal: Journal
) -> None:
    result = client.signature("deaf_nap", (8,)).apply_async(soft_time_limit=0.5, time_limit=1.5)
    eventually(lambda: result.state == states.FAILURE, "FAILURE", within=6)
    assert isinstance(result.result, TimeLimitExceeded)
    assert journal.events(result.id) == ["napping", "ignored"]


def test_a_task_within_its_limits_is_left_alone(client: Celery) -> None:
    signature = client.signature("careful_nap", (0.2,))
    results = [signature.apply_async(soft_time_limit=1, time_limit=1.5) for _ in range(20)]
    assert [result.get(timeout=15) for result in results] == ["slept"] * 20
    assert client.signature("nap", (1.8, "calm")).delay().get(timeout=15) == "calm"


@pytest.mark.dedicated
@soft_limits
def test_the_workers_limits_hold_for_every_task(start_worker: StartWorker) -> None:
    worker = start_worker(options=["--soft-time-limit=1", "--time-limit=2"])
    soft = worker.client.signature("careful_nap", (6,)).delay()
    hard = worker.client.signature("deaf_nap", (6,)).delay()
    eventually(lambda: hard.state == states.FAILURE, "FAILURE", within=5)
    assert isinstance(hard.result, TimeLimitExceeded)
    eventually(lambda: soft.ready(), "the other one", within=4)
    assert soft.result == "soft"
