"""What the pool does with one job and with many, up to their own ends."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from contextlib import nullcontext
from contextvars import ContextVar, copy_context
from threading import Event
from time import monotonic
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from greenlet import GreenletExit

from hybrid import JobKilled
from hybrid.hubs.base import Hub
from hybrid.worker.execution import slots

variable: ContextVar[Any] = ContextVar("variable", default="unset")


class UsersError(BaseException):
    pass


@pytest.mark.parity
def test_a_job_is_accepted_runs_and_succeeds(make_pool: Any, apply: Any, until: Any) -> None:
    before = monotonic()
    outcome = apply(make_pool(), lambda a, b: (a, b), 1, kwargs={"b": 2})
    until(lambda: outcome.is_over)
    assert outcome.names == ["accept", "success"]
    assert outcome.value_of("success") == (1, 2)
    assert before <= outcome.value_of("accept") <= monotonic()
    assert isinstance(outcome.pid, int)


@pytest.mark.parity
def test_apply_returns_before_the_job_starts(make_pool: Any, apply: Any, until: Any) -> None:
    outcome = apply(make_pool(), lambda: 1)
    assert outcome.names == []
    until(lambda: outcome.is_over)


def test_apply_never_blocks(make_pool: Any, apply: Any, until: Any, hub: Hub) -> None:
    pool = make_pool(1)
    gate = Event()
    passed: list[int] = []
    hub.call_soon(passed.append, 1)
    outcomes = [apply(pool, gate.wait) for _ in range(100)]
    assert passed == []
    gate.set()
    until(lambda: all(outcome.is_over for outcome in outcomes))


def test_the_result_of_apply_can_be_held_weakly_and_terminated(make_pool: Any, apply: Any) -> None:
    outcome = apply(make_pool(), lambda: 1)
    assert weakref.ref(outcome.job)() is outcome.job
    outcome.job.terminate(15)
    assert "Job" in repr(outcome.job)


@pytest.mark.parity
def test_callbacks_are_optional_where_celery_leaves_them_out(make_pool: Any, until: Any) -> None:
    ran: list[int] = []
    make_pool().apply_async(ran.append, (1,), callback=lambda _: ran.append(2))
    until(lambda: ran == [1, 2])


def test_no_callback_at_all_is_fine(make_pool: Any, until: Any, turns: Any) -> None:
    ran: list[int] = []
    pool = make_pool()
    pool.apply_async(ran.append, (1,))
    until(lambda: ran)
    turns()
    assert pool.info["running"] == 0


def test_unknown_options_are_ignored_as_celery_adds_some(make_pool: Any, until: Any) -> None:
    ran: list[int] = []
    make_pool().apply_async(ran.append, (1,), lost_worker_timeout=3, another=4)
    until(lambda: ran)


@pytest.mark.parity
def test_jobs_start_in_order(make_pool: Any, apply: Any, until: Any) -> None:
    pool = make_pool(3)
    ran: list[int] = []
    outcomes = [apply(pool, ran.append, number) for number in range(1_000)]
    until(lambda: all(outcome.is_over for outcome in outcomes))
    assert ran == list(range(1_000))


def test_jobs_that_wait_start_in_order_too(
    make_pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    pool = make_pool(7)
    ran: list[int] = []

    def run(number: int) -> None:
        ran.append(number)
        hub.sleep(0.001 * (number % 3))

    outcomes = [apply(pool, run, number) for number in range(200)]
    until(lambda: all(outcome.is_over for outcome in outcomes))
    assert ran == list(range(200))


@pytest.mark.parity
def test_no_more_jobs_run_than_the_limit_allows(
    make_pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    pool = make_pool(4)
    running = 0
    most = 0

    def run(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if number % 4:
            hub.sleep(0.0001 * (number % 5))
        running -= 1

    outcomes = [apply(pool, run, number) for number in range(200)]
    until(lambda: all(outcome.is_over for outcome in outcomes))
    assert most == 4


def test_a_flood_of_jobs_leaves_turns_to_others(make_pool: Any, apply: Any, hub: Hub) -> None:
    pool = make_pool(10)
    ran: list[int] = []
    for number in range(2_000):
        apply(pool, ran.append, number)
    seen = []
    while len(ran) < 2_000:
        hub.sleep(0)
        seen.append(len(ran))
    assert max(b - a for a, b in zip([0, *seen], seen)) <= 300


@pytest.mark.parity
def test_a_job_may_apply_another(make_pool: Any, apply: Any, until: Any) -> None:
    pool = make_pool(2)
    outcomes: list[Any] = []

    def run(left: int) -> int:
        if left:
            outcomes.append(apply(pool, run, left - 1))
        return left

    outcomes.append(apply(pool, run, 50))
    until(lambda: len(outcomes) == 51 and all(outcome.is_over for outcome in outcomes))
    assert [outcome.value_of("success") for outcome in outcomes] == list(range(50, -1, -1))


def test_a_job_may_fill_the_pool_that_it_runs_in(make_pool: Any, apply: Any, until: Any) -> None:
    pool = make_pool(1)
    outcomes: list[Any] = []

    def run() -> None:
        outcomes.extend(apply(pool, lambda: 1) for _ in range(100))

    apply(pool, run)
    until(lambda: len(outcomes) == 100 and all(outcome.is_over for outcome in outcomes))


def test_a_callback_may_apply_another(make_pool: Any, until: Any) -> None:
    pool = make_pool(1)
    ran: list[int] = []

    def on_success(number: int) -> None:
        ran.append(number)
        if number < 300:
            pool.apply_async(lambda: number + 1, (), callback=on_success)

    pool.apply_async(lambda: 0, (), callback=on_success)
    until(lambda: len(ran) == 301)


@pytest.mark.parity
def test_a_timer_entry_may_apply_a_job(
    make_pool: Any, pool_class: Any, apply: Any, until: Any
) -> None:
    pool = make_pool(2)
    outcomes: list[Any] = []
    timer = pool_class.Timer()
    for number in range(20):
        timer.call_after(0.001, lambda number=number: outcomes.append(apply(pool, int, number)))
    until(lambda: len(outcomes) == 20 and all(outcome.is_over for outcome in outcomes))
    timer.stop()


# -- exceptions


@pytest.mark.parametrize(
    "exc", [ValueError("wrong"), SystemExit(3), KeyboardInterrupt(), GreenletExit()], ids=repr
)
def test_whatever_leaves_a_target_is_reported_as_an_error(
    make_pool: Any, apply: Any, until: Any, exc: BaseException
) -> None:
    pool = make_pool(1)

    def run() -> None:
        raise exc

    outcome = apply(pool, run)
    until(lambda: outcome.is_over)
    assert outcome.names == ["accept", "error"]
    einfo = outcome.value_of("error")
    assert isinstance(einfo, ExceptionInfo)
    if isinstance(exc, Exception):
        assert einfo.exception.exc is exc or einfo.exception is exc
        assert "in run" in einfo.traceback
    else:
        assert einfo.type is WorkerLostError
        assert repr(exc) in str(einfo.exception)
    after = apply(pool, lambda: 1)
    until(lambda: after.is_over)
    assert pool.info["running"] == 0
    assert len(pool._slab) == 0


def test_a_timeout_of_the_users_is_reported_as_itself(
    make_pool: Any, apply: Any, until: Any, hub: Hub, library: Any
) -> None:
    def run() -> None:
        with library.Timeout(0.01):
            hub.sleep(5)

    outcome = apply(make_pool(), run, timeout=10, soft_timeout=9)
    until(lambda: outcome.is_over)
    assert outcome.names == ["accept", "error"]
    assert outcome.value_of("error").type is library.Timeout


def test_an_exception_without_error_callback_is_logged(
    make_pool: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(1)
    pool.apply_async(lambda: 1 / 0)
    until(lambda: caplog.records)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("which", ["callback", "accept_callback", "error_callback"])
def test_a_callback_that_raises_costs_no_slot(
    make_pool: Any, apply: Any, until: Any, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(1)

    def complain(*_: Any) -> None:
        raise ValueError(which)

    def run() -> None:
        if which == "error_callback":
            raise KeyError

    for _ in range(3):
        outcome = apply(pool, run, **{which: complain})
    after = apply(pool, lambda: 1)
    until(lambda: after.is_over)
    assert which in caplog.text
    if which == "accept_callback":  # neither run nor failed
        assert outcome.names == []
    assert pool.info["running"] == 0
    assert pool.info["slots-created"] == 1


def test_no_exception_is_current_in_the_next_job(make_pool: Any, apply: Any, until: Any) -> None:
    pool = make_pool(1)
    apply(pool, lambda: 1 / 0)
    after = apply(pool, sys.exc_info)
    until(lambda: after.is_over)
    assert after.value_of("success") == (None, None, None)


# -- slots


def test_slots_are_reused(make_pool: Any, apply: Any, until: Any, hub: Hub) -> None:
    pool = make_pool(10)
    local = threading.local()
    created = []

    def run() -> None:
        if not hasattr(local, "mine"):
            local.mine = True
            created.append(1)
        hub.sleep(0)

    outcomes = [apply(pool, run) for _ in range(1_000)]
    until(lambda: all(outcome.is_over for outcome in outcomes))
    assert len(created) == pool.info["slots-created"] == pool.info["slots"] == 10


def test_one_slot_serves_jobs_that_come_one_by_one(make_pool: Any, apply: Any, until: Any) -> None:
    pool = make_pool(10)
    for _ in range(5):
        outcome = apply(pool, lambda: 1)
        until(lambda outcome=outcome: outcome.is_over)
    assert pool.info["slots-created"] == 1


def test_slots_that_idle_for_long_are_retired(
    make_pool: Any, apply: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "SLOT_IDLE", 0.02)
    pool = make_pool(10)
    gate = Event()
    outcomes = [apply(pool, gate.wait) for _ in range(10)]
    until(lambda: pool.info["running"] == 10)
    gate.set()
    until(lambda: pool.info["slots"] == 0)
    assert all(outcome.is_over for outcome in outcomes)
    after = apply(pool, lambda: 1)
    until(lambda: after.is_over)
    assert pool.info["slots-created"] == 11


@pytest.mark.parity
def test_contextvars_of_a_job_are_its_own_from_the_first(
    make_pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    pool = make_pool(2)

    def run(value: str) -> tuple[Any, Any]:
        before = variable.get()
        variable.set(value)
        hub.sleep(0.001)
        return before, variable.get()

    def apply_with(value: str) -> Any:
        variable.set(value)
        return apply(pool, run, "inner " + value)

    outcomes = [copy_context().run(apply_with, str(number)) for number in range(10)]
    outcomes.append(apply(pool, run, "last"))
    until(lambda: all(outcome.is_over for outcome in outcomes))
    results = [outcome.value_of("success") for outcome in outcomes]
    assert results == [
        *(("unset", f"inner {number}") for number in range(10)),
        ("unset", "last"),
    ]
    assert variable.get() == "unset"


def test_callbacks_see_the_context_of_their_job(make_pool: Any, until: Any) -> None:
    seen: list[Any] = []
    make_pool().apply_async(
        variable.set,
        ("mine",),
        accept_callback=lambda *_: seen.append(variable.get()),
        callback=lambda _: seen.append(variable.get()),
    )
    until(lambda: len(seen) == 2)
    assert seen == ["unset", "mine"]


@pytest.mark.parametrize("value", [(), (None,), ("something",), ((),)])
def test_a_stray_switch_into_a_parked_slot_runs_nothing(
    make_pool: Any, apply: Any, until: Any, turns: Any, hub: Hub, value: tuple[Any, ...]
) -> None:
    pool = make_pool(1)
    first = apply(pool, hub.current)
    until(lambda: first.is_over)
    slot = first.value_of("success")
    hub.call_soon(slot.switch, *value)
    turns()
    after = apply(pool, hub.current)
    until(lambda: after.is_over)
    assert after.value_of("success") is slot
    assert pool.info["running"] == 0


def test_a_slot_killed_while_it_is_parked_is_replaced(
    make_pool: Any, apply: Any, until: Any, turns: Any, hub: Hub, library: Any
) -> None:
    pool = make_pool(1)
    first = apply(pool, hub.current)
    until(lambda: first.is_over)
    library.kill(first.value_of("success"))
    turns()
    assert pool.info["slots"] == 0
    after = apply(pool, lambda: 1)
    until(lambda: after.is_over)
    assert (pool.info["slots"], pool.info["running"]) == (1, 0)


def test_a_timeout_that_a_job_leaves_behind_ends_its_idle_slot_and_nothing_else(
    make_pool: Any, apply: Any, until: Any, library: Any
) -> None:
    def run() -> None:
        timeout = library.Timeout(0.005)
        if not timeout.pending:  # eventlet's has started
            timeout.start()

    pool = make_pool(1)
    left_behind = apply(pool, run)
    until(lambda: left_behind.is_over)
    assert left_behind.names == ["accept", "success"]
    until(lambda: pool.info["slots"] == 0)
    after = apply(pool, lambda: 1)
    until(lambda: after.is_over)
    assert after.names == ["accept", "success"]


def test_a_slot_killed_while_its_job_runs_costs_no_place(
    make_pool: Any, apply: Any, until: Any, hub: Hub, library: Any
) -> None:
    pool = make_pool(1)
    slots: list[Any] = []

    def run() -> None:
        slots.append(hub.current())
        hub.sleep(5)

    outcome = apply(pool, run)
    until(lambda: slots)
    library.kill(slots[0])
    until(lambda: outcome.is_over)
    assert outcome.value_of("error").type is WorkerLostError
    after = apply(pool, lambda: 1)
    until(lambda: after.is_over)


# -- what stays behind


def test_thousands_of_jobs_leave_nothing_behind(
    make_pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    class Target:
        def __call__(self, number: int) -> None:
            if number % 100 == 0:
                hub.sleep(0)
            if number % 100 == 1:
                raise ValueError

    pool = make_pool(50)
    timers = pool.info["timers"]
    target = Target()
    reference = weakref.ref(target)
    left = 10_000

    def end(_: Any) -> None:
        nonlocal left
        left -= 1

    jobs = weakref.WeakSet()
    for number in range(10_000):
        limits = {"timeout": 60, "soft_timeout": 50} if number % 3 == 0 else {}
        jobs.add(pool.apply_async(target, (number,), callback=end, error_callback=end, **limits))
    del target
    until(lambda: left == 0)
    gc.collect()
    assert len(jobs) == 0
    assert reference() is None
    assert len(pool._slab) == 0
    info = pool.info
    assert (info["running"], info["waiting"], info["timers"]) == (0, 0, timers)


def test_a_stopped_pool_is_collected(
    pool_class: Any, apply: Any, turns: Any, implementation: str
) -> None:
    pool = pool_class(3)
    pool.start()
    apply(pool, lambda: 1)
    pool.stop()
    turns()
    reference = weakref.ref(pool)
    del pool
    gc.collect()
    assert reference() is None


# -- jobs that are announced


def test_what_is_announced_starts_in_that_turn(make_pool: Any, apply: Any, until: Any) -> None:
    pool = make_pool(3)
    announced: list[int] = []
    pool.before_start = lambda jobs: announced.append(len(jobs))
    gate = Event()
    outcomes = [apply(pool, gate.wait) for _ in range(5)]
    until(lambda: pool.info["running"] == 3)
    assert announced == [3]
    gate.set()
    until(lambda: all(outcome.is_over for outcome in outcomes))


def test_what_is_announced_starts_whatever_happens(make_pool: Any, apply: Any, until: Any) -> None:
    pool = make_pool(10)
    announced: list[Any] = []
    pool.before_start = announced.extend

    def end() -> None:
        pool.hold()
        pool.flush()

    outcomes = [apply(pool, end) for _ in range(10)]
    until(lambda: len(announced) == 10)
    until(lambda: all(outcome.is_over for outcome in outcomes))
    assert {tuple(outcome.names) for outcome in outcomes} == {("accept", "success")}


def test_jobs_wait_for_an_announcement_that_blocks(
    make_pool: Any, apply: Any, until: Any, turns: Any
) -> None:
    pool = make_pool(3)
    announced: list[list[Any]] = []
    told, gate = Event(), Event()

    def announce(jobs: list[Any]) -> None:
        announced.append(jobs)
        told.wait()

    pool.before_start = announce
    order: list[int] = []
    outcomes = [apply(pool, lambda n: (order.append(n), gate.wait()), n) for n in range(4)]
    until(lambda: announced)
    outcomes.append(apply(pool, order.append, 4))
    turns()
    info = pool.info
    assert (order, info["running"], info["waiting"]) == ([], 0, 5)
    assert [len(jobs) for jobs in announced] == [3]
    told.set()
    until(lambda: len(order) == 3)
    assert pool.info["running"] == 3
    gate.set()
    until(lambda: all(outcome.is_over for outcome in outcomes))
    assert order == [0, 1, 2, 3, 4]
    assert [job for jobs in announced for job in jobs] == [outcome.job for outcome in outcomes]


def test_what_is_being_announced_starts_though_the_pool_shrinks_and_stops(
    make_pool: Any, apply: Any, until: Any, turns: Any, hub: Hub
) -> None:
    pool = make_pool(4)
    announced: list[Any] = []
    told = Event()
    pool.before_start = lambda jobs: (announced.extend(jobs), told.wait())
    outcomes = [apply(pool, int) for _ in range(6)]
    until(lambda: len(announced) == 4)
    pool.shrink(3)
    pool.close()  # drops the two that have not been announced
    stopped: list[bool] = []
    hub.spawn(lambda: (pool.stop(), stopped.append(True)))
    turns()
    assert not stopped
    told.set()
    until(lambda: stopped)
    assert [tuple(outcome.names) for outcome in outcomes] == [("accept", "success")] * 4 + [()] * 2


def test_jobs_start_though_they_could_not_be_announced(
    make_pool: Any, apply: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(2)

    def refuse(_: Any) -> None:
        raise ValueError("no broker")

    pool.before_start = refuse
    outcomes = [apply(pool, int) for _ in range(3)]
    until(lambda: all(outcome.is_over for outcome in outcomes))
    assert "no broker" in caplog.text


def test_slots_take_nothing_that_was_not_announced(make_pool: Any, apply: Any, until: Any) -> None:
    pool = make_pool(2)
    announced: list[Any] = []
    started: list[Any] = []
    pool.before_start = announced.extend
    outcomes = []

    def run(number: int) -> None:
        started.append((outcomes[number].job in announced, len(announced) - number))

    outcomes += [apply(pool, run, number) for number in range(50)]
    until(lambda: all(outcome.is_over for outcome in outcomes))
    assert all(known for known, _ in started)
    assert max(ahead for _, ahead in started) <= 2  # and no more than could start


@pytest.mark.parametrize("exc", [GreenletExit, JobKilled, UsersError, SystemExit, ValueError])
def test_jobs_start_whatever_their_announcement_raises(
    make_pool: Any, apply: Any, until: Any, turns: Any, exc: type[BaseException]
) -> None:
    pool = make_pool(2)
    announced: list[Any] = []

    def announce(jobs: list[Any]) -> None:
        announced.append(jobs)
        if len(announced) == 2:
            raise exc

    pool.before_start = announce
    first = apply(pool, int)
    until(lambda: first.is_over)
    outcomes = [apply(pool, int) for _ in range(5)]
    with pytest.raises(exc) if exc is SystemExit else nullcontext():
        turns()
    until(lambda: all(outcome.is_over for outcome in outcomes))
    assert {tuple(outcome.names) for outcome in outcomes} == {("accept", "success")}
    assert len(announced) >= 3
    assert pool.info["running"] == pool.info["waiting"] == 0


@pytest.mark.parametrize("is_busy", [True, False], ids=["while it blocks", "while it is idle"])
@pytest.mark.parametrize("exc", [GreenletExit, JobKilled, UsersError])
def test_jobs_start_though_whoever_announces_them_is_ended(
    make_pool: Any,
    apply: Any,
    until: Any,
    turns: Any,
    hub: Hub,
    is_busy: bool,
    exc: type[BaseException],
) -> None:
    pool = make_pool(3)
    announcers: list[Any] = []

    def announce(_: list[Any]) -> None:
        announcers.append(hub.current())
        if is_busy and len(announcers) == 1:
            hub.sleep(30)

    pool.before_start = announce
    outcomes = [apply(pool, int) for _ in range(5)]
    turns()
    if is_busy:
        assert pool.info["waiting"] == 5
        assert pool._announcer.statistics() == {"announced": 3, "told": 0}
    hub.call_soon(hub.interrupt, announcers[0], exc)
    turns()
    outcomes += [apply(pool, int) for _ in range(5)]
    until(lambda: all(outcome.is_over for outcome in outcomes))
    assert {tuple(outcome.names) for outcome in outcomes} == {("accept", "success")}
    assert announcers[0] is not announcers[-1]
    assert pool._announcer.statistics()["announced"] == 0


# -- greenlets that end in another way than the pool's


@pytest.mark.parametrize("which", ["callback", "error_callback"])
@pytest.mark.parametrize(
    "exc", [GreenletExit, JobKilled, UsersError, SystemExit, KeyboardInterrupt, ValueError]
)
def test_a_callback_that_raises_whatever_costs_no_other_job(
    make_pool: Any, apply: Any, until: Any, turns: Any, which: str, exc: type[BaseException]
) -> None:
    pool = make_pool(11)
    for _ in range(11):  # all slots wait to be resumed
        apply(pool, Event().wait, 0)
    until(lambda: pool.info["slots"] == 11 and not pool.info["running"])

    def complain(_: Any) -> None:
        raise exc

    def fail() -> None:
        raise KeyError

    outcomes = [apply(pool, int) for _ in range(5)]
    apply(pool, fail if which == "error_callback" else int, **{which: complain})
    outcomes += [apply(pool, int) for _ in range(5)]
    with pytest.raises(exc) if exc in (SystemExit, KeyboardInterrupt) else nullcontext():
        turns()
    turns()
    assert {tuple(outcome.names) for outcome in outcomes} == {("accept", "success")}
    assert pool.info["running"] == 0
    assert pool.info["slots"] == (11 if exc is ValueError else 10)
    gate = Event()
    outcomes = [apply(pool, gate.wait) for _ in range(11)]
    turns()
    assert pool.info["running"] == pool.info["slots"] == 11
    gate.set()
    until(lambda: all(outcome.is_over for outcome in outcomes))


@pytest.mark.parametrize("how", ["stop", "retire"])
@pytest.mark.parametrize("exc", [GreenletExit, UsersError, ValueError])
def test_what_a_slot_raises_at_its_end_keeps_no_other_from_ending(
    make_pool: Any,
    apply: Any,
    until: Any,
    turns: Any,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    exc: type[BaseException],
) -> None:
    pool = make_pool(5)
    ended: list[int] = []
    gate = Event()

    class Session:
        def __del__(self) -> None:
            ended.append(1)
            if is_tested:
                raise exc

    def complain(_: Any) -> None:
        raise exc

    is_tested = [True]
    local = threading.local()

    def run() -> None:
        local.session = Session()
        hub.current().link(complain)  # type: ignore[attr-defined]
        gate.wait()

    outcomes = [apply(pool, run) for _ in range(5)]
    until(lambda: pool.info["running"] == 5)
    gate.set()
    until(lambda: all(outcome.is_over for outcome in outcomes))
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    if how == "stop":
        pool.close()
        pool.stop()
        turns()
    else:
        monkeypatch.setattr(slots, "SLOT_IDLE", -1.0)
        pool._slots.tidy()
        turns()
        after = apply(pool, int)
        until(lambda: after.is_over)
        pool._slots.tidy()
        turns()
    assert pool.info["slots"] == 0
    gc.collect()
    is_tested.clear()  # eventlet keeps the last exception, and with it a slot's frames
    assert len(ended) >= 4


def test_what_is_killed_before_its_first_turn_costs_no_job(
    make_pool: Any,
    apply: Any,
    until: Any,
    turns: Any,
    hub: Hub,
    library: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spawned: list[Any] = []
    spawn = hub.spawn

    def remember(*args: Any) -> Any:
        spawned.append(spawn(*args))
        return spawned[-1]

    pool = make_pool(1)
    monkeypatch.setattr(hub, "spawn", remember)
    for before_start in (None, lambda _: None):
        pool.before_start = before_start
        outcome = apply(pool, hub.sleep, 0)
        pool._dispatch()
        library.kill(spawned.pop())
        turns()
        assert outcome.names == []
        pool._tidy()
        until(lambda outcome=outcome: outcome.is_over)
        assert outcome.names == ["accept", "success"]
        pool._slots.end()
        turns()
        assert (pool.info["slots"], pool.info["running"]) == (0, 0)


def test_jobs_wait_when_no_slot_can_be_started(
    make_pool: Any, apply: Any, until: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(3)
    order: list[int] = []
    outcomes = [apply(pool, order.append, number) for number in range(5)]

    def refuse(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(hub, "spawn", refuse)
        with pytest.raises(MemoryError):
            pool._dispatch()
    assert (pool.info["running"], pool.info["waiting"], pool.info["slots"]) == (0, 5, 0)
    until(lambda: all(outcome.is_over for outcome in outcomes))
    assert order == [0, 1, 2, 3, 4]


def test_every_structure_of_the_pool_can_tell(
    make_pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    pool = make_pool(2)
    gate = Event()
    outcomes = [apply(pool, gate.wait, soft_timeout=60) for _ in range(3)]
    until(lambda: pool.info["running"] == 2)
    assert pool.statistics() == {
        "limit": 2,
        "running": 2,
        "free": 0,
        "backlog": 1,
        "ready": 0,
        "waiting-for-progress": 0,
        "waiting-for-demand": 0,
        "waiting-for-end": 0,
    }
    assert pool._slots.statistics() == {"slots": 2, "slots-idle": 0, "slots-created": 2}
    expected = {"open": 2, "soft-limits": 0, "hard-limits": 0, "terminated": 0, "abandoned": 0}
    assert pool._limits.statistics() == expected
    assert pool._timer.statistics() == {"entries": 3, "due": 0, "idle-runners": 0}
    gate.set()
    until(lambda: all(outcome.is_over for outcome in outcomes))
    assert pool._slots.statistics()["slots-idle"] == 2
