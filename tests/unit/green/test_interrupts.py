"""A job that is interrupted at any point of its life has one outcome, and the books are in order.

A *point* is where the job's greenlet gives way: twice in each of Celery's accepting it, its target,
and the callback that tells its outcome. What strikes there is fired by hand, so nothing here waits
for the clock.
"""

from __future__ import annotations

from itertools import product
from threading import Event
from typing import Any, Callable

import pytest
from billiard.exceptions import WorkerLostError
from celery.exceptions import SoftTimeLimitExceeded
from greenlet import GreenletExit

from hybrid.hubs.base import Hub
from hybrid.hubs.parking import ParkingLot

PHASES = ("accept", "target", "outcome")
POINTS = [(phase, number) for phase in PHASES for number in range(2)]
STRIKES = ("soft limit", "hard limit", "terminate", "kill")
#: Names of calls that tell what has become of a job.
OUTCOMES = {"success", "error", "hard limit"}


class Course:
    """One job that stops at each of its points until it is let go."""

    def __init__(self, pool: Any, hub: Hub, own_end: str) -> None:
        self.pool = pool
        self.hub = hub
        self.lot = ParkingLot(hub)
        self.passed: list[tuple[str, int]] = []
        self.names: list[str] = []
        self.error: Any = None
        self.pid = 0
        self.slot: Any = None

        def target() -> None:
            self._pass("target")
            if own_end == "error":
                raise ValueError

        self.job = pool.apply_async(
            target,
            accept_callback=self._on_accept,
            callback=lambda _: self._tell("success"),
            error_callback=self._on_error,
            timeout_callback=self._on_timeout,
            soft_timeout=500,
            timeout=600,
        )

    def _pass(self, phase: str) -> None:
        for number in range(2):
            self.lot.park()
            self.passed.append((phase, number))

    def _on_accept(self, pid: int, _: float) -> None:
        self.pid, self.slot = pid, self.hub.current()
        self._tell("accept", "accept")

    def _on_error(self, einfo: Any) -> None:
        self.error = einfo.type
        self._tell("error")

    def _on_timeout(self, soft: bool, _: float) -> None:
        if soft:
            self.names.append("soft limit")
        else:
            self._tell("hard limit")

    def _tell(self, name: str, phase: str = "outcome") -> None:
        self.names.append(name)
        self._pass(phase)

    def strike(self, how: str) -> None:
        if how == "terminate":
            self.pool.terminate_job(self.pid)
        elif how == "kill":
            self.hub.call_soon(self.hub.interrupt, self.slot, GreenletExit)
        else:
            limits = self.job.limits
            entry = limits[STRIKES.index(how)] if limits else None
            if entry is not None and not entry.canceled:
                entry.cancel()  # it strikes once
                entry()

    def run(self, strikes: dict[tuple[str, int], list[str]]) -> None:
        """Let the job go from point to point, and strike where that is asked for."""
        for _ in range(2 * len(POINTS)):
            self._turns()
            if not len(self.lot):
                break
            # Where it stops now: behind what it has passed, in the phase that it is in.
            point = self._point()
            for how in strikes.pop(point, ()):
                self.strike(how)
            self._turns()
            if self._point() == point:
                self.lot.unpark()
        assert not len(self.lot)

    def _point(self) -> tuple[str, int]:
        phase = "accept"
        if "accept" in self.names and ("accept", 1) in self.passed:
            phase = "target"
        if OUTCOMES.intersection(self.names):
            phase = "outcome"
        return phase, sum(passed == phase for passed, _ in self.passed)

    def _turns(self) -> None:
        for _ in range(4):
            self.hub.sleep(0)


@pytest.fixture(params=["success", "error"])
def own_end(request: Any) -> str:
    """How the job ends by itself."""
    return str(request.param)


@pytest.fixture
def start(make_pool: Any, hub: Hub, own_end: str) -> Callable[[], Course]:
    pool = make_pool(2)
    return lambda: Course(pool, hub, own_end)


def assert_books_are_in_order(pool: Any, until: Any) -> None:
    """Nothing is left of the jobs, and as many as before can run at a time."""
    assert pool.info["running"] == pool.info["waiting"] == 0
    assert len(pool._slab) == 0
    gate = Event()
    done: list[int] = []
    for number in range(4):
        pool.apply_async(lambda number=number: (gate.wait(), done.append(number)))
    until(lambda: pool.info["running"] == 2)
    assert pool.info["slots"] == 2
    assert pool.info["waiting"] == 2
    gate.set()
    until(lambda: pool.info["running"] == 0)
    assert sorted(done) == [0, 1, 2, 3]
    assert pool.info["abandoned"] == 0


@pytest.mark.parametrize("how", STRIKES)
@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"{point[0]}-{point[1]}")
def test_one_strike(
    start: Callable[[], Course], until: Any, own_end: str, point: tuple[str, int], how: str
) -> None:
    course = start()
    course.run({point: [how]})
    phase = point[0]
    if how == "kill":
        # Whoever reaches for the greenlet itself gets it anywhere.
        expected = ["accept", own_end if phase == "outcome" else "error"]
    elif phase == "target":
        assert ("target", point[1]) not in course.passed
        expected = {
            "soft limit": ["accept", "soft limit", "error"],
            "hard limit": ["accept", "hard limit"],
            "terminate": ["accept"],
        }[how]
    elif (phase, how) == ("accept", "terminate"):
        expected = ["accept"]
        assert not any(passed == "target" for passed, _ in course.passed)
    else:
        expected = ["accept", own_end]
    assert course.names == expected
    if how != "kill":
        # Accepting it and telling its outcome are the worker's work, and are never cut short.
        for whole in ("accept", "outcome") if len(expected) > 1 else ("accept",):
            assert {(whole, 0), (whole, 1)} <= set(course.passed)
    if phase == "target" and course.error is not None:
        assert course.error is {"soft limit": SoftTimeLimitExceeded, "kill": WorkerLostError}[how]
    assert_books_are_in_order(course.pool, until)


@pytest.mark.slow
def test_two_strikes(start: Callable[[], Course], until: Any) -> None:
    strikes = list(product(POINTS, STRIKES))
    for first, second in product(strikes, strikes):
        planned: dict[tuple[str, int], list[str]] = {}
        for point, how in (first, second):
            planned.setdefault(point, []).append(how)
        course = start()
        course.run(planned)
        case = (first, second, course.names)
        told = [name for name in course.names if name in OUTCOMES]
        is_terminated = any(
            how == "terminate" and point[0] != "outcome" for point, how in (first, second)
        )
        assert len(told) == 1 or (is_terminated and not told), case
        assert course.names.count("accept") == 1, case
        assert course.names.count("soft limit") <= 1, case
        if "kill" not in (first[1], second[1]):
            assert {("accept", 0), ("accept", 1)} <= set(course.passed), case
            assert not told or {("outcome", 0), ("outcome", 1)} <= set(course.passed), case
        info = course.pool.info
        assert (info["running"], info["waiting"], len(course.pool._slab)) == (0, 0, 0), case
    assert_books_are_in_order(course.pool, until)
