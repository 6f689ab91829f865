"""One worker process on one pool under one load, from its start to its end.

The worker's own start is not measured. A window closes when the load is *settled*: every task has
ended, nothing is unacknowledged, every result is stored, and what tasks have published is in its
queue. Where that takes longer than the time allowed, the window closes then, and the figures are of
the tasks that have ended in it.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from celery import Celery

from . import ledger, usage
from .scenarios import (
    DRAIN,
    PUBLISHED_PER_TASK,
    QUEUE,
    REPLIES,
    SETTINGS_VARIABLE,
    Scenario,
    command_line,
    concurrency,
)
from .servers import Broker, Child, Counters, RedisServer

ROOT = Path(__file__).resolve().parents[2]
BOOT_SECONDS = 60.0
WARM_UP = 20

Sample = dict[str, Any]


class CellError(Exception):
    """A worker did not do what it should; the text has the end of its log."""


@dataclass(frozen=True)
class Bench:
    """What all cells of one run over one link share.

    Attributes:
        broker: Where the messages are.
        results: The Redis for results; the broker itself if that is Redis.
        ports: Of broker and results as the worker sees them: the proxy's, if there is one.
        proxy: Process id of the proxy.
        folder: For logs and ledgers.
        seconds: How long a load may take.
        before: The interpreter of pools whose name ends in ``@before`` or ``@again``.
        app: The module of the project that workers run.
        under: What workers are run by, to be counted: a command and its options.
    """

    broker: Broker
    results: RedisServer
    ports: tuple[int, int]
    proxy: int | None
    folder: Path
    seconds: float
    before: str | None = None
    app: str = "benches.e2e.app"
    under: tuple[str, ...] = ()

    def cpu_seconds(self) -> tuple[float, float]:
        """Return what the broker and the proxy have used so far."""
        proxy = usage.cpu_seconds([self.proxy]) if self.proxy else 0.0
        return self.broker.cpu_seconds(), proxy


@dataclass(frozen=True)
class Spent:
    """CPU seconds and the broker's counters at one moment."""

    worker: float
    broker: float
    proxy: float
    counters: Counters | None


class Cell:
    """The tasks ``0 … count - 1`` are the load; the rows behind them are for warming up."""

    def __init__(self, bench: Bench, scenario: Scenario, pool: str, count: int) -> None:
        self.bench = bench
        self.scenario = scenario
        self.pool = pool
        self.count = count
        self.broker = bench.broker
        self._connected = 0
        self._next_look = 0.0
        self._worker: Child | None = None
        self._warm = 0

    def __enter__(self) -> Cell:
        bench, scenario = self.bench, self.scenario
        self._path = bench.folder / "ledger"
        self.ledger = ledger.Ledger.create(self._path, self.count + WARM_UP)
        self.broker.clear()
        bench.results.clear()
        client = Celery("producer", broker=self.broker.url(), set_as_current=False)
        try:
            payload, with_eta = "x" * scenario.payload, scenario.kind in ("eta", "flood", "held")
            self.broker.learn(
                client, scenario.task, payload, with_eta, ignore_result=not scenario.results
            )
        finally:
            client.close()
        counters = self.broker.counters()
        self._opened = counters.connections if counters else 0
        return self

    def __exit__(self, *_: object) -> None:
        if self._worker is not None:
            # Nothing of it is needed any more, and a warm shutdown would finish its prefetch.
            self._worker.kill()
            self._worker.stop()
        self._path.unlink()

    # -- the worker

    def start_worker(self) -> None:
        scenario, bench = self.scenario, self.bench
        broker_port, results_port = bench.ports
        with_rpc = scenario.results == "rpc"
        settings = {
            "broker_url": self.broker.url(broker_port),
            "result_backend": "rpc://" if with_rpc else bench.results.results_url(results_port),
            "task_ignore_result": not scenario.results,
            "task_default_queue": QUEUE,
            "broker_connection_retry_on_startup": True,
            **scenario.settings,
        }
        pool = command_line(self.pool)
        python = sys.executable if pool == self.pool else bench.before or sys.executable
        command = [
            *bench.under,
            *(python, "-m", "celery", "-A", bench.app, "worker"),
            *("-P", pool, "-c", str(concurrency(scenario, self.pool))),
            *("-n", "bench@127.0.0.1", "-l", scenario.loglevel),
            # Waiting for the answers of others is part of starting, which is not measured.
            *("--without-mingle", *scenario.options),
        ]
        log = bench.folder / "worker.log"
        log.unlink(missing_ok=True)
        self._worker = Child(
            command,
            log=log,
            cwd=bench.folder,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONWARNINGS": "ignore",
                "C_FORCE_ROOT": "1",
                SETTINGS_VARIABLE: json.dumps(settings),
                ledger.VARIABLE: str(self._path),
            },
        )

    def end_worker(self, within: float) -> bool:
        """Ask the worker to end warmly; tell whether it has in time."""
        assert self._worker is not None
        self._worker.send_signal(signal.SIGTERM)
        return self._worker.wait(within) is not None

    def warm_up(self) -> None:
        """Start the worker, and return when it has done a few tasks and is idle."""
        self._warm = WARM_UP
        warm = range(self.count, self.count + WARM_UP)
        self.broker.fill(warm)
        self.start_worker()
        self.wait(lambda: self.ledger.done(warm.start, warm.stop) == WARM_UP, every=0.01)
        self.wait(lambda: not self.broker.held(), every=0.01)
        time.sleep(0.3)

    def wait(self, ready: Callable[[], bool], every: float) -> None:
        """Wait for something that every worker does."""
        if not self.wait_until(ready, time.monotonic() + BOOT_SECONDS, every):
            raise CellError(f"nothing ran within {BOOT_SECONDS:g} s:\n{self._log()}")

    def wait_until(self, ready: Callable[[], bool], deadline: float, every: float) -> bool:
        """Return whether ``ready()`` came true in time."""
        assert self._worker is not None
        while not ready():
            if not self._worker.running:
                raise CellError(f"the worker ended:\n{self._log()}")
            if time.monotonic() > deadline:
                return False
            self.look_at_connections()
            time.sleep(every)
        return True

    def _log(self) -> str:
        assert self._worker is not None
        return self._worker.tail(20)

    # -- the load

    def is_settled(self) -> bool:
        """Whether all is done. The broker is asked only when all tasks have ended."""
        if self.ledger.done(0, self.count) < self.count or self.broker.held():
            return False
        sink, expected = self.scenario.results, self.count + self._warm
        if sink == "redis" and self.bench.results.results() < expected:
            return False
        if sink == "rpc" and self.broker.waiting(REPLIES) < expected:
            return False
        published = PUBLISHED_PER_TASK * self.count
        return self.scenario.task != "publish10" or self.broker.waiting(DRAIN) >= published

    # -- figures

    def look_at_connections(self) -> None:
        """Ask five times a second how many connections there are, to know the most."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + 0.2
            self._connected = max(self._connected, self.broker.connected())

    def memory(self) -> int:
        """Return the resident bytes of the worker."""
        assert self._worker is not None
        return usage.rss_bytes(usage.session(self._worker.pid))

    def spent(self) -> Spent:
        assert self._worker is not None
        worker = usage.cpu_seconds(usage.session(self._worker.pid))
        return Spent(worker, *self.bench.cpu_seconds(), self.broker.counters())

    def figures(self, before: Spent, begin: float, end: float, after: Spent) -> Sample:
        """Return the figures of the window from ``begin`` to ``end``."""
        assert self._worker is not None
        done = self.ledger.done(0, self.count)
        per_task = 1 / max(1, done)
        sample: Sample = {
            "tasks": done,
            "seconds": end - begin,
            "settled": self.is_settled(),
            "repeated": self.ledger.repeated(0, self.count),
            "tasks_per_s": done / (end - begin),
            "worker_cpu_us": (after.worker - before.worker) * per_task * 1e6,
            "broker_cpu_us": (after.broker - before.broker) * per_task * 1e6,
            "peak_rss_mb": usage.peak_rss_mb(usage.session(self._worker.pid)),
            "connections_at_once": max(self._connected, self.broker.connected()),
        }
        if self.bench.proxy:
            sample["proxy_cpu_us"] = (after.proxy - before.proxy) * per_task * 1e6
        first, last, opened = before.counters, after.counters, self.broker.counters()
        if first and last and opened:
            calls = {name: n - first.by_command[name] for name, n in last.by_command.items()}
            sample.update(
                commands=(last.commands - first.commands) * per_task,
                round_trips=(last.reads - first.reads) * per_task,
                connections=opened.connections - self._opened,
                by_command={name: round(n * per_task, 4) for name, n in calls.items() if n},
            )
        return sample


def percentiles(name: str, seconds: Iterable[float]) -> Sample:
    """Return p50, p99, p99.9 and the maximum in milliseconds; ``None`` where one is infinite."""
    ordered = sorted(seconds)
    sample: Sample = {}
    for label, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)):
        value = ordered[max(0, math.ceil(share * len(ordered)) - 1)]
        sample[f"{name}_{label}_ms"] = value * 1e3 if math.isfinite(value) else None
    return sample
