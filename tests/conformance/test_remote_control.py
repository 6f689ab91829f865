"""The commands of ``celery inspect`` and ``celery control``."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from celery import Celery
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import StartWorker, Worker


@contextmanager
def _held(client: Celery, journal: Journal, count: int, starting: int) -> Iterator[set[str]]:
    """Keep ``count`` tasks running or waiting, of which ``starting`` have started."""
    tag = uuid.uuid4().hex
    results = [client.signature("hold", (tag,)).delay() for _ in range(count)]
    try:
        journal.wait_for(tag, "holding", times=starting, within=20)
        yield {result.id for result in results}
    finally:
        journal.write(tag, "go")
    # Whatever the test did meanwhile, no task is lost.
    assert [result.get(timeout=30) for result in results] == [None] * count


def _active(worker: Worker) -> list[str]:
    return [task["id"] for task in worker.inspect().active()]


def test_ping_is_answered(worker: Worker) -> None:
    assert worker.inspect().ping() == {"ok": "pong"}


def test_stats_name_the_pool_and_count_the_tasks(worker: Worker, client: Celery, pool: str) -> None:
    before = worker.inspect().stats()
    assert client.signature("add", (1, 1)).delay().get(timeout=15) == 2
    after = worker.inspect().stats()
    assert after["pid"] == worker.child.pid
    assert after["total"]["add"] == before["total"].get("add", 0) + 1
    assert after["pool"]["max-concurrency"] == 20
    module = pool if pool.startswith("hybrid.") else f"celery.concurrency.{pool}"
    assert after["pool"]["implementation"] == f"{module}:TaskPool"
    assert after["prefetch_count"] >= 20
    assert after["broker"]["transport"] in ("redis", "amqp")


@pytest.mark.stock_fails("stock pools do not say what they are doing")
def test_stats_say_what_the_pool_is_doing(worker: Worker, client: Celery, journal: Journal) -> None:
    with _held(client, journal, count=3, starting=3):
        info = worker.pool_info()
    assert {"limit", "running", "free", "waiting", "timers", "slots-created"} <= info.keys()
    assert (info["limit"], info["running"], info["free"]) == (20, 3, 17)
    assert info["waiting"] == 0
    # Slots of killed tasks have been replaced: more were created than there ever were at a time.
    assert 3 <= info["slots"] <= 20
    assert info["slots-created"] >= info["slots"]
    eventually(lambda: worker.pool_info()["running"] == 0, "free slots")


def test_active_lists_running_tasks(worker: Worker, client: Celery, journal: Journal) -> None:
    with _held(client, journal, count=1, starting=1) as ids:
        task = next(task for task in worker.inspect().active() if task["id"] in ids)
        assert (task["name"], task["hostname"]) == ("hold", worker.node)
        assert task["args"][0]
        assert task["time_start"] == pytest.approx(time.time(), abs=30)
        assert task["acknowledged"] is True
    eventually(lambda: not ids & set(_active(worker)), "the task to leave `active`")


def test_reserved_lists_tasks_that_wait_for_a_slot(
    worker: Worker, client: Celery, journal: Journal
) -> None:
    def listed() -> set[str]:
        return {task["id"] for task in worker.inspect().reserved()} & ours

    with _held(client, journal, count=25, starting=20) as ours:
        # How many the worker takes beyond its slots is up to the pool.
        found = eventually(listed, "`reserved`", within=5)
        assert not found & set(_active(worker))
    eventually(lambda: not listed(), "an empty list")


def test_scheduled_lists_delayed_tasks(worker: Worker, client: Celery) -> None:
    result = client.signature("add", (1, 2)).apply_async(countdown=60, priority=3)

    def entry() -> dict[str, object] | None:
        found = [
            item for item in worker.inspect().scheduled() if item["request"]["id"] == result.id
        ]
        return found[0] if found else None

    item = eventually(entry, "`scheduled`")
    assert {"eta", "priority", "request"} <= item.keys()
    assert item["request"]["name"] == "add"
    worker.control("revoke", result.id)


def test_query_task_tells_where_a_task_is(worker: Worker, client: Celery, journal: Journal) -> None:
    with _held(client, journal, count=1, starting=1) as (task_id,):
        assert worker.inspect().query_task(task_id)[task_id][0] == "active"


def test_registered_lists_the_projects_tasks(worker: Worker) -> None:
    assert {"add", "nap", "noting"} <= set(worker.inspect().registered())
    assert "limited_4_s [rate_limit=4/s]" in worker.inspect().registered("rate_limit")


def test_conf_report_and_clock_are_answered(worker: Worker) -> None:
    assert worker.inspect().conf()["task_default_queue"] == worker.space.name
    assert "celery:" in worker.inspect().report()["ok"]
    assert worker.inspect().clock()["clock"] > 0


@pytest.mark.stock_fails("growing is not reported", pools=("gevent",), before=(5, 7))
def test_pool_grow_and_shrink_change_the_concurrency(worker: Worker) -> None:
    assert worker.control("pool_grow", 5) == {"ok": "pool will grow"}
    eventually(lambda: worker.pool_info()["max-concurrency"] == 25, "25 slots")
    assert worker.control("pool_shrink", 5) == {"ok": "pool will shrink"}
    eventually(lambda: worker.pool_info()["max-concurrency"] == 20, "20 slots")


def test_a_grown_pool_runs_as_many_tasks_at_once(
    worker: Worker, client: Celery, journal: Journal
) -> None:
    worker.control("pool_grow", 10)
    try:
        with _held(client, journal, count=30, starting=30):
            # Shrinking under load lets every task finish.
            worker.control("pool_shrink", 10)
    except BaseException:
        worker.control("pool_shrink", 10)
        raise
    assert client.signature("add", (1, 1)).delay().get(timeout=15) == 2


def test_a_full_pool_still_answers(worker: Worker, client: Celery, journal: Journal) -> None:
    with _held(client, journal, count=30, starting=20):
        assert worker.inspect(timeout=3).ping() == {"ok": "pong"}
        assert len(_active(worker)) >= 20


def test_consumers_are_added_and_cancelled(
    worker: Worker, client: Celery, journal: Journal, tag: str
) -> None:
    queue = f"extra-{tag}"

    def names() -> set[str]:
        return {entry["name"] for entry in worker.inspect().active_queues()}

    assert names() == {worker.space.name}
    client.signature("note", (tag, "before")).apply_async(queue=queue)
    assert worker.control("add_consumer", queue) == {"ok": f"add consumer {queue}"}
    journal.wait_for(tag, "before")
    assert names() == {worker.space.name, queue}
    assert worker.control("cancel_consumer", queue) == {"ok": f"no longer consuming from {queue}"}
    eventually(lambda: names() == {worker.space.name}, "the queue to be left")
    client.signature("note", (tag, "after")).apply_async(queue=queue)
    time.sleep(1)
    assert journal.events(tag) == ["before"]
    assert worker.space.queue(queue).ready() == 1


def test_a_rate_limit_is_changed_while_the_worker_runs(
    worker: Worker, client: Celery, journal: Journal, tag: str
) -> None:
    assert "ok" in worker.control("rate_limit", "limited", "2/s")
    try:
        for _ in range(5):
            client.signature("limited", (tag,)).delay()
        times = [entry["at"] for entry in journal.wait_for(tag, "run", times=5)]
        assert times[-1] - times[0] >= 4 / 2 - 0.4
    finally:
        worker.control("rate_limit", "limited", 0)
    for _ in range(20):
        client.signature("limited", (tag,)).delay()
    journal.wait_for(tag, "run", times=25, within=6)


def test_an_invalid_rate_limit_is_refused(worker: Worker) -> None:
    assert "error" in worker.control("rate_limit", "limited", "often")
    assert "error" in worker.control("rate_limit", "nobody.registered.this", "1/s")


# Not even prefork passes: since Celery 4 the request class keeps the limits it was built with.
@pytest.mark.stock_fails(
    "the command changes the task, and no request ever looks at it again", piece="strategy"
)
def test_a_time_limit_is_changed_while_the_worker_runs(worker: Worker, client: Celery) -> None:
    reply = worker.control("time_limit", "careful_nap", soft=0.5, hard=10)
    assert reply == {"ok": "time limits set successfully"}
    try:
        assert client.signature("careful_nap", (1.5,)).delay().get(timeout=15) == "soft"
    finally:
        worker.control("time_limit", "careful_nap", soft=None, hard=None)


def test_events_are_switched_off_and_on(worker: Worker) -> None:
    assert "ok" in worker.control("disable_events")
    assert "ok" in worker.control("enable_events")


@pytest.mark.dedicated
def test_shutdown_ends_the_worker_when_its_tasks_are_done(
    start_worker: StartWorker, own_journal: Journal
) -> None:
    worker = start_worker(concurrency=5)
    nap = worker.client.signature("nap", (1.5, "done")).delay()
    own_journal.wait_for(nap.id, "napping")
    worker.client.control.shutdown([worker.node])
    assert worker.wait_exit(within=15) == 0
    assert nap.get(timeout=5) == "done"
    assert "shutdown" in own_journal.events("signals:worker")


@pytest.mark.dedicated
@pytest.mark.stock_fails("a green pool never grows by itself", before=(5, 7))
def test_autoscale_grows_under_load_and_shrinks_when_idle(
    start_worker: StartWorker, own_journal: Journal
) -> None:
    worker = start_worker(
        concurrency=None, options=["--autoscale=8,2"], env={"AUTOSCALE_KEEPALIVE": "1"}
    )
    limit = worker.pool_info()["max-concurrency"]
    assert limit == 2
    naps = [worker.client.signature("nap", (2,)).delay() for _ in range(16)]
    eventually(lambda: worker.pool_info()["max-concurrency"] == 8, "8 slots", within=10)
    assert [nap.get(timeout=30) for nap in naps] == [None] * 16
    eventually(lambda: worker.pool_info()["max-concurrency"] == 2, "2 slots", within=20)
    assert worker.control("autoscale", 12, 4) == {"ok": "autoscale now max=12 min=4"}
    eventually(lambda: worker.pool_info()["max-concurrency"] >= 4, "4 slots", within=10)
    assert worker.client.signature("add", (1, 1)).delay().get(timeout=15) == 2
