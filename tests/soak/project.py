"""The project of the long tests: tasks that wait long and publish, and tasks that only count.

Its settings come from the test.
"""

from __future__ import annotations

import json
import os
import time

from celery import Celery, Task
from harness.journal import Journal
from harness.worker import SETTINGS_VARIABLE
from run import RAN_VARIABLE

app = Celery("project")
app.conf.update(json.loads(os.environ[SETTINGS_VARIABLE]))
journal = Journal(app.conf.result_backend)
_ran: int | None = None


@app.task(name="nap", bind=True)
def nap(self: Task, tag: str, number: int, seconds: float, after: str) -> None:
    """Sleep, and publish a message to the queue ``after``; write down both ends."""
    redelivered = self.request.delivery_info["redelivered"]
    journal.write(tag, "started", number=number, redelivered=redelivered)
    time.sleep(seconds)
    app.send_task("after", (number,), queue=after)
    journal.write(tag, "ended", number=number)


@app.task(name="count", ignore_result=True)
def count(lane: str, number: int) -> None:
    """Say in a file that this number ran: at thousands a second, Redis would be the measure."""
    global _ran
    if _ran is None:
        _ran = os.open(os.environ[RAN_VARIABLE], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(_ran, f"{lane} {number}\n".encode())
