"""Tasks that are due go on in order, whatever becomes of one of them."""

from __future__ import annotations

from threading import Event
from typing import Any, Callable

import pytest
from greenlet import GreenletExit

from hybrid import JobKilled
from hybrid.hubs.base import Hub
from hybrid.worker.consuming.held import DueLine


class UsersError(BaseException):
    pass


class Pool:
    """As much of a pool as the line knows."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.demand = Event()
        self.demand.set()

    @property
    def is_supplied(self) -> bool:
        return not self.demand.is_set()

    def wait_for_demand(self) -> None:
        self.demand.wait()


class Due:
    """A task that is due, and what happens when it is handed over."""

    canceled = False

    def __init__(self, number: int, done: list[int], act: Callable[[], object]) -> None:
        self.number = number
        self.done = done
        self.act = act
        self.fun = self

    def hand_over(self, held: Due) -> None:
        self.act()
        self.done.append(self.number)


@pytest.fixture
def pool(hub: Hub) -> Pool:
    return Pool(hub)


@pytest.fixture
def line(pool: Pool) -> DueLine:
    return DueLine(pool)


@pytest.fixture
def done() -> list[int]:
    return []


def nothing() -> None:
    pass


def raising(exc: type[BaseException]) -> Callable[[], None]:
    def act() -> None:
        raise exc

    return act


ENDS = [GreenletExit, JobKilled, UsersError, SystemExit, KeyboardInterrupt]


@pytest.mark.parametrize("exc", ENDS)
def test_the_line_goes_on_behind_a_task_that_ends_its_greenlet(
    line: DueLine, done: list[int], hub: Hub, turns: Any, exc: type[BaseException]
) -> None:
    line.enter(Due(0, done, nothing))
    with pytest.raises(exc):
        line.enter(Due(1, done, raising(exc)))
    line.enter(Due(2, done, nothing))
    line.enter(Due(3, done, nothing))
    turns()
    assert done == [0, 2, 3]
    assert line.statistics() == {"entered": 4, "waiting": 0}


@pytest.mark.parametrize("exc", [GreenletExit, JobKilled, UsersError])
def test_the_line_goes_on_when_the_one_that_was_held_up_is_ended(
    line: DueLine, done: list[int], hub: Hub, turns: Any, exc: type[BaseException]
) -> None:
    held_up = hub.spawn(lambda: line.enter(Due(0, done, lambda: hub.sleep(30))))
    turns()
    for number in range(1, 4):
        line.enter(Due(number, done, nothing))
    assert line.statistics() == {"entered": 4, "waiting": 3}
    hub.call_soon(hub.interrupt, held_up, exc)
    turns()
    assert done == [1, 2, 3]
    line.enter(Due(4, done, nothing))
    assert done == [1, 2, 3, 4]


@pytest.mark.parametrize("exc", [GreenletExit, JobKilled, UsersError])
def test_the_line_goes_on_when_its_own_greenlet_is_ended(
    line: DueLine, pool: Pool, done: list[int], hub: Hub, turns: Any, exc: type[BaseException]
) -> None:
    greenlets: list[Any] = []

    def wait() -> None:
        greenlets.append(hub.current())
        hub.sleep(30)

    pool.demand.clear()
    line.enter(Due(0, done, wait))
    for number in range(1, 4):
        line.enter(Due(number, done, nothing))
    turns()
    assert (done, greenlets) == ([], [])
    pool.demand.set()
    turns()
    hub.call_soon(hub.interrupt, greenlets[0], exc)
    turns()
    assert done == [1, 2, 3]
    assert line.statistics()["waiting"] == 0
