"""A project that opens a channel while its worker is being built, before the pool is started."""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Celery, bootsteps
from harness.worker import SETTINGS_VARIABLE

app = Celery("early")
app.conf.update(json.loads(os.environ[SETTINGS_VARIABLE]))
_early: list[Any] = []


class Early(bootsteps.Step):
    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        connection = app.connection_for_write()
        _early.append((connection, connection.default_channel, app.backend))


app.steps["worker"].add(Early)


def _name(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


@app.task(name="quick")
def quick(number: int) -> int:
    return number


@app.task(name="channel_classes")
def channel_classes() -> dict[str, Any]:
    """Say what channels the early connection has, and a later one; publish on the early one."""
    [(connection, channel, backend)] = _early
    with connection.Producer() as producer:
        ids = [quick.apply_async((7,), producer=producer).id for _ in range(3)]
    with app.connection_for_write() as later:
        return {
            "early": _name(channel),
            "next": _name(connection.channel()),
            "later": _name(later.default_channel),
            "consumer": _name(backend.result_consumer),
            "ids": ids,
        }
