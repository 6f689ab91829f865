"""A project's own `Request`, `Strategy` and task classes are used."""

from __future__ import annotations

import pytest
from celery import Celery
from harness.journal import Journal
from harness.waiting import eventually


def _entries(journal: Journal, task_id: str, last: str) -> set[str]:
    journal.wait_for(task_id, last)
    return set(journal.events(task_id))


def test_a_custom_request_sees_a_success(client: Celery, journal: Journal) -> None:
    result = client.signature("noting", ("ok",)).delay()
    assert result.get(timeout=15) == "ok"
    # `on_success` is not asked for: Celery's own optimised request never calls it on success.
    assert "request: accepted" in _entries(journal, result.id, "task: after_return")


def test_a_custom_request_sees_a_failure(client: Celery, journal: Journal) -> None:
    result = client.signature("noting", ("fail",)).delay()
    with pytest.raises(ValueError, match="noted"):
        result.get(timeout=15)
    assert "request: failure" in _entries(journal, result.id, "request: failure")


def test_a_custom_request_sees_a_retry(client: Celery, journal: Journal) -> None:
    result = client.signature("noting", ("retry",)).delay()
    assert result.get(timeout=15) == "retry"
    assert "request: retry" in _entries(journal, result.id, "request: retry")


@pytest.mark.stock_fails("the eventlet pool ignores time limits", pools=("eventlet",))
def test_a_custom_request_sees_a_hard_limit(client: Celery, journal: Journal) -> None:
    result = client.signature("noting", ("nap",)).apply_async(time_limit=1)
    entry = journal.wait_for(result.id, "request: timeout", within=5)[0]
    assert (entry["soft"], entry["timeout"]) == (False, 1)


@pytest.mark.stock_fails("both stock pools ignore soft limits")
def test_a_custom_request_sees_a_soft_limit(client: Celery, journal: Journal) -> None:
    result = client.signature("noting", ("nap",)).apply_async(soft_time_limit=0.5)
    entry = journal.wait_for(result.id, "request: timeout", within=2)[0]
    assert (entry["soft"], entry["timeout"]) == (True, 0.5)


def test_the_handlers_of_a_task_class_are_called(client: Celery, journal: Journal) -> None:
    good = client.signature("noting", ("ok",)).delay()
    journal.wait_for(good.id, "task: after_return")
    handlers = [event for event in journal.events(good.id) if event.startswith("task: ")]
    assert handlers == ["task: before_start", "task: on_success", "task: after_return"]
    bad = client.signature("noting", ("fail",)).delay()
    journal.wait_for(bad.id, "task: after_return")
    handlers = [event for event in journal.events(bad.id) if event.startswith("task: ")]
    assert handlers == ["task: before_start", "task: on_failure", "task: after_return"]
    again = client.signature("noting", ("retry",)).delay()
    journal.wait_for(again.id, "task: on_success")
    assert "task: on_retry" in journal.events(again.id)


def test_a_custom_strategy_handles_each_message(client: Celery, journal: Journal) -> None:
    result = client.signature("with_strategy", (21,)).delay()
    assert result.get(timeout=15) == 42
    assert journal.events(result.id) == ["strategy: message"]


def test_a_custom_strategy_sees_revoked_and_delayed_tasks(client: Celery, journal: Journal) -> None:
    result = client.signature("with_strategy", (1,)).apply_async(countdown=0.5)
    assert result.get(timeout=15) == 2
    eventually(lambda: journal.events(result.id) == ["strategy: message"], "one message")
