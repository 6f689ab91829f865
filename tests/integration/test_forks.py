"""A task may fork: the child runs what the task gave it, and nothing of its parent's."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from harness.journal import Journal
from harness.worker import StartWorker, Worker

TASKS = 8
CHILDREN = 8
BYSTANDERS = 4
#: More than can run at a time, so that some wait in the pool and some at the broker.
OTHERS = 100

#: The exit codes of children by what they do.
CODES = {
    "os._exit": 3,
    "return": 0,
    "sys.exit": 4,
    "raise": 1,
    "call": 0,
    "wait for a result": 0,
    "use the backend": 0,
    "log": 0,
    "SIGTERM": -15,
}


@pytest.fixture
def start_worker(start_worker: StartWorker) -> Iterator[StartWorker]:
    """Start workers, with whose process groups all of their children end."""
    started: list[Worker] = []

    def start(**options: Any) -> Worker:
        started.append(start_worker(**options))
        return started[-1]

    yield start
    for worker in started:
        with suppress(ProcessLookupError):
            os.killpg(worker.child.pid, signal.SIGKILL)


def run_beside_others(worker: Worker, journal: Journal, forks: list[tuple[str, str]]) -> None:
    """Have tasks fork while others run and wait; each runs once, in the worker."""
    others = worker.flood("bystander", [("bystander", 2)] * BYSTANDERS)
    journal.wait_for("bystander", "began", times=BYSTANDERS)
    ids = worker.flood(
        "fork", [("fork", n, CHILDREN, how, ending) for n, (how, ending) in enumerate(forks)]
    )
    others += worker.flood("count", [("other", n) for n in range(OTHERS)])
    outcomes = worker.wait_outcomes(ids + others, within=60)
    assert [outcomes[task_id]["result"] for task_id in ids] == ["parent"] * len(ids)

    ran = Counter(entry["number"] for entry in journal.entries("fork", "ran"))
    assert ran == dict.fromkeys(range(len(forks)), 1)
    ran = Counter(entry["number"] for entry in journal.entries("other"))
    assert ran == dict.fromkeys(range(OTHERS), 1)
    entries = journal.entries("bystander")
    assert Counter(entry["event"] for entry in entries) == dict.fromkeys(
        ("began", "went on", "finally"), BYSTANDERS
    )
    assert {entry["pid"] for entry in entries} == {worker.child.pid}


def assert_goes_on_and_ends(worker: Worker, journal: Journal) -> None:
    worker.flood("count", [("after", n) for n in range(100)])
    ran = journal.wait_for("after", "ran", times=100)
    assert sorted(entry["number"] for entry in ran) == list(range(100))
    worker.terminate()
    assert worker.wait_exit(within=20) == 0


@pytest.mark.parametrize(
    "how", ["os.fork", "multiprocessing", "billiard", "preexec_fn", "executor"]
)
def test_children_run_none_of_their_parents_tasks(
    how: str, start_worker: StartWorker, journal: Journal
) -> None:
    worker = start_worker(concurrency=16)
    ending = "os._exit" if how == "os.fork" else "return"
    run_beside_others(worker, journal, [(how, ending)] * TASKS)
    codes = [code for entry in journal.entries("fork", "ended") for code in entry["codes"]]
    assert codes == [CODES[ending]] * (TASKS * CHILDREN)
    assert_goes_on_and_ends(worker, journal)


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing", "billiard"])
def test_children_end_as_processes_do(
    how: str, start_worker: StartWorker, journal: Journal
) -> None:
    worker = start_worker(concurrency=16)
    run_beside_others(worker, journal, [(how, ending) for ending in CODES])
    ended = {entry["ending"]: entry["codes"] for entry in journal.entries("fork", "ended")}
    assert ended == {ending: [code] * CHILDREN for ending, code in CODES.items()}

    called = journal.wait_for("fork called", "ran", times=CHILDREN)
    assert len({entry["number"] for entry in called} - {worker.child.pid}) == CHILDREN
    assert worker.output.count("from the child") == CHILDREN
    assert worker.output.count("ValueError: in the child") >= CHILDREN
    assert_goes_on_and_ends(worker, journal)


@pytest.mark.parametrize("how", ["multiprocessing", "billiard"])
def test_children_can_be_terminated(how: str, start_worker: StartWorker, journal: Journal) -> None:
    worker = start_worker(concurrency=16)
    run_beside_others(worker, journal, [(how, "terminated")])
    (ended,) = journal.entries("fork", "ended")
    assert ended["codes"] == [-15] * CHILDREN
    assert_goes_on_and_ends(worker, journal)


@pytest.mark.parametrize("ending", ["return", "raise", "sys.exit"])
def test_a_child_settles_no_message_of_its_parents(
    ending: str, start_worker: StartWorker, journal: Journal
) -> None:
    worker = start_worker()
    # Its callback is the parent's to call, too.
    (task_id,) = worker.flood(
        "fork_and_reject",
        [("late", ending)],
        link=worker.client.signature("count", ("linked", 1), immutable=True),
    )
    outcome = worker.wait_outcomes([task_id], within=30)[task_id]
    assert outcome["result"] == "second time"
    journal.wait_for("linked", "ran")
    assert_goes_on_and_ends(worker, journal)
    assert [entry["pid"] for entry in journal.entries("late")] == [worker.child.pid] * 2
    assert journal.events("linked") == ["ran"]
