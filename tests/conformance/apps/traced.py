"""A project whose publishing is watched: by a tracing library, or by something of its own.

``HYBRID_TEST_TRACED`` names what is wrapped when this module is imported, and how. A task does the
same in the worker that runs already.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import time
from collections import Counter
from contextvars import ContextVar
from typing import Any, Callable

import kombu
import wrapt
from celery import Celery
from harness.worker import SETTINGS_VARIABLE
from kombu import pools

app = Celery("traced")
app.conf.update(json.loads(os.environ[SETTINGS_VARIABLE]))

#: How often what has been put around each place was called.
seen: Counter[str] = Counter()
_undo: list[Callable[[], None]] = []

#: Methods that tracing libraries and users wrap.
METHODS = {
    "events": "celery.events.dispatcher:EventDispatcher.send",
    "send_task": "celery.app.base:Celery.send_task",
    "publish": "kombu.messaging:Producer.publish",
    "_publish": "kombu.messaging:Producer._publish",
    "basic_publish on redis": "kombu.transport.virtual.base:Channel.basic_publish",
    "_put on redis": "kombu.transport.redis:Channel._put",
    "execute_command on redis": "redis.client:Redis.execute_command",
    "basic_publish on rabbitmq": "amqp.channel:Channel.basic_publish",
    "kombu's basic_publish on rabbitmq": "kombu.transport.pyamqp:Channel.basic_publish",
    "delay": "celery.app.task:Task.delay",
    "apply_async": "celery.app.task:Task.apply_async",
    "_get_exec_options": "celery.app.task:Task._get_exec_options",
    "route": "celery.app.routes:Router.route",
    "as_task_v2": "celery.app.amqp:AMQP.as_task_v2",
    "producer_or_acquire": "celery.app.base:Celery.producer_or_acquire",
    "_prepare": "kombu.messaging:Producer._prepare",
    "_delivery_details": "kombu.messaging:Producer._delivery_details",
    "maybe_declare": "kombu.messaging:Producer.maybe_declare",
    "prepare_message on redis": "kombu.transport.virtual.base:Channel.prepare_message",
    "encode_body on redis": "kombu.transport.virtual.base:Channel.encode_body",
    "lpush on redis": "redis.commands.core:ListCommands.lpush",
    "prepare_message on rabbitmq": "kombu.transport.pyamqp:Channel.prepare_message",
}


#: What a call has to be about in order to count, where that matters.
SUBJECTS = {"execute_command on redis": "LPUSH", "events": "task-succeeded"}


def _counts(place: str, args: tuple[Any, ...]) -> None:
    if place != "events" and app.current_worker_task is None:
        return  # the worker itself answers, say
    if place not in SUBJECTS or SUBJECTS[place] in args:
        seen[place] += 1


def _with_wrapt(place: str, function: Any) -> Any:
    def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        _counts(place, args)
        return wrapped(*args, **kwargs)

    return wrapt.FunctionWrapper(function, wrapper)


def _with_functools(place: str, function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        _counts(place, args)
        return function(*args, **kwargs)

    return wrapper


def _with_a_function(place: str, function: Any) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        _counts(place, args)
        return function(*args, **kwargs)

    return wrapper


def _with_other_code(place: str, function: Any) -> Any:
    """Change the function in place, as some tracers do; it stays the object that it is."""
    from types import FunctionType

    copy = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    source = "def wrapper(*args, **kwargs):\n    _COUNT(args)\n    return _COPY(*args, **kwargs)\n"
    names = function.__globals__
    key = place.replace(" ", "_").replace("'", "_")
    names[f"_count_{key}"], names[f"_copy_{key}"] = (
        lambda args: _counts(place, args),
        copy,
    )
    made: dict[str, Any] = {}
    source = source.replace("_COUNT", f"_count_{key}").replace("_COPY", f"_copy_{key}")
    exec(compile(source, function.__code__.co_filename, "exec"), names, made)
    before = function.__code__
    function.__code__ = made["wrapper"].__code__.replace(co_name=before.co_name)
    _undo.append(lambda: setattr(function, "__code__", before))
    return function


WAYS = {
    "wrapt": _with_wrapt,
    "functools": _with_functools,
    "a function": _with_a_function,
    "other code": _with_other_code,
}


def wrap_method(place: str, way: str) -> None:
    module, _, path = METHODS[place].partition(":")
    owner_name, _, name = path.partition(".")
    owner = getattr(importlib.import_module(module), owner_name)
    is_own = name in vars(owner)
    before = vars(owner).get(name, getattr(owner, name))
    setattr(owner, name, WAYS[way](place, before))
    if is_own:
        _undo.append(lambda: setattr(owner, name, before))
    else:
        _undo.append(lambda: delattr(owner, name))


class Producer(kombu.Producer):
    """A producer of the project's own."""

    def publish(self, *args: Any, **kwargs: Any) -> Any:
        seen["producer"] += 1
        return super().publish(*args, **kwargs)


def wrap_instance(place: str) -> None:
    """Put something around an attribute of the app, or give it producers of another class."""
    if place == "app.send_task":
        app.send_task = _with_functools(place, app.send_task)
        _undo.append(lambda: delattr(app, "send_task"))
    elif place == "app.amqp.send_task_message":
        app.amqp.send_task_message = _with_wrapt(place, app.amqp.send_task_message)
    elif place == "app.amqp.create_task_message":
        app.amqp.create_task_message = _with_wrapt(place, app.amqp.create_task_message)
    elif place == "app.amqp.Producer":
        app.amqp.Producer = Producer
    elif place == "commands of Redis":
        watch_commands()
    elif place == "producer class":
        pools.ProducerPool.Producer = Producer
    elif place == "producer pool":
        app.amqp.producer_pool.Producer = Producer


#: The task in whose context something happens, as tracing libraries remember it.
traced: ContextVar[str] = ContextVar("traced", default="")
#: Commands that redis-py executes, as tracing libraries see them, by that task.
commands: dict[str, list[list[str]]] = {}


def watch_commands() -> None:
    """Do what tracing libraries do with redis-py."""

    def note(names: list[str], execute: Callable[[], Any]) -> Any:
        commands.setdefault(traced.get(), []).append(names)
        return execute()

    def around_one(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        return note([args[0]], lambda: wrapped(*args, **kwargs))

    def around_many(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        names = [command[0][0] for command in instance.command_stack]
        return note(names, lambda: wrapped(*args, **kwargs))

    wrapt.wrap_function_wrapper("redis.client", "Redis.execute_command", around_one)
    wrapt.wrap_function_wrapper("redis.client", "Pipeline.execute", around_many)


for _wanted in filter(None, os.environ.get("HYBRID_TEST_TRACED", "").split(";")):
    _place, _, _way = _wanted.partition("=")
    if _way:
        wrap_method(_place, _way)
    else:
        wrap_instance(_place)


@app.task(name="nothing", ignore_result=True)
def nothing() -> None:
    pass


@app.task(name="publish_many")
def publish_many(count: int, connected: bool = False) -> dict[str, int]:
    """Publish ``count`` tasks; return how often each wrapper was called meanwhile."""
    nothing.delay()  # declares the queue
    seen.clear()
    for _ in range(count):
        if connected:
            with app.connection_for_write() as connection:
                nothing.apply_async(connection=connection)
        else:
            nothing.delay()
    return dict(seen)


@app.task(name="publish_watched")
def publish_watched(place: str, way: str, count: int) -> dict[str, int]:
    """Wrap a method in the worker as it runs, publish, and unwrap it."""
    nothing.delay()
    wrap_method(place, way)
    try:
        seen.clear()
        for _ in range(count):
            nothing.delay()
        return dict(seen)
    finally:
        while _undo:
            _undo.pop()()


@app.task(name="run_watched")
def run_watched(way: str, count: int) -> int:
    """Watch the events of tasks that run; return how many have succeeded."""
    if way:
        wrap_method("events", way)
    try:
        seen.clear()
        for _ in range(count):
            nothing.delay()
        deadline = time.monotonic() + 10
        while seen["events"] < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return seen["events"]
    finally:
        while _undo:
            _undo.pop()()


@app.task(name="watch_events")
def watch_events(way: str, count: int) -> int:
    """Watch the events of tasks from now on; return how many have succeeded."""
    wrap_method("events", way)
    seen.clear()
    for _ in range(count):
        nothing.delay()
    deadline = time.monotonic() + 10
    while seen["events"] < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return seen["events"]


@app.task(name="publish_with_a_watched_producer")
def publish_with_a_watched_producer(count: int) -> dict[str, int]:
    """Put something around the method of one producer alone, and publish with it."""
    with app.producer_pool.acquire(block=True) as producer:
        producer.publish = _with_functools("one producer", producer.publish)
        try:
            seen.clear()
            for _ in range(count):
                nothing.apply_async(producer=producer)
            return dict(seen)
        finally:
            del producer.publish


@app.task(name="publish_traced", bind=True)
def publish_traced(self: Any) -> None:
    """Publish one message, and store a result."""
    traced.set(self.request.id)
    nothing.delay()


@app.task(name="late_and_traced", bind=True, acks_late=True, ignore_result=True)
def late_and_traced(self: Any) -> None:
    """Be acknowledged at the end."""
    traced.set(self.request.id)


@app.task(name="traced_commands")
def traced_commands() -> dict[str, list[list[str]]]:
    return commands
