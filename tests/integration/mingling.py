"""A project whose worker loses its connection while it greets the others, at its second start."""

from __future__ import annotations

import itertools
import json
import os
from typing import Any

from celery import Celery
from celery.worker.consumer import mingle
from harness.worker import SETTINGS_VARIABLE
from kombu.exceptions import OperationalError

app = Celery("mingling")
app.conf.update(json.loads(os.environ[SETTINGS_VARIABLE]))
_send_hello = mingle.Mingle.send_hello
_starts = itertools.count(1)


def send_hello(self: Any, c: Any) -> Any:
    if next(_starts) == 2:
        # What kombu makes of a connection that stays lost while it publishes.
        raise OperationalError("[Errno 32] Broken pipe")
    return _send_hello(self, c)


mingle.Mingle.send_hello = send_hello


@app.task(name="quick")
def quick(number: int) -> int:
    return number
