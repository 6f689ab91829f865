"""The tasks that every project here has, and what they tell the test.

Lines of a file, each written by one call, as many processes and greenlets write them.
"""

from __future__ import annotations

import contextvars
import json
import os
import time
from typing import Any

from celery import Celery, chord, shared_task
from celery.utils.log import get_task_logger

SETTINGS_VARIABLE = "HYBRID_TEST_SETTINGS"
FILE_VARIABLE = "HYBRID_TEST_EFFECTS"

logger = get_task_logger("project")
_file = os.open(os.environ[FILE_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="nothing")


def tell(kind: str, **fields: Any) -> None:
    """Write one effect."""
    os.write(_file, json.dumps({"kind": kind, **fields}, default=repr).encode() + b"\n")


def make_app(**settings: Any) -> Celery:
    """Return the project's app, with what the test wants and then ``settings``."""
    app = Celery("project")
    app.conf.update(json.loads(os.environ[SETTINGS_VARIABLE]))
    app.conf.update(settings)
    return app


def ran(task: str, number: int) -> None:
    """Tell that a task ran, and what of other tasks it sees: nothing."""
    tell("ran", task=task, number=number, sees=_seen.get())
    _seen.set(task)


@shared_task(name="add")
def add(number: int) -> int:
    ran("add", number)
    return number + 1


@shared_task(name="fail")
def fail(number: int) -> None:
    ran("fail", number)
    raise ValueError(f"task {number} fails")


@shared_task(name="again", bind=True, max_retries=1)
def again(self: Any, number: int) -> int:
    ran("again", number)
    if not self.request.retries:
        raise self.retry(countdown=0.1, exc=KeyError(number))
    return number


@shared_task(name="log")
def log(number: int) -> None:
    ran("log", number)
    logger.info("number %d", number)
    logger.warning("number %d is watched", number, extra={"number": number})


@shared_task(name="wait")
def wait(number: int) -> str:
    ran("wait", number)
    time.sleep(0.01)
    return "waited"


@shared_task(name="publish")
def publish(number: int) -> None:
    ran("publish", number)
    add.delay(number)
    add.apply_async((number,), countdown=0.01, headers={"mine": "1"})


@shared_task(name="gather")
def gather(numbers: list[int], number: int) -> int:
    ran("gather", number)
    return sum(numbers)


@shared_task(name="together")
def together(number: int) -> None:
    ran("together", number)
    chord([add.s(number), add.s(number)])(gather.s(number))
