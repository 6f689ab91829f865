"""The loads that a worker is put under, one function for each kind of scenario."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from .cell import Bench, Cell, CellError, Sample, percentiles
from .crawl import crawl
from .scenarios import QUEUE, Scenario
from .servers import RedisServer, task_number, utc
from .waiting import BEHIND, fire_at_once, keep_waiting

__all__ = ["CellError", "measure"]

ETA_SECONDS = 1.0
IDLE_TASKS = 20


def measure(bench: Bench, scenario: Scenario, pool: str) -> Sample:
    """Run one cell and return its figures by name.

    Raises:
        CellError: The worker ended, or started nothing.
    """
    if scenario.kind == "crawl":
        return crawl(bench, scenario, pool)
    load, count = {
        "drain": (drain, scenario.tasks),
        "eta": (wait_for_eta, scenario.tasks),
        "held": (keep_waiting, scenario.tasks + BEHIND),
        "flood": (fire_at_once, scenario.tasks),
        "paced": (keep_pace, math.ceil(scenario.rate * bench.seconds)),
        "idle": (stay_idle, IDLE_TASKS),
    }[scenario.kind]
    with Cell(bench, scenario, pool, count) as cell:
        return load(cell)


def drain(cell: Cell) -> Sample:
    """Start a worker on a full queue. The window opens when the first message leaves the queue.

    When the first task starts would be too late: a worker may take all of its prefetch before.
    """
    cell.broker.fill(range(cell.count))
    cell.start_worker()
    cell.wait(lambda: cell.broker.waiting(QUEUE) < cell.count, every=0.001)
    begin, before = time.monotonic(), cell.spent()
    cell.wait_until(cell.is_settled, begin + cell.bench.seconds, every=0.002)
    end, after = time.monotonic(), cell.spent()
    return cell.figures(before, begin, end, after)


def wait_for_eta(cell: Cell) -> Sample:
    """Send tasks that are due in a second to an idle worker.

    The window opens when the first is sent, so the second of waiting is part of it: a pool that
    has taken all of them by then is measured too low.
    """
    cell.warm_up()
    before, begin = cell.spent(), time.monotonic()
    due = begin + ETA_SECONDS
    cell.broker.fill(range(cell.count), eta=utc(time.time() + ETA_SECONDS))
    cell.wait_until(cell.is_settled, begin + ETA_SECONDS + cell.bench.seconds, every=0.002)
    end, after = time.monotonic(), cell.spent()
    sample = cell.figures(before, begin, end, after)
    late = [started - due if started else math.inf for started in cell.ledger.started[: cell.count]]
    return {**sample, **percentiles("late", late)}


def keep_pace(cell: Cell) -> Sample:
    """Send tasks at a fixed rate to an idle worker.

    Latencies count from the moment before a message is sent until its task starts, and until its
    result is published, which a client waits for. Tasks that are not done when time is up count as
    infinitely late.
    """
    cell.warm_up()
    seen = [math.inf] * cell.count
    with _results_seen(cell.bench.results, seen if cell.scenario.results else None):
        before, begin = cell.spent(), time.monotonic()
        interval = 1 / cell.scenario.rate
        sent = _send(cell, (begin + number * interval for number in range(cell.count)))
        cell.wait_until(cell.is_settled, time.monotonic() + cell.bench.seconds / 2, every=0.01)
        end, after = time.monotonic(), cell.spent()
        time.sleep(0.1)
    sample = cell.figures(before, begin, end, after)
    sample.update(percentiles("start", _since(sent, cell.ledger.started)))
    if cell.scenario.results:
        sample.update(percentiles("result", _since(sent, seen)))
    return sample


def stay_idle(cell: Cell) -> Sample:
    """Send nothing for a while, then one task every quarter of a second."""
    cell.warm_up()
    time.sleep(2)
    before, begin = cell.spent(), time.monotonic()
    time.sleep(cell.bench.seconds)
    after, seconds = cell.spent(), time.monotonic() - begin
    sample: Sample = {"idle_cpu_percent": 100 * (after.worker - before.worker) / seconds}
    if before.counters and after.counters:
        commands = after.counters.commands - before.counters.commands
        sample["idle_commands_per_s"] = commands / seconds
    before, begin = after, time.monotonic()
    sent = _send(cell, (begin + number / 4 for number in range(cell.count)))
    cell.wait_until(cell.is_settled, time.monotonic() + cell.bench.seconds, every=0.01)
    end, after = time.monotonic(), cell.spent()
    sample.update(cell.figures(before, begin, end, after))
    sample.update(percentiles("start", _since(sent, cell.ledger.started)))
    return sample


def _send(cell: Cell, moments: Iterable[float]) -> list[float]:
    """Send one task at each moment, or as soon after as can be; return when each was sent."""
    sent = []
    for number, moment in enumerate(moments):
        left = moment - time.monotonic()
        if left > 0:
            time.sleep(left)
        sent.append(time.monotonic())
        cell.broker.send(number)
        cell.look_at_connections()
    return sent


def _since(sent: list[float], then: Any) -> list[float]:
    return [after - before if after else math.inf for before, after in zip(sent, then)]


@contextmanager
def _results_seen(redis: RedisServer, seen: list[float] | None) -> Iterator[None]:
    """Note in ``seen`` when each result is published."""
    if seen is None:
        yield
        return

    def note(message: dict[str, Any]) -> None:
        name = message["channel"].decode().removeprefix("celery-task-meta-")
        seen[task_number(name)] = time.monotonic()

    channel = redis.result_channel(note)
    stop = threading.Event()
    thread = threading.Thread(target=_listen, args=(channel, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        channel.close()


def _listen(channel: Any, stop: threading.Event) -> None:
    while not stop.is_set():
        channel.get_message(timeout=0.1)
