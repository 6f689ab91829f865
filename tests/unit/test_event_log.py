"""Events are encoded as Celery's dispatcher has them encoded."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.clocks import LamportClock
from kombu.utils.json import dumps as kombu_dumps
from test_encoding import PLAIN

from hybrid import _rust

COMMON = {"hostname": "celery@kühl", "utcoffset": 0, "pid": 17}
OWN = {*COMMON, "clock", "timestamp", "type", "uuid"}
FIELDS = st.dictionaries(st.text().filter(lambda name: name not in OWN), PLAIN, max_size=6)


def make(clock: LamportClock | None = None) -> tuple[list[Any], _rust.EventLog]:
    """Return a log that has begun, and the list that it adds to."""
    events: list[Any] = [{"type": "task-received"}]
    log = _rust.EventLog(events, clock or LamportClock())
    log.begin(json.dumps(COMMON), time.time() + 60)
    return events, log


@given(FIELDS)
def test_an_event_has_all_its_fields(fields: dict[str, Any]) -> None:
    clock = LamportClock(41)
    events, log = make(clock)
    task_id = str(uuid.uuid4())
    before = time.time()
    assert log.record("task-started", task_id, fields)
    after = time.time()
    event = json.loads(str(events[1]))
    assert before <= event.pop("timestamp") <= after
    assert event == {
        **COMMON,
        "clock": 42,
        "type": "task-started",
        "uuid": task_id,
        **json.loads(json.dumps(fields)),
    }
    assert clock.value == 42


def test_events_are_part_of_the_texts_that_both_encoders_write() -> None:
    events, log = make()
    log.record("task-started", "id")
    log.record("task-succeeded", "id", {"result": "'é'", "runtime": 1e-9})
    text = _rust.dumps(events)
    assert text is not None
    assert json.loads(text) == json.loads(kombu_dumps(events))
    assert [event["type"] for event in json.loads(text)] == [
        "task-received",
        "task-started",
        "task-succeeded",
    ]


@pytest.mark.parametrize("value", [{1}, b"bytes", 2**64, float("nan"), "\ud800"], ids=repr)
def test_what_only_python_can_encode_is_left_to_it(value: Any) -> None:
    events, log = make()
    assert not log.record("task-failed", "id", {"exception": value})
    assert not log.record("task-failed", value)
    assert len(events) == 1


def test_the_first_event_of_a_group_is_left_to_whoever_sees_to_its_sending() -> None:
    events, log = make()
    events.clear()
    assert not log.record("task-started", "id")
    assert events == []


@pytest.mark.parametrize("head", ["{}", "}", "[1]", "null"])
def test_a_head_is_an_object_with_members(head: str) -> None:
    _, log = make()
    with pytest.raises(ValueError, match="no JSON object with members"):
        log.begin(head, time.time() + 60)


def test_nothing_is_recorded_before_it_begins_or_when_its_time_is_over() -> None:
    events: list[Any] = [{}]
    log = _rust.EventLog(events, LamportClock())
    assert not log.record("task-started", "id")
    log.begin(json.dumps(COMMON), time.time() - 1)
    assert not log.record("task-started", "id")
    log.begin("", time.time() + 60)
    assert not log.record("task-started", "id")
    log.begin(json.dumps(COMMON), time.time() + 60)
    assert log.record("task-started", "id")
