"""Retries: how often, how late, and what remains when they run out."""

from __future__ import annotations

import pytest
from celery import Celery, states
from harness.journal import Journal


def _tries(journal: Journal, task_id: str) -> list[int]:
    return [entry["retries"] for entry in journal.entries(task_id, "try")]


def _pauses(journal: Journal, task_id: str) -> list[float]:
    times = [entry["at"] for entry in journal.entries(task_id, "try")]
    return [later - earlier for earlier, later in zip(times, times[1:])]


def test_a_retried_task_runs_again_until_it_succeeds(client: Celery, journal: Journal) -> None:
    result = client.signature("retry_twice").delay()
    assert result.get(timeout=20) == 2
    assert _tries(journal, result.id) == [0, 1, 2]
    assert all(pause >= 0.09 for pause in _pauses(journal, result.id))


def test_when_retries_run_out_the_tasks_own_error_remains(client: Celery, journal: Journal) -> None:
    result = client.signature("retry_out").delay()
    with pytest.raises(Exception, match="gave up") as caught:
        result.get(timeout=20)
    assert type(caught.value).__name__ == "OddError"
    assert _tries(journal, result.id) == [0, 1, 2]
    assert result.state == states.FAILURE


def test_when_retries_run_out_without_an_error_max_retries_exceeded_remains(
    client: Celery, journal: Journal
) -> None:
    result = client.signature("retry_plain").delay()
    with pytest.raises(Exception, match=r"(?i)can't retry") as caught:
        result.get(timeout=20)
    assert type(caught.value).__name__ == "MaxRetriesExceededError"
    assert _tries(journal, result.id) == [0, 1]


def test_autoretry_backs_off_exponentially(client: Celery, journal: Journal) -> None:
    # retry_backoff is rounded down to whole seconds by Celery's get_exponential_backoff_interval
    # only when jittered; 0.25 * 2**n stays fractional.
    result = client.signature("autoretry", (3,)).delay()
    assert result.get(timeout=25) == 3
    assert _tries(journal, result.id) == [0, 1, 2, 3]
    first, second, third = _pauses(journal, result.id)
    assert first <= second + 0.3
    assert second <= third + 0.3


def test_autoretry_gives_up_after_max_retries(client: Celery, journal: Journal) -> None:
    result = client.signature("autoretry", (99,)).delay()
    with pytest.raises(ConnectionError, match="flaky"):
        result.get(timeout=25)
    assert _tries(journal, result.id) == [0, 1, 2, 3]


def test_dont_autoretry_for_wins_over_autoretry_for(client: Celery, journal: Journal) -> None:
    result = client.signature("autoretry_except").delay()
    with pytest.raises(KeyError, match="final"):
        result.get(timeout=20)
    assert _tries(journal, result.id) == [0]


def test_a_waiting_retry_is_reported_as_retry(client: Celery, journal: Journal) -> None:
    result = client.signature("autoretry", (1,)).delay()
    seen = set()
    while result.state not in states.READY_STATES:
        seen.add(result.state)
    assert result.state == states.SUCCESS
    assert states.RETRY in seen
