"""Events are encoded as Celery's dispatcher has them encoded."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.clocks import LamportClock
from kombu.utils.json import dumps as kombu_dumps
from test_encoding import PLAIN

from hybrid import _rust

COMMON = {"hostname": "celery@kühl", "utcoffset": 0, "pid": 17}
OWN = {*COMMON, "clock", "timestamp", "type"}
FIELDS = st.dictionaries(st.text().filter(lambda name: name not in OWN), PLAIN, max_size=6)


LIMIT = 5


def make(clock: LamportClock | None = None) -> _rust.EventLog:
    """Return a log that has begun."""
    log = _rust.EventLog(clock or LamportClock(), LIMIT)
    log.begin(json.dumps(COMMON), time.time() + 60)
    return log


def events_of(log: _rust.EventLog) -> list[dict[str, Any]]:
    """Take the events of a log."""
    events: list[dict[str, Any]] = json.loads(str(log.take()))
    return events


@given(FIELDS)
def test_an_event_has_all_its_fields(fields: dict[str, Any]) -> None:
    clock = LamportClock(41)
    log = make(clock)
    before = time.time()
    assert log.record("task-started", fields)
    after = time.time()
    [event] = events_of(log)
    assert before <= event.pop("timestamp") <= after
    assert event == {
        **COMMON,
        "clock": 42,
        "type": "task-started",
        **json.loads(json.dumps(fields)),
    }
    assert clock.value == 42


def test_what_is_taken_is_the_text_that_both_encoders_write() -> None:
    log = make()
    log.record("task-started", {"uuid": "id"})
    log.record("task-succeeded", {"uuid": "id", "result": "'é'", "runtime": 1e-9})
    group = log.take()
    assert _rust.dumps(group) == str(group)
    events = json.loads(str(group))
    assert events == json.loads(kombu_dumps(group))
    assert [event["type"] for event in events] == ["task-started", "task-succeeded"]
    assert [event["uuid"] for event in events] == ["id", "id"]


@pytest.mark.parametrize("value", [{1}, b"bytes", 2**64, float("nan"), "\ud800"], ids=repr)
def test_what_only_python_can_encode_leaves_no_trace(value: Any) -> None:
    clock = LamportClock(41)
    log = make(clock)
    assert not log.record("task-failed", {"uuid": "id", "exception": value})
    assert (len(log), clock.value) == (0, 41)
    assert log.record("task-received", {"uuid": "id"})
    assert not log.record("task-failed", {"uuid": value})
    assert len(log) == 1
    assert [event["type"] for event in events_of(log)] == ["task-received"]


def test_the_first_event_of_each_group_is_known_as_such() -> None:
    log = make()
    for _ in range(2):
        assert log.record("task-started", {}) == 1
        assert log.record("task-failed", {"exception": {1}}) == 0
        assert log.record("task-succeeded", {}) == 2
        assert len(events_of(log)) == 2


def test_a_group_has_a_limit() -> None:
    log = make()
    recorded = [log.record("task-sent", {"uuid": str(number)}) for number in range(LIMIT + 1)]
    assert recorded == [1, 2, 3, 4, 5, 0]
    assert [event["uuid"] for event in events_of(log)] == ["0", "1", "2", "3", "4"]
    assert (len(log), log.take()) == (0, None)
    assert log.record("task-sent", {})


@pytest.mark.parametrize("head", ["{}", "}", "[1]", "null"])
def test_a_head_is_an_object_with_members(head: str) -> None:
    with pytest.raises(ValueError, match="no JSON object with members"):
        make().begin(head, time.time() + 60)


def test_nothing_is_recorded_before_it_begins_or_when_its_time_is_over() -> None:
    not_begun = _rust.EventLog(object(), LIMIT)  # a clock of somebody's own
    assert not not_begun.record("task-started", {})
    log = _rust.EventLog(LamportClock(), LIMIT)
    assert not log.record("task-started", {})
    log.begin(json.dumps(COMMON), time.time() - 1)
    assert not log.record("task-started", {})
    log.begin("", time.time() + 60)
    assert not log.record("task-started", {})
    log.begin(json.dumps(COMMON), time.time() + 60)
    assert log.record("task-started", {})
