"""What greenlets want at the same time is done at once."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

import pytest
from harness.greenlets import in_greenlets

from hybrid.hubs.base import Hub
from hybrid.hubs.gather import GROUP_LIMIT, Gather, copied


class Killed(BaseException):
    pass


def test_one_goes_at_once_and_the_others_are_a_group(hub: Hub) -> None:
    groups: list[list[int]] = []

    def perform(items: list[int]) -> Sequence[int]:
        groups.append(items)
        hub.sleep(0.01)
        return [item * 10 for item in items]

    gather = Gather(hub, perform)
    assert in_greenlets(hub, gather.submit, 5) == [0, 10, 20, 30, 40]
    assert groups == [[0], [1, 2, 3, 4]]


def test_without_company_nobody_waits(hub: Hub) -> None:
    me = hub.current()
    performed_by: list[Any] = []

    def perform(items: list[int]) -> Sequence[int]:
        performed_by.append(hub.current())
        return items

    gather = Gather(hub, perform)
    for number in range(3):
        assert gather.submit(number) == number
        hub.sleep(0.001)
    assert performed_by == [me] * 3


def test_only_the_first_of_a_turn_goes_at_once(hub: Hub) -> None:
    groups: list[int] = []

    def perform(items: list[int]) -> Sequence[int]:
        groups.append(len(items))  # without ever giving way to others
        return items

    gather = Gather(hub, perform)
    in_greenlets(hub, gather.submit, 10)
    assert groups == [1, 9]


def test_what_comes_while_a_group_is_performed_is_the_next_group(hub: Hub) -> None:
    groups: list[int] = []

    def perform(items: list[int]) -> Sequence[None]:
        groups.append(len(items))
        hub.sleep(0.02)
        return [None] * len(items)

    gather = Gather(hub, perform)

    def run(number: int) -> None:
        hub.sleep(0.001 * number)
        gather.submit(number)

    in_greenlets(hub, run, 10)
    assert sum(groups) == 10
    assert len(groups) <= 4


def test_a_group_is_bounded(hub: Hub) -> None:
    groups: list[int] = []

    def perform(items: list[int]) -> Sequence[None]:
        groups.append(len(items))
        hub.sleep(0.01)
        return [None] * len(items)

    gather = Gather(hub, perform)
    in_greenlets(hub, gather.submit, GROUP_LIMIT + 2)
    assert groups == [1, GROUP_LIMIT, 1]


def test_an_exception_among_the_outcomes_reaches_the_one_it_belongs_to(hub: Hub) -> None:
    def perform(items: list[int]) -> Sequence[Any]:
        hub.sleep(0.01)
        return [KeyError(item) if item % 2 else item for item in items]

    gather = Gather(hub, perform)
    zero, one, two, three = in_greenlets(hub, gather.submit, 4)
    assert (zero, two) == (0, 2)
    assert [type(error) for error in (one, three)] == [KeyError, KeyError]
    assert (one.args, three.args) == ((1,), (3,))


def test_a_group_that_fails_fails_all_of_it_and_not_the_next(hub: Hub) -> None:
    fails = [False, True, True]

    def perform(items: list[int]) -> Sequence[int]:
        hub.sleep(0.01)
        if fails.pop():
            raise ConnectionError("gone")
        return items

    gather = Gather(hub, perform)
    errors = in_greenlets(hub, gather.submit, 4)
    assert [str(error) for error in errors] == ["gone"] * 4
    assert len({id(error) for error in errors}) == 4
    assert gather.submit(7) == 7


@pytest.mark.parametrize("times", [1, 3])
def test_a_submitter_that_is_killed_harms_nobody(hub: Hub, times: int) -> None:
    done: list[int] = []

    def perform(items: list[int]) -> Sequence[int]:
        hub.sleep(0.02)
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
                began = hub.current()
                hub.sleep(0.05)
                return began is hub.current()
        return gather.submit(number)

    def kill() -> None:
        for greenlet in greenlets[:times]:
            greenlet.throw(Killed)

    hub.call_later(0.005, kill)
    assert in_greenlets(hub, run, 5) == [True] * times + list(range(times, 5))
    assert sorted(done) == [*range(5), 99]


def test_one_that_is_killed_at_work_leaves_the_others_theirs(hub: Hub) -> None:
    def perform(items: list[int]) -> Sequence[int]:
        hub.sleep(0.02)
        return items

    gather = Gather(hub, perform)
    first: list[Any] = []

    def run(number: int) -> Any:
        first.append(hub.current())
        return gather.submit(number)

    hub.call_later(0.005, lambda: first[0].throw(Killed))
    killed, *others = in_greenlets(hub, run, 4)
    assert isinstance(killed, Killed)
    assert others == [1, 2, 3]


def test_a_stray_switch_does_not_end_the_wait(hub: Hub) -> None:
    def perform(items: list[int]) -> Sequence[int]:
        hub.sleep(0.02)
        return items

    gather = Gather(hub, perform)
    hub.spawn(gather.submit, 0)
    hub.sleep(0)
    me = hub.current()
    hub.call_later(0.005, me.switch)
    assert gather.submit(3) == 3


def test_performing_may_submit_to_another(hub: Hub) -> None:
    inner = Gather(hub, lambda items: [item + 1 for item in items])
    outer = Gather(hub, lambda items: [inner.submit(item) for item in items])
    assert in_greenlets(hub, outer.submit, 3) == [1, 2, 3]


def test_what_is_posted_goes_first_with_what_is_submitted_in_its_turn(hub: Hub) -> None:
    groups: list[list[int]] = []

    def perform(items: list[int]) -> Sequence[int]:
        groups.append(items)
        return items

    gather = Gather(hub, perform)
    gather.post(1)
    assert groups == []
    assert gather.submit(2) == 2
    assert groups == [[1, 2]]


def test_what_is_posted_outlives_a_submitter_that_is_killed(hub: Hub) -> None:
    performed: list[list[str]] = []

    def perform(items: list[str]) -> Sequence[str]:
        performed.append(items)
        if "killed" in items:
            raise Killed
        return items

    gather = Gather(hub, perform)
    gather.post("posted")
    with pytest.raises(Killed):
        gather.submit("killed")
    hub.sleep(0.01)
    assert performed == [["posted", "killed"], ["posted"]]


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
