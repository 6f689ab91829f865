"""Turning on what makes task calls from inside tasks cheap."""

from __future__ import annotations

from typing import Any

import kombu.messaging
from celery.app.amqp import AMQP
from kombu.pools import ProducerPool as KombuProducerPool

from hybrid.hubs.base import Hub
from hybrid.patches import celery as patches
from hybrid.patches import kombu as kombu_patches
from hybrid.transports import amqp as amqp_transport
from hybrid.transports import redis
from hybrid.worker.publishing.call import Caller, explain_caller
from hybrid.worker.publishing.message import (
    MessageMaker,
    Sender,
    explain_maker,
    explain_sender,
    makes_protocol_2,
)
from hybrid.worker.publishing.places import ConnectionPool
from hybrid.worker.publishing.producers import PUBLISHING, Producer, ProducerPool, ReadyProducerPool
from hybrid.worker.publishing.shared_producer import SharedProducerPool

#: Producers on Redis. Celery has ten, one for each connection.
PRODUCERS = 100


def gather(app: Any, hub: Hub) -> str | None:
    """Let the tasks of ``app``, which are greenlets of ``hub``, publish with our producers.

    Returns:
        Why each publishes alone; ``None`` if they publish together.
    """
    amqp = app.amqp
    own = _explain_producers(amqp)
    if own is not None:
        return own
    connection = app.connection_for_write()
    transport = connection.get_transport_cls()
    limit = app.pool.limit
    if limit:
        patches.APP_POOL.replace(app, ConnectionPool(connection, limit=limit))
    if issubclass(transport, redis.Transport):
        if limit:
            _lend_producers(app, ReadyProducerPool(connection, max(limit, PRODUCERS)))
    elif issubclass(transport, (amqp_transport.Transport, amqp_transport.SSLTransport)):
        if not limit:
            kombu_patches.POOLS_PRODUCER.replace(amqp.producer_pool, Producer)
            return "the setting broker_pool_limit asks for a connection for each message"
        timeout = app.conf.get("broker_pool_acquire_timeout")  # a setting since 5.7
        producers = SharedProducerPool(hub, connection, limit, timeout)
        patches.PRODUCER_POOL.replace(amqp, producers)
    else:
        if limit:
            _lend_producers(app, ProducerPool(connection, limit))
        else:
            kombu_patches.POOLS_PRODUCER.replace(amqp.producer_pool, Producer)
        return f"not for the transport {transport.driver_type}"
    if type(amqp.send_task_message) is not Sender and explain_sender(amqp) is None:
        patches.SEND_MESSAGE.replace(amqp, Sender(app))
    if makes_protocol_2(amqp):
        patches.CREATE_MESSAGE.replace(amqp, MessageMaker(amqp))
    if "send_task" not in vars(app) and explain_caller(app) is None:
        patches.SEND_TASK.replace(app, Caller(app))
    return None


def explain(app: Any) -> str | None:
    """Say why calls of tasks take Celery's and kombu's own way at the moment, if some do.

    That is for the sake of what somebody has put around it, and is to see every call.
    """
    amqp = app.amqp
    sender = amqp.send_task_message
    causes = (
        explain_caller(app),
        explain_maker(amqp),
        explain_sender(amqp),
        sender.explain() if isinstance(sender, Sender) else None,
        *PUBLISHING.explain(),
    )
    return "; ".join(filter(None, causes)) or None


def _explain_producers(amqp: Any) -> str | None:
    """Say why the producers of an app are left as they are, if somebody has others."""
    if type(amqp).producer_pool is not AMQP.producer_pool:
        return f"{type(amqp).__module__}.{type(amqp).__qualname__} has producers of its own"
    found = amqp._producer_pool
    cls = KombuProducerPool.Producer if found is None else found.Producer
    is_kombus = found is None or type(found) in (KombuProducerPool, *_POOLS)
    if not is_kombus or cls not in (kombu.messaging.Producer, Producer):
        return "app.amqp.producer_pool has producers of another class than kombu's"
    return None


#: Ours, of another worker of the same app.
_POOLS = (ProducerPool, ReadyProducerPool, SharedProducerPool)


def _lend_producers(app: Any, producers: ProducerPool) -> None:
    """Make ``producers`` the app's, for tasks that hold some, connections, or both."""
    patches.PRODUCER_POOL.replace(app.amqp, producers)
    producers.peers = (app.pool,)
    app.pool.peers = (producers,)
