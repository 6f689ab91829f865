"""The one way to wait, on each hub."""

from __future__ import annotations

import socket
from typing import Any, Callable

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from greenlet import GreenletExit
from harness.greenlets import in_greenlets

from hybrid import JobKilled
from hybrid.hubs.base import Hub
from hybrid.hubs.parking import ParkingLot, Place

ENDS = [SoftTimeLimitExceeded, JobKilled, GreenletExit, KeyError]


def waiter(hub: Hub, wait: Any, into: list[Any]) -> Any:
    """Start a greenlet that waits, and return it."""

    def run() -> None:
        try:
            into.append(wait())
        except BaseException as exc:
            into.append(exc)

    greenlet = hub.spawn(run)
    hub.sleep(0)
    hub.sleep(0)
    return greenlet


def test_a_place_passes_a_value(hub: Hub) -> None:
    place = Place(hub)
    hub.call_soon(lambda: place.tell("value"))
    assert place.wait() == "value"


def test_a_place_passes_an_error(hub: Hub) -> None:
    place = Place(hub)
    error = KeyError("told")
    hub.call_soon(lambda: place.fail(error))
    with pytest.raises(KeyError) as caught:
        place.wait()
    assert caught.value is error


def test_what_is_told_first_stays(hub: Hub) -> None:
    place = Place(hub)
    place.tell(1)
    place.tell(2)
    place.fail(KeyError())
    assert place.wait() == 1


def test_a_wait_ends_at_its_deadline(hub: Hub) -> None:
    place = Place(hub)
    with pytest.raises(socket.timeout):
        place.wait(0.001)
    lot = ParkingLot(hub)
    with pytest.raises(socket.timeout):
        lot.park(0.001)
    assert lot.statistics() == {"waiting": 0}


def test_a_stray_switch_does_not_end_a_wait(hub: Hub, turns: Callable[..., None]) -> None:
    place = Place(hub)
    me = hub.current()
    hub.call_soon(me.switch)
    hub.spawn(lambda: (turns(), place.tell("value")))
    assert place.wait() == "value"


@pytest.mark.parametrize("exc", ENDS)
def test_nobody_switches_into_one_that_was_ended(
    hub: Hub, turns: Callable[..., None], exc: type[BaseException]
) -> None:
    place, other = Place(hub), Place(hub)
    seen: list[Any] = []

    def run() -> str:
        try:
            return place.wait()
        except exc:
            return other.wait()

    greenlet = waiter(hub, run, seen)

    def end_and_tell() -> None:
        hub.interrupt(greenlet, exc)
        place.tell("too late")

    hub.call_soon(end_and_tell)
    turns()
    assert seen == []
    other.tell("the other")
    turns()
    assert seen == ["the other"]


@pytest.mark.parametrize("exc", ENDS)
def test_what_leaves_one_does_not_keep_the_others_from_going_on(
    hub: Hub,
    turns: Callable[..., None],
    exc: type[BaseException],
    capfd: pytest.CaptureFixture[str],
) -> None:
    lot = ParkingLot(hub)
    went_on: list[int] = []

    def run(number: int) -> None:
        lot.park()
        went_on.append(number)
        if number % 2 == 0:
            raise exc

    for number in range(6):
        hub.spawn(run, number)
    turns()
    hub.call_soon(lot.unpark_all)
    turns()
    assert went_on == list(range(6))
    assert ("KeyError" in capfd.readouterr().err) is (exc is KeyError)


@pytest.mark.parametrize("exc", [SystemExit, KeyboardInterrupt])
def test_an_end_of_the_process_reaches_the_main_greenlet_and_the_others_go_on(
    hub: Hub, turns: Callable[..., None], exc: type[BaseException]
) -> None:
    lot = ParkingLot(hub)
    went_on: list[int] = []

    def run(number: int) -> None:
        lot.park()
        went_on.append(number)
        if number == 0:
            raise exc

    for number in range(3):
        hub.spawn(run, number)
    turns()
    hub.call_soon(lot.unpark_all)
    with pytest.raises(exc):
        hub.sleep(1)
    turns()
    assert went_on == [0, 1, 2]


def test_a_lot_lets_them_go_in_order(hub: Hub, turns: Callable[..., None]) -> None:
    lot = ParkingLot(hub)
    went_on: list[tuple[int, Any]] = []

    def run(number: int) -> None:
        went_on.append((number, lot.park()))

    for number in range(5):
        hub.spawn(run, number)
    turns()
    assert lot.statistics() == {"waiting": 5}
    lot.unpark(2, "two")
    turns()
    assert went_on == [(0, "two"), (1, "two")]
    lot.unpark_all("all")
    turns()
    assert went_on[2:] == [(2, "all"), (3, "all"), (4, "all")]


def test_each_raises_an_error_of_its_own(hub: Hub, turns: Callable[..., None]) -> None:
    lot = ParkingLot(hub)
    error = ConnectionError("gone")
    hub.spawn(lambda: (turns(), lot.fail(error)))
    errors = in_greenlets(hub, lambda _: lot.park(), 3)
    assert [str(one) for one in errors] == ["gone"] * 3
    assert len({id(one) for one in (*errors, error)}) == 4


@pytest.mark.parametrize("exc", ENDS)
def test_a_turn_that_was_given_to_one_that_is_ended_goes_to_the_next(
    hub: Hub, turns: Callable[..., None], exc: type[BaseException]
) -> None:
    lot = ParkingLot(hub)
    seen: list[Any] = []
    first = waiter(hub, lot.park, seen)
    waiter(hub, lot.park, seen)

    def choose_and_end() -> None:
        lot.unpark(1, "turn")
        hub.interrupt(first, exc)

    hub.call_soon(choose_and_end)
    turns()
    assert isinstance(seen[0], exc)
    assert seen[1:] == ["turn"]
    assert lot.statistics() == {"waiting": 0}
