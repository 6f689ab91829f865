"""A wheel, environments that it is installed in, and processes started there.

Every test runs interpreters of its own; the test process imports nothing of ours.
"""

from __future__ import annotations

import glob
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from harness.brokers import Space
from shell import Shell
from venvs import PACKAGES, ROOT, Venv

#: What was measured, for the summary at the end of the run.
_seconds: dict[str, float] = {}


@pytest.fixture(params=["gevent", "eventlet"])
def hub(request: pytest.FixtureRequest) -> str:
    """``gevent`` or ``eventlet``."""
    name: str = request.param
    return name


# --- installations --------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in ``HYBRID_WHEEL``, or else one that is built now."""
    given = os.environ.get("HYBRID_WHEEL")
    if given:
        return Path(given).resolve()
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [
            *(sys.executable, "-m", "maturin", "build", "--release", "--quiet"),
            *("--interpreter", sys.executable, "--out", str(out)),
        ],
        cwd=ROOT,
        check=True,
    )
    return Path(glob.glob(f"{out}/*.whl")[0])


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Venv:
    """An environment with Celery and both hubs, and without us."""
    return Venv(tmp_path_factory.mktemp("plain"), PACKAGES)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Venv:
    """The same with our wheel installed by pip."""
    made = Venv(tmp_path_factory.mktemp("installed"), PACKAGES)
    made.install(wheel)
    return made


# --- processes ------------------------------------------------------------------------------------


@pytest.fixture
def space(open_space: Callable[[str], Space]) -> Space:
    """A Redis database of the test's own."""
    return open_space("redis")


@pytest.fixture
def shell(tmp_path: Path, space: Space) -> Iterator[Shell]:
    """Where commands are typed."""
    opened = Shell(tmp_path, space)
    yield opened
    opened.close()


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Note a number of seconds for the summary."""

    def note(what: str, seconds: float) -> None:
        request.node.user_properties.append((what, seconds))
        _seconds[f"{request.node.name}: {what}"] = seconds

    return note


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _seconds:
        terminalreporter.section("seconds")
        for what, seconds in _seconds.items():
            terminalreporter.write_line(f"{seconds:7.2f}  {what}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    report = yield
    shell = getattr(item, "funcargs", {}).get("shell")
    if report.failed and isinstance(shell, Shell):
        for log in sorted(shell.folder.glob("*.log")):
            report.sections.append((log.name, log.read_text(errors="replace")[-6000:]))
    return report
