"""A project with no receivers of signals: nothing looks at its tasks while they wait."""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Celery, Task
from harness.journal import Journal
from harness.worker import SETTINGS_VARIABLE

app = Celery("apps.unwatched")
app.conf.update(json.loads(os.environ[SETTINGS_VARIABLE]))
journal = Journal(app.conf.result_backend)


@app.task(name="note", bind=True)
def note(self: Task, tag: str, event: str, **kwargs: Any) -> str:
    request = self.request
    journal.write(
        tag,
        event,
        id=request.id,
        args=request.args,
        kwargs=kwargs,
        eta=request.eta,
        redelivered=request.delivery_info["redelivered"],
    )
    return event


@app.task(name="limited_4_s", rate_limit="4/s")
def limited_4_s(tag: str) -> None:
    journal.write(tag, "run")
