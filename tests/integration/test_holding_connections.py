"""Tasks that want a connection or a producer while they, and others like them, hold one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from harness.brokers import RabbitServer, Space
from harness.journal import Journal
from harness.worker import CELERY, StartWorker, Worker, WorkersIn

WAYS = (
    "ping",
    "active",
    "revoke",
    "rate_limit",
    "call alone",
    "call a topic",
    "ping with a connection",
    "ping with a producer",
    "call with a connection",
    "call alone with a connection",
    "call with a producer",
    "call alone with a producer",
)


def start(start_worker: StartWorker, limit: int) -> Worker:
    """Start a worker with so many connections; the client of the test has as many as it wants."""
    worker = start_worker(concurrency=150, settings={"broker_pool_limit": limit})
    worker.settings["broker_pool_limit"] = None
    return worker


def expected(worker: Worker, way: str) -> Any:
    """Return what a task of the worker gets; ``None`` for the id of a task."""
    if way.startswith("ping"):
        return [{worker.node: {"ok": "pong"}}]
    if way == "active":
        return [worker.node]
    if way == "rate_limit":
        return [{worker.node: {"ok": "new rate limit set successfully"}}]
    return None


@pytest.fixture(scope="module", params=[1, 10])
def limit(request: pytest.FixtureRequest) -> int:
    """How many connections a worker may keep."""
    number: int = request.param
    return number


def is_well(worker: Worker) -> bool:
    with contextlib.suppress(AssertionError):
        return worker.child.running and bool(
            worker.wait_outcomes(worker.flood("quick", [(1,)]), within=5)
        )
    return False


@pytest.fixture(scope="module")
def _start_lender(
    workers_in: WorkersIn, open_space: Callable[[str], Space], broker: str, limit: int
) -> Iterator[Callable[[], Worker]]:
    with workers_in(open_space(broker)) as start_worker:
        started: list[Worker] = []

        def lend() -> Worker:
            if started and not is_well(started[-1]):
                started.pop().kill()
            if not started:
                started.append(start(start_worker, limit))
            return started[-1]

        yield lend


@pytest.fixture
def lender(_start_lender: Callable[[], Worker]) -> Worker:
    """A worker with so many connections that all ways share while it stays well."""
    return _start_lender()


@pytest.mark.thorough(
    limit=10, way=tuple(set(WAYS) - {"ping", "call alone", "ping with a connection"})
)
@pytest.mark.parametrize("way", WAYS)
def test_tasks_that_want_connections_at_once_all_get_one(
    lender: Worker, way: str, limit: int
) -> None:
    # On Redis there are 100 producers.
    for count in (30, 120):
        ids = lender.flood("steer", [(way, number) for number in range(count)])
        outcomes = lender.wait_outcomes(ids, within=40)
        results = [outcomes[task_id]["result"] for task_id in ids]
        if way == "revoke":
            assert results == [None] * count
        elif wanted := expected(lender, way):
            assert results == [wanted] * count
        else:
            assert len(set(results)) == count
            if "topic" not in way:
                called = lender.wait_outcomes(results, within=20)
                assert {entry["result"] for entry in called.values()} == set(range(count))


def test_a_worker_that_has_lent_connections_ends(lender: Worker) -> None:
    """Runs after all ways, on the worker that they leave."""
    lender.terminate()
    assert lender.wait_exit(within=20) == 0


@pytest.mark.parametrize("limit", [1, 10])
def test_tasks_that_are_ended_give_their_connections_back(
    start_worker: StartWorker, journal: Journal, limit: int
) -> None:
    """Some hold a connection and a producer, others wait for these."""
    worker = start(start_worker, limit)
    worker.flood("hold", [("held", 60)] * 100, time_limit=2)
    journal.wait_for("held", "holding", times=limit)
    ids = worker.flood("steer", [("ping", number) for number in range(30)])
    outcomes = worker.wait_outcomes(ids, within=60)
    assert [outcomes[task_id]["result"] for task_id in ids] == [expected(worker, "ping")] * 30

    ids = worker.flood("hold", [("terminated", 60)] * 50)
    journal.wait_for("terminated", "holding", times=limit)
    worker.control("revoke", ids, terminate=True)
    ids = worker.flood("steer", [("ping", number) for number in range(30)])
    outcomes = worker.wait_outcomes(ids, within=60)
    assert [outcomes[task_id]["result"] for task_id in ids] == [expected(worker, "ping")] * 30
    worker.terminate()
    assert worker.wait_exit(within=20) == 0


def connections(rabbit: RabbitServer) -> int:
    return len(rabbit.control("--no-table-headers", "list_connections", "pid").splitlines())


def test_connections_beyond_the_limit_are_closed_again(
    start_worker: StartWorker, broker: str, space: Any
) -> None:
    if space.rabbit is None:
        pytest.skip(f"{broker} has one connection for all")
    worker = start_worker(concurrency=100, settings={"broker_pool_limit": 5})
    worker.wait_outcomes(worker.flood("steer", [("ping", 0)]), within=20)
    before = connections(space.rabbit)
    for way in ("ping with a connection", "call alone with a connection"):
        ids = worker.flood("steer", [(way, number) for number in range(100)])
        worker.wait_outcomes(ids, within=40)
    # Five for tasks, and five for producers, of which one each was there.
    assert connections(space.rabbit) <= before + 8


@pytest.mark.skipif(CELERY < (5, 7), reason="the setting came with Celery 5.7")
def test_who_has_waited_long_enough_is_told_so(start_worker: StartWorker, journal: Journal) -> None:
    settings = {"broker_pool_limit": 1, "broker_pool_acquire_timeout": 0.5}
    worker = start_worker(concurrency=10, settings=settings)
    worker.flood("hold", [("held", 5)])
    journal.wait_for("held", "holding")
    [task_id] = worker.flood("steer", [("ping", 0)])
    outcome = worker.wait_outcomes([task_id], within=4)[task_id]
    assert outcome["result"]["exc_type"] == "OperationalError", outcome["traceback"]
