"""Options, real brokers and the choice of pools for all tests that start workers.

``--pools`` and ``--brokers`` choose what the conformance and integration tests run on. A missing
broker or pool skips locally, and fails when ``CI=true``.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from harness.brokers import Brokers, MissingServerError, Space
from harness.worker import CELERY, Worker

STOCK_POOLS = ("gevent", "eventlet")
HYBRID_POOLS = ("hybrid.gevent", "hybrid.eventlet")
BROKERS = ("redis", "rabbitmq")

OpenSpace = Callable[[str], Space]
"""What the fixture ``open_space`` gives."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("celery-hybrid")
    group.addoption(
        "--pools",
        default="",
        help="comma-separated pools to test, of gevent, eventlet, hybrid.gevent, hybrid.eventlet; "
        "the default is all four for conformance and the two hybrid ones for integration",
    )
    group.addoption(
        "--brokers", default=",".join(BROKERS), help="comma-separated, of redis, rabbitmq"
    )
    group.addoption(
        "--thorough",
        action="store_true",
        help="run the cells that are marked as thorough, too: all of each matrix",
    )
    group.addoption(
        "--packages",
        action="store_true",
        help="run the projects of tests/packages that need packages of their own, too",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "stock_fails(reason, *, pools, brokers, before, since, sometimes, piece): stock pools must "
        "fail this test and hybrid pools must pass it. The day a stock pool passes, the run fails "
        "and the mark goes, unless stock fails only `sometimes`. `pools` and `brokers` narrow it, "
        "`before` and `since` bound the Celery version, as in (5, 6). `piece` is what hybrid pools "
        "fail without, by its name in HYBRID_DISABLE.",
    )
    config.addinivalue_line(
        "markers", "dedicated: starts workers of its own, because it stops or configures them"
    )
    config.addinivalue_line(
        "markers",
        "thorough(**cells): only --thorough runs this test, or the cells of it in which each named "
        "parameter has the value, or one of the tuple of values, that is given.",
    )


def _is_for_brokers(item: pytest.Item) -> bool:
    folder = Path(__file__).parent
    return any(
        folder / name in item.path.parents
        for name in ("conformance", "integration", "packages", "signals", "soak", "storms")
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Iterator[None]:
    if not config.getoption("--thorough"):
        _leave_out_thorough_cells(config, items)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
        if not _is_for_brokers(item):
            continue
        # Sockets that celery, kombu and redis-py leave to the collector in the *client* process
        # say nothing about the worker under test.
        item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
        item.add_marker(
            pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
        )
        params = _params(item)
        for mark in item.iter_markers("stock_fails"):
            if _is_expected_to_fail(mark, params):
                # Only assertions: a broken rig or a typo in the test must not count as expected.
                item.add_marker(
                    pytest.mark.xfail(
                        reason=mark.args[0],
                        strict=not mark.kwargs.get("sometimes", False),
                        raises=AssertionError,
                    )
                )
    yield
    if hasattr(config, "workerinput"):  # one of several processes
        _put_the_longest_first(items)


def _params(item: pytest.Item) -> dict[str, Any]:
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return params


def _leave_out_thorough_cells(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if _is_thorough(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not _is_thorough(item)]


def _is_thorough(item: pytest.Item) -> bool:
    params = _params(item)
    return any(
        all(
            params.get(name) in (values if isinstance(values, tuple) else (values,))
            for name, values in mark.kwargs.items()
        )
        for mark in item.iter_markers("thorough")
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Collect what clients have left before a test that minds such sockets."""
    outcome = yield
    if _is_for_brokers(item) and nextitem is not None and not _is_for_brokers(nextitem):
        gc.collect()
    return outcome


def _group(item: pytest.Item) -> str:
    """Name the tests that have to run one after another, for what they share."""
    params = _params(item)
    axes = [
        str(params[name])
        for name in ("pool", "broker", "example_pool", "hub", "path", "project")
        if name in params
    ]
    if "shared_space" in item.fixturenames:
        return " on ".join(axes)
    return " ".join([item.path.stem, *axes])


def _put_the_longest_first(items: list[pytest.Item]) -> None:
    """Sort whole groups, so that no long one begins when the others are nearly through."""
    seconds: Counter[str] = Counter()
    for item in items:
        seconds[_group(item)] += _estimate(item)
    items.sort(key=lambda item: (-seconds[_group(item)], _group(item)))


def _estimate(item: pytest.Item) -> float:
    """Return about how many seconds a test takes: what counts are the processes that it starts."""
    if {"path", "example_pool"} & _params(item).keys():
        return 8.0
    if "shell" in item.fixturenames or "start_worker" in item.fixturenames:
        return 4.0
    return 0.5 if "broker" in _params(item) else 0.05


def _is_expected_to_fail(mark: pytest.Mark, params: dict[str, Any]) -> bool:
    pools = mark.kwargs.get("pools", STOCK_POOLS)
    if mark.kwargs.get("piece") in os.environ.get("HYBRID_DISABLE", "").split(","):
        pools = (*pools, *HYBRID_POOLS)
    return (
        params.get("pool") in pools
        and params.get("broker", "") in mark.kwargs.get("brokers", BROKERS)
        and mark.kwargs.get("since", (0, 0)) <= CELERY < mark.kwargs.get("before", (99, 0))
    )


def _chosen(config: pytest.Config, option: str, default: tuple[str, ...]) -> list[str]:
    text = config.getoption(option)
    return [word.strip() for word in text.split(",") if word.strip()] or list(default)


def parametrize_workers(metafunc: pytest.Metafunc, pools: tuple[str, ...]) -> None:
    """Run a test that asks for ``pool`` or ``broker`` once per chosen pool and broker."""
    # Session scope makes pytest group the tests by worker, so that each starts once.
    if "pool" in metafunc.fixturenames:
        chosen = _chosen(metafunc.config, "--pools", pools)
        metafunc.parametrize("pool", chosen, indirect=True, scope="session")
    if "broker" in metafunc.fixturenames:
        chosen = _chosen(metafunc.config, "--brokers", BROKERS)
        metafunc.parametrize("broker", chosen, indirect=True, scope="session")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_workers(
        metafunc,
        HYBRID_POOLS
        if {"integration", "soak", "storms"} & set(metafunc.definition.path.parts)
        else (*STOCK_POOLS, *HYBRID_POOLS),
    )


def _missing(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def pool(request: pytest.FixtureRequest) -> str:
    """What goes behind ``-P``."""
    name: str = request.param
    package, _, hub = name.rpartition(".")
    for module in filter(None, (package, hub)):
        if name in (*STOCK_POOLS, *HYBRID_POOLS) and importlib.util.find_spec(module) is None:
            _missing(f"-P {name} needs the package {module}, which is not installed")
    return name


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest) -> str:
    """``redis`` or ``rabbitmq``."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    started = Brokers(tmp_path_factory.mktemp("brokers"))
    yield started
    started.stop()


@pytest.fixture(scope="session")
def log_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where worker logs go."""
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="session")
def open_space(brokers: Brokers) -> OpenSpace:
    """Opens a space on a broker; skips the test, or fails it, where that is not installed."""

    def open_it(broker: str) -> Space:
        try:
            return brokers.space(broker)
        except MissingServerError as exc:
            _missing(str(exc))
            raise

    return open_it


@pytest.fixture(scope="session")
def shared_space(open_space: OpenSpace, broker: str, pool: str) -> Space:
    """The space of the worker that the tests of one pool and broker share."""
    return open_space(broker)


@pytest.fixture
def space(open_space: OpenSpace, broker: str) -> Space:
    """A space that this test has to itself."""
    return open_space(broker)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Print measured figures, and append them to the JSON lines file ``$HYBRID_FIGURES``."""

    def write(**figures: Any) -> None:
        line = json.dumps({"test": request.node.name, **figures})
        print(line, flush=True)
        path = os.environ.get("HYBRID_FIGURES")
        if path:
            with Path(path).open("a") as out:
                out.write(line + "\n")

    return write


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Worker) and value.child.log.exists():
                report.sections.append((f"log of {value}", value.child.tail()))
    return report
