"""A worker of its own for each integration test: they fill pools, kill tasks and stop workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.brokers import Space
from harness.journal import Journal
from harness.worker import StartWorker, WorkersIn, workers

HERE = Path(__file__).resolve().parent

SETTINGS: dict[str, Any] = {
    "broker_connection_retry_on_startup": True,
    "result_expires": 600,
    "redis_socket_timeout": 60,
}


def settings_for(pool: str) -> dict[str, Any]:
    """Return what all workers here run with."""
    if pool.startswith("hybrid."):
        return SETTINGS
    # See tests/conformance/conftest.py: only for trying a test on a stock pool.
    return {**SETTINGS, "broker_heartbeat": 0}


@pytest.fixture(scope="session")
def workers_in(pool: str, log_folder: Path) -> WorkersIn:
    """Opens a block in which workers start in a space; for workers that tests share."""
    defaults: dict[str, Any] = {"app": "workload", "paths": [HERE], "folder": log_folder}
    return lambda space: workers(settings_for, pool=pool, space=space, **defaults)


@pytest.fixture
def start_worker(workers_in: WorkersIn, space: Space) -> Iterator[StartWorker]:
    """Start workers in the test's own space; they end with the test."""
    with workers_in(space) as start:
        yield start


@pytest.fixture
def journal(space: Space) -> Iterator[Journal]:
    """What the tasks of this test's workers wrote down."""
    opened = Journal(space.redis_url)
    yield opened
    opened.close()
