"""Whoever is told of a task may fail: the task runs all the same, and its message is settled."""

from __future__ import annotations

import re

import pytest
from harness.brokers import Space
from harness.waiting import eventually
from harness.worker import StartWorker, Worker

MANY = 20

#: Where a stock worker's log handlers report it, and the task runs.
REPORTED = ("failing formatter", "broken message")
#: What leaves the logger, and ends a stock worker or fails its tasks.
RAISED = ("failing handler", "failing filter", "failing record")


def _run(start_worker: StartWorker, space: Space, listener: str) -> Worker:
    worker = start_worker(
        wait=False,  # it may be unable to say that it is ready
        app="listeners",
        env={"LISTENER": listener},
        concurrency=10,
        options=["-E"],
        settings={"task_acks_late": True},
    )
    ids = worker.flood("quick", [(number,) for number in range(MANY)])
    eventually(lambda: len(worker.outcomes(ids)) == MANY, "the first tasks", within=40)
    ids += worker.flood("quick", [(number,) for number in range(MANY)], countdown=0.2)
    outcomes = worker.wait_outcomes(ids, within=30)
    assert [outcomes[task_id]["result"] for task_id in ids] == [*range(MANY), *range(MANY)]
    worker.terminate()
    assert worker.wait_exit(within=20) == 0
    assert not re.search("Refused|raised outside body|was not accepted", worker.output)
    eventually(lambda: space.queue().ready() == 0, "an empty queue", within=10)
    if space.broker == "redis":
        assert space.unacked() == 0
    return worker


def test_a_field_with_a_dot_is_in_every_line(start_worker: StartWorker, space: Space) -> None:
    worker = _run(start_worker, space, "dotted field")
    frame = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO \[dd\.trace_id=123\] - Task quick\[\S+\] "
    assert len(re.findall(frame + "received$", worker.output, re.MULTILINE)) == 2 * MANY
    succeeded = frame + r"succeeded in \S+s: \d+$"
    assert len(re.findall(succeeded, worker.output, re.MULTILINE)) == 2 * MANY
    assert "Logging error" not in worker.output


@pytest.mark.thorough(broker="rabbitmq")
def test_a_class_of_loggers_sees_every_line(start_worker: StartWorker, space: Space) -> None:
    worker = _run(start_worker, space, "logger class")
    for what in ("received", "succeeded in"):
        assert len(re.findall(rf"<seen> Task quick\[\S+\] {what}", worker.output)) == 2 * MANY


@pytest.mark.thorough(broker="rabbitmq")
@pytest.mark.parametrize("listener", REPORTED)
def test_a_line_that_cannot_be_written_costs_no_task(
    start_worker: StartWorker, space: Space, listener: str
) -> None:
    worker = _run(start_worker, space, listener)
    assert worker.output.count("Traceback (most recent call last)") >= 4 * MANY


@pytest.mark.stock_fails("what a handler, a filter or a factory of records raises ends the worker")
@pytest.mark.thorough(broker="rabbitmq", listener=RAISED[1:])
@pytest.mark.parametrize("listener", RAISED)
def test_a_log_that_raises_costs_no_task(
    start_worker: StartWorker, space: Space, listener: str
) -> None:
    worker = _run(start_worker, space, listener)
    assert worker.output.count("--- Logging error ---") >= 4 * MANY


@pytest.mark.stock_fails("an event that cannot be sent ends the worker")
def test_events_that_cannot_be_sent_cost_no_task(start_worker: StartWorker, space: Space) -> None:
    worker = _run(start_worker, space, "failing events")
    for event in ("received", "started", "succeeded"):
        assert worker.output.count(f"the event task-{event} was not sent") == 2 * MANY
