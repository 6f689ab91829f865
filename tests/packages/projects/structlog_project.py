"""structlog: its own lines and those of `logging` as JSON, with what is bound to a task."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import structlog
from celery import shared_task
from celery.signals import setup_logging, task_prerun
from common import make_app, ran, tell

SHARED = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.ExtraAdder(),
]
structlog.configure(
    processors=[*SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
    logger_factory=structlog.stdlib.LoggerFactory(),
    cache_logger_on_first_use=True,
)
app = make_app()


class Told(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        line = json.loads(self.format(record))
        tell("log", **{name: value for name, value in line.items() if name != "data"})


@setup_logging.connect
def set_up(**_: Any) -> None:
    handler = Told()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=repr),
            ],
        )
    )
    stream = logging.StreamHandler()  # which says that the worker is ready
    logging.basicConfig(level=logging.INFO, handlers=[handler, stream])


@task_prerun.connect
def bind(task_id: str, task: Any, **_: Any) -> None:
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(task_id=task_id, task_name=task.name)


@shared_task(name="say")
def say(number: int) -> None:
    ran("say", number)
    structlog.contextvars.bind_contextvars(bound=number)
    time.sleep(0.01)
    structlog.get_logger("project").info("said", number=number)
