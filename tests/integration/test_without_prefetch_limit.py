"""A worker that takes all there is goes on with everything else while its tasks wait."""

from __future__ import annotations

import pytest
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import StartWorker

TASKS = 24


def test_a_backlog_is_in_nobodys_way(start_worker: StartWorker, journal: Journal) -> None:
    worker = start_worker(
        concurrency=2, settings={"worker_prefetch_multiplier": 0, "broker_heartbeat": 1}
    )
    worker.flood("nap", [("nap", 0.8)] * TASKS)
    journal.wait_for("nap", "napping", times=2)
    extra = f"{worker.space.name}.extra"
    worker.control("add_consumer", extra)
    eventually(lambda: f"Started consuming from {extra}" in worker.output, "the queue", 5)
    assert len(journal.entries("nap", "napping")) < TASKS
    journal.wait_for("nap", "woke", times=TASKS, within=30)
    assert len(journal.entries("nap", "napping")) == TASKS
    assert "Connection to broker lost" not in worker.output
    worker.flood("count", [("extra", 1)], queue=extra)
    journal.wait_for("extra", "ran")


def test_a_queue_that_the_broker_refuses_costs_no_task_its_connection(
    start_worker: StartWorker, journal: Journal, broker: str
) -> None:
    if broker == "redis":
        pytest.skip("Redis refuses no queue")
    worker = start_worker(concurrency=4)
    with worker.space.rabbit.connect() as connection:
        refused = f"{worker.space.name}.refused"
        connection.channel().queue_declare(refused, durable=False, auto_delete=False)
    worker.flood("late_nap", [("nap", 2)] * 4)
    journal.wait_for("nap", "napping", times=4)
    worker.control("add_consumer", refused)
    eventually(lambda: f"Cannot consume from {refused}" in worker.output, "the refusal")
    journal.wait_for("nap", "woke", times=4)
    worker.flood("count", [("after", 1)])
    journal.wait_for("after", "ran")
    assert len(journal.entries("nap", "napping")) == 4
    assert "Connection to broker lost" not in worker.output
