"""Turning on what makes task calls from inside tasks cheap."""

from __future__ import annotations

from typing import Any

from celery.app.amqp import AMQP
from celery.app.base import Celery

from hybrid.hubs.base import Hub
from hybrid.transports import amqp as amqp_transport
from hybrid.transports import redis
from hybrid.worker.caller import Caller
from hybrid.worker.producers import Producer, ProducerPool
from hybrid.worker.sender import MessageMaker, Sender
from hybrid.worker.shared_producer import SharedProducerPool

#: Producers on Redis. Celery has ten, one for each connection.
PRODUCERS = 100


def gather(app: Any, hub: Hub) -> str | None:
    """Let the tasks of ``app``, which are greenlets of ``hub``, publish with our producers.

    Returns:
        Why each publishes alone; ``None`` if they publish together.
    """
    amqp = app.amqp
    transport = app.connection_for_write().get_transport_cls()
    if issubclass(transport, redis.Transport):
        _share_connections(app)
    elif issubclass(transport, (amqp_transport.Transport, amqp_transport.SSLTransport)):
        if not amqp.producer_pool.limit:
            amqp.producer_pool.Producer = Producer
            return "the setting broker_pool_limit asks for a connection for each message"
        _share_producer(app, hub)
    else:
        amqp.producer_pool.Producer = Producer
        return f"not for the transport {transport.driver_type}"
    if type(amqp)._create_task_sender is AMQP._create_task_sender:
        amqp.send_task_message = Sender(app)
    if type(amqp).as_task_v2 is AMQP.as_task_v2 and amqp.create_task_message == amqp.as_task_v2:
        amqp.create_task_message = MessageMaker(amqp)
    if type(app).send_task is Celery.send_task:
        app.send_task = Caller(app)
    return None


def _share_connections(app: Any) -> None:
    amqp = app.amqp
    limit = amqp.producer_pool.limit
    if limit:
        limit = max(limit, PRODUCERS)
        # Of their own: whoever else wants a connection gets one that no producer keeps.
        connections = app.connection_for_write().Pool(limit)
        amqp._producer_pool = ProducerPool(connections, limit=limit)


def _share_producer(app: Any, hub: Hub) -> None:
    amqp = app.amqp
    pool = amqp.producer_pool
    amqp._producer_pool = SharedProducerPool(
        hub, app.connection_for_write(), pool.connections, pool.limit
    )
