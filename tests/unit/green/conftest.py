"""Pools and timers of one hub, and ways to wait for them.

The tests run in the main greenlet: nothing else runs until they wait. A test marked ``parity``
runs on Celery's own pool for the hub as well.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, Callable

import celery
import pytest
from harness import greenlets

from hybrid import hubs
from hybrid.hubs.base import Hub

CELERY = tuple(int(part) for part in celery.__version__.split(".")[:2])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--hub", choices=hubs.NAMES, required=True)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than 0.25 s")
    config.addinivalue_line(
        "markers",
        "parity(*hubs, since): Celery's own pool must pass it too, on all hubs or on those named, "
        "from that version of Celery, as (5, 7)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "implementation" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("parity")
    has_parity = (
        mark is not None
        and (not mark.args or metafunc.config.getoption("--hub") in mark.args)
        and mark.kwargs.get("since", (0, 0)) <= CELERY
    )
    metafunc.parametrize("implementation", ["hybrid", "stock"] if has_parity else ["hybrid"])


@pytest.fixture
def hub(pytestconfig: pytest.Config) -> Hub:
    return hubs.get(pytestconfig.getoption("--hub"))


@pytest.fixture
def library(hub: Hub) -> Any:
    """The module ``gevent`` or ``eventlet``."""
    return importlib.import_module(hub.name)


@pytest.fixture
def pool_class(hub: Hub, implementation: str) -> Any:
    package = {"hybrid": "hybrid", "stock": "celery.concurrency"}[implementation]
    return importlib.import_module(f"{package}.{hub.name}").TaskPool


@pytest.fixture
def make_pool(pool_class: Any) -> Iterator[Callable[..., Any]]:
    """Starts pools, and stops them after the test, which must leave no job running."""
    pools = []

    def make(limit: int = 10, **options: Any) -> Any:
        made = pool_class(limit, **options)
        made.start()
        pools.append(made)
        return made

    yield make
    for made in pools:
        if made._state != made.TERMINATE:
            made.close()
            made.stop()


@pytest.fixture
def until(hub: Hub) -> Callable[..., Any]:
    """Lets the others run until a condition holds."""
    return partial(greenlets.until, hub)


@pytest.fixture
def turns(hub: Hub) -> Callable[..., None]:
    """Lets the hub take some turns: enough for all that needs no time to happen."""

    def take(count: int = 10) -> None:
        for _ in range(count):
            hub.sleep(0)
            hub.sleep(0.0001)  # gevent looks at timers and files only when it may wait

    return take


@pytest.fixture
def native(hub: Hub) -> Any:
    """``start(function)`` in a thread of the operating system, and ``sleep(seconds)`` there."""
    if hub.name == "gevent":
        from gevent.monkey import get_original

        start, sleep = get_original("_thread", "start_new_thread"), get_original("time", "sleep")
    else:
        from eventlet.patcher import original

        start, sleep = original("_thread").start_new_thread, original("time").sleep
    return SimpleNamespace(start=lambda function: start(function, ()), sleep=sleep)


@pytest.fixture
def in_native_thread(native: Any, until: Callable[..., None]) -> Callable[..., Any]:
    """Calls a function in a thread of the operating system and returns its result."""

    def call(function: Callable[..., Any], *args: Any) -> Any:
        results: list[Any] = []
        native.start(lambda: results.append(function(*args)))
        until(lambda: results)
        return results[0]

    return call


class Outcome(SimpleNamespace):
    """What the pool has told about one job, in the order of the calls."""

    def __init__(self) -> None:
        super().__init__(calls=[], pid=None, job=None)

    @property
    def names(self) -> list[str]:
        return [name for name, *_ in self.calls]

    @property
    def is_over(self) -> bool:
        return bool({"success", "error", "hard limit"}.intersection(self.names))

    def value_of(self, name: str) -> Any:
        (value,) = (call[1] for call in self.calls if call[0] == name)
        return value


@pytest.fixture
def apply() -> Callable[..., Outcome]:
    """Applies a target with all callbacks."""

    def apply(
        pool: Any, target: Callable[..., Any], *args: Any, kwargs: Any = None, **options: Any
    ) -> Outcome:
        outcome = Outcome()

        def on_accept(pid: int, accepted: float) -> None:
            outcome.pid = pid
            outcome.calls.append(("accept", accepted))

        def on_timeout(soft: bool, limit: float) -> None:
            outcome.calls.append(("soft limit" if soft else "hard limit", limit))

        options = {
            "callback": lambda value: outcome.calls.append(("success", value)),
            "error_callback": lambda einfo: outcome.calls.append(("error", einfo)),
            "accept_callback": on_accept,
            "timeout_callback": on_timeout,
            **options,
        }
        outcome.job = pool.apply_async(target, args, kwargs or {}, **options)
        return outcome

    return apply
