"""What greenlets want at the same time is done at once."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any, Callable

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from greenlet import GreenletExit
from harness.greenlets import in_greenlets

from hybrid import JobKilled
from hybrid.errors import WorkLostError
from hybrid.hubs.base import Hub
from hybrid.hubs.gather import GROUP_LIMIT, Gather
from hybrid.hubs.parking import ParkingLot, Place, copied


class Killed(BaseException):
    pass


def test_what_is_wanted_in_one_turn_is_a_group(hub: Hub) -> None:
    groups: list[list[int]] = []

    def perform(items: list[int]) -> Sequence[int]:
        groups.append(items)
        hub.sleep(0)
        return [item * 10 for item in items]

    gather = Gather(hub, perform)
    assert in_greenlets(hub, gather.submit, 5) == [0, 10, 20, 30, 40]
    assert groups == [[0, 1, 2, 3, 4]]
    assert gather.statistics() == {"pending": 0, "groups": 1, "items": 5, "largest": 5}


def test_a_group_is_never_done_by_who_submits(hub: Hub) -> None:
    performed_by: list[Any] = []

    def perform(items: list[int]) -> Sequence[int]:
        performed_by.append(hub.current())
        return items

    gather = Gather(hub, perform)
    assert gather.submit(1) == 1
    assert performed_by != [hub.current()]


def test_what_comes_while_a_group_is_performed_is_the_next_group(
    hub: Hub, turns: Callable[..., None], until: Callable[..., None]
) -> None:
    gate = Place(hub)
    groups: list[list[int]] = []

    def perform(items: list[int]) -> Sequence[int]:
        groups.append(items)
        if len(groups) == 1:
            gate.wait()
        return items

    gather = Gather(hub, perform)

    def run(number: int) -> Any:
        if number:
            until(lambda: groups)
        if number == 9:
            turns()  # all others have submitted theirs
            gate.tell()
        return gather.submit(number)

    assert in_greenlets(hub, run, 10) == list(range(10))
    assert groups == [[0], list(range(1, 10))]


def test_a_group_is_bounded(hub: Hub) -> None:
    groups: list[int] = []

    def perform(items: list[int]) -> Sequence[None]:
        groups.append(len(items))
        hub.sleep(0)
        return [None] * len(items)

    gather = Gather(hub, perform)
    in_greenlets(hub, gather.submit, GROUP_LIMIT + 2)
    assert groups == [GROUP_LIMIT, 2]


def test_an_exception_among_the_outcomes_reaches_the_one_it_belongs_to(hub: Hub) -> None:
    def perform(items: list[int]) -> Sequence[Any]:
        hub.sleep(0)
        return [KeyError(item) if item % 2 else item for item in items]

    gather = Gather(hub, perform)
    zero, one, two, three = in_greenlets(hub, gather.submit, 4)
    assert (zero, two) == (0, 2)
    assert [type(error) for error in (one, three)] == [KeyError, KeyError]
    assert (one.args, three.args) == ((1,), (3,))


def test_a_group_that_fails_fails_all_of_it_and_not_the_next(hub: Hub) -> None:
    fails = [False, True]

    def perform(items: list[int]) -> Sequence[int]:
        hub.sleep(0)
        if fails.pop():
            raise ConnectionError("gone")
        return items

    gather = Gather(hub, perform)
    errors = in_greenlets(hub, gather.submit, 4)
    assert [str(error) for error in errors] == ["gone"] * 4
    assert len({id(error) for error in errors}) == 4
    assert gather.submit(7) == 7


@pytest.mark.parametrize("times", [1, 3])
def test_a_submitter_that_is_killed_harms_nobody(
    hub: Hub, turns: Callable[..., None], times: int
) -> None:
    done: list[int] = []
    gate, elsewhere = Place(hub), ParkingLot(hub)

    def perform(items: list[int]) -> Sequence[int]:
        if not gate.is_told:
            gate.wait()
        done.extend(items)
        return items

    gather = Gather(hub, perform)
    hub.spawn(gather.submit, 99)  # what the others wait for
    greenlets: list[Any] = []

    def run(number: int) -> Any:
        greenlets.append(hub.current())
        if number < times:
            try:
                gather.submit(number)
            except Killed:
                # It waits for something else now, and nobody may wake it from that.
                return elsewhere.park()
        return gather.submit(number)

    def kill() -> None:
        for greenlet in greenlets[:times]:
            greenlet.throw(Killed)

    def kill_and_go_on() -> None:
        turns()
        hub.call_soon(kill)
        turns()
        gate.tell()
        turns()
        elsewhere.unpark_all("the other")

    hub.spawn(kill_and_go_on)
    assert in_greenlets(hub, run, 5) == ["the other"] * times + list(range(times, 5))
    assert sorted(done) == [*range(5), 99]


@pytest.mark.parametrize("exc", [SoftTimeLimitExceeded, JobKilled, Killed, GreenletExit])
def test_one_that_is_ended_leaves_the_others_theirs(
    hub: Hub, turns: Callable[..., None], exc: type[BaseException]
) -> None:
    working = hub.current()
    gate = Place(hub)

    def perform(items: list[int]) -> Sequence[int]:
        gate.wait()
        return items

    gather = Gather(hub, perform)
    submitters: list[Any] = []

    def run(number: int) -> Any:
        submitters.append(hub.current())
        return gather.submit(number)

    def end_and_go_on() -> None:
        turns()
        hub.call_soon(hub.interrupt, submitters[0], exc)
        turns()
        gate.tell()

    hub.spawn(end_and_go_on)
    ended, *others = in_greenlets(hub, run, 4)
    assert isinstance(ended, exc)
    assert others == [1, 2, 3]
    assert working is hub.current()


@pytest.mark.parametrize("exc", [JobKilled, Killed, GreenletExit])
def test_the_end_of_the_gatherers_greenlet_ends_nobody_else(
    hub: Hub, turns: Callable[..., None], until: Callable[..., None], exc: type[BaseException]
) -> None:
    performed_by: list[Any] = []
    groups: list[list[int]] = []

    def perform(items: list[int]) -> Sequence[int]:
        performed_by.append(hub.current())
        groups.append(items)
        if len(groups) == 1:
            hub.park()
        return items

    gather = Gather(hub, perform)

    def run(number: int) -> Any:
        if number == 3:
            until(lambda: groups)  # it is in the group after that
        return gather.submit(number)

    def end() -> None:
        until(lambda: gather.statistics()["pending"])
        hub.call_soon(hub.interrupt, performed_by[0], exc)

    hub.spawn(end)
    *lost, last = in_greenlets(hub, run, 4)
    assert [type(error) for error in lost] == [WorkLostError] * 3
    assert last == 3
    assert groups == [[0, 1, 2], [3]]
    assert gather.submit(5) == 5


def test_a_stray_switch_does_not_end_the_wait(hub: Hub, turns: Callable[..., None]) -> None:
    gate = Place(hub)
    strayed: list[bool] = []

    def perform(items: list[int]) -> Sequence[int]:
        if not gate.is_told:
            gate.wait()
        return items

    gather = Gather(hub, perform)
    hub.spawn(gather.submit, 0)
    hub.sleep(0)
    me = hub.current()

    def stray_and_go_on() -> None:
        turns()
        hub.call_soon(lambda: strayed.append(me.switch()))
        turns()
        gate.tell()

    hub.spawn(stray_and_go_on)
    assert gather.submit(3) == 3
    assert strayed


def test_performing_may_submit_to_another(hub: Hub) -> None:
    inner = Gather(hub, lambda items: [item + 1 for item in items])
    outer = Gather(hub, lambda items: [inner.submit(item) for item in items])
    assert in_greenlets(hub, outer.submit, 3) == [1, 2, 3]


def test_what_is_posted_goes_with_what_is_submitted_in_its_turn(hub: Hub) -> None:
    groups: list[list[int]] = []

    def perform(items: list[int]) -> Sequence[int]:
        groups.append(items)
        return items

    gather = Gather(hub, perform)
    gather.post(1)
    assert groups == []
    assert gather.submit(2) == 2
    assert groups == [[1, 2]]


def test_a_missing_outcome_is_an_error_and_no_wait_for_ever(hub: Hub) -> None:
    gather: Gather[int] = Gather(hub, lambda items: [])
    with pytest.raises(RuntimeError, match="0 outcomes for 1 items"):
        gather.submit(1)


class _StubbornError(OSError):
    def __init__(self) -> None:
        super().__init__(errno.EBADF, "closed by somebody else")


class _DemandingError(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.first = first


@pytest.mark.parametrize(
    "exc",
    [
        _StubbornError(),
        _DemandingError(1, 2),
        ValueError("v"),
        OSError(errno.EPIPE, "pipe"),
        KeyError(),
    ],
)
def test_each_raises_an_exception_of_its_own(exc: BaseException) -> None:
    other = copied(exc)
    assert other is not exc
    assert type(other) is type(exc)
    assert (str(other), other.args, vars(other)) == (str(exc), exc.args, vars(exc))
    assert getattr(other, "errno", None) == getattr(exc, "errno", None)
