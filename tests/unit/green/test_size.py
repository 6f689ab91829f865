"""The pool as a whole: its size, what it tells about itself, and how it stops."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest
from celery import signals
from celery.worker import state as worker_state
from greenlet import greenlet

from hybrid.hubs.base import Hub


@pytest.fixture
def cold_shutdown() -> Iterator[None]:
    worker_state.should_terminate = 0
    yield
    worker_state.should_terminate = None


# -- what Celery asks of a pool


@pytest.mark.parity
def test_the_pool_says_that_it_is_green(pool_class: Any) -> None:
    assert pool_class.is_green
    assert not pool_class.signal_safe
    assert not pool_class.task_join_will_block
    assert not pool_class.uses_semaphore
    assert not pool_class.body_can_be_buffer


@pytest.mark.parity
def test_the_pool_is_active_while_it_runs(pool_class: Any) -> None:
    pool = pool_class(3)
    assert not pool.active
    pool.start()
    assert pool.active
    assert pool.did_start_ok()
    pool.close()
    assert not pool.active
    pool.stop()
    assert not pool.active


def test_celery_builds_the_pool_with_its_options(make_pool: Any) -> None:
    pool = make_pool(
        3,
        max_restarts=2,
        allow_restart=False,
        forking_enable=True,
        semaphore=None,
        sched_strategy=4,
        app=None,
        putlocks=True,
        lost_worker_timeout=10,
        timeout=60,
        soft_timeout=50,
        max_tasks_per_child=None,
        threads=False,
    )
    assert (pool.timeout, pool.soft_timeout) == (60, 50)


@pytest.mark.parity(since=(5, 7))
def test_num_processes_is_the_limit(make_pool: Any) -> None:
    pool = make_pool(7)
    assert pool.num_processes == pool.limit == 7
    pool.grow(2)
    assert pool.num_processes == 9
    pool.shrink(4)
    assert pool.num_processes == 5


@pytest.mark.parity
def test_spawn_n_runs_outside_the_pool(make_pool: Any, until: Any) -> None:
    pool = make_pool(1)
    gate = Event()
    ran: list[int] = []
    pool.apply_async(gate.wait, callback=lambda _: None)
    pool.spawn_n(ran.append, 1)
    until(lambda: ran)
    gate.set()


def test_info_tells_what_is_going_on(make_pool: Any, apply: Any, until: Any, hub: Hub) -> None:
    pool = make_pool(2)
    gate = Event()
    outcomes = [apply(pool, gate.wait) for _ in range(5)]
    until(lambda: pool.info["running"] == 2)
    info = pool.info
    assert json.loads(json.dumps(info)) == info
    assert info["implementation"] == f"hybrid.{hub.name}:TaskPool"
    expected = {
        "max-concurrency": 2,
        "limit": 2,
        "running": 2,
        "running-threads": 2,
        "free": 0,
        "free-threads": 0,
        "waiting": 3,
        "slots": 2,
        "slots-created": 2,
        "abandoned": 0,
    }
    assert {key: info[key] for key in expected} == expected
    assert isinstance(info["timers"], int)
    assert info["accelerated"]["pool"] is True
    gate.set()
    until(lambda: all(outcome.is_over for outcome in outcomes))


def test_applying_is_logged_for_those_who_debug(
    pool_class: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "celery.pool"):
        pool = pool_class(1)
        pool.start()
        pool.apply_async(print, ("x" * 5000,), {"end": ""})
        pool.stop()
    (record,) = (record for record in caplog.records if "Apply" in record.getMessage())
    assert "print" in record.getMessage()
    assert len(record.getMessage()) < 1500


def test_eventlet_sends_stock_signals(pool_class: Any, hub: Hub, turns: Any) -> None:
    sent: list[Any] = []
    names = ("started", "apply", "preshutdown", "postshutdown")
    receivers = {}
    for name in names:
        receivers[name] = lambda name=name, **found: sent.append((name, found))
        getattr(signals, f"eventlet_pool_{name}").connect(receivers[name])
    pool = pool_class(1)
    pool.start()
    pool.apply_async(int, ("1",), {"base": 2})
    pool.close()
    pool.stop()
    for name in names:
        getattr(signals, f"eventlet_pool_{name}").disconnect(receivers[name])
    if hub.name == "gevent":
        assert sent == []
        return
    assert [name for name, _ in sent] == list(names)
    assert all(found["sender"] is pool for _, found in sent)
    found = sent[1][1]
    assert (found["target"], found["args"], found["kwargs"]) == (int, ("1",), {"base": 2})


# -- size


@pytest.mark.parity(since=(5, 7))
def test_growing_starts_jobs_that_wait(make_pool: Any, until: Any, hub: Hub) -> None:
    pool = make_pool(1)
    gate = Event()
    accepted: list[int] = []

    def apply_all() -> None:  # in a greenlet, because stock pools block when they are full
        for _ in range(3):
            pool.apply_async(
                gate.wait, accept_callback=lambda *_: accepted.append(1), callback=lambda _: None
            )

    hub.spawn(apply_all)
    until(lambda: len(accepted) == 1)
    pool.grow(2)
    until(lambda: len(accepted) == 3)
    gate.set()


@pytest.mark.parity(since=(5, 7))
def test_shrinking_keeps_running_jobs_and_lowers_what_may_start(
    make_pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    pool = make_pool(4)
    running = most = 0
    gate = Event()
    first = [apply(pool, gate.wait) for _ in range(4)]
    until(lambda: all(outcome.pid for outcome in first))
    pool.shrink(3)

    def run() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        hub.sleep(0.001)
        running -= 1

    later: list[Any] = []
    hub.spawn(lambda: later.extend(apply(pool, run) for _ in range(8)))
    gate.set()
    until(lambda: len(later) == 8 and all(outcome.is_over for outcome in (*first, *later)))
    assert {tuple(outcome.names) for outcome in first} == {("accept", "success")}
    assert most == 1


def test_shrinking_by_more_than_there_is_says_so(make_pool: Any) -> None:
    pool = make_pool(2)
    with pytest.raises(ValueError, match="by 3: it runs 2 jobs at a time; choose at most 2"):
        pool.shrink(3)
    assert pool.num_processes == 2


def test_a_limit_beyond_what_the_slab_holds_is_refused(make_pool: Any, pool_class: Any) -> None:
    with pytest.raises(ValueError, match="at most 1048576 jobs"):
        pool_class(2**20 + 1)
    pool = make_pool(2**20)
    with pytest.raises(ValueError, match="at most 1048576 jobs"):
        pool.grow()
    assert pool.num_processes == 2**20


def test_a_pool_shrunk_to_nothing_holds_its_jobs_until_it_grows(
    make_pool: Any, apply: Any, until: Any, turns: Any
) -> None:
    pool = make_pool(1)
    pool.shrink(1)
    outcome = apply(pool, lambda: 1)
    turns()
    assert outcome.names == []
    pool.grow()
    until(lambda: outcome.is_over)


def test_growing_a_little_while_more_jobs_run_than_the_limit_loses_no_job(
    make_pool: Any, apply: Any, until: Any
) -> None:
    pool = make_pool(10)
    gate = Event()
    outcomes = [apply(pool, gate.wait) for _ in range(10)]
    pool._dispatch()  # the slots are spawned and have not begun
    pool.shrink(8)
    pool.grow(1)
    until(lambda: all(outcome.pid for outcome in outcomes))
    gate.set()
    until(lambda: all(outcome.is_over for outcome in outcomes))
    assert {tuple(outcome.names) for outcome in outcomes} == {("accept", "success")}


# -- room


def wait_for_room(pool: Any, per_slot: int) -> None:
    """Wait as the consumer's loop does."""
    while pool.room(per_slot) <= 0:
        pool.wait_for_progress(60)


def test_waiting_for_room_lets_the_backlog_shrink(
    make_pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    pool = make_pool(2)
    gate = Event()
    passed: list[int] = []
    outcomes: list[Any] = []

    def produce() -> None:
        for number in range(20):
            outcomes.append(apply(pool, gate.wait))
            wait_for_room(pool, 2)
            passed.append(number)

    hub.spawn(produce)
    until(lambda: pool.info["running"] == 2)
    hub.sleep(0.005)
    assert len(passed) == 6
    assert pool.info["waiting"] == 5
    gate.set()
    until(lambda: len(passed) == 20 and all(outcome.is_over for outcome in outcomes))


@pytest.mark.parametrize("how", ["flush", "grow", "close"])
def test_whoever_waits_for_room_goes_on_when_there_is_some(
    make_pool: Any, apply: Any, until: Any, turns: Any, hub: Hub, how: str
) -> None:
    pool = make_pool(1)
    gate = Event()
    passed: list[int] = []
    for _ in range(5):
        apply(pool, gate.wait)
    hub.spawn(lambda: (wait_for_room(pool, 1), passed.append(1)))
    turns()
    assert not passed
    {"flush": pool.flush, "grow": lambda: pool.grow(9), "close": pool.close}[how]()
    until(lambda: passed, 1.0)
    gate.set()
    until(lambda: pool.info["running"] == 0)


def test_waiting_for_progress_in_vain_leaves_no_greenlet_behind(make_pool: Any, turns: Any) -> None:
    pool = make_pool(1)

    def alive() -> int:
        gc.collect()
        return sum(isinstance(each, greenlet) and not each.dead for each in gc.get_objects())

    pool.wait_for_progress(0.001)
    turns()
    before = alive()
    for _ in range(20):
        pool.wait_for_progress(0.001)
    turns()
    assert alive() <= before


def test_with_room_there_is_no_wait(make_pool: Any) -> None:
    wait_for_room(make_pool(1), 1)


# -- stopping


def test_flush_drops_what_waits_and_lets_the_rest_run(
    make_pool: Any, apply: Any, until: Any
) -> None:
    pool = make_pool(1)
    gate = Event()
    running = apply(pool, gate.wait)
    waiting = [apply(pool, gate.wait) for _ in range(5)]
    until(lambda: running.pid)
    pool.flush()
    gate.set()
    until(lambda: running.is_over)
    after = apply(pool, lambda: 1)
    until(lambda: after.is_over)
    assert {tuple(outcome.names) for outcome in waiting} == {()}


def test_a_held_pool_starts_nothing_and_finishes_what_runs(
    make_pool: Any, apply: Any, until: Any, turns: Any
) -> None:
    pool = make_pool(2)
    gate = Event()
    running = [apply(pool, gate.wait) for _ in range(2)]
    waiting = apply(pool, lambda: 1)
    until(lambda: all(outcome.pid for outcome in running))
    pool.hold()
    late = apply(pool, lambda: 1)
    gate.set()
    until(lambda: all(outcome.is_over for outcome in running))
    turns()
    assert waiting.names == late.names == []
    pool.close()
    pool.stop()


@pytest.mark.parity
def test_stop_waits_for_running_jobs(pool_class: Any, apply: Any, until: Any, hub: Hub) -> None:
    pool = pool_class(3)
    pool.start()
    outcomes = [apply(pool, hub.sleep, 0.01 * (number + 1)) for number in range(3)]
    until(lambda: all(outcome.pid for outcome in outcomes))
    pool.close()
    pool.stop()
    assert {tuple(outcome.names) for outcome in outcomes} == {("accept", "success")}


def test_close_and_stop_drain_what_runs_and_drop_what_waits(
    pool_class: Any, apply: Any, until: Any, turns: Any, hub: Hub, implementation: str
) -> None:
    pool = pool_class(2)
    pool.start()
    running = [apply(pool, hub.sleep, 0.01) for _ in range(2)]
    waiting = [apply(pool, hub.sleep, 0.01) for _ in range(5)]
    until(lambda: all(outcome.pid for outcome in running))
    pool.close()
    pool.stop()
    assert {tuple(outcome.names) for outcome in running} == {("accept", "success")}
    assert {tuple(outcome.names) for outcome in waiting} == {()}
    turns()
    info = pool.info
    assert (info["slots"], info["running"], info["waiting"], info["timers"]) == (0, 0, 0, 0)


def test_stop_without_close_runs_all_jobs(
    pool_class: Any, apply: Any, hub: Hub, implementation: str
) -> None:
    pool = pool_class(2)
    pool.start()
    outcomes = [apply(pool, hub.sleep, 0.001) for _ in range(20)]
    pool.stop()
    assert all(outcome.is_over for outcome in outcomes)


def test_a_cold_shutdown_drops_what_waits_and_lets_the_rest_end(
    pool_class: Any, apply: Any, until: Any, hub: Hub, cold_shutdown: None, implementation: str
) -> None:
    pool = pool_class(1)
    pool.start()
    running = apply(pool, hub.sleep, 0.01)
    waiting = apply(pool, hub.sleep, 0.01)
    until(lambda: running.pid)
    worker_state.should_terminate = 1
    pool.hold()
    pool.stop()
    assert running.names == ["accept", "success"]
    assert waiting.names == []


@pytest.mark.parity
def test_stopping_an_idle_pool_returns_at_once(pool_class: Any) -> None:
    pool = pool_class(3)
    pool.start()
    pool.close()
    pool.stop()


@pytest.mark.parity
def test_a_cold_end_does_not_wait(pool_class: Any, apply: Any, until: Any, hub: Hub) -> None:
    pool = pool_class(1)
    pool.start()
    outcome = apply(pool, hub.sleep, 0.05)
    until(lambda: outcome.pid)
    pool.terminate()
    assert outcome.names == ["accept"]
    until(lambda: outcome.is_over)


def test_several_may_wait_for_the_end(
    pool_class: Any, apply: Any, until: Any, hub: Hub, implementation: str
) -> None:
    pool = pool_class(1)
    pool.start()
    outcome = apply(pool, hub.sleep, 0.01)
    ended: list[int] = []
    for _ in range(3):
        hub.spawn(lambda: (pool.on_stop(), ended.append(1)))
    until(lambda: len(ended) == 3)
    assert outcome.is_over
