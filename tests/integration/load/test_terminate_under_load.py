"""Terminating many running tasks at once."""

from __future__ import annotations

import time
from collections import Counter
from typing import Callable

from harness.events import EventLog
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import StartWorker, running

TASKS = 100


def test_a_hundred_terminated_tasks_are_revoked_once_each(
    start_worker: StartWorker, journal: Journal, record: Callable[..., None]
) -> None:
    worker = start_worker(concurrency=120, options=["-E"])
    with EventLog(worker.client) as events:
        ids = worker.flood("guarded_nap", [("nap", 60)] * TASKS)
        journal.wait_for("nap", "napping", times=TASKS, within=30)
        began = time.monotonic()
        worker.client.control.revoke(ids, terminate=True)
        outcomes = worker.wait_outcomes(ids, within=15)
        record(revoked_within=round(time.monotonic() - began, 3), tasks=TASKS)
        assert Counter(meta["status"] for meta in outcomes.values()) == {"REVOKED": TASKS}

        ended = journal.wait_for("nap", "finally", times=TASKS)
        assert sorted(entry["id"] for entry in ended) == sorted(ids)
        eventually(lambda: len(events.named("task-revoked")) >= TASKS, "the events")
        quick = worker.flood("quick", [(number,) for number in range(300)])
        worker.wait_outcomes(quick, within=30)
        eventually(lambda: len(events.named("task-succeeded")) >= 300, "their events")
        revoked = Counter(event["uuid"] for event in events.named("task-revoked"))
        assert revoked == dict.fromkeys(ids, 1)
        succeeded = {event["uuid"] for event in events.named("task-succeeded")}
        assert not succeeded & set(ids)
    eventually(lambda: running(worker) == 0, "every slot to be free")
