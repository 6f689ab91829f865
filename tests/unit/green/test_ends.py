"""The ends that others put to a job: limits, termination, and what a job may do about it."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
from contextlib import suppress
from random import Random
from threading import Event
from time import monotonic
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from greenlet import GreenletExit, getcurrent

from hybrid._rust import TaskFunction
from hybrid.hubs.base import Hub
from hybrid.worker.execution import limits as module
from hybrid.worker.execution import tracing
from hybrid.worker.execution.job import AFTER, BEFORE, INSIDE
from hybrid.worker.execution.pool import JobKilled


@pytest.fixture
def pool(make_pool: Any) -> Any:
    return make_pool(2)


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(module, "KILL_GRACE", 0.01)
    return 0.01


def assert_serves_on(pool: Any, apply: Any, until: Any) -> None:
    """All places of the pool are free, and its books are in order."""
    until(lambda: pool.info["running"] == 0)
    gate = Event()
    outcomes = [apply(pool, gate.wait) for _ in range(pool.limit)]
    until(lambda: all(outcome.pid for outcome in outcomes))
    gate.set()
    until(lambda: all(outcome.is_over for outcome in outcomes))
    assert {tuple(outcome.names) for outcome in outcomes} == {("accept", "success")}
    assert len(pool._slab) == 0


# -- limits


def test_a_soft_limit_is_raised_in_the_target_at_its_time(
    pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    def run() -> float:
        started = monotonic()
        try:
            hub.sleep(5)
        except SoftTimeLimitExceeded:
            return monotonic() - started
        return 0

    outcome = apply(pool, run, soft_timeout=0.05)
    until(lambda: outcome.is_over)
    assert outcome.names == ["accept", "soft limit", "success"]
    assert outcome.value_of("soft limit") == 0.05
    assert 0.04 <= outcome.value_of("success") < 0.15
    assert_serves_on(pool, apply, until)


def test_a_soft_limit_that_is_not_caught_is_an_error(
    pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    outcome = apply(pool, hub.sleep, 5, soft_timeout=0.01)
    until(lambda: outcome.is_over)
    assert outcome.names == ["accept", "soft limit", "error"]
    assert outcome.value_of("error").type is SoftTimeLimitExceeded
    assert_serves_on(pool, apply, until)


def test_a_hard_limit_ends_the_target_and_is_reported_once(
    pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    ended: list[str] = []

    def run() -> None:
        try:
            hub.sleep(5)
        except Exception:
            ended.append("an exception that tasks catch")
        finally:
            ended.append("finally")

    started = monotonic()
    outcome = apply(pool, run, timeout=0.05)
    until(lambda: outcome.is_over)
    assert 0.05 <= monotonic() - started < 0.15
    assert outcome.names == ["accept", "hard limit"]
    assert outcome.value_of("hard limit") == 0.05
    assert ended == ["finally"]
    assert_serves_on(pool, apply, until)


@pytest.mark.parity("gevent")
def test_a_job_within_its_limit_succeeds_and_disarms_it(
    make_pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    pool = make_pool(2)
    outcome = apply(pool, lambda: hub.sleep(0.001), timeout=0.02)
    until(lambda: outcome.is_over)
    hub.sleep(0.04)
    assert outcome.names == ["accept", "success"]


@pytest.mark.parity("gevent")
def test_a_target_that_waits_past_its_hard_limit_times_out(
    make_pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    pool = make_pool(2)
    outcome = apply(pool, hub.sleep, 5, timeout=0.02)
    until(lambda: outcome.is_over)
    assert outcome.names == ["accept", "hard limit"]


def test_disarmed_limits_leave_no_timers(pool: Any, apply: Any, until: Any) -> None:
    before = pool.info["timers"]
    outcome = apply(pool, lambda: pool.info["timers"], timeout=60, soft_timeout=50)
    until(lambda: outcome.is_over)
    assert outcome.value_of("success") == before + 2
    assert pool.info["timers"] == before


def test_soft_and_then_hard(pool: Any, apply: Any, until: Any, hub: Hub) -> None:
    seen: list[str] = []

    def run() -> None:
        try:
            hub.sleep(5)
        except SoftTimeLimitExceeded:
            seen.append("soft")
        try:
            hub.sleep(5)
        finally:
            seen.append("end")

    outcome = apply(pool, run, soft_timeout=0.01, timeout=0.2)
    until(lambda: outcome.is_over)
    assert outcome.names == ["accept", "soft limit", "hard limit"]
    assert seen == ["soft", "end"]
    assert_serves_on(pool, apply, until)


def test_both_limits_at_one_instant_end_the_job_once(
    pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    outcome = apply(pool, hub.sleep, 5, soft_timeout=0.01, timeout=0.01)
    until(lambda: outcome.is_over)
    assert outcome.names in (["accept", "hard limit"], ["accept", "soft limit", "hard limit"])
    assert_serves_on(pool, apply, until)


def test_limits_of_the_pool_are_for_jobs_that_bring_none(
    make_pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    pool = make_pool(4, timeout=0.02, soft_timeout=0.01)
    plain = apply(pool, hub.sleep, 5)
    own = apply(pool, hub.sleep, 0.04, timeout=5, soft_timeout=4)
    without = apply(pool, hub.sleep, 0.04, timeout=0, soft_timeout=0)
    until(lambda: plain.is_over and own.is_over and without.is_over)
    assert plain.names == ["accept", "soft limit", "error"]
    assert own.names == without.names == ["accept", "success"]


def test_a_hard_limit_races_completion_to_one_outcome(
    make_pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    pool = make_pool(100)
    outcomes = [
        apply(pool, hub.sleep, 0.02 + (number - 50) * 0.00002, timeout=0.02)
        for number in range(100)
    ]
    until(lambda: all(outcome.is_over for outcome in outcomes))
    hub.sleep(0.02)
    assert {tuple(outcome.names) for outcome in outcomes} <= {
        ("accept", "success"),
        ("accept", "hard limit"),
    }
    assert_serves_on(pool, apply, until)


def test_a_job_that_swallows_the_kill_is_killed_again(
    pool: Any, apply: Any, until: Any, hub: Hub, short_grace: float
) -> None:
    caught: list[BaseException] = []

    def run() -> None:
        while len(caught) < 3:
            try:
                hub.sleep(5)
            except BaseException as exc:
                caught.append(exc)

    outcome = apply(pool, run, timeout=0.01)
    until(lambda: len(caught) == 3)
    until(lambda: pool.info["running"] == 0)
    assert outcome.names == ["accept", "hard limit"]
    assert {type(exc) for exc in caught} == {JobKilled}
    assert pool.info["abandoned"] == 0
    assert_serves_on(pool, apply, until)


def test_a_job_that_swallows_every_kill_is_abandoned_and_its_place_is_free(
    make_pool: Any,
    apply: Any,
    until: Any,
    hub: Hub,
    short_grace: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = make_pool(1)
    let_go = Event()
    kills: list[int] = []

    def run() -> None:
        while not let_go.is_set():
            try:
                hub.sleep(0.02 if len(kills) >= module.KILL_ATTEMPTS else 5)
            except BaseException:
                kills.append(1)

    with caplog.at_level(logging.ERROR):
        outcome = apply(pool, run, timeout=0.01)
        after = apply(pool, lambda: 1)
        until(lambda: after.is_over)
    assert len(kills) == module.KILL_ATTEMPTS
    assert outcome.names == ["accept", "hard limit"]
    assert (pool.info["abandoned"], pool.info["running"]) == (1, 0)
    assert "swallowed" in caplog.text
    let_go.set()
    until(lambda: pool.info["slots"] == 1)
    assert pool.info["running"] == 0
    assert_serves_on(pool, apply, until)


def test_the_limit_of_a_swallowing_job_is_reported_before_it_ends(
    pool: Any, apply: Any, until: Any, hub: Hub, short_grace: float
) -> None:
    ended: list[int] = []

    def run() -> None:
        for _ in range(module.KILL_ATTEMPTS):
            with contextlib.suppress(BaseException):
                hub.sleep(5)
        ended.append(1)

    outcome = apply(pool, run, timeout=0.01)
    until(lambda: outcome.is_over)
    assert not ended
    until(lambda: ended)
    until(lambda: pool.info["running"] == 0)
    assert outcome.names == ["accept", "hard limit"]


def test_a_result_after_the_limit_is_not_a_success(
    pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    def run() -> str:
        try:
            hub.sleep(5)
        except GreenletExit:
            return "all the same"
        return "in time"

    outcome = apply(pool, run, timeout=0.01)
    until(lambda: outcome.is_over)
    assert outcome.names == ["accept", "hard limit"]


def test_a_killed_job_takes_its_slot_with_it(pool: Any, apply: Any, until: Any, hub: Hub) -> None:
    outcome = apply(pool, hub.sleep, 5, timeout=0.01)
    until(lambda: outcome.is_over)
    until(lambda: pool.info["slots"] == 0)


def test_a_callback_is_not_cut_short_by_the_limits_of_its_job(
    pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    ended: list[int] = []

    def on_success(_: Any) -> None:
        hub.sleep(0.03)
        ended.append(1)

    apply(pool, int, callback=on_success, timeout=0.01, soft_timeout=0.005)
    until(lambda: ended, 1.0)
    assert_serves_on(pool, apply, until)


def test_many_jobs_meet_their_limits_together(
    make_pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    pool = make_pool(300)

    def run() -> str:
        try:
            hub.sleep(5)
        except SoftTimeLimitExceeded:
            return "soft"
        return "late"

    soft = [apply(pool, run, soft_timeout=0.05, timeout=1) for _ in range(150)]
    hard = [apply(pool, hub.sleep, 5, timeout=0.05) for _ in range(150)]
    until(lambda: all(outcome.is_over for outcome in (*soft, *hard)))
    assert {outcome.value_of("success") for outcome in soft} == {"soft"}
    assert {tuple(outcome.names) for outcome in hard} == {("accept", "hard limit")}
    assert_serves_on(pool, apply, until)


@pytest.mark.parametrize("exc", [ValueError, GreenletExit])
def test_a_limit_strikes_though_telling_of_it_raises(
    pool: Any, apply: Any, until: Any, hub: Hub, short_grace: float, exc: type[BaseException]
) -> None:
    kills: list[type[BaseException]] = []

    def complain(soft: bool, _: float) -> None:
        raise exc

    def run() -> None:
        while len(kills) < 3:
            try:
                hub.sleep(5)
            except (SoftTimeLimitExceeded, JobKilled) as caught:
                kills.append(type(caught))

    apply(pool, run, soft_timeout=0.005, timeout=0.2, timeout_callback=complain)
    until(lambda: len(kills) == 3)
    assert kills == [SoftTimeLimitExceeded, JobKilled, JobKilled]
    assert_serves_on(pool, apply, until)


def test_a_limit_is_not_late_because_telling_of_it_blocks(
    pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    gate = Event()
    outcome = apply(pool, hub.sleep, 5, soft_timeout=0.005, timeout_callback=lambda *_: gate.wait())
    until(lambda: outcome.is_over)
    assert outcome.value_of("error").type is SoftTimeLimitExceeded
    gate.set()
    assert_serves_on(pool, apply, until)


# -- the function of a task, called by a tracer


def tracer(before: Any, function: Any, after: Any) -> Any:
    """Return a target that comes to its function as Celery's tracer does."""
    call = TaskFunction(function, getcurrent, BEFORE, INSIDE, AFTER)

    def run() -> Any:
        before()
        try:
            outcome = call()
        except Exception as exc:
            outcome = exc
        after()
        return outcome

    return run


def nothing() -> None:
    pass


@pytest.fixture
def knows_tracers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every target for a tracer."""
    monkeypatch.setattr(tracing, "comes_to_function", lambda _: True)


def test_the_function_gets_its_arguments_and_no_line_in_a_traceback() -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise KeyError(args, kwargs)

    call = TaskFunction(fail, getcurrent, BEFORE, INSIDE, AFTER)
    with pytest.raises(KeyError) as caught:
        call(1, two=2)
    assert caught.value.args == ((1,), {"two": 2})
    assert [entry.name for entry in caught.traceback][1:] == ["fail"]


@pytest.mark.parametrize("kind", ["soft_timeout", "timeout"])
def test_a_limit_leaves_what_follows_the_function_alone(
    pool: Any, apply: Any, until: Any, hub: Hub, kind: str
) -> None:
    target = tracer(nothing, lambda: "done", lambda: hub.sleep(0.05))
    outcome = apply(pool, target, **{kind: 0.01})
    until(lambda: outcome.is_over)
    assert outcome.names == ["accept", "success"]
    assert outcome.value_of("success") == "done"
    assert_serves_on(pool, apply, until)


@pytest.mark.usefixtures("knows_tracers")
def test_a_soft_limit_waits_for_the_function(pool: Any, apply: Any, until: Any, hub: Hub) -> None:
    told: list[str] = []
    target = tracer(
        lambda: hub.sleep(0.05), lambda: told.append("called"), lambda: told.append("stored")
    )
    outcome = apply(pool, target, soft_timeout=0.01)
    until(lambda: outcome.is_over)
    assert outcome.names == ["accept", "soft limit", "success"]
    assert isinstance(outcome.value_of("success"), SoftTimeLimitExceeded)
    assert told == ["stored"]
    assert_serves_on(pool, apply, until)


@pytest.mark.usefixtures("knows_tracers")
def test_a_hard_limit_waits_for_the_function(pool: Any, apply: Any, until: Any, hub: Hub) -> None:
    told: list[str] = []
    target = tracer(
        lambda: (hub.sleep(0.05), told.append("ready")),
        lambda: told.append("called"),
        lambda: told.append("stored"),
    )
    outcome = apply(pool, target, timeout=0.01)
    until(lambda: outcome.is_over)
    assert outcome.names == ["accept", "hard limit"]
    assert told == ["ready"]
    assert_serves_on(pool, apply, until)


def test_a_killed_function_that_goes_on_is_not_stored(
    pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    told: list[str] = []

    def swallow() -> None:
        with suppress(BaseException):
            hub.sleep(5)

    outcome = apply(pool, tracer(nothing, swallow, lambda: told.append("stored")), timeout=0.01)
    until(lambda: outcome.is_over)
    assert outcome.names == ["accept", "hard limit"]
    assert told == []
    assert_serves_on(pool, apply, until)


@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_tracer_that_never_ends_is_ended_in_the_end(
    pool: Any, apply: Any, until: Any, hub: Hub, where: str, request: pytest.FixtureRequest
) -> None:
    if where == "before":
        request.getfixturevalue("knows_tracers")
    waits = {"before": nothing, "after": nothing, where: lambda: hub.sleep(5)}
    outcome = apply(pool, tracer(waits["before"], nothing, waits["after"]), timeout=0.01)
    until(lambda: outcome.is_over)
    assert outcome.names == ["accept", "hard limit"]
    assert_serves_on(pool, apply, until)


def test_a_tracer_inside_the_function_is_a_part_of_it(
    pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    inner = TaskFunction(nothing, getcurrent, BEFORE, INSIDE, AFTER)

    def run() -> None:
        inner()
        hub.sleep(5)

    outcome = apply(pool, tracer(nothing, run, nothing), soft_timeout=0.01)
    until(lambda: outcome.is_over)
    assert isinstance(outcome.value_of("success"), SoftTimeLimitExceeded)
    assert_serves_on(pool, apply, until)


# -- termination


def test_a_running_job_can_be_terminated(pool: Any, apply: Any, until: Any, hub: Hub) -> None:
    ended: list[str] = []

    def run() -> None:
        try:
            hub.sleep(5)
        finally:
            ended.append("finally")

    outcome = apply(pool, run)
    until(lambda: outcome.pid)
    pool.terminate_job(outcome.pid, 15)
    until(lambda: ended)
    assert_serves_on(pool, apply, until)
    assert outcome.names == ["accept"]


def test_a_terminated_job_knows_before_whoever_terminates_it_says_so(
    pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    told: list[str] = []
    gate = Event()

    def run() -> None:
        gate.wait()
        told.append("went on")

    outcome = apply(pool, run)
    until(lambda: outcome.pid)
    gate.set()  # it would go on in the next turn
    pool.terminate_job(outcome.pid)
    told.append("terminated")
    assert_serves_on(pool, apply, until)
    assert told in (["terminated"], ["went on", "terminated"])


@pytest.mark.parity(since=(5, 7))
def test_termination_frees_the_place(make_pool: Any, apply: Any, until: Any, hub: Hub) -> None:
    pool = make_pool(1)
    outcome = apply(pool, hub.sleep, 5)
    until(lambda: outcome.pid)
    pool.terminate_job(outcome.pid, 15)
    after = apply(pool, lambda: 1)
    until(lambda: after.is_over)
    assert after.value_of("success") == 1


@pytest.mark.parity(since=(5, 7))
@pytest.mark.parametrize("pid", [0, 12_345, 2**40])
def test_terminating_what_is_unknown_is_harmless(
    make_pool: Any, apply: Any, until: Any, pid: int
) -> None:
    pool = make_pool(2)
    outcome = apply(pool, lambda: pool.terminate_job(pid))
    until(lambda: outcome.is_over)
    assert outcome.names == ["accept", "success"]


def test_terminating_what_has_ended_leaves_the_next_job_alone(
    make_pool: Any, apply: Any, until: Any, hub: Hub, turns: Any
) -> None:
    pool = make_pool(1)
    first = apply(pool, lambda: 1)
    until(lambda: first.is_over)
    second = apply(pool, hub.sleep, 0.01)
    until(lambda: second.pid)
    pool.terminate_job(first.pid)
    until(lambda: second.is_over)
    assert second.names == ["accept", "success"]


def test_terminating_twice_kills_once(pool: Any, apply: Any, until: Any, hub: Hub) -> None:
    kills: list[int] = []

    def run() -> None:
        try:
            hub.sleep(5)
        except GreenletExit:
            kills.append(1)
            hub.sleep(0.01)
            raise

    outcome = apply(pool, run)
    until(lambda: outcome.pid)
    pool.terminate_job(outcome.pid)
    pool.terminate_job(outcome.pid)
    assert_serves_on(pool, apply, until)
    assert kills == [1]


def test_termination_while_celery_accepts_skips_the_target(
    pool: Any, apply: Any, until: Any, turns: Any
) -> None:
    ran: list[int] = []
    outcome = apply(pool, ran.append, 1, accept_callback=lambda pid, _: pool.terminate_job(pid, 15))
    turns()
    assert_serves_on(pool, apply, until)
    assert ran == []
    assert outcome.names == []


def test_termination_does_not_cut_short_how_celery_accepts(
    pool: Any, apply: Any, until: Any, turns: Any
) -> None:
    gate = Event()
    passed: list[str] = []
    pids: list[int] = []

    def on_accept(pid: int, _: float) -> None:
        pids.append(pid)
        gate.wait()
        passed.append("accepted")

    outcome = apply(pool, passed.append, "ran", accept_callback=on_accept)
    until(lambda: pids)
    pool.terminate_job(pids[0])
    pool.terminate_job(pids[0])
    turns()
    assert pool.info["running"] == 1
    gate.set()
    assert_serves_on(pool, apply, until)
    assert passed == ["accepted"]
    assert outcome.names == []


def test_a_job_may_terminate_itself(pool: Any, apply: Any, until: Any, hub: Hub) -> None:
    reached: list[str] = []

    def run() -> None:
        pool.terminate_job(outcome.pid)
        reached.append("goes on until it waits")
        hub.sleep(0.001)
        reached.append("past its end")

    outcome = apply(pool, run)
    assert_serves_on(pool, apply, until)
    assert reached == ["goes on until it waits"]
    assert outcome.names == ["accept"]


def test_finally_blocks_may_do_io(
    pool: Any, apply: Any, until: Any, hub: Hub, short_grace: float, monkeypatch: Any
) -> None:
    monkeypatch.setattr(module, "KILL_GRACE", 1)
    ours, theirs = socket.socketpair()
    got: list[bytes] = []

    def run() -> None:
        try:
            hub.sleep(5)
        finally:
            ours.sendall(b"rollback")
            got.append(ours.recv(100))

    def answer() -> None:
        theirs.recv(100)
        hub.sleep(0.005)
        theirs.sendall(b"done")

    hub.spawn(answer)
    outcome = apply(pool, run)
    until(lambda: outcome.pid)
    pool.terminate_job(outcome.pid)
    until(lambda: got)
    assert got == [b"done"]
    assert_serves_on(pool, apply, until)
    ours.close()
    theirs.close()


def test_termination_beats_the_limits(pool: Any, apply: Any, until: Any, hub: Hub) -> None:
    outcome = apply(pool, hub.sleep, 5, soft_timeout=0.01, timeout=0.02)
    until(lambda: outcome.pid)
    pool.terminate_job(outcome.pid)
    hub.sleep(0.04)
    assert outcome.names == ["accept"]
    assert_serves_on(pool, apply, until)


def test_a_hundred_terminated_at_once_free_all_places(
    make_pool: Any, apply: Any, until: Any, hub: Hub
) -> None:
    pool = make_pool(100)
    ended: list[int] = []

    def run() -> None:
        try:
            hub.sleep(5)
        finally:
            ended.append(1)

    outcomes = [apply(pool, run) for _ in range(100)]
    until(lambda: all(outcome.pid for outcome in outcomes))
    for outcome in outcomes:
        pool.terminate_job(outcome.pid)
    until(lambda: len(ended) == 100)
    assert_serves_on(pool, apply, until)
    assert {tuple(outcome.names) for outcome in outcomes} == {("accept",)}


# -- all at once


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_everything_keeps_the_books(
    make_pool: Any, apply: Any, until: Any, hub: Hub, short_grace: float, seed: int
) -> None:
    random = Random(seed)
    pool = make_pool(20)
    started: list[int] = []
    running = 0

    def run(number: int, seconds: float, end: str) -> str:
        nonlocal running
        started.append(number)
        running += 1
        try:
            if end == "swallow":
                with suppress(JobKilled, SoftTimeLimitExceeded):
                    hub.sleep(seconds)
            elif seconds:
                hub.sleep(seconds)
            if end == "raise":
                raise ValueError(number)
            if end == "exit":
                raise SystemExit
        finally:
            running -= 1
        return end

    outcomes = []
    terminated = set()
    for number in range(1_000):
        seconds = random.choice([0, 0, 0, 0.001, 0.003, 5])
        limits = {"timeout": random.uniform(0.001, 0.005)} if seconds else {}
        if random.random() < 0.3 and seconds:
            limits["soft_timeout"] = random.uniform(0.001, 0.005)
        end = random.choice(["return", "return", "raise", "exit", "swallow"])
        outcomes.append(apply(pool, run, number, seconds, end, **limits))
        if random.random() < 0.05:
            hub.sleep(random.choice([0, 0.001]))
        if random.random() < 0.1:
            victim = random.choice(outcomes)
            if victim.pid and not victim.is_over and victim.names == ["accept"]:
                terminated.add(id(victim))
                pool.terminate_job(victim.pid)
        if random.random() < 0.02:
            pool.shrink(5) if pool.limit > 10 else pool.grow(10)
    pool.grow(20 - pool.limit) if pool.limit < 20 else pool.shrink(pool.limit - 20)
    until(lambda: pool.info["running"] == pool.info["waiting"] == 0, 20)

    allowed = {
        (*soft, last)
        for soft in ((), ("soft limit",))
        for last in ("success", "error", "hard limit")
    }
    for outcome in outcomes:
        accept, *names = outcome.names
        assert accept == "accept"
        assert tuple(names) in allowed or id(outcome) in terminated, names
    assert started == sorted(started)
    assert running == 0
    assert_serves_on(pool, apply, until)
    hub.sleep(module.KILL_GRACE * 2)
    assert pool.info["abandoned"] == 0


# -- the end of the process


@pytest.mark.slow
@pytest.mark.parametrize(("exc", "status"), [("WorkerShutdown", 0), ("WorkerTerminate", 1)])
def test_celerys_own_exits_end_the_process(hub: Hub, exc: str, status: int) -> None:
    script = f"""
import hybrid
hybrid.patch({hub.name!r})
import time, importlib
from celery.exceptions import {exc}
def run():
    raise {exc}({status})
pool = importlib.import_module("hybrid.{hub.name}").TaskPool(2)
pool.start()
pool.apply_async(run)
time.sleep(5)
print("goes on")
"""
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (child.returncode, child.stdout) == (status, ""), child.stderr
