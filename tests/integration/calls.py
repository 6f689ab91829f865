"""A project whose tasks call others in every usual way, for whoever reads the messages.

Each kind of call has a name. The queues that they go to are consumed by nobody.
"""

from __future__ import annotations

import enum
import json
import os
import uuid
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Callable

import kombu
from celery import Celery, chain, chord, chunks, group, xmap
from harness.worker import SETTINGS_VARIABLE
from kombu.utils.functional import lazy
from kombu.utils.json import register_type

#: The queues that calls go to.
QUEUES = (
    "wire",
    *(f"wire.{name}" for name in ("routed", "other", "object", "plain", "x", "p", "t")),
)

app = Celery("calls")
app.conf.update(json.loads(os.environ[SETTINGS_VARIABLE]))
app.conf.update(
    task_default_queue="wire",
    task_default_exchange="wire",
    task_default_routing_key="wire",
    task_create_missing_queues=True,
    task_queue_max_priority=None,
    task_routes={
        "routed": {"queue": "wire.routed", "priority": 3},
        "routed_with_headers": {"queue": "wire", "headers": {"way": "north"}},
    },
    accept_content=["json", "pickle", "yaml"],
)


@app.task(name="callee", ignore_result=True)
def callee(*args: Any, **kwargs: Any) -> None:
    pass


@app.task(name="storing")
def storing(*args: Any, **kwargs: Any) -> None:
    pass


@app.task(name="routed")
def routed(*args: Any) -> None:
    pass


@app.task(name="routed_with_headers")
def routed_with_headers(*args: Any) -> None:
    pass


@app.task(name="with_options", priority=5, expires=3600, serializer="pickle", compression="zlib")
def with_options(*args: Any) -> None:
    pass


@app.task(name="with_limits", time_limit=30, soft_time_limit=20, acks_late=True)
def with_limits(*args: Any) -> None:
    pass


@app.task(name="checked", typing=True)
def checked(one: int, two: int = 2) -> None:
    pass


class Unchecked(app.Task):  # type: ignore[misc,name-defined]
    """A class of tasks that adds to each call."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        options["headers"] = {**(options.get("headers") or {}), "tenant": "t1"}
        return super().apply_async(args, kwargs, **options)


@app.task(name="of_a_class", base=Unchecked)
def of_a_class(*args: Any) -> None:
    pass


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(str):
    __slots__ = ()


class Words(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "other words"


class Number(int):
    pass


class Real(float):
    def __repr__(self) -> str:
        return "a real"


class Numbers(list):  # type: ignore[type-arg]
    pass


class Registered:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Registered({self.value!r})"


class RegisteredWord(str):
    __slots__ = ()


class RegisteredTime(datetime):
    pass


class Says:
    """Says itself how it looks in JSON."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __json__(self) -> Any:
        return self.value

    def __repr__(self) -> str:
        return f"Says({self.value!r})"


class SayingDict(dict):  # type: ignore[type-arg]
    def __json__(self) -> Any:
        return {"said": True}


@dataclass
class Record:
    one: int
    two: str


Point = namedtuple("Point", "x y")

register_type(Registered, "registered", lambda it: it.value, Registered)
register_type(RegisteredWord, "word", str, RegisteredWord)
register_type(RegisteredTime, "when", datetime.isoformat, RegisteredTime.fromisoformat)

_WHEN = datetime(2040, 3, 1, 12, 30, 15, 250, tzinfo=timezone.utc)
#: RabbitMQ takes no message that expires in more than seven weeks.
_SOON = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=250) + timedelta(
    20
)
_EAST = timezone(timedelta(hours=5, minutes=30))

ARGUMENTS: dict[str, Any] = {
    "none": None,
    "true": True,
    "integer": 5,
    "negative": -7,
    "large integer": 2**70,
    "float": 1.5,
    "exponents": [1e300, 1e-7, 1e16, 1e22, -0.0, 5e-324],
    "nan": [float("nan"), float("inf"), float("-inf")],
    "text": "naïve ✓ \U0001f600",
    "quotes": 'it\'s "so" \\ \x00\x1f\x7f\n\t\u2028',
    "surrogate": "\ud800",
    "empty": ["", [], {}, ()],
    "long text": "long " * 500,
    "long list": list(range(1000)),
    "nested": {"a": {"b": [{"c": (1, 2, [3])}]}},
    "deep": [[[[[[[[[[["deep"]]]]]]]]]]],
    "tuple": (1, ("two", 3.0)),
    "named tuple": Point(1, 2),
    "integer keys": {1: "one", 2: "two"},
    "odd keys": {None: 0, True: 1, 1.5: 2, "text": 3},
    "word keys": {Word("key"): 1},
    "enum keys": {Level.HIGH: 1},
    "tuple keys": {(1, 2): 3},
    "colour": Colour.RED,
    "level": Level.HIGH,
    "word": Word("word"),
    "words": Words("words"),
    "number": Number(7),
    "real": Real(1.5),
    "numbers": Numbers([1, 2]),
    "ordered": OrderedDict([("z", 1), ("a", 2)]),
    "proxy": MappingProxyType({"a": 1}),
    "datetime": _WHEN,
    "datetime without zone": datetime(2040, 3, 1),
    "datetime elsewhere": _WHEN.astimezone(_EAST),
    "date": date(2040, 3, 1),
    "time": time(12, 30),
    "interval": timedelta(seconds=5),
    "uuid": uuid.UUID("6d9a3ff6-7c0d-4f7c-9d3b-1f1d9f1c8d11"),
    "uuid 1": uuid.UUID("6d9a3ff6-7c0d-1f7c-9d3b-1f1d9f1c8d11"),
    "decimal": Decimal("12.50"),
    "bytes": b"text",
    "binary": b"\x00\xff",
    "bytearray": bytearray(b"text"),
    "set": {1},
    "frozenset": frozenset("a"),
    "range": range(3),
    "fraction": Fraction(1, 3),
    "complex": 1j,
    "dataclass": Record(1, "two"),
    "lazy": lazy(lambda: 5),
    "exception": ValueError("wrong"),
    "object": Exception,
    "registered": Registered(5),
    "registered in a list": [Registered("five"), {"key": Registered([Registered(1)])}],
    "registered word": RegisteredWord("word"),
    "registered time": RegisteredTime(2040, 3, 1),
    "says": Says({"five": 5}),
    "says an other": Says(Registered(6)),
    "saying dict": SayingDict(a=1),
    "queue": kombu.Queue("a queue"),
    "marked like a type": {"__type__": "registered", "__value__": 5},
}

KINDS: dict[str, Callable[[Any], Any]] = {}


def _kind(name: str) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    def add(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        KINDS[name] = call
        return call

    return add


def _options(name: str, task: Any = callee, args: Any = (1, "two"), **options: Any) -> None:
    KINDS[name] = lambda _: task.apply_async(args, **options)


for _name, _value in ARGUMENTS.items():
    KINDS[f"argument {_name}"] = lambda _, value=_value: callee.delay(value, it=value)

_options("nothing", args=None)
_options("list of arguments", args=[1, 2])
_options("keywords", args=(), kwargs={"a": 1, "b": [2]})
_options("odd keywords", args=(), kwargs={"a b": 1, "ü": 2, "self": 3})
_options("arguments that are no list", args="text")
_options("arguments that are a generator", args=iter((1, 2)))
_options("arguments that are a set", args={1})
_options("keywords that are no mapping", kwargs=[("a", 1)])
_options("keywords that are ordered", kwargs=OrderedDict(a=1))
_options("expires number", expires=3600)
_options("expires float", expires=3600.5)
_options("expires datetime", expires=_SOON)
_options("expires datetime without zone", expires=_SOON.replace(tzinfo=None))
_options("expires datetime elsewhere", expires=_SOON.astimezone(_EAST))
_options("expires text", expires=_SOON.isoformat())
_options("expires past", expires=datetime(2020, 1, 1, tzinfo=timezone.utc))
_options("expires 0", expires=0)
_options("expires negative", expires=-5)
_options("countdown", countdown=30)
_options("countdown 0", countdown=0)
_options("countdown float", countdown=30.25)
_options("eta", eta=_WHEN)
_options("eta without zone", eta=_WHEN.replace(tzinfo=None))
_options("eta elsewhere", eta=_WHEN.astimezone(_EAST))
_options("eta and expires", eta=_SOON, expires=_SOON + timedelta(hours=1))
_options("countdown and expires", countdown=10, expires=60)
_options("time limits", time_limit=10, soft_time_limit=5)
_options("only a soft limit", soft_time_limit=5.5)
_options("task id", task_id="an id of somebody's")
_options("task id with quotes", task_id="it's")
_options("root and parent", root_id="root", parent_id="parent")
_options("group id", group_id="a group", group_index=2)
_options("shadow", shadow="another name")
_options("headers", headers={"tenant": "t1", "level": 5})
_options("headers with types", headers={"when": _WHEN, "of": Registered(1)})
_options("headers that replace", headers={"lang": "xx", "id": "xx", "ignore_result": 5})
_options("reply to", reply_to="somebody")
_options("correlation id", correlation_id="c")
for _priority in (0, 3, 5, 9, None):
    _options(f"priority {_priority}", priority=_priority)
for _serializer in ("json", "pickle", "yaml", "unknown"):
    _options(f"serializer {_serializer}", serializer=_serializer)
for _compression in ("zlib", "gzip", "bzip2", "unknown"):
    _options(f"compression {_compression}", compression=_compression)
for _mode in (1, 2, "transient", "persistent", None):
    _options(f"delivery mode {_mode!r}", delivery_mode=_mode)
_options("queue", queue="wire.other")
_options("queue object", queue=kombu.Queue("wire.object", kombu.Exchange("wire.object")))
_options("queue without exchange", queue=kombu.Queue("wire.plain"))
_options("queue unknown object", queue=kombu.Queue("wire.x", routing_key="wire.key"))
_options("exchange", exchange="", routing_key="wire")
_options("routing key", routing_key="wire")
_options("exchange and queue", queue="wire.other", exchange="", routing_key="wire.other")
_options("no retry", retry=False)
_options("retry policy", retry_policy={"max_retries": 1})
_options("ignored result", storing, ignore_result=True)
_options("kept result", ignore_result=False)
_options("link", link=storing.si(5))
_options("links", link=[storing.s(), callee.s(1)], link_error=callee.s())
_options("chain option", chain=[storing.s(1), storing.s(2)])
_options("stamps", stamped_headers=["stamp"], stamp="blue")
_options("argsrepr", argsrepr="(hidden)", kwargsrepr="{hidden}")
_options("unknown option", a_header_of_mine=5)
_options("unknown option that is a time", deadline=_WHEN)
_options("timeout", timeout=5)
_options("expiration", expiration=60)
_options("user id", user_id="guest")
_options("message id", message_id="m", type="a type", app_id="an app", cluster_id="")
_options("content", content_type="application/json", content_encoding="utf-8")
_options("mandatory", mandatory=False, immediate=False)
_options("declare", declare=[])
_options("add to parent", add_to_parent=False)
_options("routed", routed)
_options("routed elsewhere", routed, queue="wire.other")
_options("routed with headers", routed_with_headers, headers={"own": 1})
_options("of the task", with_options)
_options("against the task", with_options, priority=1, serializer="json", expires=10)
_options("with limits", with_limits)
_options("of a class", of_a_class)
_options("checked", checked, (1,))
_options("checked and wrong", checked, (1, 2, 3))
_options("stored", storing)
KINDS["send_task"] = lambda _: app.send_task("somewhere.else", (1,), {"a": 2})
KINDS["send_task by place"] = lambda _: app.send_task("x", (1,), {}, 30, None, "an id")
KINDS["send_task with a datetime"] = lambda _: app.send_task("x", (_WHEN,), expires=_SOON)
KINDS["send_task of a known task"] = lambda _: app.send_task("callee", (Registered(1),))
KINDS["signature"] = lambda _: app.signature("somewhere.else", (1,), priority=5).delay(2)
KINDS["signature with options"] = lambda _: callee.s(1).set(queue="wire.other", expires=60)()
KINDS["signature with a time"] = lambda _: callee.s(1).set(expires=_SOON).apply_async()
KINDS["signature immutable"] = lambda _: callee.si(1).apply_async((2,))
KINDS["signature of a dict"] = lambda _: app.signature(dict(callee.s(1))).delay()
KINDS["argument signature"] = lambda _: callee.delay(storing.s(1))
KINDS["argument result"] = lambda _: callee.delay(app.AsyncResult("an id"))
KINDS["chain"] = lambda _: chain(storing.s(1), storing.s(2), storing.s(3))()
KINDS["chain with times"] = lambda _: chain(storing.s(_WHEN), callee.s(Registered(2)))()
KINDS["chain with options"] = lambda _: (storing.s(1) | callee.s()).apply_async(expires=_SOON)
KINDS["group"] = lambda _: group(storing.s(n) for n in range(3))()
KINDS["group with options"] = lambda _: group(storing.s(1), callee.s(2)).apply_async(priority=3)
KINDS["chord"] = lambda _: chord([storing.s(1), storing.s(2)], storing.s())()
KINDS["chord of a chain"] = lambda _: chord([storing.s(1) | storing.s()], storing.s())()
KINDS["chord without tasks"] = lambda _: chord([], storing.s(5))()
KINDS["group in a chain"] = lambda _: chain(storing.s(1), group(storing.s(), callee.s()))()
KINDS["map"] = lambda _: storing.map([1, 2]).apply_async()
KINDS["starmap"] = lambda _: xmap(storing.s(), [1, 2], app=app).apply_async()
KINDS["chunks"] = lambda _: chunks(storing.s(), zip(range(4), range(4)), 2, app=app).apply_async()
KINDS["error callbacks"] = lambda _: storing.s(1).on_error(callee.s(2)).delay()
KINDS["retry"] = lambda task: task.retry((1,), throw=False, countdown=30, queue="wire")
KINDS["retry at once"] = lambda task: task.retry((1,), throw=False, countdown=0, queue="wire")
KINDS["retry with options"] = lambda task: task.retry(
    (Registered(1),), throw=False, expires=_SOON, queue="wire"
)


@_kind("replacement")
def _replace(task: Any) -> Any:
    return task.replace(callee.s(1))


@_kind("producer")
def _with_a_producer(_: Any) -> Any:
    with app.producer_pool.acquire(block=True) as producer:
        return callee.apply_async((1,), producer=producer)


@_kind("connection")
def _with_a_connection(_: Any) -> Any:
    with app.connection_for_write() as connection:
        return callee.apply_async((1,), connection=connection)


def _publish(name: str, body: Any, **options: Any) -> None:
    @_kind(f"published {name}")
    def publish(_: Any) -> Any:
        with app.producer_pool.acquire(block=True) as producer:
            producer.publish(body, **{"routing_key": "wire", **options})


_publish("a dict", {"a": 1})
_publish("types", {"when": _WHEN, "it": Registered(1)})
_publish("text", "text")
_publish("bytes", b"bytes")
_publish("raw JSON", '{"a": 1}', content_type="application/json", content_encoding="utf-8")
_publish("raw JSON as bytes", b'{"a": 1}', content_type="application/json")
_publish("raw JSON as binary", b"{}", content_type="application/json", content_encoding="binary")
_publish("a raw body", "text", serializer="raw")
_publish("pickled", {"a": 1}, serializer="pickle")
_publish("compressed", {"a": 1}, compression="zlib")
_publish("headers", {}, headers={"a": 1, "when": _WHEN})
_publish("properties", {}, correlation_id="c", reply_to="r", expiration=30, priority=4)
_publish("to a queue", {}, routing_key="wire.p", declare=[kombu.Queue("wire.p")], retry=True)
_publish(
    "to an exchange",
    {},
    exchange=kombu.Exchange("wire.e", "topic"),
    routing_key="a.b",
    declare=[kombu.Queue("wire.t", kombu.Exchange("wire.e", "topic"), routing_key="a.#")],
)


@app.task(name="call", bind=True, acks_late=False, max_retries=None, queue="calls")
def call(self: Any, kind: str) -> str:
    """Make one kind of call; tell what came of it, as far as the message does not."""
    try:
        outcome = KINDS[kind](self)
    except Exception as exc:
        text = "" if isinstance(exc, RecursionError) else str(exc)
        return f"{type(exc).__name__}: {text}"
    return f"{type(outcome).__name__}"
