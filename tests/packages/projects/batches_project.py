"""celery-batches: many messages, one task."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from celery_batches import Batches
from common import make_app, tell

app = make_app()


@shared_task(name="batch", base=Batches, flush_every=4, flush_interval=60)
def batch(requests: list[Any]) -> None:
    tell("batch", size=len(requests))
    for request in requests:
        tell("ran", task="batch", number=request.args[0])
        app.backend.mark_as_done(request.id, request.args[0], request=request)
