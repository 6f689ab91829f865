"""The worker's timer: kombu's interface, and what entries may do to each other."""

from __future__ import annotations

import gc
import logging
import time
import weakref
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from threading import Event
from time import monotonic
from typing import Any

import pytest
from celery.utils import timer2
from greenlet import GreenletExit
from kombu.asynchronous import timer as kombu_timer

from hybrid.hubs.base import Hub
from hybrid.worker.execution import timer as timer_module
from hybrid.worker.execution.timer import Timer


@pytest.fixture
def timer(hub: Hub) -> Iterator[Timer]:
    made = Timer(hub=hub)
    yield made
    made.stop()


@pytest.fixture
def ran() -> list[Any]:
    return []


# -- the interface


def public(cls: type, stop: type) -> set[str]:
    """The public names of a class and its bases, before ``stop``."""
    bases = cls.__mro__[: cls.__mro__.index(stop)]
    return {name for base in bases for name in vars(base) if not name.startswith("_")}


#: Parts of celery's thread that say how it runs, not what a timer does.
OF_THE_THREAD = {"Schedule", "on_tick", "run", "running", "next"}


def test_kombus_timer_has_nothing_that_is_missing(timer: Timer) -> None:
    missing = {name for name in public(kombu_timer.Timer, object) if not hasattr(timer, name)}
    assert not missing


def test_celerys_timer_has_nothing_that_is_missing(timer: Timer) -> None:
    names = public(timer2.Timer, timer2.threading.Thread) - OF_THE_THREAD
    assert not {name for name in names if not hasattr(timer, name)}


def test_an_entry_has_kombus_attributes(timer: Timer) -> None:
    theirs = kombu_timer.Entry(print)
    names = [name for name in dir(theirs) if not name.startswith("_")]
    entry = timer.call_after(9, print)
    assert not [name for name in names if not hasattr(entry, name)]
    assert repr(entry).startswith("<TimerEntry: print(")


def test_celery_may_build_the_timer_with_its_options(hub: Hub) -> None:
    made = Timer(max_interval=3, on_error=print, on_tick=print, hub=hub)
    assert (made.max_interval, made.on_error) == (3.0, print)


def test_a_timer_is_true_even_when_it_is_empty(timer: Timer) -> None:
    assert timer
    assert timer.empty()
    assert len(timer) == 0
    timer.call_after(9, print)
    assert not timer.empty()
    assert len(timer) == 1


def test_leaving_the_context_stops_the_timer(hub: Hub, ran: list[Any], turns: Any) -> None:
    with Timer(hub=hub) as made:
        made.call_after(0, ran.append, (1,))
    turns()
    assert ran == []
    assert made.empty()


# -- entering


def test_call_after_runs_in_time(timer: Timer, ran: list[Any], until: Any) -> None:
    started = monotonic()
    timer.call_after(0.03, lambda: ran.append(monotonic()))
    until(lambda: ran)
    assert 0.03 <= ran[0] - started < 0.2


def test_call_at_takes_a_time_of_the_monotonic_clock(
    timer: Timer, ran: list[Any], until: Any
) -> None:
    due = monotonic() + 0.02
    timer.call_at(due, lambda: ran.append(monotonic()))
    until(lambda: ran)
    assert ran[0] >= due


@pytest.mark.parametrize("is_aware", [True, False])
def test_call_at_takes_a_datetime_and_reads_a_naive_one_as_utc(
    timer: Timer, ran: list[Any], until: Any, is_aware: bool
) -> None:
    eta = datetime.now(timezone.utc) + timedelta(seconds=0.03)
    timer.call_at(eta if is_aware else eta.replace(tzinfo=None), lambda: ran.append(time.time()))
    until(lambda: ran)
    assert -0.005 <= ran[0] - eta.timestamp() < 0.2


def test_a_datetime_in_another_zone_is_the_same_instant(timer: Timer) -> None:
    eta = datetime.now(timezone.utc) + timedelta(hours=1)
    there = timer.call_at(eta.astimezone(timezone(timedelta(hours=9))), print)
    here = timer.call_at(eta, print)
    assert there.eta == pytest.approx(here.eta, abs=0.05)


def test_a_datetime_that_cannot_be_read_goes_to_on_error(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, ran: list[Any]
) -> None:
    def refuse(*_: Any) -> None:
        raise OverflowError("no such time")

    monkeypatch.setattr(timer_module, "to_timestamp", refuse)
    made = Timer(hub=hub, on_error=lambda exc: ran.append(exc))
    assert made.call_at(datetime(1, 1, 1), print) is None
    assert [str(exc) for exc in ran] == ["no such time"]
    with pytest.raises(OverflowError):
        Timer(hub=hub).call_at(datetime(1, 1, 1), print)


def test_what_is_past_runs_at_once(timer: Timer, ran: list[Any], until: Any) -> None:
    timer.call_after(-5, ran.append, ("after",))
    timer.call_at(0, ran.append, ("at",))
    timer.call_at(datetime(1990, 1, 1), ran.append, ("datetime",))
    until(lambda: len(ran) == 3, 1.0)


def test_arguments_arrive(timer: Timer, ran: list[Any], until: Any) -> None:
    def run(*args: Any, **kwargs: Any) -> None:
        ran.append((args, kwargs))

    timer.call_after(0, run)
    timer.call_after(0, run, [1, 2], {"a": 3})
    timer.call_at(0, run, (1,), {"b": 2})
    until(lambda: len(ran) == 3)
    assert sorted(ran, key=repr) == [((), {}), ((1, 2), {"a": 3}), ((1,), {"b": 2})]


@pytest.mark.parametrize("kind", [Timer.Entry, kombu_timer.Entry])
@pytest.mark.parametrize("how", ["enter_at", "enter_after", "enter", "enter_at without a time"])
def test_entries_of_ours_and_of_kombus_can_be_entered(
    timer: Timer, ran: list[Any], until: Any, kind: Any, how: str
) -> None:
    entry = kind(ran.append, (1,))
    enter = {
        "enter_at": lambda: timer.enter_at(entry, monotonic()),
        "enter_after": lambda: timer.enter_after(0, entry),
        "enter": lambda: timer.enter(entry, monotonic()),
        "enter_at without a time": lambda: timer.enter_at(entry),
    }[how]
    assert enter() is entry
    until(lambda: ran)
    assert ran == [1]


def test_an_entry_entered_again_moves(timer: Timer, ran: list[Any], turns: Any) -> None:
    entry = timer.call_after(0, ran.append, (1,))
    timer.enter_after(9, entry)
    turns()
    assert ran == []
    assert len(timer) == 1


def test_an_entry_that_has_run_can_be_entered_again(
    timer: Timer, ran: list[Any], until: Any
) -> None:
    entry = timer.call_after(0, ran.append, (1,))
    until(lambda: len(ran) == 1)
    timer.enter_after(0, entry)
    until(lambda: len(ran) == 2)


def test_an_entry_may_enter_another(timer: Timer, ran: list[Any], until: Any) -> None:
    def chain(left: int) -> None:
        ran.append(left)
        if left:
            timer.call_after(0, chain, (left - 1,))

    timer.call_after(0, chain, (400,))
    until(lambda: len(ran) == 401)
    assert ran == list(range(400, -1, -1))


# -- leaving


@pytest.mark.parametrize("kind", [Timer.Entry, kombu_timer.Entry])
@pytest.mark.parametrize("by", ["timer", "entry", "tref", "attribute"])
def test_a_cancelled_entry_does_not_run(
    timer: Timer, ran: list[Any], turns: Any, kind: Any, by: str
) -> None:
    entry = timer.enter_after(0, kind(ran.append, (1,)))
    after = timer.call_after(0, ran.append, (2,))
    if by == "timer":
        timer.cancel(entry)
    elif by == "entry":
        entry.cancel()
    elif by == "tref":
        entry.tref.cancel()
    else:
        entry.canceled = True
    assert entry.cancelled
    turns()
    assert ran == [2]
    assert not after.canceled


def test_cancelling_what_has_run_is_harmless(timer: Timer, ran: list[Any], until: Any) -> None:
    entry = timer.call_after(0, ran.append, (1,))
    until(lambda: ran)
    timer.cancel(entry)
    timer.cancel(entry)
    assert timer.empty()


def test_an_entry_may_cancel_one_that_is_due_with_it(
    timer: Timer, ran: list[Any], turns: Any
) -> None:
    due = monotonic()
    timer.call_at(due, lambda: second.cancel())
    second = timer.call_at(due, ran.append, (2,))
    timer.call_at(due, ran.append, (3,))
    turns()
    assert ran == [3]


def test_clear_drops_all(timer: Timer, ran: list[Any], turns: Any) -> None:
    timer.call_after(0, ran.append, (1,))
    timer.call_repeatedly(0, ran.append, (2,))
    timer.call_after(60, ran.append, (3,))
    timer.clear()
    turns()
    assert ran == []
    assert timer.empty()
    assert timer.queue == []


def test_clear_from_inside_an_entry_drops_those_that_are_due(
    timer: Timer, ran: list[Any], turns: Any
) -> None:
    due = monotonic()
    timer.call_at(due, timer.clear)
    timer.call_at(due, ran.append, (2,))
    turns()
    assert ran == []


def test_the_timer_goes_on_after_clear(timer: Timer, ran: list[Any], until: Any) -> None:
    timer.call_after(60, print)
    timer.clear()
    timer.call_after(0.01, ran.append, (1,))
    until(lambda: ran)


def test_a_repeated_entry_that_runs_while_the_timer_stops_does_not_come_back(
    timer: Timer, ran: list[Any], until: Any, turns: Any
) -> None:
    def run() -> None:
        ran.append(1)
        timer.stop()

    timer.call_repeatedly(0.001, run)
    until(lambda: ran)
    turns()
    assert timer.empty()


# -- looking


def test_queue_lists_entries_as_kombu_does_earliest_first(timer: Timer) -> None:
    late = timer.call_after(30, print, ("late",))
    theirs = timer.enter_after(10, kombu_timer.Entry(print, ("theirs",)), priority=4)
    soon = timer.call_after(20, print, ("soon",), priority=9)
    queue = timer.schedule.queue
    assert [held.entry.args[0] for held in queue] == ["theirs", "soon", "late"]
    assert [held.priority for held in queue] == [4, 9, 0]
    assert [held.eta for held in queue] == sorted(held.eta for held in queue)
    assert [held.entry for held in queue] == [theirs, soon, late]
    assert isinstance(queue[0], kombu_timer.scheduled)


def test_queue_serves_inspect_scheduled(timer: Timer) -> None:
    from celery.worker.control import _iter_schedule_requests
    from celery.worker.request import Request

    class Waiting(Request):  # type: ignore[misc]
        def __init__(self) -> None:
            self._eta = None

        def info(self, **_: Any) -> dict[str, Any]:
            return {"id": "a"}

    request = Waiting()
    timer.call_after(30, print, (request,))
    timer.call_after(30, print, ("another",))
    timer.call_after(30, print)
    (listed,) = _iter_schedule_requests(timer)
    assert listed["request"] == {"id": "a"}


def test_iterating_hands_out_what_is_due(hub: Hub) -> None:
    made = Timer(max_interval=2, hub=hub)
    scheduler = iter(made)
    assert next(scheduler) == (None, None)
    late = made.call_after(60, print)
    assert next(scheduler) == (2.0, None)
    first = made.call_at(0, print)
    second = made.call_at(1, print)
    dropped = made.call_at(2, print)
    dropped.cancel()
    assert [next(scheduler) for _ in range(2)] == [(None, first), (None, second)]
    late.cancel()
    soon = made.call_after(0.5, print)
    delay, entry = next(scheduler)
    assert entry is None
    assert delay is not None
    assert 0 < delay <= 0.5
    soon.cancel()
    assert next(scheduler) == (None, None)
    made.stop()


# -- errors


def test_an_exception_is_logged_and_the_next_entries_run(
    timer: Timer, ran: list[Any], turns: Any, caplog: pytest.LogCaptureFixture
) -> None:
    timer.call_at(0, lambda: 1 / 0)
    timer.call_at(0, ran.append, (1,))
    with caplog.at_level(logging.ERROR):
        turns()
    assert ran == [1]
    (record,) = caplog.records
    assert "ZeroDivisionError" in record.getMessage()
    assert record.exc_info


def test_on_error_gets_the_exception_instead(
    hub: Hub, ran: list[Any], turns: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with Timer(hub=hub, on_error=ran.append) as timer:
        timer.call_at(0, lambda: 1 / 0)
        timer.call_at(0, ran.append, ("next",))
        turns()
    assert isinstance(ran[0], ZeroDivisionError)
    assert ran[1:] == ["next"]
    assert not caplog.records


@pytest.mark.parametrize("kind", ["Timeout", "GreenletExit"])
def test_what_ends_the_greenlet_of_an_entry_leaves_the_others_alone(
    timer: Timer, ran: list[Any], until: Any, library: Any, kind: str, capfd: Any
) -> None:
    def run() -> None:
        if kind == "GreenletExit":
            import greenlet

            raise greenlet.GreenletExit
        raise library.Timeout(5)

    timer.call_at(0, run)
    timer.call_at(0, ran.append, (1,))
    repeat = timer.call_repeatedly(0.001, lambda: (ran.append(2), run()))
    until(lambda: ran.count(2) >= 3)
    repeat.cancel()
    assert 1 in ran


def test_a_runner_killed_while_it_is_idle_is_replaced(
    timer: Timer, ran: list[Any], until: Any, hub: Hub, library: Any
) -> None:
    runners = []
    timer.call_at(0, lambda: runners.append(hub.current()))
    until(lambda: runners)
    library.kill(runners[0])
    timer.call_after(0, ran.append, (1,))
    until(lambda: ran, 1.0)


def test_a_stray_switch_into_an_idle_runner_runs_nothing(
    timer: Timer, ran: list[Any], until: Any, turns: Any, hub: Hub
) -> None:
    runners = []
    timer.call_at(0, lambda: runners.append(hub.current()))
    until(lambda: runners)
    turns()
    hub.call_soon(runners[0].switch)
    hub.call_soon(runners[0].switch, "something")
    turns()
    timer.call_after(0, lambda: runners.append(hub.current()))
    until(lambda: len(runners) == 2)
    assert runners[0] is runners[1]


# -- entries among themselves


def test_thousands_at_one_instant_run_in_order(timer: Timer, ran: list[Any], until: Any) -> None:
    due = monotonic() + 0.01
    for number in range(5_000):
        timer.call_at(due, ran.append, (number,))
    until(lambda: len(ran) == 5_000)
    assert ran == list(range(5_000))


def test_a_flood_of_entries_leaves_turns_to_others(timer: Timer, ran: list[Any], hub: Hub) -> None:
    for number in range(5_000):
        timer.call_at(0, ran.append, (number,))
    seen = []
    while len(ran) < 5_000:
        hub.sleep(0)
        seen.append(len(ran))
    assert len(seen) > 5


def test_an_entry_that_blocks_does_not_delay_the_others(
    timer: Timer, ran: list[Any], until: Any
) -> None:
    gate = Event()
    timer.call_at(0, gate.wait)
    timer.call_at(0, ran.append, (1,))
    timer.call_at(0, gate.wait)
    timer.call_at(0, ran.append, (2,))
    timer.call_after(0.01, ran.append, (3,))
    until(lambda: ran == [1, 2, 3])
    gate.set()


def test_runners_that_are_not_needed_end(timer: Timer, ran: list[Any], until: Any) -> None:
    gate = Event()
    for number in range(50):
        timer.call_at(0, lambda number=number: (gate.wait(), ran.append(number)))
    timer.call_at(0, ran.append, ("all wait",))
    until(lambda: ran == ["all wait"])
    gate.set()
    until(lambda: len(ran) == 51)
    until(lambda: len(timer._idle) <= timer_module.IDLE_RUNNERS)


def test_a_repeated_entry_keeps_its_rate(timer: Timer, ran: list[Any], until: Any) -> None:
    started = monotonic()
    entry = timer.call_repeatedly(0.01, lambda: ran.append(monotonic() - started))
    until(lambda: len(ran) >= 10)
    entry.cancel()
    assert 0.01 <= ran[0] < 0.1
    assert 0.1 <= ran[9] < 0.25


def test_a_repeated_entry_never_overlaps_itself(
    timer: Timer, ran: list[Any], until: Any, hub: Hub
) -> None:
    def run() -> None:
        ran.append("in")
        hub.sleep(0.01)
        ran.append("out")

    entry = timer.call_repeatedly(0.001, run)
    until(lambda: len(ran) >= 8)
    entry.cancel()
    assert ran[:8] == ["in", "out"] * 4


def test_a_repeated_entry_goes_on_after_an_exception(
    timer: Timer, ran: list[Any], until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def run() -> None:
        ran.append(1)
        raise ValueError

    entry = timer.call_repeatedly(0.001, run)
    until(lambda: len(ran) >= 3)
    entry.cancel()
    assert len(caplog.records) >= 2


@pytest.mark.parametrize("when", ["inside", "while it blocks", "between runs"])
def test_a_cancelled_repeated_entry_does_not_come_back(
    timer: Timer, ran: list[Any], until: Any, turns: Any, hub: Hub, when: str
) -> None:
    gate = Event()

    def run() -> None:
        ran.append(1)
        if when == "inside":
            entry.cancel()
        elif when == "while it blocks":
            gate.wait()

    entry = timer.call_repeatedly(0.005, run)
    until(lambda: ran)
    if when != "inside":
        entry.cancel()
    gate.set()
    hub.sleep(0.02)
    assert ran == [1]
    assert timer.empty()


def test_a_repeated_entry_gets_its_arguments(timer: Timer, ran: list[Any], until: Any) -> None:
    entry = timer.call_repeatedly(0.001, lambda a, b: ran.append((a, b)), (1,), {"b": 2})
    until(lambda: len(ran) >= 2)
    entry.cancel()
    assert set(ran) == {(1, 2)}
    assert "lambda" in repr(entry)


def test_a_priority_of_a_repeated_entry_stays(timer: Timer, ran: list[Any], until: Any) -> None:
    entry = timer.call_repeatedly(0.001, ran.append, (1,), priority=7)
    until(lambda: ran)
    until(lambda: len(timer) == 1)
    assert entry.priority == 7
    entry.cancel()


# -- from elsewhere


@pytest.mark.parametrize("is_earliest", [True, False])
def test_a_native_thread_may_enter(
    timer: Timer, ran: list[Any], until: Any, in_native_thread: Any, is_earliest: bool
) -> None:
    timer.call_after(30 if is_earliest else 0.001, print, kwargs={"end": ""})
    entry = in_native_thread(lambda: timer.call_after(0.01, ran.append, (1,)))
    until(lambda: ran, 1.0)
    assert not entry.canceled


def test_a_native_thread_may_cancel_and_clear(
    timer: Timer, ran: list[Any], turns: Any, until: Any, in_native_thread: Any
) -> None:
    entry = timer.call_after(0.05, ran.append, (1,))
    in_native_thread(entry.cancel)
    timer.call_after(0.05, ran.append, (2,))
    in_native_thread(timer.clear)
    assert timer.empty()
    timer.call_after(0.06, ran.append, (3,))
    until(lambda: ran)
    assert ran == [3]


def test_a_native_thread_may_stop_the_timer(
    timer: Timer, ran: list[Any], until: Any, in_native_thread: Any
) -> None:
    timer.call_after(0, ran.append, (1,))
    until(lambda: ran)
    in_native_thread(timer.stop)
    assert timer.empty()


def test_entries_run_in_the_thread_of_the_hub(
    timer: Timer, ran: list[Any], until: Any, in_native_thread: Any, hub: Hub
) -> None:
    in_native_thread(lambda: timer.call_after(0, lambda: ran.append(hub.in_thread())))
    until(lambda: ran)
    assert ran == [True]


# -- what stays behind


def test_entries_leave_nothing_behind(timer: Timer, ran: list[Any], until: Any) -> None:
    target = partial(ran.append)
    reference = weakref.ref(target)
    for number in range(1_000):
        timer.call_after(0, lambda number=number, target=target: target(number))
    del target
    until(lambda: len(ran) == 1_000)
    until(lambda: gc.collect() >= 0 and reference() is None)
    assert timer.empty()


def test_a_timer_that_nobody_holds_is_collected(hub: Hub, ran: list[Any], turns: Any) -> None:
    timer = Timer(hub=hub)
    timer.call_repeatedly(60, ran.append, (timer,))
    timer.call_at(0, ran.append, (1,))
    turns()
    timer.stop()
    turns()
    reference = weakref.ref(timer)
    del timer
    gc.collect()
    assert reference() is None


def test_the_entries_of_all_timers_of_a_hub_are_counted(hub: Hub, timer: Timer) -> None:
    before = timer_module.count_entries(hub)
    timer.call_after(9, print)
    with Timer(hub=hub) as another:
        another.call_after(9, print)
        assert timer_module.count_entries(hub) == before + 2
    assert timer_module.count_entries(hub) == before + 1


@pytest.mark.parametrize("kind", [ValueError, GreenletExit])
def test_what_a_runner_raises_at_its_end_keeps_no_other_from_ending(
    timer: Timer, until: Any, turns: Any, hub: Hub, kind: type[BaseException]
) -> None:
    runners: list[Any] = []
    gate = Event()

    def complain(_: Any) -> None:
        raise kind

    def run() -> None:
        runners.append(hub.current())
        runners[-1].link(complain)
        gate.wait()

    for _ in range(timer_module.IDLE_RUNNERS):
        timer.call_at(0, run)
    until(lambda: len(runners) == timer_module.IDLE_RUNNERS)
    gate.set()
    until(lambda: timer.statistics()["idle-runners"] == timer_module.IDLE_RUNNERS)
    timer.stop()
    turns()
    assert timer.statistics() == {"entries": 0, "due": 0, "idle-runners": 0}
    assert all(runner.dead for runner in runners)


def test_entries_run_though_their_runner_is_killed_before_its_first_turn(
    timer: Timer,
    ran: list[Any],
    until: Any,
    hub: Hub,
    library: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spawn = hub.spawn

    def kill_the_first(*args: Any) -> Any:
        monkeypatch.undo()
        spawned = spawn(*args)
        hub.call_soon(killed.append, 1)
        if hub.name == "gevent":
            spawned.kill(block=False)  # type: ignore[attr-defined]
        else:
            spawned.cancel()  # type: ignore[attr-defined]
        return spawned

    killed: list[int] = []
    monkeypatch.setattr(hub, "spawn", kill_the_first)
    timer.call_at(0, ran.append, (1,))
    until(lambda: killed)
    until(lambda: ran == [1], 1.0)
