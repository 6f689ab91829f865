"""Connections live, and nothing is delivered twice, while tasks take longer than heartbeats.

All workers, a busy and an idle one on each pool, run at the same time on one RabbitMQ, so that the
whole takes as long as one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import pytest
from connections import Watch, longest_silence, named
from harness.brokers import Brokers, RabbitServer, Space
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import Worker
from run import FULL, say, trouble

HERE = Path(__file__).resolve().parent

HEARTBEAT = 10
TASKS = 100
SLOTS = 10
IDLE = 10 / FULL
"""The part of the whole for which the idle worker has nothing to do."""
SAMPLES_PER_HEARTBEAT = 2


@dataclass
class Soak:
    """One worker for the whole run, and what is known of it.

    Attributes:
        worker: The process.
        name: What its connections are called.
        journal: What its tasks wrote down.
        since: The first sample of its connections that counts.
        began: When that was, monotonic.
    """

    worker: Worker
    name: str
    journal: Journal
    watch: Watch
    since: int = 0
    began: float = 0.0

    @property
    def after(self) -> str:
        """The queue to which its tasks publish, and which nobody consumes."""
        return f"{self.worker.space.name}.after"

    def send_naps(self, tag: str, count: int, seconds: float) -> None:
        self.worker.flood("nap", [(tag, number, seconds, self.after) for number in range(count)])

    def baseline(self) -> None:
        """Open whatever connections there will be, and begin to count."""
        self.send_naps("first", SLOTS, 0.5)
        self.journal.wait_for("first", "ended", times=SLOTS, within=30)
        self.since, self.began = self.watch.rounds() + 1, time.monotonic()

    def answer(self) -> None:
        """Assert that the worker answers, over the connection for remote control."""
        assert self.worker.answers(within=10)
        self.worker.close()

    def check_connections(self) -> dict[str, Any]:
        """Assert that all connections are the first ones and beat; return the figures."""
        enough = self.watch.rounds() + 1  # one that began after whatever the test did last
        eventually(lambda: self.watch.rounds() > enough, "a sample", within=60, every=0.5)
        sets = self.watch.sets(self.name, self.since)
        assert len(sets) == 1, sets
        histories = self.watch.histories(self.name, self.since)
        beating = [history for history in histories.values() if history[-1].heartbeat]
        for history in beating:
            assert {sample.heartbeat for sample in history} == {HEARTBEAT}
        silences = {
            direction: max(longest_silence(history, direction) for history in beating)
            for direction in ("received", "sent")
        }
        # A beat is due in every interval; the broker gives up after two.
        for direction, seconds in silences.items():
            assert seconds <= 1.5 * HEARTBEAT, (direction, seconds)
        # Celery asks for heartbeats where it consumes and where it sends events, on any pool. What
        # it opens to publish and for remote control has none to miss, and is used once more.
        assert len(beating) >= 2
        assert [line for line in self.worker.output.splitlines() if trouble(line)] == []
        return {
            "connections": len(histories),
            "heartbeats": sorted(history[-1].heartbeat for history in histories.values()),
            "samples": len(next(iter(histories.values()))),
            "longest_silence": {key: round(value, 1) for key, value in silences.items()},
        }


Soaks = dict[tuple[str, str], Soak]


@pytest.fixture(scope="module")
def soaks(
    request: pytest.FixtureRequest,
    brokers: Brokers,
    rabbit: RabbitServer,
    log_folder: Path,
    minutes: float,
) -> Iterator[Soaks]:
    """The workers of all chosen pools, by pool and kind; the busy ones have their tasks."""
    started: Soaks = {}
    seconds = minutes * 60 * SLOTS / TASKS
    with Watch(rabbit, every=HEARTBEAT / SAMPLES_PER_HEARTBEAT) as watch:
        try:
            for pool in chosen_pools(request.session):
                for kind in ("busy", "idle"):
                    space, name = brokers.space("rabbitmq"), f"{pool} {kind}"
                    worker = _start(pool, name, space, log_folder)
                    started[pool, kind] = Soak(worker, name, Journal(space.redis_url), watch)
            for (pool, kind), soak in started.items():
                soak.worker.wait_ready()
                soak.baseline()
                if kind == "busy":
                    soak.send_naps("busy", TASKS, seconds)
                say(f"{pool}, {kind}: {soak.worker} began")
            yield started
        finally:
            for soak in started.values():
                soak.worker.kill()
                soak.journal.close()


def chosen_pools(session: pytest.Session) -> list[str]:
    """Return the pools that the collected tests ask for."""
    params = [item.callspec.params for item in session.items if "soaks" in item.fixturenames]
    return list(dict.fromkeys(param["pool"] for param in params))


def _start(pool: str, name: str, space: Space, folder: Path) -> Worker:
    settings = {
        "broker_heartbeat": HEARTBEAT,
        "broker_connection_retry_on_startup": True,
        "worker_prefetch_multiplier": 4,
        **named(name),
    }
    worker = Worker(pool, space, folder, "project", [HERE], concurrency=SLOTS, settings=settings)
    # The connections of the test to the broker come and go, and bear no name.
    del worker.settings["broker_transport_options"]
    return worker


def test_idle_connections_beat_and_the_next_task_runs_at_once(
    soaks: Soaks, pool: str, minutes: float, record: Callable[..., None]
) -> None:
    soak = soaks[pool, "idle"]
    _wait(soaks, soak.began + minutes * 60 * IDLE)
    idle = time.monotonic() - soak.began
    sent = time.time()
    soak.send_naps("last", 1, 0)
    (entry,) = soak.journal.wait_for("last", "started", within=10)
    soak.journal.wait_for("last", "ended", within=10)
    soak.answer()
    figures = soak.check_connections()
    assert len(soak.worker.space.queue(soak.after)) == SLOTS + 1
    record(pool=pool, idle=round(idle), started_after=round(entry["at"] - sent, 3), **figures)


def test_connections_beat_while_tasks_are_longer_than_heartbeats(
    soaks: Soaks, pool: str, minutes: float, record: Callable[..., None]
) -> None:
    soak = soaks[pool, "busy"]
    _wait(soaks, soak.began + minutes * 60)
    soak.journal.wait_for("busy", "ended", times=TASKS, within=60)
    soak.answer()
    figures = soak.check_connections()
    starts, ends = soak.journal.entries("busy", "started"), soak.journal.entries("busy", "ended")
    for entries in (starts, ends):
        assert Counter(entry["number"] for entry in entries) == Counter(range(TASKS))
    assert not any(entry["redelivered"] for entry in starts)
    assert len(soak.worker.space.queue(soak.after)) == SLOTS + TASKS
    assert len(soak.worker.space.queue()) == 0
    busy = ends[-1]["at"] - starts[0]["at"]
    record(pool=pool, busy=round(busy), tasks=TASKS, **figures)


def _wait(soaks: Soaks, until: float) -> None:
    """Wait, show how far the workers are, and raise when one of them has ended."""
    told = 0.0
    while time.monotonic() < until:
        for soak in soaks.values():
            assert soak.worker.child.running, f"{soak.worker} ended:\n{soak.worker.child.tail()}"
        if time.monotonic() >= told:
            told = time.monotonic() + 30
            done = ", ".join(
                f"{pool} {soak.journal.count('busy')} of {2 * TASKS} starts and ends"
                for (pool, kind), soak in soaks.items()
                if kind == "busy"
            )
            first = next(iter(soaks.values()))
            say(
                f"{until - time.monotonic():.0f} s to go: {done}; "
                f"{first.watch.rounds()} samples of connections"
            )
        time.sleep(min(1.0, max(0.0, until - time.monotonic())))
