"""Turning on what makes task calls from inside tasks cheap."""

from __future__ import annotations

from typing import Any

from celery.app.amqp import AMQP
from celery.app.base import Celery

from hybrid.hubs.base import Hub
from hybrid.transports import amqp as amqp_transport
from hybrid.transports import redis
from hybrid.worker.publishing.call import Caller
from hybrid.worker.publishing.message import MessageMaker, Sender
from hybrid.worker.publishing.places import ConnectionPool
from hybrid.worker.publishing.producers import Producer, ProducerPool, ReadyProducerPool
from hybrid.worker.publishing.shared_producer import SharedProducerPool

#: Producers on Redis. Celery has ten, one for each connection.
PRODUCERS = 100


def gather(app: Any, hub: Hub) -> str | None:
    """Let the tasks of ``app``, which are greenlets of ``hub``, publish with our producers.

    Returns:
        Why each publishes alone; ``None`` if they publish together.
    """
    amqp = app.amqp
    connection = app.connection_for_write()
    transport = connection.get_transport_cls()
    limit = app.pool.limit
    if limit:
        app._pool = ConnectionPool(connection, limit=limit)
    if issubclass(transport, redis.Transport):
        if limit:
            _lend_producers(app, ReadyProducerPool(connection, max(limit, PRODUCERS)))
    elif issubclass(transport, (amqp_transport.Transport, amqp_transport.SSLTransport)):
        if not limit:
            amqp.producer_pool.Producer = Producer
            return "the setting broker_pool_limit asks for a connection for each message"
        timeout = app.conf.get("broker_pool_acquire_timeout")  # a setting since 5.7
        amqp._producer_pool = SharedProducerPool(hub, connection, limit, timeout)
    else:
        if limit:
            _lend_producers(app, ProducerPool(connection, limit))
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


def _lend_producers(app: Any, producers: ProducerPool) -> None:
    """Make ``producers`` the app's, for tasks that hold some, connections, or both."""
    app.amqp._producer_pool = producers
    producers.peers = (app.pool,)
    app.pool.peers = (producers,)
