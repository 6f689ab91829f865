"""One job through the pool, from ``apply_async`` to its callback, ours beside Celery's own.

Each sample is an interpreter of its own, patched for its hub, with one ``TaskPool``. Stock and
hybrid take turns, so that a slow minute of the machine hits both. A sample runs every scenario and
tells microseconds per job; the table has the median of all samples, and their range.

The scenarios, all with the callbacks that Celery's worker passes:

* ``burst``: 100 jobs are applied, then the bench waits for all of them. Such a batch is what a
  worker gets from one read of a broker under load. The targets are for this one.
* ``flood``: 10 000 jobs are applied at once, to a pool that runs 1000 at a time. A stock pool
  makes whoever applies wait when it is full; ours takes all of them.
* ``chain``: one job at a time, each applied by the callback of the one before.
* ``waiting``: a burst of jobs that each give up their turn once, as I/O does.
* ``busy``: a burst of jobs that each compute for 200 microseconds. No pool can make these faster.

``python benches/pool.py [--quick]``
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from time import perf_counter
from typing import Any, Callable

from report import Target, run_samples

LIMIT = 1000
TARGETS = [
    Target("burst", "gevent", at_least=10),
    Target("burst", "eventlet", at_least=5),
]


def scenarios(hub: str, implementation: str, quick: bool) -> dict[str, float]:
    """Measure all of them in this interpreter, which is patched."""
    package = {"stock": "celery.concurrency", "hybrid": "hybrid"}[implementation]
    pool = importlib.import_module(f"{package}.{hub}").TaskPool(LIMIT)
    pool.start()
    bench = _Bench(pool, importlib.import_module(hub).sleep)
    scale = 1 if quick else 4
    for count in (1_000, 2_000):  # grow to full size, warm up
        bench.in_bursts(bench.nothing, count, burst=1_000)
    return {
        "burst": bench.in_bursts(bench.nothing, 5_000 * scale, burst=100),
        "flood": bench.in_bursts(bench.nothing, 10_000 * scale, burst=10_000),
        "chain": bench.in_chain(2_000 * scale),
        "waiting": bench.in_bursts(bench.wait, 5_000 * scale, burst=100),
        "busy": bench.in_bursts(bench.compute, 250 * scale, burst=100),
    }


class _Bench:
    def __init__(self, pool: Any, sleep: Callable[[float], None]) -> None:
        self.pool = pool
        self.sleep = sleep
        self.done = 0

    def in_bursts(self, target: Callable[[], Any], count: int, burst: int) -> float:
        """Return microseconds per job."""
        apply_async = self.pool.apply_async
        self.done = 0
        started = perf_counter()
        for applied in range(burst, count + burst, burst):
            for _ in range(burst):
                apply_async(
                    target,
                    (),
                    {},
                    accept_callback=self.on_accepted,
                    timeout_callback=self.on_timeout,
                    callback=self.on_success,
                    error_callback=self.on_failure,
                    soft_timeout=None,
                    timeout=None,
                    correlation_id="5f5b1b3e",
                )
            while self.done < applied:
                self.sleep(0)
        return (perf_counter() - started) / applied * 1e6

    def in_chain(self, count: int) -> float:
        """Return microseconds per job."""
        left = count

        def on_success(_: Any) -> None:
            nonlocal left
            left -= 1
            if left:
                self.pool.apply_async(self.nothing, (), {}, callback=on_success)

        started = perf_counter()
        self.pool.apply_async(self.nothing, (), {}, callback=on_success)
        while left:
            self.sleep(0)
        return (perf_counter() - started) / count * 1e6

    def nothing(self) -> None:
        pass

    def wait(self) -> None:
        self.sleep(0)

    def compute(self) -> None:
        until = perf_counter() + 200e-6
        while perf_counter() < until:
            pass

    def on_success(self, _: Any) -> None:
        self.done += 1

    def on_accepted(self, pid: int, accepted: float) -> None:
        pass

    def on_timeout(self, soft: bool, limit: float) -> None:
        raise AssertionError((soft, limit))

    def on_failure(self, einfo: Any) -> None:
        raise AssertionError(einfo)


if __name__ == "__main__":
    sys.exit(
        run_samples(
            Path(__file__),
            [scenarios],
            title="apply_async to callback, microseconds per job",
            targets=TARGETS,
        )
    )
