"""What goes wrong for one who waits for a result, or for the connection that listens."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any, Callable

import pytest
import redis
from celery import Celery, uuid
from celery.exceptions import SoftTimeLimitExceeded, TimeoutError
from greenlet import GreenletExit
from harness.greenlets import until

from hybrid import JobKilled
from hybrid.backends.redis import RedisBackend, listen
from hybrid.hubs.base import Hub

InGreenlets = Callable[..., list[Any]]


@pytest.fixture
def ids() -> list[str]:
    return [uuid() for _ in range(20)]


@pytest.fixture
def mute_user(plain: redis.Redis) -> Iterator[str]:
    """A user who may do everything but listen, as new users of Redis 7 are."""
    name = f"mute-{uuid()}"  # whose connections no other test has
    plain.execute_command("ACL", "SETUSER", name, "on", ">secret", "~*", "resetchannels", "+@all")
    yield name
    plain.execute_command("ACL", "DELUSER", name)


def url_of(user: str) -> str:
    return os.environ["REDIS_URL"].replace("redis://", f"redis://{user}:secret@")


def is_listening(plain: redis.Redis, ids: list[str]) -> bool:
    channels = [f"celery-task-meta-{task_id}" for task_id in ids]
    return all(count for _, count in plain.pubsub_numsub(*channels))


def store_when_awaited(hub: Hub, plain: redis.Redis, backend: RedisBackend, ids: list[str]) -> str:
    until(hub, lambda: is_listening(plain, ids))
    for task_id in ids:
        backend.store_result(task_id, task_id, "SUCCESS")
    return "stored"


def test_a_callback_that_raises_ends_the_wait_of_whoever_brought_it(
    app: Celery,
    backend: RedisBackend,
    plain: redis.Redis,
    in_greenlets: InGreenlets,
    hub: Hub,
    ids: list[str],
) -> None:
    looked: list[bytes] = []
    get = backend.get

    def get_and_record(key: bytes) -> Any:
        looked.append(key)
        return get(key)

    backend.get = get_and_record

    def refuse(meta: Any) -> None:
        raise LookupError(meta["task_id"])

    def run(number: int) -> Any:
        if number == 20:
            # What is stored before somebody has looked is found, and not told.
            until(hub, lambda: len(looked) == 20)
            hub.sleep(0.05)
            return store_when_awaited(hub, plain, backend, ids)
        if number == 0:
            return app.AsyncResult(ids[0]).get(timeout=10, on_message=refuse)
        return app.AsyncResult(ids[number]).get(timeout=10)

    refused, *others = in_greenlets(run, 21)
    assert isinstance(refused, LookupError)
    assert others == [*ids[1:], "stored"]


def test_a_callback_that_waits_keeps_nobody_elses_result(
    app: Celery,
    backend: RedisBackend,
    plain: redis.Redis,
    in_greenlets: InGreenlets,
    hub: Hub,
    ids: list[str],
) -> None:
    others_are_done = [0]

    def run(number: int) -> Any:
        if number == 20:
            return store_when_awaited(hub, plain, backend, ids)
        if number == 0:
            return app.AsyncResult(ids[0]).get(
                timeout=20, on_message=lambda _: until(hub, lambda: others_are_done[0] == 19)
            )
        result = app.AsyncResult(ids[number]).get(timeout=10)
        others_are_done[0] += 1
        return result

    assert in_greenlets(run, 21) == [*ids, "stored"]


def test_a_promise_that_raises_keeps_nobodys_result(
    app: Celery,
    backend: RedisBackend,
    plain: redis.Redis,
    in_greenlets: InGreenlets,
    hub: Hub,
    ids: list[str],
) -> None:
    def refuse(result: Any) -> None:
        raise LookupError(result.id)

    def run(number: int) -> Any:
        if number == 20:
            return store_when_awaited(hub, plain, backend, ids)
        result = app.AsyncResult(ids[number])
        if number == 0:
            result.then(refuse)
        return result.get(timeout=10)

    assert in_greenlets(run, 21) == [*ids, "stored"]


@pytest.mark.parametrize("exc", [SoftTimeLimitExceeded, JobKilled, GreenletExit])
def test_one_that_is_ended_takes_nobodys_result_along(
    app: Celery,
    backend: RedisBackend,
    plain: redis.Redis,
    in_greenlets: InGreenlets,
    hub: Hub,
    ids: list[str],
    exc: type[BaseException],
) -> None:
    greenlets: dict[int, Any] = {}

    def run(number: int) -> Any:
        if number == 20:
            # In the turn in which they all begin to listen, and once more while they wait.
            hub.call_soon(hub.interrupt, greenlets[0], exc)
            until(hub, lambda: is_listening(plain, ids[1:]))
            hub.call_soon(hub.interrupt, greenlets[1], exc)
            return store_when_awaited(hub, plain, backend, ids[2:])
        greenlets[number] = hub.current()
        return app.AsyncResult(ids[number]).get(timeout=10)

    first, second, *others = in_greenlets(run, 21)
    assert isinstance(first, exc)
    assert isinstance(second, exc)
    assert others == [*ids[2:], "stored"]
    assert backend.result_consumer.statistics()["waiting"] == 0


@pytest.mark.parametrize("exc", [JobKilled, GreenletExit, KeyError])
def test_the_end_of_the_greenlet_that_listens_loses_no_result(
    app: Celery,
    backend: RedisBackend,
    plain: redis.Redis,
    in_greenlets: InGreenlets,
    hub: Hub,
    ids: list[str],
    exc: type[BaseException],
) -> None:
    def run(number: int) -> Any:
        if number == 20:
            until(hub, lambda: is_listening(plain, ids))
            hub.call_soon(hub.interrupt, backend.result_consumer._subscription._reader, exc)
            return store_when_awaited(hub, plain, backend, ids)
        return app.AsyncResult(ids[number]).get(timeout=10)

    assert in_greenlets(run, 21) == [*ids, "stored"]


def test_who_may_not_listen_looks_instead(
    app: Celery,
    make_backend: Any,
    mute_user: str,
    in_greenlets: InGreenlets,
    hub: Hub,
    ids: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listen, "INTERVAL", 0.05)
    backend = make_backend(url_of(mute_user))

    def run(number: int) -> Any:
        if number == 20:
            until(hub, lambda: backend.result_consumer.statistics()["waiting"] == 20)
            for task_id in ids[:19]:
                backend.store_result(task_id, task_id, "SUCCESS")
            return "stored"
        return app.AsyncResult(ids[number]).get(timeout=3)

    with caplog.at_level(logging.WARNING):
        *results, never, stored = in_greenlets(run, 21)
    assert results == ids[:19]
    assert isinstance(never, TimeoutError)
    assert stored == "stored"
    assert caplog.text.count("does not let this user listen") == 1
    assert 'ACL SETUSER … "&celery-task-meta-*"' in caplog.text


def test_who_may_listen_again_does_not_look(
    app: Celery,
    make_backend: Any,
    mute_user: str,
    plain: redis.Redis,
    in_greenlets: InGreenlets,
    hub: Hub,
    ids: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listen, "REFUSED_FOR", 0.2)
    backend = make_backend(url_of(mute_user))
    outcomes = in_greenlets(lambda _: app.AsyncResult(ids[0]).get(timeout=0.1), 1)
    assert isinstance(outcomes[0], TimeoutError)
    plain.execute_command("ACL", "SETUSER", mute_user, "allchannels")
    hub.sleep(0.2)

    def run(number: int) -> Any:
        if number == 1:
            return store_when_awaited(hub, plain, backend, ids[1:2])
        return app.AsyncResult(ids[1]).get(timeout=10)

    assert in_greenlets(run, 2) == [ids[1], "stored"]


def test_a_deadline_holds_while_the_server_confirms_nothing(
    app: Celery,
    backend: RedisBackend,
    plain: redis.Redis,
    in_greenlets: InGreenlets,
    hub: Hub,
    ids: list[str],
) -> None:
    in_greenlets(lambda _: app.AsyncResult(ids[0]).get(timeout=0.05), 1)  # it is connected
    plain.execute_command("CLIENT", "PAUSE", 2000, "ALL")
    outcomes = in_greenlets(lambda number: app.AsyncResult(ids[number]).get(timeout=0.1), 3)
    assert [type(outcome) for outcome in outcomes] == [TimeoutError] * 3


def test_the_keys_of_a_group_travel_together(
    app: Celery, backend: RedisBackend, plain: redis.Redis, in_greenlets: InGreenlets, hub: Hub
) -> None:
    from celery.result import GroupResult

    children = [uuid() for _ in range(300)]

    def run(number: int) -> Any:
        if number == 1:
            until(hub, lambda: is_listening(plain, children))
            for task_id in children:
                backend.store_result(task_id, task_id, "SUCCESS")
            return "stored"
        return GroupResult("g", [app.AsyncResult(i) for i in children], app=app).get(timeout=20)

    def count() -> int:
        return int(plain.info("commandstats").get("cmdstat_subscribe", {}).get("calls", 0))

    before = count()
    assert in_greenlets(run, 2) == [children, "stored"]
    assert count() - before <= 3
