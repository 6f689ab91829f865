"""What is put around the functions that publish sees every task that is published.

Tracing libraries wrap Celery's, kombu's and the clients' functions, with wrapt or otherwise, before
the worker starts or while it runs. So do users, who also bring classes of their own.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from harness.versions import celery_is
from harness.waiting import eventually
from harness.worker import StartWorker, Worker

pytestmark = pytest.mark.dedicated

#: Tasks that are published at a time.
COUNT = 5
WAYS = ("wrapt", "functools", "a function", "other code")
PUBLISHING = (
    "delay",
    "apply_async",
    "_get_exec_options",
    "send_task",
    "route",
    "producer_or_acquire",
    "publish",
    "_publish",
    "_prepare",
    "_delivery_details",
    "maybe_declare",
)
PLACES = {
    "redis": (
        *PUBLISHING,
        "prepare_message on redis",
        "encode_body on redis",
        "basic_publish on redis",
        "_put on redis",
        "lpush on redis",
        "execute_command on redis",
    ),
    "rabbitmq": (
        *PUBLISHING,
        "prepare_message on rabbitmq",
        "basic_publish on rabbitmq",
        "kombu's basic_publish on rabbitmq",
    ),
}
#: What Celery has looked up as it starts.
EARLY = ("as_task_v2",)


def _start(start_worker: StartWorker, *wrapped: str, **settings: Any) -> Worker:
    return start_worker(
        app="apps.traced",
        concurrency=4,
        # With it, Celery's own function sends each message.
        settings={"task_send_sent_event": False, "worker_send_task_events": False, **settings},
        env={"HYBRID_TEST_TRACED": ";".join(wrapped)},
    )


def _seen(worker: Worker, name: str, *args: Any) -> Any:
    return worker.client.signature(name, args).delay().get(timeout=15)


def _tells(worker: Worker, piece: str) -> bool:
    """Tell whether the worker says how it goes with a piece: it is ours, and on.

    Publishing is off without the transport.
    """
    disabled = os.environ.get("HYBRID_DISABLE", "").split(",")
    is_on = piece not in disabled and (piece != "publish" or "transport" not in disabled)
    return worker.pool.startswith("hybrid.") and is_on


def _publishing(worker: Worker) -> Any:
    return worker.pool_info().get("accelerated", {}).get("publish")


def test_wrappers_that_come_while_the_worker_runs(start_worker: StartWorker, broker: str) -> None:
    worker = _start(start_worker)
    if _tells(worker, "publish"):
        assert _publishing(worker) is True
    found = {
        (place, way): _seen(worker, "publish_watched", place, way, COUNT).get(place)
        for place in PLACES[broker]
        for way in WAYS
    }
    assert found == dict.fromkeys(found, COUNT)
    assert _seen(worker, "publish_with_a_watched_producer", COUNT) == {"one producer": COUNT}
    if _tells(worker, "publish"):
        info = worker.pool_info()
        assert info["accelerated"]["publish"] is True  # all of them have gone
        calls = {
            cause: n for cause, n in info["detours"]["publish"].items() if "send_task" in cause
        }
        assert calls == {
            "celery.app.base.Celery.send_task has been replaced by apps.traced": 3 * COUNT,
            "the code of celery.app.base.Celery.send_task has been changed": COUNT,
        }


@pytest.mark.parametrize("way", WAYS)
def test_wrappers_that_were_there_before_the_worker(
    start_worker: StartWorker, broker: str, way: str
) -> None:
    places = (*PLACES[broker], *EARLY)
    worker = _start(start_worker, *(f"{place}={way}" for place in places))
    assert _seen(worker, "publish_many", COUNT) == dict.fromkeys(places, COUNT)
    if _tells(worker, "publish"):
        says = _publishing(worker)
        assert "celery.app.base.Celery.send_task" in says
        assert "kombu.messaging.Producer.publish" in says
        assert "kombu.messaging.Producer._publish" in says
        assert ("apps.traced" in says) == (way != "other code")
        info = worker.pool_info()
        assert sum(info["detours"]["publish"].values()) >= COUNT
        if broker == "redis":
            assert "kombu.transport.redis.Channel._put" in info["accelerated"]["transport"]
            assert sum(info["detours"]["transport"].values()) >= COUNT


def test_wrappers_see_the_events_of_tasks(start_worker: StartWorker) -> None:
    worker = _start(start_worker, worker_send_task_events=True)
    found = {way: _seen(worker, "run_watched", way, COUNT) for way in WAYS}
    assert found == dict.fromkeys(WAYS, COUNT)
    before = _start(start_worker, "events=wrapt", worker_send_task_events=True)
    worker.kill()
    assert _seen(before, "run_watched", "", COUNT) == COUNT
    if _tells(before, "events"):
        assert "EventDispatcher.send" in before.pool_info()["accelerated"]["events"]


def test_events_that_are_wrapped_later_are_counted(start_worker: StartWorker, pool: str) -> None:
    if not pool.startswith("hybrid."):
        pytest.skip("stock pools have no pieces")
    worker = _start(start_worker, worker_send_task_events=True)
    assert _seen(worker, "watch_events", "wrapt", COUNT) >= COUNT
    info = worker.pool_info()
    assert "EventDispatcher.send" in info["accelerated"]["events"]
    assert sum(info["detours"]["events"].values()) >= COUNT


def test_a_wrapper_of_the_lowest_place_alone(start_worker: StartWorker, broker: str) -> None:
    place = {"redis": "_put on redis", "rabbitmq": "basic_publish on rabbitmq"}[broker]
    worker = _start(start_worker, f"{place}=wrapt")
    assert _seen(worker, "publish_many", COUNT) == {place: COUNT}


def test_publishing_that_the_broker_confirms(start_worker: StartWorker, broker: str) -> None:
    if broker != "rabbitmq":
        pytest.skip("Redis confirms nothing")
    worker = _start(start_worker, broker_transport_options={"confirm_publish": True})
    for place in ("send_task", "publish", "_publish"):
        assert _seen(worker, "publish_watched", place, "wrapt", COUNT) == {place: COUNT}


@pytest.mark.parametrize(
    "place",
    [
        "app.send_task",
        "app.amqp.send_task_message",
        "app.amqp.create_task_message",
        "producer class",
        "producer pool",
    ],
)
def test_what_the_app_has_of_its_own(start_worker: StartWorker, place: str) -> None:
    worker = _start(start_worker, place)
    counted = "producer" if place.startswith("producer") else place
    assert _seen(worker, "publish_many", COUNT) == {counted: COUNT}
    if _tells(worker, "publish"):
        says = _publishing(worker)
        assert ("producers of another class" if counted == "producer" else place) in says


def test_the_apps_own_class_of_producers(start_worker: StartWorker) -> None:
    """Celery makes one where it is given a connection."""
    worker = _start(start_worker, "app.amqp.Producer")
    assert _seen(worker, "publish_many", COUNT, True) == {"producer": COUNT}
    assert _seen(worker, "publish_many", COUNT) == {}


def test_what_watches_redis_sees_the_commands_of_each_task(
    start_worker: StartWorker, broker: str
) -> None:
    """What a task does is seen in its own context; what the worker does for many, once for all."""
    if broker != "redis":
        pytest.skip("the broker is not Redis")
    worker = _start(start_worker, "commands of Redis")
    if not (worker.pool.startswith("hybrid") or celery_is("5.7")):
        pytest.skip("before Celery 5.7 a stock consumer acknowledges for its tasks")
    sent = [worker.client.send_task("publish_traced") for _ in range(COUNT * 4)]
    # Before Celery 5.7 what is sent by its name has a result, whatever the task says.
    late = [worker.client.send_task("late_and_traced", ignore_result=True) for _ in range(COUNT)]
    for result in sent:
        result.get(timeout=15)

    def seen() -> dict[str, list[list[str]]]:
        found: dict[str, list[list[str]]] = _seen(worker, "traced_commands")
        return found

    eventually(lambda: {result.id for result in late} <= seen().keys(), "acknowledgements")
    found = seen()
    for result in sent:
        done = [name for names in found[result.id] for name in names]
        assert done.count("LPUSH") == 1
        assert {"SETEX", "EVALSHA"} & set(done)
    for result in late:
        assert found[result.id] == [["ZREM", "HDEL"]]
    others = [names for names in found[""] if names == ["ZREM", "HDEL"]]
    assert others
    if _tells(worker, "transport"):
        assert worker.pool_info()["accelerated"]["transport"] is True
