"""The project of the integration tests with somebody who hears of tasks, the one LISTENER names."""

from __future__ import annotations

import logging
import os
from typing import Any

from celery import signals
from celery.app import trace
from celery.app.events import Events
from celery.events import EventDispatcher
from workload import app

LISTENER = os.environ["LISTENER"]

_TASK_LOGGERS = ("celery.worker.strategy", "celery.app.trace")
_make_record = logging.getLogRecordFactory()


def _is_of_a_task(record: logging.LogRecord) -> bool:
    return record.name in _TASK_LOGGERS


def _traced_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = _make_record(*args, **kwargs)
    setattr(record, "dd.trace_id", "123")
    return record


def _failing_record(name: str, *args: Any, **kwargs: Any) -> logging.LogRecord:
    if name in _TASK_LOGGERS:
        raise TypeError("no span")
    return _make_record(name, *args, **kwargs)


class FailingDispatcher(EventDispatcher):
    def send(self, type: str, *args: Any, **kwargs: Any) -> Any:
        if type.startswith("task-"):
            raise ValueError("no event")
        return super().send(type, *args, **kwargs)


class FailingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        if _is_of_a_task(record):
            raise KeyError("dd.trace_id")
        return super().format(record)


class FailingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if _is_of_a_task(record):
            raise TypeError("no collector")


class CountingLogger(logging.Logger):
    """What libraries that watch logs put in the place of a method."""

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802
        record.msg = f"<seen> {record.msg}"
        super().callHandlers(record)


@signals.after_setup_logger.connect(weak=False)
def _set_up(logger: logging.Logger, **_: Any) -> None:
    if LISTENER == "failing formatter":
        for handler in logger.handlers:
            handler.setFormatter(FailingFormatter())
    elif LISTENER == "failing handler":
        logger.addHandler(FailingHandler())
    elif LISTENER == "failing filter":
        for name in _TASK_LOGGERS:
            logging.getLogger(name).addFilter(lambda record: [][0])
    elif LISTENER == "logger class":
        for name in _TASK_LOGGERS:
            logging.getLogger(name).__class__ = CountingLogger


if LISTENER == "dotted field":
    app.conf.worker_log_format = (
        "%(asctime)s %(levelname)s [dd.trace_id=%(dd.trace_id)s] - %(message)s"
    )
    logging.setLogRecordFactory(_traced_record)
elif LISTENER == "failing record":
    logging.setLogRecordFactory(_failing_record)
elif LISTENER == "broken message":
    trace.LOG_RECEIVED = "%(no_such_field)s"
    trace.LOG_SUCCESS = "%(id)d"
elif LISTENER == "failing events":
    Events.dispatcher_cls = f"{__name__}:FailingDispatcher"
