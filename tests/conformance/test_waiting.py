"""Tasks that wait for their ETA: who can see them, who can stop them, and what becomes of them.

``watched`` tasks are seen by logging, events and signals when they arrive; the others by nobody.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Any, Callable

import pytest
from celery import states
from celery.exceptions import TaskRevokedError
from harness.events import EventLog
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import CELERY, StartWorker, Worker

pytestmark = [
    pytest.mark.dedicated,
    # Who watches makes a difference to hybrid pools only.
    pytest.mark.thorough(pool=("gevent", "eventlet"), start_waiting="unwatched"),
]

StartWaiting = Callable[..., Worker]


@pytest.fixture(params=["watched", "unwatched"])
def start_waiting(request: pytest.FixtureRequest, start_worker: StartWorker) -> StartWaiting:
    """Start a worker for tasks that wait, watched or not."""
    if request.param == "watched":
        return start_worker

    def start(**options: Any) -> Worker:
        settings = {"worker_send_task_events": False, **options.pop("settings", {})}
        return start_worker(
            **{"app": "apps.unwatched", "loglevel": "WARNING", "settings": settings, **options}
        )

    return start


def _send(worker: Worker, tag: str, countdown: float, **options: Any) -> Any:
    return worker.client.signature("note", (tag, "run")).apply_async(countdown=countdown, **options)


def _wait_until_held(worker: Worker, count: int) -> list[dict[str, Any]]:
    scheduled: list[dict[str, Any]] = []

    def are_held() -> bool:
        scheduled[:] = worker.inspect().scheduled()
        return len(scheduled) == count

    eventually(are_held, f"{count} scheduled tasks", every=0.1)
    return scheduled


def test_remote_control_shows_a_waiting_task_as_scheduled(
    start_waiting: StartWaiting, own_journal: Journal, tag: str
) -> None:
    worker = start_waiting()
    before = worker.inspect().stats()
    due = datetime.now(timezone(timedelta(hours=-3))) + timedelta(seconds=60)
    result = worker.client.signature("note", (tag, "run"), {"result": 5}).apply_async(eta=due)
    [entry] = _wait_until_held(worker, 1)
    request = entry.pop("request")
    assert datetime.fromisoformat(entry.pop("eta")) == due
    assert entry == {"priority": 6}
    info = request.pop("delivery_info")
    assert (info["routing_key"], bool(info["redelivered"])) == (worker.space.name, False)
    assert request == {
        "id": result.id,
        "name": "note",
        "args": [tag, "run"],
        "kwargs": {"result": 5},
        "type": "note",
        "hostname": worker.node,
        "time_start": None,
        "acknowledged": False,
        "worker_pid": None,
    }
    queried = worker.inspect().query_task(result.id)
    if CELERY >= (5, 7):
        assert queried[result.id][0] == "scheduled"
        assert queried[result.id][1] == {**request, "delivery_info": info}
    else:
        assert queried == {}
    assert worker.inspect().reserved() == []
    assert worker.inspect().active() == []
    assert worker.inspect().stats()["prefetch_count"] == before["prefetch_count"] + 1
    assert own_journal.count(tag) == 0


def test_a_waiting_task_runs_with_what_it_was_sent_with(
    start_waiting: StartWaiting, own_journal: Journal, tag: str
) -> None:
    worker = start_waiting()
    before = worker.inspect().stats()["prefetch_count"]
    result = _send(worker, tag, 1.5)
    _wait_until_held(worker, 1)  # looking at it changes nothing
    assert own_journal.count(tag) == 0
    own_journal.wait_for(tag, "run")
    result.get(timeout=10)
    assert worker.inspect().scheduled() == []
    assert worker.inspect().query_task(result.id) == {}
    assert worker.inspect().stats()["prefetch_count"] == before
    time.sleep(0.3)
    assert own_journal.count(tag) == 1


@pytest.mark.parametrize("terminate", [False, True])
def test_a_task_revoked_while_it_waits_does_not_run(
    start_waiting: StartWaiting, own_journal: Journal, tag: str, terminate: bool
) -> None:
    worker = start_waiting()
    revoked, spared = _send(worker, tag, 2.0), _send(worker, tag, 2.0)
    _wait_until_held(worker, 2)
    answer = worker.control("revoke", revoked.id, terminate=terminate)
    if terminate and CELERY >= (5, 7):
        assert answer == {"ok": f"terminate: {revoked.id}"}
    # It keeps its place until it is due.
    assert len(worker.inspect().scheduled()) == 2
    with pytest.raises(TaskRevokedError):
        revoked.get(timeout=15)
    spared.get(timeout=15)
    assert revoked.state == states.REVOKED
    time.sleep(0.3)
    assert own_journal.count(tag) == 1
    assert worker.inspect().stats()["prefetch_count"] == 20 * 4


def test_a_waiting_task_is_revoked_by_the_header_it_is_stamped_with(
    start_waiting: StartWaiting, own_journal: Journal, tag: str
) -> None:
    worker = start_waiting()
    stamped = worker.client.signature("note", (tag, "run"))
    stamped.stamp(customer=tag)
    result = stamped.apply_async(countdown=2.0)
    spared = _send(worker, tag, 2.0)
    _wait_until_held(worker, 2)
    worker.control("revoke_by_stamped_headers", {"customer": [tag]})
    with pytest.raises(TaskRevokedError):
        result.get(timeout=15)
    spared.get(timeout=15)
    assert own_journal.count(tag) == 1


def test_a_waiting_task_that_expires_meanwhile_does_not_run(
    start_waiting: StartWaiting, own_journal: Journal, tag: str
) -> None:
    worker = start_waiting()
    expired, spared = _send(worker, tag, 1.5, expires=1.0), _send(worker, tag, 1.5, expires=60)
    with pytest.raises(TaskRevokedError):
        expired.get(timeout=15)
    spared.get(timeout=15)
    assert own_journal.count(tag) == 1


def test_a_rate_limit_spreads_tasks_that_are_due_at_once(
    start_waiting: StartWaiting, own_journal: Journal, tag: str
) -> None:
    worker = start_waiting()
    due = datetime.now(timezone.utc) + timedelta(seconds=1)
    for _ in range(6):
        worker.client.signature("limited_4_s", (tag,)).apply_async(eta=due)
    times = [entry["at"] for entry in own_journal.wait_for(tag, "run", times=6)]
    assert times[0] >= due.timestamp() - 0.05
    assert times[-1] - times[0] >= 5 / 4 - 0.3


@pytest.mark.stock_fails(
    "the order of one moment is left to chance", sometimes=True, piece="strategy"
)
@pytest.mark.stock_fails(
    "each waits for an acknowledgement of its own", sometimes=True, piece="transport"
)
def test_tasks_with_one_eta_run_in_the_order_in_which_they_came(
    start_waiting: StartWaiting, own_journal: Journal, tag: str
) -> None:
    # With one slot the order in which tasks start is the order in which they run.
    worker = start_waiting(concurrency=1)
    due = datetime.now(timezone.utc) + timedelta(seconds=2)
    for number in range(20):
        worker.client.signature("note", (tag, str(number))).apply_async(eta=due)
    eventually(lambda: own_journal.count(tag) == 20, "all twenty")
    assert own_journal.events(tag) == [str(number) for number in range(20)]


@pytest.mark.skipif(CELERY < (5, 6), reason="the setting came with Celery 5.6")
def test_worker_eta_task_limit_bounds_the_prefetch_count(
    start_waiting: StartWaiting, tag: str
) -> None:
    worker = start_waiting(concurrency=2, settings={"worker_eta_task_limit": 12})
    for _ in range(30):
        _send(worker, tag, 120)
    _wait_until_held(worker, 12)
    assert worker.inspect().stats()["prefetch_count"] == 12
    time.sleep(0.5)
    assert len(worker.inspect().scheduled()) == 12


def test_waiting_tasks_of_a_worker_that_ends_run_on_another(
    start_waiting: StartWaiting, own_journal: Journal, tag: str
) -> None:
    first = start_waiting()
    for _ in range(5):
        _send(first, tag, 6)
    _wait_until_held(first, 5)
    first.terminate()
    first.wait_exit(within=15)
    assert own_journal.count(tag) == 0
    start_waiting()
    own_journal.wait_for(tag, "run", times=5, within=20)
    time.sleep(0.5)
    assert own_journal.count(tag) == 5


def test_events_tell_when_a_task_is_due_and_when_it_expires(
    start_worker: StartWorker, own_journal: Journal, tag: str
) -> None:
    worker = start_worker()
    zone = timezone(timedelta(hours=5, minutes=30))
    due = datetime.now(zone) + timedelta(seconds=1)
    expires = due + timedelta(seconds=30)
    with EventLog(worker.client) as events:
        result = worker.client.signature("note", (tag, "run")).apply_async(eta=due, expires=expires)
        received = events.wait_for(result.id, "task-received")
        assert datetime.fromisoformat(received["eta"]) == due
        assert datetime.fromisoformat(received["expires"]) == expires
        plain = worker.client.signature("note", (tag, "run")).apply_async(expires=expires)
        received = events.wait_for(plain.id, "task-received")
        assert received["eta"] is None
        assert datetime.fromisoformat(received["expires"]) == expires
    own_journal.wait_for(tag, "run", times=2)


def test_an_eta_that_is_no_date_is_refused(
    start_waiting: StartWaiting, own_journal: Journal, tag: str
) -> None:
    worker = start_waiting()
    for moment in ("soon", 5):
        worker.client.signature("note", (tag, "run")).apply_async(headers={"eta": moment})
    worker.client.signature("note", (tag, "last")).apply_async()
    own_journal.wait_for(tag, "last")
    time.sleep(0.3)
    assert own_journal.events(tag) == ["last"]
