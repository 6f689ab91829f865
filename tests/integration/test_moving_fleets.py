"""Stock and hybrid workers share queues: together, one after the other, and after a crash."""

from __future__ import annotations

from typing import Any

import pytest
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import CELERY, StartWorker, Worker

TASKS = 300


def _numbers_run(journal: Journal) -> list[int]:
    return sorted(entry["number"] for entry in journal.entries("fleet", "ran"))


def _flood(worker: Worker, numbers: range) -> None:
    worker.flood("count", [("fleet", number) for number in numbers])


def _assert_settled(worker: Worker, broker: str) -> None:
    def settled() -> bool:
        unacked = worker.space.unacked() if broker == "redis" else 0
        return worker.space.queue().ready() == unacked == 0

    eventually(settled, "nothing to be left behind")


def test_stock_and_hybrid_workers_drain_one_queue(
    start_worker: StartWorker, journal: Journal, pool: str, broker: str
) -> None:
    stock = start_worker(pool=pool.removeprefix("hybrid."), concurrency=5)
    ours = start_worker(concurrency=10, options=["--prefetch-multiplier", "1"])
    _flood(stock, range(TASKS))
    eventually(lambda: len(_numbers_run(journal)) >= TASKS, "all to run", within=60)
    assert _numbers_run(journal) == list(range(TASKS))
    _assert_settled(ours, broker)


@pytest.mark.parametrize("first", ["stock", "hybrid"])
def test_a_worker_is_swapped_for_the_other_kind_in_mid_run(
    start_worker: StartWorker, journal: Journal, pool: str, broker: str, first: str
) -> None:
    kinds = [pool.removeprefix("hybrid."), pool]
    if first == "hybrid":
        kinds.reverse()
    before = start_worker(pool=kinds[0], concurrency=2)
    before.flood("late_nap", [(f"nap{number}", 0.03) for number in range(TASKS)])
    eventually(lambda: journal.entries("nap10", "woke"), "it to be in mid-run")
    before.terminate()
    before.wait_exit(within=30)
    # Stock workers lose messages on Redis when more greenlets than kombu has connections, ten,
    # want one at a time.
    after = start_worker(pool=kinds[1], concurrency=5)

    def missing() -> list[int]:
        return [n for n in range(TASKS) if not journal.entries(f"nap{n}", "woke")]

    eventually(lambda: not missing(), "all to run", within=60)
    # A stock worker before 5.7 may end with acknowledgements that it has put off.
    if first == "hybrid" or CELERY >= (5, 7):
        for number in range(TASKS):
            assert len(journal.entries(f"nap{number}", "woke")) == 1
    _assert_settled(after, broker)


def test_what_a_killed_worker_held_is_run_by_another(
    start_worker: StartWorker, journal: Journal, broker: str
) -> None:
    settings: dict[str, Any] = {
        # Redis has no other way to learn that a worker is gone.
        "broker_transport_options": {"visibility_timeout": 3, "unacked_restore_interval": 1},
    }
    doomed = start_worker(concurrency=5, settings=settings)
    numbers = range(50)
    doomed.flood("late_nap", [(f"nap{number}", 0.2) for number in numbers])
    eventually(lambda: journal.entries("nap7", "napping"), "it to be in mid-run")
    doomed.kill()
    heir = start_worker(concurrency=50, settings=settings)
    eventually(
        lambda: all(journal.entries(f"nap{number}", "woke") for number in numbers),
        "all to run",
        within=60,
    )
    _assert_settled(heir, broker)
