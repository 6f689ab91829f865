"""An error of code costs no message, though it is what a bad message raises, too.

The worker stops as a stock worker does, and everything that it held is in the queue again.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from harness.brokers import Space
from harness.waiting import eventually
from harness.worker import StartWorker, Worker, close_client, make_client
from hostile import CASES

MANY = 200
_REFUSALS = ("Refused", "invalid task", "Received invalid", "Can't decode")

#: What stops a consumer, stock or not.
STOPPING = ("Request Init", "Request Execute", "Strategy", "callback")
OURS = ("our execute_using_pool",)


def _fill(space: Space, count: int = MANY, **options: Any) -> list[str]:
    """Send tasks before there is a worker."""
    client = make_client({**space.settings, "result_backend": None})
    try:
        return [client.send_task("quick", (number,), **options).id for number in range(count)]
    finally:
        close_client(client)


def _all_are_back(space: Space, count: int = MANY) -> None:
    eventually(lambda: space.queue().ready() == count, f"{count} messages in the queue", within=20)
    if space.broker == "redis":
        assert space.unacked() == 0


def _start(start_worker: StartWorker, mistake: str, **options: Any) -> Worker:
    return start_worker(app="mistakes", env={"MISTAKE": mistake}, concurrency=10, **options)


@pytest.mark.thorough(broker="rabbitmq", mistake=STOPPING[1:])
@pytest.mark.parametrize("mistake", [*STOPPING, *OURS])
def test_a_consumer_with_a_mistake_in_it_stops_and_loses_nothing(
    start_worker: StartWorker, space: Space, pool: str, mistake: str
) -> None:
    if mistake in OURS and not pool.startswith("hybrid."):
        pytest.skip("a mistake in code that a stock pool has not")
    ids = _fill(space)
    worker = _start(start_worker, mistake, wait=False)
    assert worker.wait_exit(within=40) == 1
    assert "Unrecoverable error" in worker.output
    assert not any(words in worker.output for words in _REFUSALS)
    _all_are_back(space)
    assert worker.outcomes(ids) == {}


def test_what_kombu_takes_for_a_broken_connection_loses_nothing(
    start_worker: StartWorker, space: Space, broker: str
) -> None:
    if broker != "redis":
        pytest.skip("only a transport of kombu's has KeyError among its errors")
    ids = _fill(space)
    worker = _start(start_worker, "Request KeyError", wait=False)
    eventually(lambda: "Connection to broker lost" in worker.output, "a reconnect", within=40)
    assert not any(words in worker.output for words in _REFUSALS)
    worker.stop(within=20)
    _all_are_back(space)
    assert worker.outcomes(ids) == {}


@pytest.mark.thorough(broker="rabbitmq", mistake=OURS)
@pytest.mark.parametrize("mistake", ["Request Execute", *OURS])
def test_a_mistake_that_shows_when_a_task_is_due_loses_nothing(
    start_worker: StartWorker, space: Space, pool: str, mistake: str
) -> None:
    if mistake in OURS and not pool.startswith("hybrid."):
        pytest.skip("a mistake in code that a stock pool has not")
    worker = _start(start_worker, mistake)
    ids = worker.flood("quick", [(number,) for number in range(20)], countdown=0.2)
    error = re.compile("^(IndexError|TypeError): ", re.MULTILINE)
    eventually(lambda: len(error.findall(worker.output)) >= 20, "20 errors", within=20)
    assert not any(words in worker.output for words in _REFUSALS)
    worker.stop(within=20)
    _all_are_back(space, 20)
    assert worker.outcomes(ids) == {}


@pytest.mark.thorough(broker="rabbitmq", late=False)
@pytest.mark.parametrize("late", [False, True])
def test_a_task_that_cannot_be_accepted_goes_back_to_the_queue(
    start_worker: StartWorker, space: Space, late: bool
) -> None:
    ids = _fill(space, 20)
    worker = _start(start_worker, "Request Accepted", settings={"task_acks_late": late})
    eventually(lambda: worker.output.count("AttributeError: 'None") >= 20, "20 errors", within=20)
    worker.stop(within=20)
    _all_are_back(space, 20)
    assert worker.outcomes(ids) == {}


def test_what_only_our_reading_fails_at_is_run_by_celery(
    start_worker: StartWorker, pool: str
) -> None:
    if not pool.startswith("hybrid."):
        pytest.skip("a mistake in code that a stock pool has not")
    worker = _start(start_worker, "our __init__")
    ids = worker.flood("quick", [(number,) for number in range(30)])
    outcomes = worker.wait_outcomes(ids, within=20)
    assert [outcomes[task_id]["result"] for task_id in ids] == list(range(30))
    # Three are tried, and then none.
    assert worker.output.count("could not be read here") == 3
    declined = worker.pool_info()["accelerated"]["strategy"]
    assert "a release of Celery has moved something" in declined["quick"]


def test_a_thousand_bad_messages_cost_themselves_alone(
    start_worker: StartWorker, space: Space, broker: str
) -> None:
    worker = start_worker(concurrency=20)
    cases = [case for case in CASES if broker in case.brokers and "50 MB" not in case.name]
    for number in range(1000):
        cases[number % len(cases)].push(space.queue(), broker)
    ids = worker.flood("quick", [(number,) for number in range(20)])
    outcomes = worker.wait_outcomes(ids, within=60)
    assert {meta["status"] for meta in outcomes.values()} == {"SUCCESS"}
    assert worker.child.running
    assert not re.search("Connection to broker lost|could not be read here", worker.output)
    assert space.queue().ready() == 0
    accelerated = worker.pool_info()["accelerated"]
    assert accelerated["strategy"] is True
