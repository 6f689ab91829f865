"""The project of the storms: tasks that do all that one may wait for, and write down what came.

What they see goes into a file, by one write that never switches: whoever is ended in the middle of
a task has written all that it did before, and nothing that it did not.
"""

from __future__ import annotations

import gc
import json
import os
import time
from pathlib import Path
from typing import Any, Callable

import amqp
import redis
from celery import Celery, Task, signals
from celery.events.dispatcher import EventDispatcher
from celery.exceptions import SoftTimeLimitExceeded, TimeoutError
from celery.result import allow_join_result
from celery.utils.log import get_task_logger
from celery.worker.control import inspect_command
from greenlet import greenlet
from harness.worker import SETTINGS_VARIABLE
from kombu.exceptions import OperationalError
from load import NOTES_VARIABLE, WITHIN, WORKER_SETTINGS_VARIABLE

app = Celery("storm")
app.conf.update(json.loads(os.environ[SETTINGS_VARIABLE]))
# What the worker alone has to know, as the port of the proxy that it goes through.
app.conf.update(json.loads(os.environ.get(WORKER_SETTINGS_VARIABLE, "{}")))
logger = get_task_logger("storm")

_notes = os.open(os.environ[NOTES_VARIABLE], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

#: What a call may raise when its connection is lost under it.
_LOST = (OperationalError, redis.ConnectionError, redis.TimeoutError, amqp.AMQPError, OSError)


def note(event: str, number: Any, **fields: Any) -> None:
    """Write down what happened, at once and without a switch."""
    entry = {"event": event, "number": number, "at": time.monotonic(), **fields}
    os.write(_notes, (json.dumps(entry, default=repr) + "\n").encode())


# -- steps: what a task of the storm does, each with the answer that belongs to it


def _expect(number: int, what: str, got: Any, wanted: Any) -> None:
    if got != wanted:
        note("wrong", number, what=what, got=got, wanted=wanted)


def _publish(task: Task, number: int, child_id: str, ignored: bool) -> None:
    note("publishing", number, id=child_id)
    child.apply_async((number, child_id), task_id=child_id, ignore_result=ignored)
    note("published", number, id=child_id, ignored=ignored)


def _join(task: Task, number: int, child_id: str) -> None:
    """Publish a child and wait for what it returns."""
    _publish(task, number, child_id, ignored=False)
    _expect(number, "a child's result", _get(number, child_id), [number, child_id])


def _wait(task: Task, number: int, other_id: str, other: int) -> None:
    """Wait for what another task of the storm has come to."""
    outcome = _get(number, other_id)
    if isinstance(outcome, list):
        _expect(number, "another's result", outcome, [other, other_id])


def _get(number: int, task_id: str) -> Any:
    note("waiting", number, id=task_id)
    try:
        with allow_join_result():
            got = app.AsyncResult(task_id).get(timeout=WITHIN, propagate=False)
    except TimeoutError:
        note("hung", number, id=task_id)
        raise
    note("got", number, id=task_id)
    return got


def _declare(task: Task, number: int, queue: str, count: int) -> None:
    """Ask the broker for a queue that has a number of messages of its own."""
    with app.producer_pool.acquire(block=True) as producer:
        answer = producer.channel.queue_declare(
            queue, passive=True, durable=True, auto_delete=False
        )
    _expect(number, "a queue's answer", [answer.queue, answer.message_count], [queue, count])


def _own(task: Task, number: int, key: str) -> None:
    """Set and get a key of its own through the client that all share."""
    client = app.backend.client
    client.set(key, key)
    _expect(number, "a key's value", client.get(key), key.encode())


def _store(task: Task, number: int, result_id: str) -> None:
    app.backend.store_result(result_id, [number, result_id], "SUCCESS")
    note("stored", number, id=result_id)


def _progress(task: Task, number: int) -> None:
    task.update_state(state="PROGRESS", meta={"number": number})


def _log(task: Task, number: int, line: str) -> None:
    logger.info("line %s.", line)
    note("logged", number, line=line)


def _sleep(task: Task, number: int, seconds: float) -> None:
    time.sleep(seconds)


def _spoil(task: Task, number: int, exchange: str) -> None:
    """Publish to an exchange that is not there, for which the broker closes the channel."""
    with app.producer_pool.acquire(block=True) as producer:
        producer.publish(number, exchange=exchange, routing_key="nobody", retry=False)


_STEPS: dict[str, Callable[..., None]] = {
    "publish": _publish,
    "join": _join,
    "wait": _wait,
    "declare": _declare,
    "own": _own,
    "store": _store,
    "progress": _progress,
    "log": _log,
    "sleep": _sleep,
    "spoil": _spoil,
}


def _storm(self: Task, number: int, steps: list[list[Any]], catches: bool) -> list[Any]:
    note("started", number, id=self.request.id)
    for name, *args in steps:
        try:
            _STEPS[name](self, number, *args)
        except SoftTimeLimitExceeded:
            if not catches:
                raise
            note("caught", number, step=name)
        except _LOST as exc:
            note("refused", number, step=name, error=repr(exc))
    note("returned", number)
    return [number, self.request.id]


app.task(_storm, name="storm", bind=True)
app.task(_storm, name="storm_late", bind=True, acks_late=True)


@app.task(name="child", bind=True)
def child(self: Task, number: int, child_id: str) -> list[Any]:
    note("child", number, id=self.request.id)
    return [number, child_id]


@app.task(name="noop")
def noop(number: int) -> int:
    return number


@app.task(name="first_line", ignore_result=True)
def first_line(number: int) -> None:
    note("first line", number)


@app.task(name="own_key")
def own_key(number: int, seconds: float) -> list[Any]:
    """Set and get a key of its own; return what it found, twice."""
    client, key = app.backend.client, f"own-{number}"
    client.set(key, number)
    first = client.get(key)
    time.sleep(seconds)
    return [int(first), int(client.get(key))]


# -- what the worker says about outcomes


@signals.task_success.connect(weak=False)
def _succeeded(sender: Any, **_: Any) -> None:
    note("success", None, id=sender.request.id)


@signals.task_failure.connect(weak=False)
def _failed(sender: Any, task_id: str, exception: Any, **_: Any) -> None:
    note("failure", None, id=task_id, error=type(exception).__name__)


@signals.task_revoked.connect(weak=False)
def _revoked(sender: Any, request: Any, **_: Any) -> None:
    note("revoked", None, id=request.id)


# -- what the worker says about itself


@inspect_command()
def tally(state: Any) -> dict[str, int]:
    """Count what a connection that is lost may leave behind."""
    gc.collect()
    alive = [one for one in gc.get_objects() if isinstance(one, (greenlet, EventDispatcher))]
    descriptors = Path("/proc/self/fd")
    links = [os.readlink(path) for path in descriptors.iterdir() if path.is_symlink()]
    return {
        "greenlets": sum(isinstance(one, greenlet) and not one.dead for one in alive),
        "dispatchers": sum(isinstance(one, EventDispatcher) for one in alive),
        "descriptors": len(links),
        "connections": sum(link.startswith("socket:") for link in links),
    }
