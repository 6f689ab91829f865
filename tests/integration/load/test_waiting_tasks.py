"""Tens of thousands of tasks that wait, and that are due at one instant."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Any, Callable

import pytest
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import StartWorker, Worker

TASKS = 50_000
LIMIT = 500
LEAD = 120.0
"""Seconds until they are due: time for an ordinary client to send them."""


@pytest.mark.timeout(400)
def test_fifty_thousand_tasks_of_one_instant_start_in_order_and_within_the_limit(
    start_worker: StartWorker, journal: Journal, record: Callable[..., None]
) -> None:
    worker = start_worker(concurrency=LIMIT, loglevel="WARNING")
    due = datetime.now(timezone.utc) + timedelta(seconds=LEAD)
    worker.flood("start", [(number,) for number in range(TASKS)], eta=due, ignore_result=True)
    left = due.timestamp() - time.time()
    assert left > 0, "sending took too long"
    eventually(lambda: _held(worker) >= TASKS, "all to be held", within=left)
    assert _read(worker)["starts"] == []

    time.sleep(max(0.0, due.timestamp() - time.time() - 0.5))
    began = time.monotonic()
    answers = 0
    while _held(worker) > 0 and time.monotonic() - began < 120:
        assert worker.answers(within=10), "no answer to a ping while tasks are due"
        answers += 1
    assert _held(worker) == 0
    seen = _read(worker)
    numbers = [number for number, _ in seen["starts"]]
    lateness = sorted(at - due.timestamp() for _, at in seen["starts"])
    record(
        tasks=TASKS,
        answers=answers,
        most_running=seen["most"],
        late={"min": lateness[0], "p50": lateness[TASKS // 2], "p99": lateness[TASKS * 99 // 100]},
    )
    assert sorted(numbers) == list(range(TASKS))
    # The slots take them in order. Then each waits for its acknowledgement, and those that do so at
    # one time may overtake each other.
    assert max(abs(place - number) for place, number in enumerate(numbers)) <= LIMIT
    assert seen["most"] <= LIMIT
    assert lateness[0] >= -0.05


@pytest.mark.timeout(300)
def test_more_tasks_wait_than_amqp_can_count_and_others_pass_them(
    start_worker: StartWorker, record: Callable[..., None]
) -> None:
    worker = start_worker(concurrency=50, loglevel="WARNING")
    count = 70_000
    worker.flood("quick", [(0,)] * count, countdown=7200, ignore_result=True)
    eventually(lambda: _held(worker) >= count, "all to be held", within=120, every=0.5)
    began = time.monotonic()
    ids = worker.flood("quick", [(number,) for number in range(10)])
    worker.wait_outcomes(ids, within=60)
    record(waiting=count, ten_behind_seconds=round(time.monotonic() - began, 2))
    assert worker.inspect(timeout=20).stats()["prefetch_count"] >= count
    assert worker.output.count("prefetch_count exceeds") <= 1


@pytest.mark.timeout(300)
def test_a_worker_that_ends_gives_back_all_that_wait(
    start_worker: StartWorker, record: Callable[..., None], broker: str
) -> None:
    worker = start_worker(concurrency=50, loglevel="WARNING")
    count = 30_000
    worker.flood("quick", [(0,)] * count, countdown=7200, ignore_result=True)
    eventually(lambda: _held(worker) >= count, "all to be held", within=60, every=0.5)
    began = time.monotonic()
    worker.terminate()
    worker.wait_exit(within=30)
    record(waiting=count, seconds=round(time.monotonic() - began, 2))
    # RabbitMQ takes its time over those of a connection that is gone.
    queue = worker.space.queue()
    eventually(lambda: queue.ready() == count, "all to be back", within=30, every=0.2)
    if broker == "redis":
        assert worker.space.unacked() == 0


def _held(worker: Worker) -> int:
    return int(worker.inspect(timeout=20).stats()["prefetch_count"]) - _initial_prefetch(worker)


def _initial_prefetch(worker: Worker) -> int:
    info = worker.pool_info()
    return 4 * int(info["limit"])


def _read(worker: Worker) -> Any:
    [asked] = worker.flood("read_starts", [()])
    return worker.wait_outcomes([asked], within=60)[asked]["result"]
