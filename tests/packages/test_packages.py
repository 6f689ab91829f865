"""What packages do beside Celery, they do on our pools as on the stock ones."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from effects import count, differences
from harness.brokers import Space
from listed import PROJECTS
from runs import Project, Run

#: What `make test` has in its own environment.
FOR_EVERY_RUN = ("sentry", "opentelemetry", "django")


@pytest.fixture
def project(request: pytest.FixtureRequest) -> Project:
    chosen: Project = request.param
    if not (chosen.name in FOR_EVERY_RUN or request.config.getoption("--packages")):
        pytest.skip("make test-packages runs it")
    missing = [name for name in chosen.needs if not _is_installed(name)]
    if missing:
        reason = f"{chosen.name} needs {', '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return chosen


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it would be in
        return False


@pytest.fixture
def runs(
    project: Project, hub: str, open_space: Callable[[str], Space], tmp_path: Path
) -> Iterator[list[Run]]:
    """The project on the stock pool and on ours."""
    started: list[Run] = []
    try:
        for pool in (hub, f"hybrid.{hub}"):
            started.append(Run(project, pool, open_space("redis"), tmp_path / pool))
        yield started
    finally:
        for run in started:
            run.worker.kill()


@pytest.mark.parametrize("hub", ["gevent", "eventlet"])
@pytest.mark.parametrize("project", PROJECTS, indirect=True, ids=lambda project: project.name)
def test_a_project_has_the_same_effects(project: Project, hub: str, runs: list[Run]) -> None:
    for run in runs:
        run.worker.wait_ready()
    for run in runs:
        run.send()
    stock, ours = (run.end() for run in runs)

    for row in project.differences:
        assert any(map(row.concerns, (*stock, *ours))), f"nothing needs the row {row.what!r}"
    left = [
        count(effect for effect in effects if not project.may_differ(effect))
        for effects in (stock, ours)
    ]
    found = differences(*left)
    assert not found, "\n".join(found)
