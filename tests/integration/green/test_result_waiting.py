"""Greenlets wait for results on one connection, each for its own."""

from __future__ import annotations

from typing import Any, Callable

import pytest
import redis
from celery import Celery, uuid
from celery.exceptions import TimeoutError
from celery.result import GroupResult
from harness.greenlets import until

from hybrid.backends.redis import RedisBackend
from hybrid.hubs.base import Hub

InGreenlets = Callable[..., list[Any]]


@pytest.fixture
def ids() -> list[str]:
    return [uuid() for _ in range(200)]


def listeners(plain: redis.Redis, ids: list[str]) -> list[int]:
    channels = [f"celery-task-meta-{task_id}" for task_id in ids]
    return [count for _, count in plain.pubsub_numsub(*channels)]


def lose_connection(plain: redis.Redis) -> None:
    plain.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


def test_who_calls_a_task_does_not_listen(
    backend: RedisBackend, plain: redis.Redis, ids: list[str]
) -> None:
    for task_id in ids:
        backend.on_task_call(None, task_id)
    assert set(listeners(plain, ids)) == {0}


def test_many_begin_to_wait_at_once(
    app: Celery,
    backend: RedisBackend,
    plain: redis.Redis,
    in_greenlets: InGreenlets,
    hub: Hub,
    ids: list[str],
) -> None:
    first, later = ids[:50], ids[50:]
    for task_id in first:
        backend.store_result(task_id, task_id, "SUCCESS")

    def run(number: int) -> Any:
        if number < len(ids):
            return app.AsyncResult(ids[number]).get(timeout=20)
        until(hub, lambda: listeners(plain, later) == [1] * len(later))
        for task_id in later:
            backend.store_result(task_id, task_id, "SUCCESS")
        return "stored"

    before = plain.info("stats")["total_connections_received"]
    assert in_greenlets(run, len(ids) + 1) == [*ids, "stored"]
    assert plain.info("stats")["total_connections_received"] - before <= 2
    until(hub, lambda: set(listeners(plain, ids)) == {0})


def test_the_server_listens_before_one_looks(
    app: Celery,
    backend: RedisBackend,
    plain: redis.Redis,
    in_greenlets: InGreenlets,
    ids: list[str],
) -> None:
    looks: list[int] = []
    get = backend.get

    def get_and_record(key: bytes) -> Any:
        looks.extend(listeners(plain, [key.decode().removeprefix("celery-task-meta-")]))
        return get(key)

    backend.get = get_and_record

    def run(number: int) -> Any:
        return app.AsyncResult(ids[number]).get(timeout=0.5)

    in_greenlets(run, 20)
    assert looks[:20] == [1] * 20


def test_whoever_waits_again_at_once_is_told(
    app: Celery, backend: RedisBackend, plain: redis.Redis, in_greenlets: InGreenlets, hub: Hub
) -> None:
    consumer = backend.result_consumer
    consumer.consume_from("id")
    until(hub, lambda: listeners(plain, ["id"]) == [1])
    for _ in range(3):
        consumer.cancel_for("id")
        consumer.consume_from("id")
    hub.sleep(0.05)
    assert listeners(plain, ["id"]) == [1]
    consumer.cancel_for("id")
    until(hub, lambda: listeners(plain, ["id"]) == [0])


def test_who_is_killed_while_it_begins_to_wait_harms_nobody(
    app: Celery,
    backend: RedisBackend,
    plain: redis.Redis,
    in_greenlets: InGreenlets,
    hub: Hub,
    ids: list[str],
) -> None:
    killed = [hub.spawn(lambda: app.AsyncResult("killed").get(timeout=20)) for _ in range(3)]

    def run(number: int) -> Any:
        if number < 20:
            return app.AsyncResult(ids[number]).get(timeout=20)
        for victim in killed:
            hub.call_soon(victim.throw, KeyError)
        until(hub, lambda: sum(listeners(plain, ids)) == 20)
        for task_id in ids[:20]:
            backend.store_result(task_id, task_id, "SUCCESS")
        return "stored"

    assert in_greenlets(run, 21) == [*ids[:20], "stored"]


def test_a_failure_is_raised(
    app: Celery, backend: RedisBackend, plain: redis.Redis, in_greenlets: InGreenlets, hub: Hub
) -> None:
    def run(number: int) -> Any:
        if number == 1:
            until(hub, lambda: listeners(plain, ["id"]) == [1])
            return backend.store_result("id", ValueError("no"), "FAILURE")
        return app.AsyncResult("id").get(timeout=10)

    raised, _ = in_greenlets(run, 2)
    assert isinstance(raised, ValueError)


def test_a_group_comes_as_it_is_done(
    app: Celery,
    backend: RedisBackend,
    plain: redis.Redis,
    in_greenlets: InGreenlets,
    hub: Hub,
    ids: list[str],
) -> None:
    group = GroupResult("g", [app.AsyncResult(i) for i in ids[:3]], app=app)
    told: list[str] = []

    def run(number: int) -> Any:
        if number == 1:
            until(hub, lambda: listeners(plain, ids[:3]) == [1] * 3)
            for task_id in reversed(ids[:3]):
                until(hub, lambda: not told or told[-1].startswith("got"))
                told.append(f"stored {ids.index(task_id)}")
                backend.store_result(task_id, ids.index(task_id), "SUCCESS")
            return None
        for task_id, meta in group.iter_native(timeout=10):
            assert meta["result"] == ids.index(task_id)
            told.append(f"got {meta['result']}")
        return group.get(timeout=1)

    assert in_greenlets(run, 2) == [[0, 1, 2], None]
    assert told == ["stored 2", "got 2", "stored 1", "got 1", "stored 0", "got 0"]


def test_a_lost_connection_loses_no_result(
    app: Celery,
    backend: RedisBackend,
    plain: redis.Redis,
    in_greenlets: InGreenlets,
    hub: Hub,
    ids: list[str],
) -> None:
    def run(number: int) -> Any:
        if number < len(ids):
            return app.AsyncResult(ids[number]).get(timeout=20)
        left = ids
        while left:
            until(hub, lambda: sum(listeners(plain, ids)) == len(left))  # noqa: B023
            lose_connection(plain)
            done, left = left[:20], left[20:]
            for task_id in done:
                backend.store_result(task_id, task_id, "SUCCESS")
        return "stored"

    assert in_greenlets(run, len(ids) + 1) == [*ids, "stored"]


def test_time_is_up(app: Celery, backend: RedisBackend, in_greenlets: InGreenlets) -> None:
    calls: list[int] = []

    def run(number: int) -> Any:
        result = app.AsyncResult(f"never {number}")
        return result.get(timeout=1.5 * number, on_interval=lambda: calls.append(number))

    outcomes = in_greenlets(run, 2)
    assert [type(outcome) for outcome in outcomes] == [TimeoutError, TimeoutError]
    assert set(calls) == {1}
    assert backend.result_consumer._waiters == []


def test_messages_are_told_to_those_who_wait(
    app: Celery, backend: RedisBackend, plain: redis.Redis, in_greenlets: InGreenlets, hub: Hub
) -> None:
    told: list[tuple[str, Any]] = []

    def run(number: int) -> Any:
        if number == 2:
            until(hub, lambda: listeners(plain, ["0", "1"]) == [1, 1])
            backend.store_result("0", {"step": 1}, "PROGRESS")
            backend.store_result("0", 0, "SUCCESS")
            until(hub, lambda: len(told) == 2)
            backend.store_result("1", 1, "SUCCESS")
            return None
        result = app.AsyncResult(str(number))
        told_here = None if number else lambda meta: told.append((meta["task_id"], meta["status"]))
        return result.get(timeout=10, on_message=told_here)

    assert in_greenlets(run, 3) == [0, 1, None]
    assert told == [("0", "PROGRESS"), ("0", "SUCCESS")]


def test_what_is_stored_while_one_begins_to_listen_is_told_once(
    app: Celery,
    backend: RedisBackend,
    in_greenlets: InGreenlets,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look = backend.client.mget

    def store_and_look(keys: list[str]) -> Any:
        backend.store_result("0", {"step": 1}, "PROGRESS")
        return look(keys)

    monkeypatch.setattr(backend.client, "mget", store_and_look)
    told: list[str] = []

    def run(number: int) -> Any:
        if number:
            until(hub, lambda: told)
            return backend.store_result("0", 0, "SUCCESS")
        result = app.AsyncResult("0")
        return result.get(timeout=10, on_message=lambda meta: told.append(meta["status"]))

    assert in_greenlets(run, 2)[0] == 0
    assert told == ["PROGRESS", "SUCCESS"]


def test_nonsense_costs_nobody_a_result(
    app: Celery,
    backend: RedisBackend,
    plain: redis.Redis,
    in_greenlets: InGreenlets,
    hub: Hub,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def run(number: int) -> Any:
        if number == 1:
            until(hub, lambda: listeners(plain, ["id"]) == [1])
            for nonsense in (b"\xff", "{", "[]", "{}"):
                plain.publish("celery-task-meta-id", nonsense)
            return backend.store_result("id", 1, "SUCCESS")
        return app.AsyncResult("id").get(timeout=10)

    assert in_greenlets(run, 2) == [1, 1]
    assert caplog.text.count("Cannot read the result in celery-task-meta-id") == 4


def test_another_thread_gets_results_too(
    app: Celery, backend: RedisBackend, hub: Hub, pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("--hub") == "gevent":
        from gevent import get_hub

        result = get_hub().threadpool.spawn(lambda: app.AsyncResult("id").get(timeout=10))
        hub.sleep(0.2)
        backend.store_result("id", 1, "SUCCESS")
        assert result.get(timeout=10) == 1
    else:
        from eventlet import spawn, tpool

        result = spawn(tpool.execute, lambda: app.AsyncResult("id").get(timeout=10))
        hub.sleep(0.2)
        backend.store_result("id", 1, "SUCCESS")
        assert result.wait() == 1


def test_without_a_server_the_error_is_raised(
    app: Celery, make_backend: Callable[[str], RedisBackend], in_greenlets: InGreenlets
) -> None:
    app.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 1}}
    backend = make_backend("redis://127.0.0.1:1/0")
    outcomes = in_greenlets(lambda number: app.AsyncResult(str(number)).get(timeout=10), 3)
    assert all(isinstance(outcome, backend.connection_errors) for outcome in outcomes)
