"""A worker of its own for each integration test: they fill pools, kill tasks and stop workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.brokers import Space
from harness.journal import Journal
from harness.worker import StartWorker, Worker

HERE = Path(__file__).resolve().parent

SETTINGS: dict[str, Any] = {
    "broker_connection_retry_on_startup": True,
    "result_expires": 600,
    "redis_socket_timeout": 60,
}


def _settings_for(pool: str) -> dict[str, Any]:
    if pool.startswith("hybrid."):
        return SETTINGS
    # See tests/conformance/conftest.py: only for trying a test on a stock pool.
    return {**SETTINGS, "broker_heartbeat": 0}


@pytest.fixture
def start_worker(pool: str, space: Space, log_folder: Path) -> Iterator[StartWorker]:
    """Start workers in the test's own space; they end with the test."""
    started: list[Worker] = []

    def start(wait: bool = True, **options: Any) -> Worker:
        settings = {**_settings_for(pool), **options.pop("settings", {})}
        worker = Worker(
            **{
                "pool": pool,
                "space": space,
                "folder": log_folder,
                "app": "workload",
                "paths": [HERE],
                "settings": settings,
                **options,
            }
        )
        started.append(worker)
        return worker.wait_ready() if wait else worker

    yield start
    for worker in started:
        # How a worker ends has its own tests; a warm shutdown of each would take minutes in all.
        worker.kill()


@pytest.fixture
def journal(space: Space) -> Iterator[Journal]:
    """What the tasks of this test's workers wrote down."""
    opened = Journal(space.redis_url)
    yield opened
    opened.close()
