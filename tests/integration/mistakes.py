"""The project of the integration tests with a mistake in its code, the one that MISTAKE names.

Each mistake raises what Celery's code raises for a message that cannot be read.
"""

from __future__ import annotations

import os
from typing import Any

from celery import bootsteps
from celery.worker import request as celery_request
from celery.worker.strategy import default
from workload import app

MISTAKE = os.environ["MISTAKE"]


class RaisingInit(celery_request.Request):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        raise TypeError("start_span() got an unexpected keyword argument 'resource'")


class RaisingExecute(celery_request.Request):
    """Celery's strategy makes a class of it that executes in its own way, and asks for limits."""

    @property
    def time_limits(self) -> Any:
        raise IndexError("no span is open")

    @time_limits.setter
    def time_limits(self, limits: Any) -> None:
        pass


class RaisingKeyError(celery_request.Request):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise KeyError("resource")


class RaisingAccepted(celery_request.Request):
    def on_accepted(self, pid: int, time_accepted: float) -> None:
        raise AttributeError("'NoneType' object has no attribute 'resource'")


def raising_strategy(task: Any, app: Any, consumer: Any, **kwargs: Any) -> Any:
    handle = default(task, app, consumer, **kwargs)

    def trace_and_handle(*args: Any, **kwargs: Any) -> Any:
        [][0]
        return handle(*args, **kwargs)

    return trace_and_handle


class RaisingCallback(bootsteps.StartStopStep):
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        parent.on_task_message.add(self.on_task_message)

    def on_task_message(self, request: Any) -> None:
        raise ValueError("a label of a metric is empty")


def _break_our_request(method: str) -> None:
    from hybrid.worker.consuming.request import Request

    def fail(self: Any, *_args: Any, **_kwargs: Any) -> None:
        raise TypeError("a release of Celery has moved something")

    setattr(Request, method, fail)


for task in app.tasks.values():
    if MISTAKE.startswith("Request"):
        task.Request = f"{__name__}:Raising{MISTAKE.removeprefix('Request ')}"
    elif MISTAKE == "Strategy":
        task.Strategy = f"{__name__}:raising_strategy"
if MISTAKE == "callback":
    app.steps["consumer"].add(RaisingCallback)
elif MISTAKE == "our execute_using_pool":
    _break_our_request("execute_using_pool")
elif MISTAKE == "our __init__":
    _break_our_request("__init__")
