"""The project that the measured workers run. Tasks stamp the ledger and do what their name says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from celery import Celery

from . import ledger
from .scenarios import DRAIN, PUBLISHED_PER_TASK, SETTINGS_VARIABLE

app = Celery("bench")
app.conf.update(json.loads(os.environ[SETTINGS_VARIABLE]))

_rows = ledger.Ledger(Path(os.environ[ledger.VARIABLE]))
started, ended, runs = _rows.started, _rows.ended, _rows.runs


@app.task(name="noop")
def noop(number: int, *_: Any) -> None:
    started[number] = monotonic()
    ended[number] = monotonic()
    runs[number] += 1


@app.task(name="sleep10")
def sleep10(number: int) -> None:
    started[number] = monotonic()
    sleep(0.01)
    ended[number] = monotonic()
    runs[number] += 1


@app.task(name="publish10")
def publish10(number: int) -> None:
    started[number] = monotonic()
    for _ in range(PUBLISHED_PER_TASK):
        noop.apply_async((number,), queue=DRAIN)
    ended[number] = monotonic()
    runs[number] += 1
