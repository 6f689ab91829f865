"""The contract of a hub, on each."""

from __future__ import annotations

import gc
import weakref
from time import monotonic
from typing import Any

import greenlet
import pytest

from hybrid import hubs
from hybrid.hubs.base import Hub


def test_a_process_has_one_hub_of_a_name(hub: Hub) -> None:
    assert hubs.get(hub.name) is hub
    assert isinstance(hub, Hub)


def test_an_unknown_hub_is_named_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'uvloop'; choose one of gevent, eventlet"):
        hubs.get("uvloop")


def test_callbacks_run_in_the_hub_in_order(hub: Hub, turns: Any) -> None:
    ran: list[Any] = []
    me = hub.current()
    for number in range(5):
        hub.call_soon(lambda number=number: ran.append((number, hub.current() is me)))
    assert ran == []
    turns()
    assert ran == [(number, False) for number in range(5)]


def test_a_native_thread_wakes_a_sleeping_hub(hub: Hub, native: Any) -> None:
    me = hub.current()

    def wake() -> None:
        native.sleep(0.02)
        hub.call_soon_threadsafe(me.switch, hub.in_thread())

    native.start(wake)
    alarm = hub.call_later(5, me.switch)
    assert hub.park() is False
    alarm.cancel()
    assert hub.in_thread()


def test_thousands_of_calls_of_threads_arrive_in_order(
    hub: Hub, in_native_thread: Any, until: Any
) -> None:
    ran: list[int] = []

    def call() -> None:
        for number in range(10_000):
            hub.call_soon_threadsafe(ran.append, number)

    in_native_thread(call)
    until(lambda: len(ran) == 10_000)
    assert ran == list(range(10_000))


def test_a_call_leaves_nothing_behind(hub: Hub, turns: Any) -> None:
    class Target:
        def __call__(self, *_: Any) -> None:
            pass

    for call in (
        hub.call_soon,
        hub.call_soon_threadsafe,
        lambda target: hub.call_later(0, target),
        lambda target: hub.call_later(60, target).cancel(),
        hub.spawn,
    ):
        target = Target()
        reference = weakref.ref(target)
        call(target)
        del target
        turns()
        gc.collect()
        assert reference() is None, call


def test_an_alarm_fires_once_and_not_early(hub: Hub, until: Any) -> None:
    ran: list[float] = []
    started = monotonic()
    alarm = hub.call_later(0.02, lambda: ran.append(monotonic() - started))
    until(lambda: ran)
    alarm.cancel()
    hub.sleep(0.03)
    assert len(ran) == 1
    assert 0.015 <= ran[0] < 0.2


def test_a_cancelled_alarm_does_not_fire(hub: Hub) -> None:
    ran: list[int] = []
    alarm = hub.call_later(0.005, lambda: ran.append(1))
    alarm.cancel()
    alarm.cancel()
    hub.sleep(0.02)
    assert ran == []


def test_a_greenlet_is_of_the_librarys_own_kind(hub: Hub, library: Any, turns: Any) -> None:
    ran: list[Any] = []
    spawned = hub.spawn(lambda *args: ran.append(args), 1, 2)
    assert isinstance(spawned, type(library.spawn(lambda: None)))
    assert ran == []
    turns()
    assert ran == [(1, 2)]
    assert spawned.dead


def test_a_parked_greenlet_gets_what_is_switched_into_it(hub: Hub, turns: Any) -> None:
    got: list[Any] = []
    parked = hub.spawn(lambda: got.extend([hub.park(), hub.park()]))
    turns()
    hub.call_soon(parked.switch, "order")
    turns()
    hub.call_soon(parked.switch)
    turns()
    assert got[0] == "order"
    assert not got[1]
    assert parked.dead


def test_a_throw_arrives_in_a_parked_greenlet(hub: Hub, turns: Any) -> None:
    got: list[str] = []

    def run() -> None:
        try:
            hub.park()
        except greenlet.GreenletExit:
            got.append("exit")

    parked = hub.spawn(run)
    turns()
    hub.call_soon(parked.throw, greenlet.GreenletExit)
    turns()
    assert got == ["exit"]


def test_others_run_during_a_sleep(hub: Hub) -> None:
    ran: list[int] = []
    hub.spawn(ran.append, 1)
    hub.sleep(0)
    hub.sleep(0.001)  # gevent looks at new greenlets only when it may wait
    assert ran == [1]
