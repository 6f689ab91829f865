"""One worker per pool and broker, shared by all conformance tests that need no own one."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from harness.brokers import Space
from harness.events import EventLog
from harness.journal import Journal
from harness.worker import StartWorker, Worker, workers

HERE = Path(__file__).resolve().parent

SETTINGS: dict[str, Any] = {
    "accept_content": ["json", "yaml", "pickle", "msgpack"],
    "result_accept_content": ["json", "yaml", "pickle", "msgpack"],
    "worker_send_task_events": True,
    "worker_hijack_root_logger": True,
    "task_send_sent_event": True,
    "task_track_started": True,
    "result_extended": True,
    "result_expires": 600,
    "task_queue_max_priority": 9,
    "broker_connection_retry_on_startup": True,
    "redis_socket_timeout": 30,
}


def settings_for(pool: str) -> dict[str, Any]:
    """Return what all workers here run with."""
    if pool.startswith("hybrid."):
        # `make test-pieces` runs these tests with one piece after another left to Celery.
        return {**SETTINGS, "hybrid_disable": os.environ.get("HYBRID_DISABLE", "")}
    # With heartbeats, a stock green worker on RabbitMQ waits 0.1 s on the event connection after
    # every message, which would turn these tests into a measurement of that.
    return {**SETTINGS, "broker_heartbeat": 0}


@pytest.fixture(scope="session")
def _shared(pool: str, shared_space: Space, log_folder: Path) -> Iterator[list[Worker]]:
    running: list[Worker] = []
    yield running
    for worker in running:
        worker.stop()


@pytest.fixture
def worker(
    _shared: list[Worker],
    pool: str,
    shared_space: Space,
    log_folder: Path,
    request: pytest.FixtureRequest,
) -> Worker:
    """A ready worker with 20 slots that other tests use too: leave it as you found it."""
    if _shared and not _shared[-1].answers():
        # An earlier test broke it, and failed for that; this one gets a fair start.
        _shared.pop().kill()
    if not _shared:
        started = Worker(
            pool, shared_space, log_folder, "apps.main", [HERE], settings=settings_for(pool)
        )
        _shared.append(started)
        started.wait_ready()
    return _shared[-1]


@pytest.fixture
def client(worker: Worker) -> Celery:
    """The test's own app on the shared worker's broker; ``client.signature("add", …)``."""
    return worker.client


@pytest.fixture
def journal(worker: Worker) -> Iterator[Journal]:
    """What the tasks of the shared worker wrote down."""
    opened = Journal(worker.space.redis_url)
    yield opened
    opened.close()


@pytest.fixture
def events(worker: Worker) -> Iterator[EventLog]:
    """The shared worker's event stream, from now on."""
    with EventLog(worker.client) as log:
        yield log


@pytest.fixture
def tag() -> str:
    """A word nobody else uses."""
    return uuid.uuid4().hex


@pytest.fixture
def start_worker(pool: str, space: Space, log_folder: Path) -> Iterator[StartWorker]:
    """Start workers in a space of their own; they end with the test."""
    defaults: dict[str, Any] = {"app": "apps.main", "paths": [HERE], "folder": log_folder}
    with workers(settings_for, pool=pool, space=space, **defaults) as start:
        yield start


@pytest.fixture
def own_journal(space: Space) -> Iterator[Journal]:
    """What the tasks of the workers from ``start_worker`` wrote down."""
    opened = Journal(space.redis_url)
    yield opened
    opened.close()


if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))
