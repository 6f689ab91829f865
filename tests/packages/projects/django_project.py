"""Django with results in its database, as Celery's guide for Django sets it up."""

from __future__ import annotations

import os
import time
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_settings")

from celery import shared_task, signals
from common import add, make_app, ran

app = make_app()
app.config_from_object("django.conf:settings", namespace="CELERY")


@signals.worker_init.connect
def make_tables(**_: Any) -> None:
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", run_syncdb=True, verbosity=0)
    connection.close()


@shared_task(name="order")
def order(number: int) -> int:
    from django.db import transaction
    from shop.models import Order

    ran("order", number)
    with transaction.atomic():
        made = Order.objects.create(number=number)
        add.delay_on_commit(number)
    time.sleep(0.01)
    Order.objects.filter(pk=made.pk).update(paid=True)
    return Order.objects.get(pk=made.pk).number


@shared_task(name="order_and_fail")
def order_and_fail(number: int) -> None:
    from django.db import transaction
    from shop.models import Order

    ran("order_and_fail", number)
    with transaction.atomic():
        Order.objects.create(number=number)
        add.delay_on_commit(number)
        raise ValueError(f"order {number} fails")
