"""Results that are stored in groups are those that Celery stores one by one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, Callable

import pytest
import redis
from celery import Celery
from celery.app.task import Context
from celery.backends.redis import RedisBackend as CelerysBackend
from celery.utils.objects import Bunch

from hybrid.backends.redis.backend import LARGE, RedisBackend
from hybrid.backends.redis.store import BYTES, Result, Store
from hybrid.clients.redis import MultiplexedRedis
from hybrid.hubs.base import Hub

InGreenlets = Callable[..., list[Any]]


@pytest.fixture
def app() -> Celery:
    return Celery("results", set_as_current=False, result_backend=os.environ["REDIS_URL"])


@pytest.fixture
def backend(app: Celery, hub: Hub, plain: redis.Redis) -> Iterator[RedisBackend]:
    backend = RedisBackend(app=app, url=os.environ["REDIS_URL"])
    yield backend
    assert backend.declined is None


def stored(plain: redis.Redis, task_id: str) -> Any:
    meta = json.loads(plain.get(f"celery-task-meta-{task_id}"))
    date = meta.pop("date_done")
    assert date is None or date.endswith("+00:00")
    return meta, plain.ttl(f"celery-task-meta-{task_id}") // 60


REQUESTS = {
    "plain": Context({"id": "1", "task": "t"}),
    "in a group": Context({"id": "1", "group": "g", "parent_id": "p", "args": (1,), "kwargs": {}}),
    "of an unknown task": Bunch(name="t", chord=None, root_id="r", errbacks=[]),
    "none": None,
}


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize(
    ("result", "state"),
    [
        ({"rows": [1, 2.5, None, "é"]}, "SUCCESS"),
        (ValueError("no"), "FAILURE"),
        ({"pid": 1}, "STARTED"),
        (b"bytes", "SUCCESS"),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"result_extended": True}, {"result_expires": None}])
def test_what_is_stored_is_celerys(
    app: Celery,
    backend: RedisBackend,
    plain: redis.Redis,
    settings: dict[str, Any],
    result: Any,
    state: str,
    request_name: str,
) -> None:
    app.conf.update(settings)
    request = REQUESTS[request_name]
    ours = RedisBackend(app=app, url=os.environ["REDIS_URL"])
    celerys = CelerysBackend(app=app, url=os.environ["REDIS_URL"])
    ours.store_result("ours", result, state, request=request)
    celerys.store_result("celerys", result, state, request=request)
    meta, ttl = stored(plain, "ours")
    assert ({**meta, "task_id": "celerys"}, ttl) == stored(plain, "celerys")


def test_a_success_is_final(backend: RedisBackend, plain: redis.Redis) -> None:
    backend.store_result("id", {"pid": 1}, "STARTED")
    backend.store_result("id", 2, "SUCCESS")
    backend.store_result("id", {"pid": 1}, "STARTED")
    backend.store_result("id", 4, "SUCCESS")
    assert stored(plain, "id")[0]["result"] == 2


def test_whoever_waits_is_told(backend: RedisBackend, plain: redis.Redis) -> None:
    listener = plain.pubsub()
    listener.subscribe("celery-task-meta-id")
    assert listener.get_message(timeout=5)["type"] == "subscribe"
    backend.store_result("id", 1, "SUCCESS")
    assert json.loads(listener.get_message(timeout=5)["data"])["result"] == 1
    listener.close()


def test_a_thousand_results_are_a_few_groups(
    backend: RedisBackend, plain: redis.Redis, in_greenlets: InGreenlets
) -> None:
    plain.config_resetstat()
    in_greenlets(lambda number: backend.store_result(str(number), number, "SUCCESS"), 1000)
    assert len(plain.keys("celery-task-meta-*")) == 1000
    assert plain.info("commandstats")["cmdstat_evalsha"]["calls"] <= 10


def test_a_server_that_has_forgotten_the_script_is_given_it_again(
    backend: RedisBackend, plain: redis.Redis, in_greenlets: InGreenlets
) -> None:
    for _ in range(2):
        plain.flushall()
        plain.script_flush()
        in_greenlets(lambda number: backend.store_result(str(number), number, "SUCCESS"), 20)
        assert len(plain.keys("celery-task-meta-*")) == 20


def test_large_results_are_stored(
    backend: RedisBackend, plain: redis.Redis, in_greenlets: InGreenlets
) -> None:
    sizes = [LARGE // 2, LARGE - 1000, LARGE, 3 * LARGE] * 8
    in_greenlets(lambda n: backend.store_result(str(n), "x" * sizes[n], "SUCCESS"), len(sizes))
    for number, size in enumerate(sizes):
        assert len(stored(plain, str(number))[0]["result"]) == size


def test_an_unreadable_result_is_celerys_affair(
    client: MultiplexedRedis, plain: redis.Redis, in_greenlets: InGreenlets
) -> None:
    plain.set("text", "no json")
    plain.set("list", "[1]")
    plain.lpush("wrong type", 1)
    store = Store(client)
    keys = ["new", "text", "list", "wrong type", "other"]
    done = in_greenlets(lambda number: store.put(Result(keys[number], "{}", 10)), len(keys))
    assert done == [True, False, False, False, True]
    assert plain.get("new") == plain.get("other") == b"{}"
    assert plain.get("text") == b"no json"


def test_a_step_is_bounded_in_bytes(
    client: MultiplexedRedis, plain: redis.Redis, in_greenlets: InGreenlets
) -> None:
    value = "x" * (BYTES // 4)
    store = Store(client)
    assert all(in_greenlets(lambda number: store.put(Result(str(number), value, 0)), 30))
    assert plain.info("commandstats")["cmdstat_evalsha"]["calls"] >= 6
    assert plain.ttl("3") == -1


def test_where_scripts_are_refused_celery_stores(
    app: Celery, plain: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    plain.acl_setuser(
        "noscripts",
        enabled=True,
        nopass=True,
        keys="*",
        channels="*",
        commands=["+@all", "-eval", "-evalsha", "-script"],
    )
    url = os.environ["REDIS_URL"].replace("redis://", "redis://noscripts:any@")
    backend = RedisBackend(app=app, url=url)
    for number in range(3):
        backend.store_result(str(number), number, "SUCCESS")
        assert stored(plain, str(number))[0]["result"] == number
    assert backend.declined is not None
    assert caplog.text.count("Storing results one by one") == 1
    assert "any" not in caplog.text


def test_what_fails_for_one_result_costs_no_other_anything(
    client: MultiplexedRedis, plain: redis.Redis, in_greenlets: InGreenlets
) -> None:
    store = Store(client)
    outcomes = in_greenlets(
        lambda number: store.put(Result(f"key{number}", "{}", -1 if number == 1 else 60)), 3
    )
    assert outcomes[0] is outcomes[2] is True
    assert isinstance(outcomes[1], redis.ResponseError)
    assert plain.mget("key0", "key1", "key2") == [b"{}", None, b"{}"]
