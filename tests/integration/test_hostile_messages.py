"""Bad input costs the worker one message, and nobody else anything.

Good tasks are sent before and after each bad message, and all of them must run, on the same broker
connection. What a stock worker does instead is recorded in :mod:`hostile`, and checked when the
tests run with ``--pools gevent``.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.brokers import Brokers, Space
from harness.worker import StartWorker, Worker
from hostile import CASES, Case, stock_outcome

#: A line of the log that tells of something wrong.
_COMPLAINT = re.compile(r"^\[[^]]*(?:WARNING|ERROR|CRITICAL)/", re.MULTILINE)
#: What is said about a bad message is said in one line, if it cannot be run at all. These are run,
#: and what Celery makes of them while it stores their results or calls them back is another matter.
_MORE_COMPLAINTS = {
    "callbacks of a wrong type": 3,
    "chain of a wrong type": 2,
    "header id: None": 2,
    "header id: 17": 2,
    "header id: ''": 2,
}
_RECONNECTS = ("Connection to broker lost", "Trying again in")


@pytest.fixture(scope="session")
def _running(brokers: Brokers) -> Iterator[list[Worker]]:
    workers: list[Worker] = []
    yield workers
    for worker in workers:
        worker.stop(within=5)


@pytest.fixture
def worker(
    _running: list[Worker], pool: str, broker: str, space: Space, log_folder: Path
) -> Worker:
    """A worker that the cases of one pool and broker share while it stays well."""
    here = Path(__file__).resolve().parent
    current = next((known for known in _running if known.child.running), None)
    if current is not None and (current.pool, current.space.broker) != (pool, broker):
        current.kill()
        current = None
    if current is not None and not _serves(current, within=3):
        current.kill()
        current = None
    if current is None:
        _running.clear()
        settings = {
            "broker_connection_retry_on_startup": True,
            "result_expires": 600,
            "broker_heartbeat": 120 if pool.startswith("hybrid.") else 0,
        }
        current = Worker(pool, space, log_folder, "workload", [here], settings=settings)
        _running.append(current)
        current.wait_ready()
    return current


def _serves(worker: Worker, within: float) -> bool:
    return _run_all(worker, worker.flood("quick", [(1,)]), within)


def _run_all(worker: Worker, ids: list[str], within: float) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline and worker.child.running:
        if len(worker.outcomes(ids)) == len(ids):
            return True
        time.sleep(0.01)
    return False


def _observe(worker: Worker, case: Case) -> tuple[str, int]:
    """Send the bad message between good ones.

    Returns:
        One word for what became of the worker, and how many lines it complained in.
    """
    stock = not worker.pool.startswith("hybrid.")
    logged = len(worker.output)
    good = worker.flood("quick", [(number,) for number in range(3)])
    case.push(worker.space.queue(), worker.space.broker)
    good += worker.flood("quick", [(number,) for number in range(3)])
    within = 8 if stock else 20
    # The last one goes out when the others are done: a worker that is ending would still have
    # finished what it had prefetched.
    served = _run_all(worker, good, within) and _serves(worker, within)
    if not worker.child.running:
        return "ends", 0
    new = worker.output[logged:]
    complaints = len(_COMPLAINT.findall(new))
    if "Unrecoverable error" in new:
        worker.kill()
        return "ends", complaints
    if any(words in new for words in _RECONNECTS):
        return "reconnects", complaints
    return "serves" if served else "stuck", complaints


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace("\x00", "NUL"))
def test_a_bad_message_harms_nobody(worker: Worker, case: Case, broker: str, pool: str) -> None:
    if broker not in case.brokers:
        pytest.skip(f"{broker} has no such thing")
    outcome, complaints = _observe(worker, case)
    survey = os.environ.get("HYBRID_SURVEY")
    if survey:
        with open(survey, "a") as out:
            print(pool, broker, case.name, outcome, sep="\t", file=out)
        return
    expected = "serves" if pool.startswith("hybrid.") else stock_outcome(case, broker)
    assert outcome == expected
    if pool.startswith("hybrid."):
        assert complaints <= _MORE_COMPLAINTS.get(case.name, 1)


def test_no_bad_message_stays_behind(worker: Worker, broker: str) -> None:
    """Runs after the cases of its pool and broker, on the worker they leave."""
    assert _serves(worker, within=10)
    if broker == "redis":
        assert worker.space.unacked() == 0
    assert worker.space.queue().ready() == 0


def test_good_messages_among_many_bad_ones_all_run(start_worker: StartWorker, broker: str) -> None:
    worker = start_worker(concurrency=50)
    good: list[str] = []
    for case in CASES:
        if broker in case.brokers and "50 MB" not in case.name:
            good += worker.flood("quick", [(1,), (2,)])
            case.push(worker.space.queue(), broker)
    outcomes = worker.wait_outcomes(good, within=60)
    assert {meta["status"] for meta in outcomes.values()} == {"SUCCESS"}
    assert not any(words in worker.output for words in _RECONNECTS)
