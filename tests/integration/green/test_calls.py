"""Calls of tasks put the same messages into the same lists as Celery's own code does."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any, Callable

import kombu
import pytest
import redis
from celery import Celery, signals
from celery.app.base import Celery as CeleryApp
from kombu import pools
from kombu.transport import TRANSPORT_ALIASES

from hybrid.patches import registry
from hybrid.worker.publishing import publish
from hybrid.worker.publishing.call import Caller
from hybrid.worker.publishing.message import Sender

InGreenlets = Callable[..., list[Any]]


def make_app(name: str) -> Celery:
    app = Celery(name, set_as_current=False, broker=os.environ["REDIS_URL"])
    app.conf.result_backend = os.environ["REDIS_URL"]
    app.conf.task_queues = [
        kombu.Queue("celery"),
        kombu.Queue("other"),
        kombu.Queue("topic", kombu.Exchange("topics", type="topic"), routing_key="a.#"),
    ]
    app.conf.task_routes = {"tests.routed": {"queue": "other", "priority": 6}}

    @app.task(name="tests.add", shared=False)
    def add(*args: Any, **kwargs: Any) -> None:
        pass

    @app.task(name="tests.routed", shared=False, time_limit=30, ignore_result=True)
    def routed() -> None:
        pass

    return app


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch, hub: Any) -> Iterator[Celery]:
    monkeypatch.setitem(TRANSPORT_ALIASES, "redis", "hybrid.transports.redis:Transport")
    app = make_app("ours")
    assert publish.gather(app, hub) is None
    assert isinstance(app.send_task, Caller)
    assert isinstance(app.amqp.send_task_message, Sender)
    yield app
    app.close()


@pytest.fixture
def celerys(monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    app = make_app("celerys")
    yield app
    app.close()


CALLS: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "plain": ("tests.add", (), {}),
    "arguments": ("tests.add", ((1, "it's", None, 2.5), {"key": [1, {"a": "é"}]}), {}),
    "a long argument": ("tests.add", (("x" * 5000,),), {}),
    "bytes": ("tests.add", ((b"\xff",),), {}),
    "a priority": ("tests.add", (), {"priority": 9}),
    "a queue": ("tests.add", (), {"queue": "other"}),
    "a topic": ("tests.add", (), {"queue": "topic", "routing_key": "a.b"}),
    "a route": ("tests.routed", (), {}),
    "headers": ("tests.add", (), {"headers": {"traceparent": "00-1"}}),
    "limits": ("tests.add", (), {"time_limit": 5, "soft_time_limit": 4}),
    "a delay": ("tests.add", (), {"eta": "2040-01-01T00:00:00+00:00"}),
    "expiry": ("tests.add", (), {"expires": "2040-01-01T00:00:00+00:00"}),
    "another serializer": ("tests.add", (), {"serializer": "yaml"}),
    "compression": ("tests.add", (), {"compression": "zlib"}),
    "transient": ("tests.add", (), {"delivery_mode": 1}),
    "no result": ("tests.add", (), {"ignore_result": True}),
    "a shadow": ("tests.add", (), {"shadow": "alias"}),
    "a group": ("tests.add", (), {"group_id": "g", "group_index": 2}),
    "no trying again": ("tests.add", (), {"retry": False}),
    "a property": ("tests.add", (), {"user_id": "me"}),
    "an id": ("tests.add", (), {"task_id": "mine"}),
}


def taken(plain: redis.Redis) -> Any:
    lists = [key for key in plain.scan_iter() if plain.type(key) == b"list"]
    assert len(lists) == 1
    [text] = plain.lrange(lists[0], 0, -1)
    message = json.loads(text)
    properties = message["properties"]
    assert re.fullmatch(r"[0-9a-f-]{36}", properties.pop("delivery_tag"))
    assert properties.pop("expiration", "0").isdigit()  # counts from now
    task_id = message["headers"]["id"]
    assert task_id == "mine" or re.fullmatch(r"[0-9a-f-]{36}", task_id)
    text = json.dumps(message).replace(task_id, "ID")
    reply_to = properties["reply_to"]
    return lists[0], text.replace(reply_to, "REPLY") if reply_to else text


@pytest.mark.parametrize("call", CALLS)
def test_messages_are_celerys(call: str, ours: Celery, celerys: Celery, plain: redis.Redis) -> None:
    name, args, options = CALLS[call]
    found = []
    for app in (ours, celerys):
        app.tasks["tests.add"].apply_async()  # declares the queue
        plain.flushdb()
        result = app.tasks[name].apply_async(*args, **options)
        assert (result.id == "mine") == ("task_id" in options)
        assert result.ignored == options.get("ignore_result", app.tasks[name].ignore_result)
        found.append(taken(plain))
    assert found[0] == found[1]


def test_text_is_celerys_to_the_byte(ours: Celery, plain: redis.Redis) -> None:
    ours.tasks["tests.add"].apply_async(((1, "é"),))
    ours.tasks["tests.add"].apply_async(((1, "é"),))
    for text in plain.lrange("celery", 0, -1):
        assert json.dumps(json.loads(text)).encode() == text


def test_many_greenlets_publish_on_one_connection(
    ours: Celery, plain: redis.Redis, in_greenlets: InGreenlets
) -> None:
    ours.tasks["tests.add"].apply_async(ignore_result=True)
    before = plain.info("stats")["total_connections_received"]
    results = in_greenlets(
        lambda number: ours.tasks["tests.add"].apply_async((number,), ignore_result=True), 500
    )
    assert len({result.id for result in results}) == 500
    assert plain.llen("celery") == 501
    assert plain.info("stats")["total_connections_received"] == before


def test_signals_are_sent(ours: Celery, plain: redis.Redis) -> None:
    ours.tasks["tests.add"].apply_async()
    seen = []

    def note(**fields: Any) -> None:
        seen.append((fields["sender"], fields["routing_key"], fields["headers"]["task"]))

    signals.before_task_publish.connect(note)
    signals.after_task_publish.connect(note)
    try:
        ours.tasks["tests.add"].apply_async()
    finally:
        signals.before_task_publish.disconnect(note)
        signals.after_task_publish.disconnect(note)
    assert seen == [("tests.add", "celery", "tests.add")] * 2


def test_libraries_that_wrap_are_called(
    ours: Celery, plain: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    publish_message, send_task = kombu.Producer.publish, CeleryApp.send_task

    def traced_publish(*args: Any, **kwargs: Any) -> Any:
        called.append("publish")
        return publish_message(*args, **kwargs)

    def traced_send_task(*args: Any, **kwargs: Any) -> Any:
        called.append("send_task")
        return send_task(*args, **kwargs)

    ours.tasks["tests.add"].apply_async()
    monkeypatch.setattr(kombu.Producer, "publish", traced_publish)
    monkeypatch.setattr(CeleryApp, "send_task", traced_send_task)
    ours.tasks["tests.add"].apply_async()
    assert called == ["send_task", "publish"]
    assert plain.llen("celery") == 2


def test_what_is_replaced_of_an_app_can_be_undone(
    monkeypatch: pytest.MonkeyPatch, hub: Any, plain: redis.Redis
) -> None:
    monkeypatch.setitem(TRANSPORT_ALIASES, "redis", "hybrid.transports.redis:Transport")
    app = make_app("undone")
    before = app.pool, app.amqp.send_task_message, app.amqp.create_task_message
    assert publish.gather(app, hub) is None
    assert {"app.base.Celery().send_task", "app.amqp.AMQP().send_task_message"} <= {
        patch["what"].partition(".")[2] for patch in registry.statistics()
    }
    registry.undo()
    assert (app._pool, app.amqp.send_task_message, app.amqp.create_task_message) == before
    assert "send_task" not in vars(app)
    assert type(app.amqp.producer_pool) is pools.ProducerPool
    assert [patch["what"] for patch in registry.statistics()] == [
        {"gevent": "gevent.monkey.patch_all()", "eventlet": "eventlet.monkey_patch()"}[hub.name]
    ]
    app.tasks["tests.add"].apply_async()
    assert plain.llen("celery") == 1
    app.close()


def test_an_error_reaches_the_caller_and_the_next_call_works(
    ours: Celery, plain: redis.Redis, in_greenlets: InGreenlets
) -> None:
    add = ours.tasks["tests.add"]
    add.apply_async(ignore_result=True)
    plain.lpush("other", "x")
    plain.rename("other", "kept")
    plain.set("other", "not a list")
    outcomes = in_greenlets(
        lambda number: add.apply_async(
            queue="other" if number == 1 else "celery", retry=False, ignore_result=True
        ),
        3,
    )
    assert "WRONGTYPE" in str(outcomes[1])
    assert plain.llen("celery") == 3


def test_a_lost_connection_is_tried_again(ours: Celery, plain: redis.Redis) -> None:
    add = ours.tasks["tests.add"]
    add.apply_async(ignore_result=True)
    database = str(plain.connection_pool.connection_kwargs["db"])
    mine = plain.client_id()
    for entry in plain.client_list():
        if entry["db"] == database and int(entry["id"]) != mine:
            plain.client_kill_filter(_id=entry["id"])
    add.apply_async(ignore_result=True)
    assert plain.llen("celery") == 2


def test_a_call_that_fails_costs_nobody_else_a_producer(
    ours: Celery, plain: redis.Redis, in_greenlets: InGreenlets
) -> None:
    add = ours.tasks["tests.add"]
    plain.set("other", "not a list")
    queues = ("celery", "celery", "other")

    def call(number: int) -> None:
        with ours.producer_pool.acquire(block=True):
            add.apply_async(queue=queues[number % 3], retry=False, ignore_result=True)

    outcomes = in_greenlets(call, 300)
    assert sum(outcome is None for outcome in outcomes) == 200
    assert (ours.amqp.producer_pool.holders, ours.pool.holders) == (0, 0)
