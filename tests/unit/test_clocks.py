"""How much the time of day is ahead of the timer's clock, which decides when tasks are due."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hybrid.worker.consuming import strategy
from hybrid.worker.consuming.strategy import _Clocks

AHEAD = 1_700_000_000.0


class Machine:
    """Two clocks, of which the process reads one after the other."""

    def __init__(self) -> None:
        self.now = 100.0
        self.ahead = AHEAD
        self.interruptions: Iterator[float] = iter(())

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        # Interrupted just before this clock is read.
        self.now += next(self.interruptions, 0.0)
        return self.now + self.ahead


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(strategy, "monotonic", machine.monotonic)
    monkeypatch.setattr(strategy, "time", machine.time)
    return machine


def test_an_interruption_makes_no_difference(machine: Machine) -> None:
    clocks = _Clocks()
    assert clocks.difference() == AHEAD
    machine.interruptions = iter([0.25])
    assert clocks.difference() == AHEAD
    assert clocks.difference() == AHEAD


def test_an_interruption_at_the_first_reading_makes_none_either(machine: Machine) -> None:
    machine.interruptions = iter([0.25, 0.5])
    assert _Clocks().difference() == AHEAD


def test_a_little_drift_is_ignored_and_a_clock_that_was_set_is_not(machine: Machine) -> None:
    clocks = _Clocks()
    clocks.difference()
    machine.ahead += clocks.TOLERANCE / 2
    assert clocks.difference() == AHEAD
    machine.ahead = AHEAD - 3600
    assert clocks.difference() == AHEAD - 3600


def test_a_machine_that_always_interrupts_is_not_waited_for(machine: Machine) -> None:
    machine.interruptions = iter([0.25] * 1000)
    assert _Clocks().difference() == pytest.approx(AHEAD, abs=1)
    assert next(machine.interruptions)
