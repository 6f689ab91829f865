"""Tasks that wait for their time: what they cost, and what happens when they are due."""

from __future__ import annotations

import math
import time
from typing import Any, Callable

from celery import Celery

from .cell import Cell, Sample, percentiles
from .scenarios import QUEUE
from .servers import task_id, utc

#: Plain tasks that are sent behind the waiting ones.
BEHIND = 1000
#: Waiting tasks that are revoked: as many as Celery remembers, at most.
REVOKED = 10_000
#: Seconds without work after which a worker counts as idle, and the share of a CPU that is none.
QUIET_SECONDS, QUIET_SHARE = 0.5, 0.05
#: Seconds that a worker gets to cancel its timers and to give all messages back.
END_SECONDS = 120.0
#: Tasks per second that a worker can take, at least: how far ahead a common ETA has to be.
SLOWEST = 4000


def keep_waiting(cell: Cell) -> Sample:
    """Send tasks that are due in an hour to an idle worker, then plain ones behind them.

    The last of ``cell.count`` tasks are the plain ones.
    """
    count = cell.count - BEHIND
    cell.warm_up()
    settle(cell)
    memory, before = cell.memory(), cell.spent()
    taken = _take(cell, range(count), utc(time.time() + 3600))
    after = cell.spent()
    sample: Sample = {
        "tasks": count,
        "accept_seconds": taken,
        "accepted_per_cpu_s": count / (after.worker - before.worker),
        "accept_cpu_us": (after.worker - before.worker) / count * 1e6,
        "held_bytes": (cell.memory() - memory) / count,
        "peak_rss_mb": cell.memory() / 2**20,
    }
    before, begin = cell.spent(), time.monotonic()
    cell.broker.fill(range(count, cell.count), eta=None)
    done = cell.wait_until(
        lambda: cell.ledger.done(count, cell.count) == BEHIND,
        begin + cell.bench.seconds,
        every=0.01,
    )
    sample["behind_seconds"] = time.monotonic() - begin if done else None
    after = cell.spent()
    sample["behind_worker_cpu_us"] = (after.worker - before.worker) / BEHIND * 1e6
    sample["behind_broker_cpu_us"] = (after.broker - before.broker) / BEHIND * 1e6
    begin = time.monotonic()
    _revoke(cell, range(min(count, REVOKED)))
    sample["revoke_seconds"] = time.monotonic() - begin
    begin = time.monotonic()
    sample["end_seconds"] = time.monotonic() - begin if cell.end_worker(END_SECONDS) else None
    return sample


def fire_at_once(cell: Cell) -> Sample:
    """Send tasks with one ETA to an idle worker, and see when they start."""
    cell.warm_up()
    settle(cell)
    lead = max(3.0, cell.count / SLOWEST)
    due = time.monotonic() + lead
    _take(cell, range(cell.count), utc(time.time() + due - time.monotonic()))
    early = due - time.monotonic()
    time.sleep(max(0.0, early))
    before = cell.spent()
    cell.wait_until(cell.is_settled, due + cell.bench.seconds, every=0.02)
    end, after = time.monotonic(), cell.spent()
    sample = cell.figures(before, due, end, after)
    starts = cell.ledger.started[: cell.count]
    began = [start for start in starts if start]
    sample.update(percentiles("late", [start - due if start else math.inf for start in starts]))
    sample["all_held_before"] = early > 0
    sample["early"] = sum(start < due - 0.001 for start in began)
    # Of two neighbours by arrival, how often the later one starts first, and how far at most.
    sample["out_of_order"] = sum(a > b for a, b in zip(began, began[1:]))
    return sample


def settle(cell: Cell) -> None:
    """Wait until the worker has nothing to do."""
    quiet_since, last = time.monotonic(), cell.spent().worker
    while time.monotonic() - quiet_since < QUIET_SECONDS:
        time.sleep(0.1)
        now = cell.spent().worker
        if now - last > 0.1 * QUIET_SHARE:
            quiet_since = time.monotonic()
        last = now


def _take(cell: Cell, numbers: range, eta: str) -> float:
    """Send tasks, and return how long it took until the worker had taken them all."""
    begin = time.monotonic()
    cell.broker.fill(numbers, eta=eta)
    is_empty: Callable[[], Any] = lambda: not cell.broker.waiting(QUEUE)  # noqa: E731
    cell.wait(is_empty, every=0.05)
    settle(cell)
    return time.monotonic() - begin - QUIET_SECONDS


def _revoke(cell: Cell, numbers: range) -> None:
    client = Celery("client", broker=cell.broker.url(), set_as_current=False)
    try:
        ids = [task_id(number) for number in numbers]
        replies = client.control.revoke(ids, reply=True, timeout=60, limit=1)
        if not replies:
            raise RuntimeError("the worker has not answered")
    finally:
        client.close()
