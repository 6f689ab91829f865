"""What a worker leaves behind when it is asked to end."""

from __future__ import annotations

import signal
import time
from typing import Callable

import pytest
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import CELERY, StartWorker


@pytest.mark.skipif(CELERY < (5, 5), reason="soft shutdown came with Celery 5.5")
def test_a_soft_shutdown_finishes_short_tasks_and_puts_long_ones_back(
    start_worker: StartWorker, journal: Journal, broker: str, record: Callable[..., None]
) -> None:
    worker = start_worker(
        concurrency=20,
        env={"REMAP_SIGTERM": "SIGQUIT"},
        settings={"worker_soft_shutdown_timeout": 5},
    )
    short = worker.flood("late_nap", [("nap", 3)] * 5)
    long = worker.flood("late_nap", [("nap", 30)] * 5)
    journal.wait_for("nap", "napping", times=10)
    began = time.monotonic()
    worker.terminate()
    worker.wait_exit(within=15)
    took = time.monotonic() - began
    record(exit_after=round(took, 3))
    assert took <= 8 + 3, "the bound is 8 s; 3 s more for a busy machine"

    outcomes = worker.outcomes(short + long)
    assert [outcomes[task_id]["result"] for task_id in short] == ["slept"] * 5
    assert worker.space.queue().ready() == 5
    if broker == "redis":
        assert worker.space.unacked() == 0
    assert "Traceback" not in worker.output
    again = start_worker(concurrency=20)
    journal.wait_for("nap", "napping", times=15)
    again.kill()


def test_a_warm_shutdown_drains_what_runs_and_leaves_the_backlog(
    start_worker: StartWorker, journal: Journal, broker: str, record: Callable[..., None]
) -> None:
    worker = start_worker(concurrency=10, settings={"worker_prefetch_multiplier": 1})
    running = worker.flood("late_nap", [("nap", 3)] * 10)
    journal.wait_for("nap", "napping", times=10)
    worker.flood("late_nap", [("backlog", 0)] * 40)
    began = time.monotonic()
    worker.terminate()
    assert worker.wait_exit(within=20) == 0
    record(exit_after=round(time.monotonic() - began, 3))

    outcomes = worker.outcomes(running)
    assert [outcomes[task_id]["result"] for task_id in running] == ["slept"] * 10
    ran = len(journal.entries("backlog", "woke"))
    assert ran + worker.space.queue().ready() == 40
    # A task whose slot becomes free before the worker leaves the broker may still run.
    assert ran <= 20
    if broker == "redis":
        assert worker.space.unacked() == 0
    assert "Traceback" not in worker.output
    again = start_worker(concurrency=10)
    journal.wait_for("backlog", "woke", times=40)
    again.stop()
    assert len(journal.entries("backlog", "woke")) == 40
    assert len(journal.entries("nap", "woke")) == 10


def test_a_warm_shutdown_may_outlast_the_heartbeats(
    start_worker: StartWorker, journal: Journal, broker: str
) -> None:
    if broker == "redis":
        pytest.skip("Redis has no heartbeats")
    worker = start_worker(settings={"broker_heartbeat": 2})
    worker.flood("late_nap", [("nap", 9)] * 3)
    journal.wait_for("nap", "napping", times=3)
    worker.terminate()
    assert worker.wait_exit(within=25) == 0
    assert worker.space.queue().ready() == 0
    assert len(journal.entries("nap", "woke")) == 3


def test_sighup_starts_again_what_was_started(start_worker: StartWorker, journal: Journal) -> None:
    worker = start_worker()
    worker.child.send_signal(signal.SIGHUP)
    eventually(lambda: worker.output.count(" ready.") == 2, "the worker to be ready again", 30)
    worker.flood("count", [("after", 1)])
    journal.wait_for("after", "ran")
    worker.terminate()
    assert worker.wait_exit(within=15) == 0
