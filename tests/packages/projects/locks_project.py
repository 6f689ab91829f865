"""celery-once and celery-singleton: a task that waits already is not sent again."""

from __future__ import annotations

import os
import time

from celery import shared_task
from celery_once import AlreadyQueued, QueueOnce
from celery_singleton import Singleton
from common import make_app, ran, tell

URL = os.environ["HYBRID_TEST_REDIS"]
app = make_app(
    ONCE={"backend": "celery_once.backends.Redis", "settings": {"url": URL}},
    singleton_backend_url=URL,
    singleton_lock_expiry=60,
)


@shared_task(name="once", base=QueueOnce)
def once(number: int) -> int:
    ran("once", number)
    time.sleep(0.1)
    return number


@shared_task(name="single", base=Singleton)
def single(number: int) -> int:
    ran("single", number)
    time.sleep(0.1)
    return number


@shared_task(name="send_twice")
def send_twice(number: int) -> None:
    ran("send_twice", number)
    once.delay(number)
    try:
        once.delay(number)
    except AlreadyQueued:
        tell("already queued", number=number)
    tell("single", same=single.delay(number).id == single.delay(number).id)
