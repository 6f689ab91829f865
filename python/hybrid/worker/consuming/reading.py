"""Whose fault it is when handling a message fails: the message's, or that of some code.

Celery trusts the types in a message, and an exception of any kind leaves its handler when one of
them is wrong. The same exceptions come from code: Celery's, a tracer's, a user's ``Request``, ours.
So the exception does not tell, but the message does: :func:`find_fault` does with each field what
Celery's code does with it between the handler and the start of the task, and calls nobody's code.
It is asked when something has been raised; a good message costs nothing.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.exceptions import ContentDisallowed, DecodeError

from hybrid.worker.execution.pool import check_seconds

#: What code raises that meets something else in a message than it expects.
SYMPTOMS = (
    ArithmeticError,
    AttributeError,
    ContentDisallowed,
    DecodeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

_EMBEDDED = {"callbacks": list, "errbacks": list, "chain": list, "chord": Mapping}


def find_fault(message: Any, tasks: Container[Any], timezone: Any) -> Exception | None:
    """Return what is wrong with a message; ``None`` when whatever failed was not its fault.

    Args:
        message: A message as a channel has delivered it.
        tasks: The names of the tasks that the worker has.
        timezone: That of the app, for dates without one.
    """
    try:
        _check(message, tasks, timezone)
    except Exception as exc:
        return exc
    return None


def _check(message: Any, tasks: Container[Any], timezone: Any) -> None:
    headers, properties = message.headers, message.properties
    _check_mapping("the headers", headers)
    _check_mapping("the properties", properties or {})
    _check_mapping("the delivery information", message.delivery_info or {})
    len(message.body)  # what Celery says of a message that it refuses
    payload = message.payload
    if "task" not in headers:
        fields = payload
        embedded = _check_first_protocol(payload)
    elif "args" in payload:
        embedded = _check_first_protocol(payload)
        fields = {**payload, **headers}
    else:
        fields = headers
        _, _, embedded = payload
        _check_mapping("what is embedded in the body", embedded or {})
    _check_fields(fields, tasks, timezone)
    for name, kind in _EMBEDDED.items():
        value = (embedded or {}).get(name)
        if not isinstance(value, (kind, type(None))):
            raise TypeError(f"{name} is {value!r:.100}")


def _check_mapping(what: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} are no mapping: {value!r:.100}")


def _check_first_protocol(payload: Any) -> Any:
    _check_mapping("the fields of protocol 1", payload)
    _check_mapping("the keyword arguments", payload.get("kwargs", {}))
    return payload


def _check_fields(fields: Any, tasks: Container[Any], timezone: Any) -> None:
    task_id, name = fields["id"], fields["task"]
    for key in (task_id, name, fields.get("shadow") or name):
        hash(key)  # Celery's state is kept by them
    hard, soft = fields.get("timelimit") or (None, None)
    for which, seconds in (("hard", hard), ("soft", soft)):
        if seconds:
            check_seconds(which, seconds)
    is_dated = False
    for date in (fields.get("eta"), fields.get("expires")):
        if date is not None:
            is_dated = True
            maybe_make_aware(maybe_iso8601(date), timezone).isoformat()
    stamped = fields.get("stamped_headers") or ()
    stamps = fields.get("stamps") or {}
    for header in stamped:
        value = stamps.get(header)
        for stamp in value if isinstance(value, (list, tuple)) else (value,):
            hash(stamp)
    if is_dated or stamped or name not in tasks:
        # Celery may store a result for it that says why it does not run.
        if not isinstance(task_id, str):
            raise TypeError(f"the id is no text: {task_id!r:.100}")
        task_id.encode()
    if fields.get("group") is not None and not isinstance(fields["group"], str):
        raise TypeError(f"the group is no text: {fields['group']!r:.100}")
