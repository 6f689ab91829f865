"""Messages that no decent client sends, as raw bytes for either broker."""

from __future__ import annotations

import base64
import copy
import json
import uuid
from dataclasses import dataclass
from typing import Any, Callable

from harness.brokers import Queue

DEPTH = 10_000
NESTED = "[" * DEPTH + "]" * DEPTH
HUGE = 50_000_000

CALL = '[[1], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'


@dataclass
class Draft:
    """A good call of ``quick(1)``, to be spoilt.

    ``envelope`` set to bytes replaces the whole Redis list item.
    """

    body: str | bytes
    headers: Any
    properties: dict[str, Any]
    content_type: Any = "application/json"
    content_encoding: Any = "utf-8"
    body_is_base64: bool = True
    envelope: bytes | None = None

    def push(self, queue: Queue, broker: str) -> None:
        body = self.body if isinstance(self.body, bytes) else self.body.encode("utf-8")
        if broker == "rabbitmq":
            queue.push(
                body,
                content_type=self.content_type,
                content_encoding=self.content_encoding,
                application_headers=self.headers,
                delivery_mode=2,
                correlation_id=self.properties.get("correlation_id"),
                reply_to=self.properties.get("reply_to"),
            )
            return
        if self.envelope is not None:
            queue.push(self.envelope)
            return
        text = base64.b64encode(body).decode() if self.body_is_base64 else body.decode()
        envelope = {
            "body": text,
            "content-type": self.content_type,
            "content-encoding": self.content_encoding,
            "headers": self.headers,
            "properties": self.properties,
        }
        queue.push(json.dumps(envelope).encode())


def _draft(queue: Queue) -> Draft:
    task_id = str(uuid.uuid4())
    return Draft(
        body=CALL,
        headers={
            "lang": "py",
            "task": "quick",
            "id": task_id,
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": task_id,
            "parent_id": None,
            "argsrepr": "(1,)",
            "kwargsrepr": "{}",
            "origin": "test",
            "ignore_result": False,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        },
        properties={
            "correlation_id": task_id,
            "reply_to": str(uuid.uuid4()),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue.name},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    )


@dataclass(frozen=True)
class Case:
    """One kind of bad message."""

    name: str
    spoil: Callable[[Draft], None]
    brokers: tuple[str, ...] = ("redis", "rabbitmq")

    def push(self, queue: Queue, broker: str) -> None:
        draft = copy.deepcopy(_draft(queue))
        self.spoil(draft)
        draft.push(queue, broker)


REDIS = ("redis",)


def _body(value: str | bytes) -> Callable[[Draft], None]:
    def spoil(draft: Draft) -> None:
        draft.body = value

    return spoil


def _huge(before: str, after: str) -> Callable[[Draft], None]:
    def spoil(draft: Draft) -> None:
        draft.body = before + "x" * HUGE + after

    return spoil


def _envelope(value: bytes) -> Callable[[Draft], None]:
    def spoil(draft: Draft) -> None:
        draft.envelope = value

    return spoil


def _header(name: str, value: Any) -> Callable[[Draft], None]:
    def spoil(draft: Draft) -> None:
        draft.headers[name] = value

    return spoil


def _without_header(name: str) -> Callable[[Draft], None]:
    def spoil(draft: Draft) -> None:
        del draft.headers[name]

    return spoil


def _property(name: str, value: Any) -> Callable[[Draft], None]:
    def spoil(draft: Draft) -> None:
        draft.properties[name] = value

    return spoil


def _without_property(name: str) -> Callable[[Draft], None]:
    def spoil(draft: Draft) -> None:
        del draft.properties[name]

    return spoil


def _field(name: str, value: Any) -> Callable[[Draft], None]:
    def spoil(draft: Draft) -> None:
        setattr(draft, name, value)

    return spoil


def _wrong_base64(draft: Draft) -> None:
    draft.body, draft.body_is_base64 = "!!! not base64 ???", False


def _truncated_envelope(draft: Draft) -> None:
    draft.envelope = json.dumps({"body": "W10=", "headers": draft.headers}).encode()[:-40]


_HEADER_VALUES: dict[str, list[Any]] = {
    "task": [None, 17, [], {"a": 1}, True, "", "\x00quick", "qui\x00ck"],
    "id": [None, 17, [], {"a": 1}, ""],
    "eta": [17, [], {"a": 1}, "not a date", True],
    "expires": [[], {"a": 1}, "not a date", "9999-99-99T00:00:00"],
    "retries": [None, "many", [], -1],
    "timelimit": [None, "x", [], ["a", "b"], [1], {"a": 1}, 5],
    "root_id": [17, []],
    "parent_id": [17, {"a": 1}],
    "group": [17, []],
    "group_index": ["x", []],
    "lang": [None, 17],
    "shadow": [17, [], {"a": 1}],
    "argsrepr": [17, None, []],
    "kwargsrepr": [17, {"a": 1}],
    "origin": [17, None, []],
    "ignore_result": ["x", []],
    "replaced_task_nesting": ["x", None],
    "stamped_headers": [17, "x", {"a": 1}],
    "stamps": [17, [], None],
}

CASES: list[Case] = [
    Case("truncated JSON", _body(CALL[:-7])),
    Case("empty body", _body("")),
    Case("body that is not UTF-8", _body(b"\xff\xfe\x00\x80")),
    Case("body of another shape: object", _body("{}")),
    Case("body of another shape: number", _body("5")),
    Case("body of another shape: null", _body("null")),
    Case("body of another shape: two parts", _body("[[1], {}]")),
    Case("body of another shape: args is a number", _body("[5, {}, {}]")),
    Case("body of another shape: kwargs is a list", _body("[[1], [2], {}]")),
    Case("body of another shape: embed is text", _body('[[1], {}, "x"]')),
    Case("callbacks of a wrong type", _body('[[1], {}, {"callbacks": 5, "errbacks": "x"}]')),
    Case("chain of a wrong type", _body('[[1], {}, {"chain": {"a": 1}, "chord": 5}]')),
    Case("deeply nested arguments", _body(f"[[{NESTED}], {{}}, {{}}]")),
    Case("NUL in arguments", _body('[["a\\u0000b"], {}, {}]')),
    Case("lone surrogate in arguments", _body('[["a\\ud800b"], {}, {}]')),
    Case("lone surrogate as keyword", _body('[[], {"\\udfff": 1}, {}]')),
    Case("50 MB of arguments", _huge('[["', '"], {}, {}]')),
    Case("50 MB that are not JSON", _huge("", "")),
    Case("unknown task", _header("task", "no.such.task")),
    Case("no task header", _without_header("task")),
    Case("no id header", _without_header("id")),
    Case("headers null", _field("headers", None)),
    Case("headers empty", _field("headers", {})),
    Case("unknown content type", _field("content_type", "application/x-nonsense")),
    Case("pickle, which is not accepted", _field("content_type", "application/x-python-serialize")),
    Case("unknown content encoding", _field("content_encoding", "utf-99")),
    Case("unknown compression", _header("compression", "application/x-nonsense")),
    Case("compression that is none", _header("compression", "application/x-gzip")),
    Case("deeply nested header", _header("origin", json.loads("[" * 80 + "]" * 80))),
    Case("wrong base64", _wrong_base64, REDIS),
    Case("unknown body encoding", _property("body_encoding", "rot13"), REDIS),
    Case("envelope: truncated", _truncated_envelope, REDIS),
    Case("envelope: not JSON", _envelope(b"\x00\xff\xfenonsense"), REDIS),
    Case("envelope: empty", _envelope(b""), REDIS),
    Case("envelope: null", _envelope(b"null"), REDIS),
    Case("envelope: number", _envelope(b"5"), REDIS),
    Case("envelope: list", _envelope(b"[1, 2]"), REDIS),
    Case("envelope: empty object", _envelope(b"{}"), REDIS),
    Case("envelope: deeply nested", _envelope(NESTED.encode()), REDIS),
    Case("envelope: lone surrogate", _envelope(b'{"body": "\\ud800", "headers": {}}'), REDIS),
    Case("headers: a list", _field("headers", [1, 2]), REDIS),
    Case("headers: text", _field("headers", "x"), REDIS),
    Case("content type: a number", _field("content_type", 7), REDIS),
    Case("content encoding: a list", _field("content_encoding", []), REDIS),
    Case("no delivery info", _without_property("delivery_info"), REDIS),
    Case("no delivery tag", _without_property("delivery_tag"), REDIS),
    Case("delivery info: text", _property("delivery_info", "x"), REDIS),
    Case("delivery tag: a list", _property("delivery_tag", [1]), REDIS),
    Case("priority: text", _property("priority", "high"), REDIS),
    Case("correlation id: a number", _property("correlation_id", 17), REDIS),
    Case("reply to: a list", _property("reply_to", [1]), REDIS),
    Case("lone surrogate in a header", _header("task", "qui\ud800ck"), REDIS),
    *(
        Case(f"header {name}: {value!r}", _header(name, value))
        for name, values in _HEADER_VALUES.items()
        for value in values
    ),
]


STOCK: dict[str, dict[str, list[str]]] = {
    "redis": {
        "ends": [
            "empty body",
            "body of another shape: object",
            "body of another shape: number",
            "body of another shape: null",
            "body of another shape: two parts",
            "wrong base64",
            "unknown body encoding",
            "envelope: truncated",
            "envelope: not JSON",
            "envelope: empty",
            "envelope: null",
            "envelope: number",
            "envelope: list",
            "envelope: deeply nested",
            "headers: a list",
            "headers: text",
            "delivery info: text",
            "delivery tag: a list",
            "header task: []",
            "header task: {'a': 1}",
            "header id: []",
            "header id: {'a': 1}",
            "header eta: []",
            "header expires: []",
            "header timelimit: 'x'",
            "header timelimit: [1]",
            "header timelimit: {'a': 1}",
            "header timelimit: 5",
            "header stamped_headers: 17",
        ],
        "reconnects": [
            "no id header",
            "envelope: empty object",
            "envelope: lone surrogate",
            "no delivery info",
            "no delivery tag",
        ],
    },
    "rabbitmq": {
        "ends": [
            "empty body",
            "body of another shape: object",
            "body of another shape: number",
            "body of another shape: null",
            "body of another shape: two parts",
            "no id header",
            "header task: []",
            "header task: {'a': 1}",
            "header id: []",
            "header id: {'a': 1}",
            "header eta: []",
            "header expires: []",
            "header timelimit: 'x'",
            "header timelimit: [1]",
            "header timelimit: {'a': 1}",
            "header timelimit: 5",
            "header stamped_headers: 17",
        ],
    },
}
"""What a stock green worker of Celery 5.7.0 and kombu 5.7.0 does, by broker; measured.

- ``ends``: the process exits;
- ``reconnects``: it drops its broker connection, and with it what it has prefetched;
- everything else, ``serves``: it logs the message and carries on.
"""


def stock_outcome(case: Case, broker: str) -> str:
    """Return what a stock green worker makes of ``case``."""
    outcomes = STOCK[broker]
    return next((what for what, names in outcomes.items() if case.name in names), "serves")
