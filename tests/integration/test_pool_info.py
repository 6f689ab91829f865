"""What the worker says about its pool."""

from __future__ import annotations

import re

from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import StartWorker


def test_stats_describe_the_pool(start_worker: StartWorker, journal: Journal, pool: str) -> None:
    worker = start_worker(concurrency=8)
    idle = worker.pool_info()
    assert idle["implementation"] == f"{pool}:TaskPool"
    assert (idle["max-concurrency"], idle["limit"], idle["running"], idle["free"]) == (8, 8, 0, 8)
    worker.flood("nap", [("nap", 3)] * 8)
    journal.wait_for("nap", "napping", times=8)
    worker.flood("quick", [(1,)] * 6)
    eventually(lambda: worker.pool_info()["waiting"] >= 1, "waiting jobs", within=2)
    busy = worker.pool_info()
    assert (busy["running"], busy["free"], busy["slots-created"]) == (8, 0, 8)
    assert busy["timers"] >= 0
    eventually(lambda: worker.pool_info()["running"] == 0, "free slots")
    assert worker.pool_info()["waiting"] == 0


def test_a_start_without_c_gives_one_warning(start_worker: StartWorker) -> None:
    worker = start_worker(concurrency=None)
    warnings = [
        line
        for line in worker.output.splitlines()
        if re.search(r"\bWARNING\b", line) and re.search(r"(?<!\S)-c\b", line)
    ]
    assert len(warnings) == 1, worker.output
    explicit = start_worker(concurrency=7)
    assert not re.search(r"WARNING.*(?<!\S)-c\b", explicit.output)
