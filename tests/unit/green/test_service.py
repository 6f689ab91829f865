"""What a service has to do is done, whoever ends the greenlet that does it."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from greenlet import GreenletExit

from hybrid import JobKilled
from hybrid.hubs.base import Hub
from hybrid.hubs.service import Service


class UsersError(BaseException):
    pass


ENDS = [GreenletExit, JobKilled, SoftTimeLimitExceeded, UsersError, ValueError]


class Line:
    """Numbers that a service takes, and what happens at some of them."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.pending: deque[int] = deque()
        self.done: list[int] = []
        self.greenlets: list[Any] = []
        self.at: dict[int, Any] = {}
        self.service = Service(hub, self.pending.__len__, self.serve)

    def add(self, *numbers: int) -> None:
        self.pending.extend(numbers)
        self.service.wake()

    def serve(self) -> None:
        number = self.pending.popleft()
        self.greenlets.append(self.hub.current())
        if number in self.at:
            self.at[number]()
        self.done.append(number)


@pytest.fixture
def line(hub: Hub) -> Line:
    return Line(hub)


def test_one_greenlet_serves_until_nothing_is_left(line: Line, turns: Any) -> None:
    line.at[1] = lambda: line.hub.sleep(0)
    line.add(0, 1)
    line.add(2)
    assert line.service.is_busy
    assert line.done == []
    turns()
    assert line.done == [0, 1, 2]
    assert len(set(map(id, line.greenlets))) == 1
    assert not line.service.is_busy
    line.add(3)
    turns()
    assert line.done == [0, 1, 2, 3]


@pytest.mark.parametrize("exc", ENDS)
def test_another_goes_on_when_one_ends_in_its_work(
    line: Line, turns: Any, exc: type[BaseException]
) -> None:
    def end() -> None:
        raise exc

    line.at[1] = end
    line.add(0, 1, 2, 3)
    turns()
    assert line.done == [0, 2, 3]
    line.add(4)
    turns()
    assert line.done == [0, 2, 3, 4]


@pytest.mark.parametrize("exc", ENDS)
def test_another_goes_on_when_one_is_ended_while_it_waits(
    line: Line, turns: Any, exc: type[BaseException]
) -> None:
    line.at[1] = lambda: line.hub.sleep(30)
    line.add(0, 1, 2, 3)
    turns()
    line.add(4)
    line.hub.call_soon(line.hub.interrupt, line.greenlets[0], exc)
    turns()
    assert line.done == [0, 2, 3, 4]
    assert not line.service.is_busy


@pytest.mark.parametrize("exc", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_process_leaves_the_rest_to_another(
    line: Line, turns: Any, exc: type[BaseException]
) -> None:
    def end() -> None:
        raise exc

    line.at[1] = end
    line.add(0, 1, 2, 3)
    with pytest.raises(exc):
        turns()
    turns()
    assert line.done == [0, 2, 3]


def test_one_that_is_killed_before_it_begins_is_replaced_at_the_next_call(
    line: Line, turns: Any, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawned: list[Any] = []
    spawn = line.hub.spawn
    monkeypatch.setattr(
        line.hub, "spawn", lambda *args: spawned.append(spawn(*args)) or spawned[-1]
    )
    line.add(0)
    library.kill(spawned[0])
    turns()
    assert line.done == []
    line.add(1)
    turns()
    assert line.done == [0, 1]


def test_a_greenlet_that_could_not_be_started_is_started_at_the_next_call(
    line: Line, turns: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(line.hub, "spawn", refuse)
        with pytest.raises(MemoryError):
            line.add(0)
    line.add(1)
    turns()
    assert line.done == [0, 1]
