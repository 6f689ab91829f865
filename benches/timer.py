"""Entries of the worker's timer, ours beside Celery's own.

Each sample is an interpreter of its own, patched for its hub, with one ``TaskPool.Timer``; stock
and hybrid take turns. The table has the median of all samples, and their range.

* ``call_after``: microseconds to schedule one more entry, while 100 000 are held.
* ``cancel``: microseconds to cancel one of 100 000, until the timer holds it no more. Stock pools
  kill a greenlet for it, which happens in the hub later: that is part of it.
* ``expire``: microseconds per entry when 20 000 are due at one instant, from that instant until
  the last has run.
* ``bytes``: what the process grows by for each of 1 000 000 entries, with everything that Python
  keeps for them. Nobody but the timer holds the entries.
* ``one``: microseconds until one entry, due at once, has run on an idle timer. Here the hub and
  its system calls count, and ours cannot win much.

``python benches/timer.py [--quick]``, which takes 100 000 entries for the memory.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, Callable

from report import HUBS, Target, run_samples

HELD = 100_000
TARGETS = [
    target
    for hub in HUBS
    for target in (
        Target("call_after", hub, at_least=20),
        Target("cancel", hub, at_least=5),
        Target("bytes", hub, at_least=10),
    )
]


def sample(hub: str, implementation: str, quick: bool) -> dict[str, float]:
    """Measure all figures in this interpreter, which is patched."""
    import importlib

    package = {"stock": "celery.concurrency", "hybrid": "hybrid"}[implementation]
    make = importlib.import_module(f"{package}.{hub}").TaskPool.Timer
    sleep = importlib.import_module(hub).sleep
    figures = {"bytes": bytes_per_entry(make(), sleep, 100_000 if quick else 1_000_000)}
    timer = make()
    figures["one"] = run_one(timer, sleep, 500)
    figures["call_after"], figures["cancel"] = schedule_and_cancel(timer, sleep)
    figures["expire"] = expire(timer, sleep, 20_000)
    return figures


def nothing() -> None:
    pass


def bytes_per_entry(timer: Any, sleep: Callable[[float], None], count: int) -> float:
    for _ in range(100):
        timer.call_after(3600, nothing)
    sleep(0)
    gc.collect()
    before = resident_bytes()
    for _ in range(count):
        timer.call_after(3600, nothing)
    sleep(0)
    gc.collect()
    grown = resident_bytes() - before
    timer.clear()
    sleep(0.01)
    gc.collect()
    return grown / count


def schedule_and_cancel(timer: Any, sleep: Callable[[float], None]) -> tuple[float, float]:
    for _ in range(HELD):
        timer.call_after(3600, nothing)
    sleep(0.01)
    added = HELD // 5
    started = perf_counter()
    entries = [timer.call_after(3600, nothing) for _ in range(added)]
    scheduled = (perf_counter() - started) / added
    sleep(0.01)  # eventlet puts new timers into its own heap only when the hub runs
    started = perf_counter()
    for entry in entries:
        timer.cancel(entry)
    while len(timer.queue if hasattr(timer, "_queue") else timer) > HELD:
        sleep(0)
    canceled = (perf_counter() - started) / added
    del entries
    timer.clear()
    sleep(0.01)
    gc.collect()
    return scheduled * 1e6, canceled * 1e6


def expire(timer: Any, sleep: Callable[[float], None], count: int) -> float:
    left = count

    def run() -> None:
        nonlocal left
        left -= 1

    due = monotonic() + 2
    for _ in range(count):
        timer.call_at(due, run)
    sleep(0)
    assert monotonic() < due, "scheduling took too long"
    while left:
        sleep(0.001)
    return (monotonic() - due) / count * 1e6


def run_one(timer: Any, sleep: Callable[[float], None], count: int) -> float:
    ran = 0

    def run() -> None:
        nonlocal ran
        ran += 1

    started = perf_counter()
    for number in range(count):
        timer.call_after(0, run)
        while ran <= number:
            sleep(0)
    return (perf_counter() - started) / count * 1e6


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(
        run_samples(
            Path(__file__),
            sample,
            title="timer, microseconds and bytes per entry",
            targets=TARGETS,
        )
    )
