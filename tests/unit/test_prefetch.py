"""How often the broker is told of a changed prefetch count."""

from __future__ import annotations

from typing import Any

import pytest
from kombu.common import PREFETCH_COUNT_MAX, QoS
from kombu.transport import memory

from hybrid.worker.consuming import prefetch as prefetch_module
from hybrid.worker.consuming.prefetch import CHANGE_WAIT, Prefetch

WAIT = 2.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def told() -> list[int]:
    return []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(prefetch_module, "monotonic", clock)
    return clock


def make(told: list[int], value: int, channel: Any = None) -> tuple[QoS, Prefetch]:
    qos = QoS(lambda prefetch_count: told.append(prefetch_count), value)
    return qos, Prefetch(qos, channel)


def test_the_first_count_is_told_at_once(told: list[int]) -> None:
    _, prefetch = make(told, 8)
    assert prefetch.pass_on(WAIT) == WAIT
    assert told == [8]
    assert prefetch.pass_on(WAIT) == WAIT
    assert told == [8]


def test_a_change_waits_for_others_but_not_for_long(told: list[int], clock: Clock) -> None:
    qos, prefetch = make(told, 8)
    prefetch.pass_on(WAIT)
    qos.increment_eventually()
    assert prefetch.pass_on(WAIT) == CHANGE_WAIT
    clock.now += CHANGE_WAIT
    assert prefetch.pass_on(WAIT) == WAIT
    assert told == [8, 9]


def test_half_of_what_may_be_out_does_not_wait(told: list[int], clock: Clock) -> None:
    qos, prefetch = make(told, 8)
    prefetch.pass_on(WAIT)
    for _ in range(100):
        qos.increment_eventually()
        prefetch.pass_on(WAIT)
    assert told == list(range(8, 109, 4))


def test_what_amqp_cannot_count_is_told_once(told: list[int], clock: Clock) -> None:
    qos, prefetch = make(told, PREFETCH_COUNT_MAX)
    prefetch.pass_on(WAIT)
    assert not prefetch.is_unlimited
    for _ in range(5):
        qos.increment_eventually(40_000)
        prefetch.pass_on(WAIT)
    assert told == [PREFETCH_COUNT_MAX, 0]
    assert prefetch.is_unlimited
    qos.decrement_eventually(5 * 40_000)
    prefetch.pass_on(WAIT)
    assert told == [PREFETCH_COUNT_MAX, 0, PREFETCH_COUNT_MAX]


def test_kombus_own_transports_count_without_a_limit(told: list[int]) -> None:
    qos, prefetch = make(told, 8, memory.Channel.__new__(memory.Channel))
    for _ in range(3):
        prefetch.pass_on(WAIT)
        qos.increment_eventually(40_000)
    assert told == [8, 40_008, 80_008]
    assert not prefetch.is_unlimited


def test_no_prefetch_count_is_no_limit(told: list[int]) -> None:
    _, prefetch = make(told, 0)
    assert prefetch.is_unlimited
