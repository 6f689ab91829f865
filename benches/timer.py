"""Entries of the worker's timer, ours beside Celery's own.

Each sample is an interpreter of its own, patched for its hub, with one ``TaskPool.Timer``; stock
and hybrid take turns. The table has the median of all samples, and their range.

* ``call_after``: microseconds to schedule an entry, up to 100 000 of them. The garbage collector,
  which looks at all of them every now and then, is part of it.
* ``cancel``: microseconds to cancel one of 100 000, until the timer holds it no more. Stock pools
  kill a greenlet for it, which happens in the hub later: that is part of it.
* ``expire``: microseconds per entry when 20 000 are due, from when the hub gets its turn until the
  last has run.
* ``bytes``: what the process grows by for each of 1 000 000 entries, with everything that Python
  keeps for them. Nobody but the timer holds the entries.
* ``one``: microseconds until one entry, due at once, has run on an idle timer. Here the hub and
  its system calls count, and ours cannot win much.

``python benches/timer.py [--quick]``, which takes 100 000 entries for the memory.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import threading
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


def bytes_per_entry(hub: str, implementation: str, quick: bool) -> dict[str, float]:
    timer, sleep = make_timer(hub, implementation)
    for _ in range(100):
        timer.call_after(3600, nothing)
    count = 100_000 if quick else 1_000_000
    sleep(0.01)
    gc.collect()
    before = resident_bytes()
    for _ in range(count):
        timer.call_after(3600, nothing)
    sleep(0.01)  # eventlet puts new timers into its own heap only when the hub runs
    gc.collect()
    return {"bytes": (resident_bytes() - before) / count}


def schedule_and_cancel(hub: str, implementation: str, quick: bool) -> dict[str, float]:
    timer, sleep = make_timer(hub, implementation)
    started = perf_counter()
    entries = [timer.call_after(3600, nothing) for _ in range(HELD)]
    scheduled = (perf_counter() - started) / HELD
    sleep(0.01)
    dropped = entries[:: 50 if quick else 5]
    left = HELD - len(dropped)
    count = len if implementation == "hybrid" else lambda stock: len(stock.queue)
    started = perf_counter()
    for entry in dropped:
        timer.cancel(entry)
    while count(timer) > left:
        sleep(0)
    canceled = (perf_counter() - started) / len(dropped)
    return {"call_after": scheduled * 1e6, "cancel": canceled * 1e6}


def expire(hub: str, implementation: str, quick: bool) -> dict[str, float]:
    timer, _ = make_timer(hub, implementation)
    left = count = 5_000 if quick else 20_000
    done = threading.Event()

    def run() -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    due = monotonic()
    for _ in range(count):
        timer.call_at(due, run)
    started = perf_counter()
    done.wait()
    return {"expire": (perf_counter() - started) / count * 1e6}


def run_one(hub: str, implementation: str, quick: bool) -> dict[str, float]:
    timer, _ = make_timer(hub, implementation)
    count = 500 if quick else 2_000
    started = perf_counter()
    for _ in range(count):
        done = threading.Event()
        timer.call_after(0, done.set)
        done.wait()
    return {"one": (perf_counter() - started) / count * 1e6}


def make_timer(hub: str, implementation: str) -> tuple[Any, Callable[[float], None]]:
    package = {"stock": "celery.concurrency", "hybrid": "hybrid"}[implementation]
    timer = importlib.import_module(f"{package}.{hub}").TaskPool.Timer()
    return timer, importlib.import_module(hub).sleep


def nothing() -> None:
    pass


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(
        run_samples(
            Path(__file__),
            [bytes_per_entry, schedule_and_cancel, expire, run_one],
            title="timer, microseconds and bytes per entry",
            targets=TARGETS,
        )
    )
