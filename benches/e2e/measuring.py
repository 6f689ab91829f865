"""One cell: one worker process on one pool under one load, from its start to its end.

The worker's own start is not measured. The window of a drained queue opens when the first task
starts and closes when the load is *settled*: every task has ended, nothing is unacknowledged, every
result is stored, and what tasks have published is in its queue. Where that takes longer than the
time allowed, the window closes then, and the figures are of the tasks that have ended in it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from celery import Celery

from . import ledger, usage
from .scenarios import DRAIN, PUBLISHED_PER_TASK, SETTINGS_VARIABLE, Scenario, concurrency
from .servers import Broker, Child, RedisServer

ROOT = Path(__file__).resolve().parents[2]
BOOT_SECONDS = 60.0
_WARM_UP = 20

Sample = dict[str, Any]


class CellError(Exception):
    """A worker did not do what it should; the text has the end of its log."""


@dataclass(frozen=True)
class Bench:
    """What all cells of one run share.

    Attributes:
        broker: Where the messages are.
        results: The Redis for results; the broker itself if that is Redis.
        ports: Of broker and results as the worker sees them: the proxy's, if there is one.
        proxy: Process id of the proxy.
        folder: For logs and ledgers.
        seconds: How long a load may take.
    """

    broker: Broker
    results: RedisServer
    ports: tuple[int, int]
    proxy: int | None
    folder: Path
    seconds: float


def measure(bench: Bench, scenario: Scenario, pool: str) -> Sample:
    """Run one cell and return its figures by name.

    Raises:
        CellError: The worker ended, or started nothing.
    """
    with _Cell(bench, scenario, pool) as cell:
        return {"drain": cell.drain}[scenario.kind]()


@dataclass
class _Spent:
    """CPU seconds and the broker's counters at one moment."""

    worker: float
    broker: float
    proxy: float
    counters: Any


class _Cell:
    def __init__(self, bench: Bench, scenario: Scenario, pool: str) -> None:
        self.bench = bench
        self.scenario = scenario
        self.pool = pool
        self.broker = bench.broker
        self.connected = 0
        self._next_count = 0.0

    def __enter__(self) -> _Cell:
        bench, scenario = self.bench, self.scenario
        self.path = bench.folder / "ledger"
        self.ledger = ledger.Ledger.create(self.path, scenario.tasks + _WARM_UP)
        self.broker.clear()
        bench.results.clear()
        client = Celery("producer", broker=self.broker.url(), set_as_current=False)
        try:
            payload = "x" * scenario.payload
            self.broker.learn(client, scenario.task, payload, {"eta": scenario.kind == "eta"})
        finally:
            client.close()
        self.counters = self.broker.counters()
        self.worker: Child | None = None
        return self

    def __exit__(self, *_: object) -> None:
        if self.worker is not None:
            # Nothing of it is needed any more, and a warm shutdown would finish its prefetch.
            self.worker.kill()
            self.worker.stop()
        self.path.unlink()

    # -- the loads

    def drain(self) -> Sample:
        count = self.scenario.tasks
        self.broker.fill(range(count))
        self.start_worker()
        self.wait(self.ledger.has_started, BOOT_SECONDS, every=0.001)
        before = self.spent()
        deadline = time.monotonic() + self.bench.seconds
        is_settled = self.wait_settled(count, deadline)
        return self.figures(before, count, is_settled)

    # -- the worker

    def start_worker(self) -> None:
        scenario, bench = self.scenario, self.bench
        broker_port, results_port = bench.ports
        settings = {
            "broker_url": self.broker.url(broker_port),
            "result_backend": bench.results.results_url(results_port),
            "task_ignore_result": not scenario.results,
            "task_default_queue": "bench",
            "broker_connection_retry_on_startup": True,
            **scenario.settings,
        }
        command = [
            *(sys.executable, "-m", "celery", "-A", "benches.e2e.app", "worker"),
            *("-P", self.pool, "-c", str(concurrency(scenario, self.pool))),
            *("-n", "bench@127.0.0.1", "-l", scenario.loglevel),
            # Waiting for the answers of others is part of starting, which is not measured.
            *("--without-mingle", *scenario.options),
        ]
        self.worker = Child(
            command,
            log=bench.folder / f"{scenario.name}-{self.pool}.log",
            cwd=bench.folder,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONWARNINGS": "ignore",
                "C_FORCE_ROOT": "1",
                SETTINGS_VARIABLE: json.dumps(settings),
                ledger.VARIABLE: str(self.path),
            },
        )

    def wait(self, ready: Callable[[], bool], seconds: float, every: float) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            assert self.worker is not None
            if not self.worker.running:
                raise CellError(f"the worker ended:\n{self.worker.tail(20)}")
            if time.monotonic() > deadline:
                raise CellError(f"nothing ran within {seconds:g} s:\n{self.worker.tail(20)}")
            self.count_connections()
            time.sleep(every)

    def wait_settled(self, count: int, deadline: float) -> bool:
        """Wait until the first ``count`` tasks are settled; return whether they are."""
        while self.ledger.done(0, count) < count or not self.is_settled(count):
            assert self.worker is not None
            if not self.worker.running:
                raise CellError(f"the worker ended:\n{self.worker.tail(20)}")
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.count_connections()
            time.sleep(min(left, 0.002))
        return True

    def is_settled(self, count: int) -> bool:
        """Whether the broker has everything that ``count`` tasks bring; asked when they ended."""
        if self.broker.held():
            return False
        if self.scenario.results and self.bench.results.results() < count:
            return False
        published = PUBLISHED_PER_TASK * count
        return self.scenario.task != "publish10" or self.broker.waiting(DRAIN) >= published

    # -- figures

    def count_connections(self) -> None:
        """Ask five times a second how many connections there are, to know the most."""
        now = time.monotonic()
        if now >= self._next_count:
            self._next_count = now + 0.2
            self.connected = max(self.connected, self.broker.connected())

    def spent(self) -> _Spent:
        assert self.worker is not None
        return _Spent(
            usage.cpu_seconds(usage.session(self.worker.pid)),
            self.broker.cpu_seconds(),
            usage.cpu_seconds([self.bench.proxy] if self.bench.proxy else []),
            self.broker.counters(),
        )

    def figures(
        self, before: _Spent, count: int, is_settled: bool, begin: float | None = None
    ) -> Sample:
        """Return the figures of the window that opened with ``before`` and closes now."""
        assert self.worker is not None
        end = time.monotonic()
        after = self.spent()
        done = self.ledger.done(0, count)
        if begin is None:
            begin = min(filter(None, self.ledger.started[:count]), default=end)
        self.connected = max(self.connected, self.broker.connected())
        sample: Sample = {
            "tasks": done,
            "seconds": end - begin,
            "settled": is_settled,
            "repeated": self.ledger.repeated(0, count),
            "tasks_per_s": done / (end - begin),
            "worker_cpu_us": (after.worker - before.worker) / max(1, done) * 1e6,
            "broker_cpu_us": (after.broker - before.broker) / max(1, done) * 1e6,
            "peak_rss_mb": usage.peak_rss_mb(usage.session(self.worker.pid)),
            "connections_at_once": self.connected,
        }
        if self.bench.proxy:
            sample["proxy_cpu_us"] = (after.proxy - before.proxy) / max(1, done) * 1e6
        if after.counters is not None:
            first, last = before.counters, after.counters
            by_command = {
                name: (calls - first.by_command[name]) / max(1, done)
                for name, calls in last.by_command.items()
            }
            sample.update(
                commands=(last.commands - first.commands) / max(1, done),
                round_trips=(last.reads - first.reads) / max(1, done),
                connections=last.connections - self.counters.connections,
                by_command={name: round(n, 4) for name, n in by_command.items() if n > 0},
            )
        return sample
