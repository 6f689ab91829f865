"""A fault is found in a message exactly when Celery's own code cannot handle it.

Celery's strategy and request are run over messages with anything in their fields.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import InvalidTaskError
from celery.worker import strategy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kombu import Message
from kombu.exceptions import ContentDisallowed, DecodeError

from hybrid.worker.consuming.reading import find_fault
from hybrid.worker.execution.pool import check_seconds

_app = Celery("reading", broker="memory://", set_as_current=False)
_app.conf.timezone = "America/New_York"


@_app.task(name="known")
def _known(*_args: Any, **_kwargs: Any) -> None: ...


_app.finalize()


class _Pool:
    """What Celery's request needs of a pool; like ours, it takes limits that are numbers."""

    def apply_async(self, *_: Any, timeout: Any, soft_timeout: Any, **__: Any) -> None:
        for seconds in (timeout, soft_timeout):
            if seconds is not None:
                check_seconds("hard", seconds)


def _celery_raises(message: Message) -> bool:
    """Tell whether Celery's own handler lets an exception out that ends its consumer."""
    pool = _Pool()
    consumer = SimpleNamespace(
        hostname="here",
        connection_errors=(),
        event_dispatcher=None,
        timer=SimpleNamespace(call_at=lambda *_, **__: None),
        apply_eta_task=None,
        disable_rate_limits=True,
        task_buckets={},
        pool=pool,
        qos=SimpleNamespace(increment_eventually=lambda: None),
        on_task_request=lambda request: (hash(request.name), request.execute_using_pool(pool)),
        _limit_task=None,
        _limit_post_eta=None,
        controller=SimpleNamespace(state=SimpleNamespace(revoked=set())),
    )
    handle = strategy.default(_known, _app, consumer)
    try:
        handle(message, None, lambda *_: None, lambda *_: None, [])
    except (InvalidTaskError, ContentDisallowed, DecodeError):
        return False  # Celery's consumer refuses it by itself
    except Exception:
        return True
    return False


def _message(body: Any, headers: Any) -> Message:
    return Message(
        json.dumps(body),
        content_type="application/json",
        content_encoding="utf-8",
        headers=headers,
        properties={},
        delivery_info={},
    )


_anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["", "2026-11-26T10:00:00", "0001-01-01T00:00:00", "9999-12-31T23:59:59"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)
_FIELDS = (
    *("id", "shadow", "eta", "expires", "timelimit", "root_id", "parent_id", "group"),
    *("argsrepr", "kwargsrepr", "ignore_result", "retries", "stamped_headers", "stamps"),
)
_headers = st.dictionaries(st.sampled_from(_FIELDS), _anything, max_size=4) | (
    st.tuples(_anything, _anything).map(lambda limits: {"timelimit": list(limits)})
)
_bodies = (
    st.just([[1], {}, {}])
    | st.tuples(_anything, _anything, _anything).map(list)
    | st.dictionaries(st.sampled_from(["args", "kwargs", "id", "eta"]), _anything)
    | _anything
)


@pytest.mark.slow
@settings(deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(headers=_headers, body=_bodies, has_id=st.booleans())
def test_what_ends_celerys_consumer_is_the_fault_of_the_message(
    headers: dict[str, Any], body: Any, has_id: bool
) -> None:
    headers = {**({"id": "one"} if has_id else {}), **headers, "task": "known"}
    if _celery_raises(_message(body, headers)):
        assert find_fault(_message(body, headers), {"known"}, _app.conf.timezone) is not None


_signatures = st.lists(st.just({"task": "known", "args": [], "kwargs": {}}), max_size=2)


@pytest.mark.slow
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.parametrize("protocol", [1, 2])
@given(
    args=st.lists(st.integers() | st.text(), max_size=3),
    kwargs=st.dictionaries(st.text(), st.none() | st.floats(allow_nan=False), max_size=3),
    options=st.fixed_dictionaries(
        {},
        optional={
            "countdown": st.integers(0, 10**6),
            "expires": st.integers(0, 10**6) | st.datetimes(),
            "time_limit": st.integers(1, 10**9) | st.floats(0, 1e9),
            "soft_time_limit": st.none() | st.floats(0, 1e9),
            "group_id": st.uuids().map(str),
            "shadow": st.text(),
            "root_id": st.uuids().map(str),
            "callbacks": _signatures,
            "errbacks": _signatures,
        },
    ),
)
def test_nothing_is_wrong_with_what_celery_sends(
    protocol: int, args: list[Any], kwargs: dict[str, Any], options: dict[str, Any]
) -> None:
    if protocol == 1:
        options = {
            key: value
            for key, value in options.items()
            if key not in ("time_limit", "soft_time_limit", "shadow", "root_id")
        }
    make = getattr(_app.amqp, f"as_task_v{protocol}")
    headers, _, body, _ = make("an-id", "known", args, kwargs, **options)
    assert find_fault(_message(body, headers), {"known"}, _app.conf.timezone) is None
