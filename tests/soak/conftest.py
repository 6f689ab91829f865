"""Tests that take a quarter of an hour, on RabbitMQ; ``--minutes`` makes them shorter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness.brokers import Brokers, MissingServerError, RabbitServer
from run import FULL


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("celery-hybrid").addoption(
        "--minutes",
        type=float,
        default=FULL,
        help=f"length of the tests in tests/soak; fewer than {FULL:g} shorten their tasks and "
        "send fewer commands",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    within = 60 * config.getoption("--minutes") + 600
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.timeout(within))
    # pytest has put all tests of one pool before those of the next, and would start the workers of
    # one file once for each.
    ours.sort(key=lambda item: item.location[:2])
    items[:] = [item for item in items if item not in ours] + ours


@pytest.fixture(scope="session")
def minutes(request: pytest.FixtureRequest) -> float:
    """How long the tests run."""
    length: float = request.config.getoption("--minutes")
    return length


@pytest.fixture(scope="session")
def rabbit(brokers: Brokers) -> RabbitServer:
    """The broker; without it the tests skip, and fail where ``CI=true``."""
    try:
        return brokers.rabbit
    except MissingServerError as exc:
        if os.environ.get("CI") == "true":
            pytest.fail(str(exc))
        pytest.skip(str(exc))
