"""Slots are reused, and yet nothing of one task shows in the next."""

from __future__ import annotations

from harness.journal import Journal
from harness.worker import StartWorker

TASKS = 10_000
SLOTS = 10


def test_ten_thousand_tasks_share_ten_thread_locals_and_nothing_else(
    start_worker: StartWorker,
) -> None:
    worker = start_worker(concurrency=SLOTS, loglevel="WARNING")
    ids = worker.flood("probe_locals", [()] * TASKS)
    outcomes = worker.wait_outcomes(ids, within=150)
    leaks = [leak for meta in outcomes.values() for leak in meta["result"][1]]
    assert leaks == []
    assert max(meta["result"][0] for meta in outcomes.values()) <= SLOTS
    assert worker.pool_info()["slots-created"] <= SLOTS


def test_a_tasks_own_timeout_is_reported_as_itself(
    start_worker: StartWorker, journal: Journal, pool: str
) -> None:
    worker = start_worker(concurrency=5)
    hub = pool.rpartition(".")[2]
    plain = worker.flood("leak_timeout", [(hub, 0.3)] * 3)
    limited = worker.flood("leak_timeout", [(hub, 0.3)] * 3, time_limit=20, soft_time_limit=10)
    outcomes = worker.wait_outcomes(plain + limited, within=15)
    for meta in outcomes.values():
        assert meta["status"] == "FAILURE"
        assert meta["result"]["exc_type"] == "Timeout"
        assert f"{hub}.timeout" in meta["result"]["exc_module"]
    assert "time limit" not in worker.output
    quick = worker.flood("quick", [(number,) for number in range(50)])
    worker.wait_outcomes(quick, within=15)
