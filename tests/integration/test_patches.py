"""Whatever a worker of ours changes in the packages below it is on the list of ``inspect stats``.

All attributes of the modules, the classes and the worker's objects of Celery, kombu, py-amqp,
redis-py, gevent and eventlet are compared with those of a stock worker.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from harness.worker import StartWorker

#: What follows from something on the list, by what is found, in objects and in names of objects.
FOLLOWS = {
    r"hybrid\.transports\.": "kombu.transport.TRANSPORT_ALIASES",
    r"hybrid\.backends\.": "celery.app.backends.BACKEND_ALIASES",
    r"GreenStack": "celery.utils.threads._LocalStack().__class__",
    r"_GreenSignals": "celery.platforms.signals.__class__",
    r"hybrid\.worker\.consuming\.": "celery.apps.worker.Worker().consumer_cls",
    r"hybrid\.worker\.attach\.Blueprint": "celery.apps.worker.Worker().Blueprint",
    r"hybrid\.worker\.publishing\.p": "celery.app.amqp.AMQP()._producer_pool",
    r"hybrid\.worker\.publishing\.shared": "celery.app.amqp.AMQP()._producer_pool",
}
#: Objects that are ours, by what makes them ours: all their attributes are.
OURS = {
    "celery.worker.consumer.consumer.Consumer()": "celery.apps.worker.Worker().consumer_cls",
    "kombu.pools.ProducerPool()": "celery.app.amqp.AMQP()._producer_pool",
    "celery.backends.base.Backend()": "celery.app.backends.BACKEND_ALIASES",
}
#: Differences that are none of ours, and why.
ALLOWED = {
    r"celery\.apps\.worker\.Worker\(\)\.(options|pool|pool_cls|timer|timer_cls)": "this is -P",
    r"celery\.bin\.worker\.WORKERS_POOL\.choices": "they are the names of pools",
    r"celery\.execute\.send_task": "it is app.send_task by another name",
    r"celery\.worker\.components\.Beat\.requires": "set where the step is used, and ours is",
    r"celery\.worker\.consumer\.control\.Control\.requires": "the same",
    r".*EventDispatcher\(\)\.on_enabled": "it is there for callbacks to be added to",
    r".*\.(requests|total_count)": "tasks that run, and have run",
    r"kombu\.transport\._transport_cache": "what the names of transports stand for",
    r"eventlet\.green\.threading\.__threading": "set with the first thread",
    r".*\.(_group_buffer|_fanout_queues|_active_tags|lua_\w+|__warningregistry__)": "state",
    r"kombu\.pools\.(producers|connections)": "state: pools in use",
    r"gevent\._gevent_clocal\.local\.__slots__": "in the order of a set",
    r"gevent\.subprocess\.name": "the last of a loop over a set",
    r"gevent\.threading\._DummyThread\.__weakref_ref": "set with the first dummy thread",
}


def _written(start_worker: StartWorker, folder: Path, pool: str, **env: str) -> tuple[Any, Any]:
    """Return the fingerprints in a worker on ``pool``, and what it says of its pool."""
    worker = start_worker(
        pool=pool,
        app="fingerprints",
        concurrency=4,
        options=["-E"],
        env=env,
        settings={"broker_heartbeat": 0},  # the same on both, see `settings_for`
    )
    path = folder / f"{pool}.json"
    worker.client.signature("write_fingerprints", (str(path),)).delay().get(timeout=30)
    info = worker.pool_info()
    worker.kill()
    return json.loads(path.read_text()), info


def _module_of(name: str, known: set[str]) -> str:
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def _differences(stock: dict[str, str], ours: dict[str, str]) -> dict[str, tuple[Any, Any]]:
    modules = [
        {name.rpartition(".")[0] for name in names if name.endswith(".__spec__")}
        for names in (stock, ours)
    ]
    found = {}
    for name in {*stock, *ours}:
        before, now = stock.get(name), ours.get(name)
        only_here = "()" not in name and _module_of(name, modules[0] | modules[1]) not in (
            modules[0] & modules[1]
        )
        if before != now and not only_here:
            found[name] = before, now
    return found


def _is_accounted_for(name: str, before: Any, now: Any, listed: set[str]) -> bool:
    if name in listed or any(re.fullmatch(pattern, name) for pattern in ALLOWED):
        return True
    owner = name.partition("()")[0] + "()"
    if "()" in name and OURS.get(owner) in listed:
        return True
    # An object of a class that is listed, and not a class or a function.
    if str(now).startswith(("object hybrid.", "class hybrid.", "function hybrid.")) and (
        "()" in name or str(now).startswith("object ")
    ):
        return any(re.search(it, now) and what in listed for it, what in FOLLOWS.items())
    # Stock Celery patches after some of its modules have taken what they need.
    return bool(re.match(r"\w+ (gevent|eventlet)\.", str(now))) and not re.match(
        r"\w+ (celery|kombu|amqp|redis)\.", str(before)
    )


def _unaccounted(
    start_worker: StartWorker, folder: Path, pool: str, **env: str
) -> dict[str, tuple[Any, Any]]:
    stock, _ = _written(start_worker, folder, pool.partition(".")[2])
    ours, info = _written(start_worker, folder, pool, **env)
    listed = {patch["what"] for patch in info["patches"]}
    assert all(patch["since"] for patch in info["patches"])
    return {
        name: values
        for name, values in _differences(stock, ours).items()
        if not _is_accounted_for(name, *values, listed)
    }


def test_what_a_worker_changes_is_on_the_list(
    start_worker: StartWorker, pool: str, broker: str, tmp_path: Path
) -> None:
    assert _unaccounted(start_worker, tmp_path, pool) == {}


def test_a_change_that_is_not_on_the_list_is_found(
    start_worker: StartWorker, pool: str, tmp_path: Path, broker: str
) -> None:
    if broker != "redis":
        pytest.skip("one broker will do")
    found = _unaccounted(start_worker, tmp_path, pool, HYBRID_TEST_UNLISTED="yes")
    assert set(found) == {
        "celery.app.amqp.AMQP().argsrepr_maxsize",
        "celery.events.dispatcher.EventDispatcher().serializer",
        "celery.events.dispatcher.EventDispatcher.DISABLED_TRANSPORTS",
        "celery.utils.nodenames.nodename",
        "kombu.transport.virtual.base.Channel.do_restore",
    }
