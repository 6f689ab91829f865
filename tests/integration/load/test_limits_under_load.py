"""Soft and hard limits of many tasks at once."""

from __future__ import annotations

from collections import Counter
from typing import Callable

import pytest
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import CELERY, StartWorker, running

TASKS = 1000
SOFT, HARD = 1.0, 3.0
NOISE = 3.0
"""How late a limit may come on a busy machine; the measured figures are recorded."""


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "min": round(ordered[0], 3),
        "median": round(ordered[len(ordered) // 2], 3),
        "p99": round(ordered[int(len(ordered) * 0.99)], 3),
        "max": round(ordered[-1], 3),
    }


@pytest.mark.parametrize("stubborn", [False, True], ids=["caught", "ignored"])
def test_limits_hold_for_a_thousand_tasks_and_lose_no_slot(
    start_worker: StartWorker,
    record: Callable[..., None],
    stubborn: bool,
) -> None:
    worker = start_worker(concurrency=TASKS, loglevel="WARNING")
    task = "deaf_nap" if stubborn else "soft_nap"
    ids = worker.flood(task, [()] * TASKS, soft_time_limit=SOFT, time_limit=HARD)
    outcomes = worker.wait_outcomes(ids, within=HARD + 40)

    if stubborn:
        assert Counter(meta["status"] for meta in outcomes.values()) == {"FAILURE": TASKS}
        kinds = Counter(meta["result"]["exc_type"] for meta in outcomes.values())
        assert kinds == {"TimeLimitExceeded": TASKS}
        [asked] = worker.flood("deaf_ends", [()])
        late, due = worker.wait_outcomes([asked], within=30)[asked]["result"], HARD
        assert len(late) == TASKS
        all_failed = {b"TimeLimitExceeded": str(TASKS).encode()}
        eventually(
            lambda: worker.space.redis.hgetall("failed-signals") == all_failed, "task_failure"
        )
    else:
        assert Counter(meta["result"][0] for meta in outcomes.values()) == {"soft": TASKS}
        late, due = [meta["result"][1] for meta in outcomes.values()], SOFT
    figures = _spread(late)
    record(limit=due, tasks=TASKS, seconds=figures)
    assert due - 0.1 <= figures["min"]
    assert figures["max"] <= due + NOISE

    quick = worker.flood("quick", [(number,) for number in range(TASKS)])
    assert [worker.wait_outcomes(quick, within=60)[task_id]["result"] for task_id in quick] == list(
        range(TASKS)
    )
    eventually(lambda: running(worker) == 0, "every slot to be free")


@pytest.mark.parametrize("requeues", [False, True], ids=["acked", "requeued"])
def test_a_hard_limit_acknowledges_as_the_settings_say(
    start_worker: StartWorker, journal: Journal, requeues: bool, broker: str
) -> None:
    if requeues and CELERY < (5, 7):
        pytest.skip("before Celery 5.7 no pool gives such a message back")
    worker = start_worker(concurrency=100)
    name = "late_deaf_nap_requeued" if requeues else "late_deaf_nap_acked"
    ids = worker.flood(name, [("late",)] * 50, time_limit=1)
    runs = 2 if requeues else 1
    journal.wait_for("late", "run", times=50 * runs, within=20)

    def settled() -> bool:
        metas = worker.outcomes(ids).values()
        if requeues:
            return [meta["result"] for meta in metas] == ["second time"] * 50
        return [meta["status"] for meta in metas] == ["FAILURE"] * 50

    # Stock workers on Redis fail here: kombu allows the broker connection ten sockets, so when
    # fifty greenlets acknowledge at once, most get MaxConnectionsError and their message returns.
    eventually(settled, "the last state of each task", within=15)
    assert set(Counter(entry["id"] for entry in journal.entries("late")).values()) == {runs}
    eventually(lambda: running(worker) == 0, "every slot to be free")
    worker.stop()
    assert worker.space.queue().ready() == 0
    if broker == "redis":
        assert worker.space.unacked() == 0
