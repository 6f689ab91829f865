"""The project of the matrix of signals: tasks that say when they begin and end."""

from __future__ import annotations

import json
import os
import time

from celery import Celery, Task
from harness.journal import Journal
from harness.worker import SETTINGS_VARIABLE

app = Celery("signals_project")
app.conf.update(json.loads(os.environ[SETTINGS_VARIABLE]))
journal = Journal(app.conf.result_backend)


@app.task(name="nap", bind=True, acks_late=True)
def nap(self: Task, seconds: float) -> None:
    """Sleep; write down the beginning and, if it is reached, the end."""
    journal.write("naps", "began", id=self.request.id)
    time.sleep(seconds)
    journal.write("naps", "woke", id=self.request.id)
