"""Storms: workers of their own under loads that end tasks and connections wherever they wait."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from harness.brokers import Space
from harness.worker import StartWorker, Worker
from load import NOTES_VARIABLE, WORKER_SETTINGS_VARIABLE, Sizes
from records import Record
from storm import SLOTS, Notes
from verdict import Findings

HERE = Path(__file__).resolve().parent

SETTINGS: dict[str, Any] = {
    "broker_connection_retry_on_startup": True,
    "result_expires": 3600,
    "redis_socket_timeout": 60,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("celery-hybrid")
    group.addoption("--seeds", default="1,2,3,4,5", help="comma-separated seeds of the storms")
    group.addoption("--storm-tasks", type=int, default=2000, help="tasks of one storm")
    group.addoption("--noops", type=int, default=10_000, help="tasks that do nothing, after it")
    group.addoption("--losses", type=int, default=50, help="connections that are lost in a storm")
    group.addoption(
        "--calm", action="store_true", help="storms without limits and terminations, for any pool"
    )
    group.addoption(
        "--records", type=Path, help="folder with one JSON file per storm: what passed is skipped"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        seeds = [int(seed) for seed in metafunc.config.getoption("--seeds").split(",")]
        metafunc.parametrize("seed", seeds)


@pytest.fixture
def space(request: pytest.FixtureRequest, open_space: Callable[[str], Space]) -> Space:
    """A space that this test has to itself, on Redis where the test asks for no ``broker``."""
    asks = "broker" in request.fixturenames
    return open_space(request.getfixturevalue("broker") if asks else "redis")


@pytest.fixture
def sizes(pytestconfig: pytest.Config) -> Sizes:
    """How large the storms are."""
    return Sizes(
        tasks=pytestconfig.getoption("--storm-tasks"),
        noops=pytestconfig.getoption("--noops"),
        losses=pytestconfig.getoption("--losses"),
        calm=pytestconfig.getoption("--calm"),
    )


@pytest.fixture
def keep(
    request: pytest.FixtureRequest,
    pool: str,
    broker: str,
    seed: int,
    sizes: Sizes,
    record: Callable[..., None],
) -> Callable[[Findings, dict[str, Any]], None]:
    """Keeps what came of the storm and fails for what was found; skips what has passed before."""
    kind = request.path.stem.removeprefix("test_")
    folder: Path | None = request.config.getoption("--records")
    kept = Record(folder, [kind, pool, broker, str(seed)], sizes)
    kept.skip_if_passed()

    def keep_it(findings: Findings, figures: dict[str, Any]) -> None:
        record(findings=findings.counts, **figures)
        kept.write(findings, figures)
        assert not findings, f"\n{findings}"

    return keep_it


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    """What the tasks of this test write down."""
    return Notes(tmp_path / "notes.jsonl")


@pytest.fixture
def start_worker(pool: str, space: Space, log_folder: Path, notes: Notes) -> Iterator[StartWorker]:
    """Start workers in the test's own space; they end with the test.

    ``worker_settings`` are for the worker alone, ``settings`` for its clients as well.
    """
    started: list[Worker] = []

    def start(**options: Any) -> Worker:
        own = options.pop("worker_settings", {})
        defaults = {"app": "storm_app", "paths": [HERE], "concurrency": SLOTS}
        settings = {**SETTINGS, **options.pop("settings", {})}
        if not pool.startswith("hybrid."):
            # See tests/conformance/conftest.py: only for trying a test on a stock pool.
            settings["broker_heartbeat"] = 0
        env = {
            NOTES_VARIABLE: str(notes.path),
            WORKER_SETTINGS_VARIABLE: json.dumps(own),
            **options.pop("env", {}),
        }
        worker = Worker(
            pool, space, log_folder, **{**defaults, "settings": settings, "env": env, **options}
        )
        started.append(worker)
        return worker.wait_ready()

    yield start
    for worker in started:
        worker.kill()
