"""A project whose worker writes down what all attributes of the packages below it are.

What it writes can be compared with what another worker has written. ``HYBRID_TEST_UNLISTED`` has it
replace something by itself first.
"""

from __future__ import annotations

import json
import os
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

from celery import Celery, signals
from harness.worker import SETTINGS_VARIABLE

app = Celery("fingerprints")
app.conf.update(json.loads(os.environ[SETTINGS_VARIABLE]))

PACKAGES = ("celery", "kombu", "amqp", "redis", "gevent", "eventlet", "asyncio")
#: Written by Python itself into every class or module.
_PYTHONS = ("__doc__", "__dict__", "__weakref__", "__cached__", "__builtins__", "_abc_impl")

_consumers: list[Any] = []


@signals.worker_ready.connect
def _on_ready(sender: Any, **_: Any) -> None:
    _consumers.append(sender)
    if os.environ.get("HYBRID_TEST_UNLISTED"):
        from celery.events.dispatcher import EventDispatcher
        from celery.utils import nodenames
        from kombu.transport.virtual import base

        nodenames.nodename = lambda *_: "changed"  # of a module
        base.Channel.do_restore = not base.Channel.do_restore  # of a class
        EventDispatcher.DISABLED_TRANSPORTS = {"changed"}
        sender.event_dispatcher.serializer = "changed"  # of an instance
        app.amqp.argsrepr_maxsize = 1


def _is_below(value: Any) -> bool:
    return str(getattr(value, "__module__", None)).partition(".")[0] in PACKAGES


def _show(value: Any, depth: int = 0) -> str:
    """Return a text that is the same in all processes for what is the same."""
    if isinstance(value, type):
        return f"class {value.__module__}.{value.__qualname__}"
    if isinstance(value, FunctionType):
        code = value.__code__
        return f"function {value.__module__}.{value.__qualname__} {zlib.crc32(code.co_code)}"
    if isinstance(value, MethodType):
        return f"method {_show(value.__func__)}"
    if isinstance(value, (staticmethod, classmethod)):
        return f"{type(value).__name__} {_show(value.__func__)}"
    if isinstance(value, property):
        return f"property {_show(value.fget)} {_show(value.fset)}"
    if value is None or isinstance(value, (bool, float, str)):
        return re.sub(r"w\d+@|[0-9a-f]{8}-[0-9a-f-]{27}|\d{3,}|0x[0-9a-f]+", "#", repr(value))
    if isinstance(value, (tuple, set, frozenset)) and depth < 2:
        shown = [_show(item, depth + 1) for item in value]
        return f"{type(value).__name__} {shown if isinstance(value, tuple) else sorted(shown)}"
    if isinstance(value, dict) and depth == 0 and all(type(key) is str for key in value):
        return f"dict { {key: _show(value[key], 1) for key in sorted(value)} }"
    return f"object {type(value).__module__}.{type(value).__qualname__}"


def _modules() -> Iterator[tuple[str, str]]:
    for module_name, module in sorted(sys.modules.items()):
        if module_name.partition(".")[0] not in PACKAGES or not isinstance(module, ModuleType):
            continue
        for name, value in sorted(vars(module).items()):
            if name in _PYTHONS or isinstance(value, ModuleType):
                continue
            yield f"{module_name}.{name}", _show(value)
            if isinstance(value, type) and value.__module__ == module_name:
                for attribute, inner in sorted(vars(value).items()):
                    if attribute not in _PYTHONS:
                        yield f"{module_name}.{name}.{attribute}", _show(inner)


def _objects() -> Iterator[tuple[str, Any]]:
    [consumer] = _consumers
    from celery import _state, platforms

    yield "celery.app.base.Celery()", app
    yield "celery.app.amqp.AMQP()", app.amqp
    yield "celery.apps.worker.Worker()", consumer.controller
    yield "celery.worker.consumer.consumer.Consumer()", consumer
    yield "kombu.messaging.Consumer()", consumer.task_consumer
    yield "kombu.connection.Connection()", consumer.connection
    yield "celery.events.dispatcher.EventDispatcher()", consumer.event_dispatcher
    yield "kombu.messaging.Producer()", consumer.event_dispatcher.producer
    yield "kombu.pools.ProducerPool()", app.amqp.producer_pool
    yield "celery.platforms.signals", platforms.signals
    yield "celery.bin.worker.WORKERS_POOL", sys.modules["celery.bin.worker"].WORKERS_POOL
    yield "celery.utils.threads._LocalStack()", _state._task_stack
    yield "celery.backends.base.Backend()", app.backend
    yield "celery.app.task.Task()", app.tasks["write_fingerprints"]


def _fields() -> Iterator[tuple[str, str]]:
    for path, found in _objects():
        yield f"{path}.__class__", _show(type(found))
        for name, value in sorted(vars(found).items()):
            yield f"{path}.{name}", _show(value)


@app.task(name="nothing", ignore_result=True)
def nothing() -> None:
    pass


@app.task(name="write_fingerprints")
def write_fingerprints(path: str) -> None:
    nothing.delay()
    Path(path).write_text(json.dumps({**dict(_modules()), **dict(_fields())}))
