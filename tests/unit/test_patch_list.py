"""The list of patches: what is applied can be told, and undone."""

from __future__ import annotations

import asyncio
import gc
import importlib
import selectors
import sys
import warnings
from typing import Any

import pytest

from hybrid import patches as patches_package
from hybrid.patches import Patch, Registry
from hybrid.patches import asyncio as asyncio_patches
from hybrid.patches import celery as celery_patches
from hybrid.patches import kombu as kombu_patches
from hybrid.patches import redis as redis_patches


class Thing:
    colour = "red"

    def __init__(self) -> None:
        self.size = 1


class GreenThing(Thing):
    pass


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A list of its own for the test."""
    made = Registry()
    monkeypatch.setattr(patches_package, "registry", made)
    return made


def test_what_is_replaced_can_be_undone_in_any_kind_of_place(registry: Registry) -> None:
    thing, names = Thing(), {"a": "stock", "b": "stock"}
    Patch("things.Thing().size", "why", "0.1").replace(thing, 2)
    Patch("things.Thing().colour", "why", "0.1").replace(thing, "green")
    Patch("things.Thing().weight", "why", "0.1", is_new=True).replace(thing, 3)
    Patch("things.Thing.colour", "why", "0.1").replace(Thing, "blue")
    Patch("things.Thing().__class__", "why", "0.1").specialise(thing, GreenThing)
    Patch("things.NAMES", "why", "0.1").replace_items(names, {"a": "ours"})
    Patch("things.MORE", "why", "0.1", is_new=True).replace_items(names, {"c": "ours"})
    assert vars(thing) == {"size": 2, "colour": "green", "weight": 3}
    assert (type(thing), Thing.colour) == (GreenThing, "blue")
    assert names == {"a": "ours", "b": "stock", "c": "ours"}
    assert [patch["what"] for patch in registry.statistics()] == [one.what for one in registry]
    registry.undo()
    assert vars(thing) == {"size": 1}
    assert (type(thing), Thing.colour) == (Thing, "red")
    assert names == {"a": "stock", "b": "stock"}
    assert registry.statistics() == []


def test_what_is_replaced_twice_goes_back_to_the_first() -> None:
    thing = Thing()
    patch = Patch("things.Thing().size", "why", "0.1")
    patch.replace(thing, 2)
    patch.replace(thing, 3)
    patch.undo()
    assert thing.size == 1


def test_what_somebody_else_has_put_around_it_stays() -> None:
    thing = Thing()
    patch = Patch("things.Thing().size", "why", "0.1")
    patch.replace(thing, 2)
    thing.size = -thing.size
    patch.undo()
    assert thing.size == -2


def test_an_attribute_that_is_not_there_is_refused() -> None:
    with pytest.raises(AttributeError):
        Patch("things.Thing().weight", "why", "0.1").replace(Thing(), 2)
    with pytest.raises(KeyError):
        Patch("things.NAMES", "why", "0.1").replace_items({}, {"a": "ours"})
    with pytest.raises(TypeError):
        Patch("things.Thing().__class__", "why", "0.1").specialise(Thing(), dict)


def test_one_attribute_is_on_the_list_once(registry: Registry) -> None:
    first = Patch("things.Thing().size", "why", "0.1")
    with pytest.raises(ValueError, match="on the list already"):
        Patch("things.Thing().size", "why", "0.1")
    assert list(registry) == [first]


def test_the_list_keeps_no_object_alive(registry: Registry) -> None:
    patch = Patch("things.Thing().size", "why", "0.1")
    for _ in range(1000):
        patch.replace(Thing(), 2)
    gc.collect()
    assert list(patch.changes()) == []
    assert registry.applied() == []
    assert len(patch._changes) < 100


# -- what the installed releases have


def _instances() -> dict[str, Any]:
    """Return an object of each kind that instances of are patched."""
    import kombu
    from celery import Celery
    from celery.events import EventDispatcher
    from celery.utils.threads import _LocalStack
    from kombu import pools
    from redis import Redis

    app = Celery("patched", broker="memory://", backend="cache+memory://", set_as_current=False)

    @app.task(name="patched")
    def task() -> None:
        pass

    app.finalize()
    connection = kombu.Connection("memory://")
    return {
        "celery.app.base.Celery()": app,
        "celery.app.amqp.AMQP()": app.amqp,
        "celery.app.task.Task()": app.tasks["patched"],
        "celery.apps.worker.Worker()": app.Worker(pool="solo", concurrency=1, quiet=True),
        "celery.backends.base.Backend()": app.backend,
        "celery.events.dispatcher.EventDispatcher()": EventDispatcher(
            connection, app=app, enabled=False
        ),
        "celery.utils.threads._LocalStack()": _LocalStack(),
        "kombu.messaging.Producer()": kombu.Producer(connection),
        "kombu.pools.ProducerPool()": pools.ProducerPool(connection.Pool(1)),
        "kombu.connection.Connection()": connection,
        "kombu.resource.Resource()": connection.Pool(1),
        "redis.client.PubSub()": Redis().pubsub(),
        "asyncio.AbstractEventLoopPolicy()": asyncio.get_event_loop_policy(),
        "selectors.BaseSelector()": selectors.SelectSelector(),
    }


DECLARED = [
    patch
    for module in (asyncio_patches, celery_patches, kombu_patches, redis_patches)
    for patch in vars(module).values()
    if isinstance(patch, Patch)
    and (patch is not asyncio_patches.PIDFD or sys.version_info >= (3, 12))
]


@pytest.fixture(scope="module")
def instances() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # containers run tests as root
        return _instances()


@pytest.mark.parametrize("patch", DECLARED, ids=lambda patch: patch.what)
def test_the_attribute_is_where_it_was(patch: Patch, instances: dict[str, Any]) -> None:
    """A release that moves one fails here, and in :meth:`Patch.replace`."""
    place, _, name = patch.what.rpartition(".")
    if "()" in place:
        owner = instances[place]
        module, _, cls = place[:-2].rpartition(".")
        assert isinstance(owner, getattr(importlib.import_module(module), cls))
    else:
        try:
            owner = importlib.import_module(place)
        except ModuleNotFoundError:
            module, _, thing = place.rpartition(".")
            owner = getattr(importlib.import_module(module), thing)
    is_added = patch.is_new and not name.isupper()
    assert hasattr(owner, name) != is_added
