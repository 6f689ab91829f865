"""Turning on what makes task calls from inside tasks cheap."""

from __future__ import annotations

from typing import Any

from celery.app.amqp import AMQP
from celery.app.base import Celery

from hybrid.transports import redis
from hybrid.worker.caller import Caller
from hybrid.worker.producers import Producer, ProducerPool
from hybrid.worker.sender import MessageMaker, Sender

#: Producers on Redis. Celery has ten, one for each connection.
PRODUCERS = 100


def gather(app: Any) -> str | None:
    """Let the tasks of ``app`` publish with our producers.

    Returns:
        Why each publishes alone; ``None`` if they publish together.
    """
    amqp = app.amqp
    transport = app.connection_for_write().get_transport_cls()
    if not issubclass(transport, redis.Transport):
        amqp.producer_pool.Producer = Producer
        return f"not for the transport {transport.driver_type}"
    limit = amqp.producer_pool.limit
    if limit:
        limit = max(limit, PRODUCERS)
        # Of their own: whoever else wants a connection gets one that no producer keeps.
        connections = app.connection_for_write().Pool(limit)
        amqp._producer_pool = ProducerPool(connections, limit=limit)
    if type(amqp)._create_task_sender is AMQP._create_task_sender:
        amqp.send_task_message = Sender(app)
    if type(amqp).as_task_v2 is AMQP.as_task_v2 and amqp.create_task_message == amqp.as_task_v2:
        amqp.create_task_message = MessageMaker(amqp)
    if type(app).send_task is Celery.send_task:
        app.send_task = Caller(app)
    return None
